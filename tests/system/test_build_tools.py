"""Programs that people use, against the whole site: Bazel, and BuildBox, which recc is made of."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import buildstream
import grpc
import pytest
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

from tests.support.grpc_client import GrpcClient
from tests.support.nginx import new_certificate
from tests.support.programs import find_program
from tests.support.remote_cache import RemoteCache, digest_of, remote_cache
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import PROJECT, TOKEN, Site, running_site

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]

RULES = 20
LARGE = 30_000_000
"""Bytes of the largest output."""

BUILD = """
[genrule(name = "small%d" % n, outs = ["small%d.txt" % n], cmd = "echo {} > $@".format(n))
 for n in range(RULES)]
genrule(name = "together", srcs = ["small%d.txt" % n for n in range(RULES)],
        outs = ["together.txt"], cmd = "cat $(SRCS) > $@")
genrule(name = "large", outs = ["large.bin"], cmd = "head -c LARGE /dev/zero > $@")
genrule(name = "empty", outs = ["empty.txt"], cmd = "touch $@")
genrule(name = "held", outs = ["held.txt"],
        cmd = "touch FOLDER/began; until test -e FOLDER/go; do sleep 0.05; done; echo 1 > $@")
[genrule(name = "after%d" % n, srcs = ["held.txt"], outs = ["after%d.txt" % n],
         cmd = "cat $(SRCS) > $@; echo {} >> $@".format(n)) for n in range(5)]
"""
"""RULES small outputs and one of all of them, a large one, an empty one; and some that come after
one that waits for a file."""


@pytest.fixture
def site(tuist: HeldTuist) -> Iterator[Site]:
    with running_site("wheel", tuist, {"WORKERS": "2"}, complaints=True) as site:
        yield site


@dataclass
class Bazel:
    """Builds in a workspace of its own, whose rules are `BUILD`."""

    folder: Path
    options: list[str]
    program: str = field(default_factory=lambda: find_program("bazel"))
    _builds: int = 0

    def __post_init__(self) -> None:
        self.workspace = self.folder / "workspace"
        self.workspace.mkdir()
        (self.workspace / "WORKSPACE").touch()
        text = BUILD.replace("RULES", str(RULES)).replace("LARGE", str(LARGE))
        (self.workspace / "BUILD").write_text(text.replace("FOLDER", str(self.folder)))

    def forget(self) -> None:
        """Let the next build know nothing of those before it."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._builds += 1

    @property
    def root(self) -> Path:
        """Where it keeps all that it knows, and its outputs."""
        return self.folder / f"root{self._builds}"

    def build(self, *targets: str, options: tuple[str, ...] = ()) -> "Build":
        """Build targets, and return when that has succeeded."""
        command = [self.program, "--batch", "--noworkspace_rc", f"--output_user_root={self.root}"]
        command += ["build", *targets, "--spawn_strategy=local", "--noshow_progress", "--color=no"]
        done = subprocess.run(
            [*command, *self.options, *options],
            cwd=self.workspace,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )
        assert done.returncode == 0, done.stdout
        return Build(done.stdout, self.workspace / "bazel-bin")


@dataclass(frozen=True)
class Build:
    """What a build has said, and where its outputs are."""

    said: str
    outputs: Path

    def count(self, how: str) -> int:
        """How many processes were run so: `remote cache hit`, or `local`."""
        found = re.search(rf"(\d+) {how}", self.said)
        return int(found[1]) if found else 0


@pytest.fixture
def bazel(tmp_path: Path, site: Site) -> Bazel:
    return Bazel(
        tmp_path,
        [
            f"--remote_cache=grpc://127.0.0.1:{site.nginx.port}",
            f"--remote_instance_name={PROJECT}",
            "--remote_local_fallback",
            f"--remote_header=authorization=Bearer {TOKEN}",
        ],
    )


def test_bazel_finds_all_that_it_has_built(bazel: Bazel) -> None:
    targets = "//:together", "//:large", "//:empty"
    first = bazel.build(*targets)
    assert first.count("local") == RULES + 3
    bazel.forget()
    again = bazel.build(*targets)
    assert again.count("remote cache hit") == RULES + 3
    assert again.count("local") == 0
    assert "WARNING" not in again.said
    assert (again.outputs / "large.bin").read_bytes() == bytes(LARGE)
    assert (again.outputs / "empty.txt").read_bytes() == b""
    numbers = "".join(f"{number}\n" for number in range(RULES))
    assert (again.outputs / "together.txt").read_text() == numbers
    bazel.forget()
    minimal = bazel.build(*targets, options=("--remote_download_minimal",))
    assert minimal.count("remote cache hit") == RULES + 3
    assert not (minimal.outputs / "large.bin").exists()


def test_bazel_builds_on_when_the_cache_goes_down_in_the_middle(
    bazel: Bazel, site: Site, tmp_path: Path
) -> None:
    bazel.build("//:together")
    bazel.forget()
    builds: list[Build] = []
    build = threading.Thread(target=lambda: builds.append(bazel.build("//...")))
    build.start()
    eventually((tmp_path / "began").exists)
    with site.service_killed():
        (tmp_path / "go").touch()
        build.join()
    (built,) = builds
    assert built.count("local") + built.count("remote cache hit") == RULES + 9
    assert built.count("local") >= 6, "what was held, and what comes after it"
    for number in range(5):
        assert (built.outputs / f"after{number}.txt").read_text() == f"1\n{number}\n"
    bazel.forget()
    again = bazel.build("//:together")
    assert again.count("remote cache hit") == RULES + 1, "what was acknowledged is there"


def test_bazel_builds_without_access_and_without_a_service(bazel: Bazel, site: Site) -> None:
    with site.service_killed():
        assert bazel.build("//:empty").count("local") == 1
    bazel.forget()
    bazel.options[-1] = "--remote_header=authorization=Bearer nobody's"
    built = bazel.build("//:empty")
    assert built.count("local") == 1
    assert "UNAUTHENTICATED" in built.said


# BuildBox: a proxy that asks the cache for what it does not have, and hands on what it is given.


@contextmanager
def running_casd(folder: Path, site: Site) -> Iterator[RemoteCache]:
    """A buildbox-casd before the cache, and a client of it. It shows tokens over TLS only."""
    folder.mkdir()
    token, socket_path = folder / "token", folder / "casd.sock"
    token.write_text(TOKEN)
    program = Path(buildstream.__file__).parent / "subprojects/buildbox/buildbox-casd"
    options = ["--remote", f"https://localhost:{site.nginx.port}", "--instance", PROJECT]
    options += ["--server-cert", str(site.nginx.options.tls_cert), "--access-token", str(token)]
    options += ["--bind", f"unix:{socket_path}", str(folder / "cas")]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, *options], stdout=log, stderr=log) as process,
    ):
        try:
            eventually(socket_path.exists)
            with grpc.insecure_channel(f"unix:{socket_path}") as channel:
                yield RemoteCache(GrpcClient(channel), instance="", token=None)
        finally:
            process.terminate()


@pytest.fixture
def tls_site(tuist: HeldTuist, tmp_path: Path) -> Iterator[Site]:
    certificate, key = new_certificate(tmp_path)
    tls: dict[str, Any] = {"tls_cert": certificate, "tls_key": key}
    with running_site("wheel", tuist, complaints=True, **tls) as site:
        yield site


def test_buildbox_stores_and_reads_through_its_proxy(tmp_path: Path, tls_site: Site) -> None:
    nginx = tls_site.nginx
    blobs = [os.urandom(size) for size in (1, 1000, 3_000_000)]
    action = digest_of(b"action")
    result = reapi.ActionResult(
        output_files=[reapi.OutputFile(path="out", digest=digest_of(blobs[0]))]
    )
    with running_casd(tmp_path / "one", tls_site) as one:
        for blob in blobs:
            one.write(blob)
        one.store_action(action, result)
    with remote_cache(nginx.port, nginx.options.tls_cert) as cache:
        assert cache.missing(*map(digest_of, blobs)) == []
    with running_casd(tmp_path / "two", tls_site) as two:
        assert two.action(action) == result
        for blob in blobs:
            assert two.read(digest_of(blob)) == blob
