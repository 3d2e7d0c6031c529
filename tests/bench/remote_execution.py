"""The Remote Execution API, beside others.

Each contestant keeps the same blobs, and is called in turns, by h2load: nginx alone, which sends
prepared answers and is the limit; this service behind nginx, with two workers; and BuildGrid.
Then Bazel builds many small actions without a cache, with its disk cache, with this service, and
with a bare nginx that it asks over HTTP, which is the limit for any remote cache.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.google.bytestream import bytestream_pb2 as bytestream

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.nginx import nginx_before
from tests.support.remote_cache import (
    ACTIONS,
    BLOBS,
    STREAM,
    RemoteCache,
    digest_of,
    remote_cache,
)
from tests.support.service import Service, running_service
from tests.system.site import socket_folder

from .buildgrid import install, running_buildgrid
from .contestants import scratch_folder, storage_in
from .failure import BenchmarkFailed, NotHere
from .h2load import Call, run_h2load
from .machine import describe, first_number
from .names import PROJECT, SMALL, TOKEN, payload
from .plain_nginx import cores, plain_nginx
from .plan import Plan
from .processes import cpu_seconds, family
from .results import Builds, Calls, Remote

WARM_UP_SECONDS = 1.0
WORKERS = 2

BATCH = 100
"""Blobs of 10 KiB in a batch."""

LARGE = 25 << 20
"""Bytes of the blob that is streamed."""

LIMIT, OURS, BUILDGRID = "nginx alone", f"cache-actors, {WORKERS} workers", "BuildGrid"

ACTION, READ_BATCH, READ = "GetActionResult, calls/s", "BatchReadBlobs, blobs/s", "Read, MiB/s"
UNITS = {ACTION: 1.0, READ_BATCH: float(BATCH), READ: LARGE / 2**20}
"""What a call is worth in the unit of its case."""

WITHOUT, DISK, HTTP = "without a cache", "Bazel's disk cache", "nginx alone, over HTTP"
MANY_JOBS = 32
"""Actions at once, with which Bazel does not wait for one answer after the other; on its own it has
as many as there are cores."""


@dataclass(frozen=True)
class Contestant:
    """A cache that runs: where it listens, its processes, and the calls of each case."""

    name: str
    url: str
    pids: tuple[int, ...]
    calls: dict[str, Call]

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """The rate in the unit of the case, and the CPU time of a call in microseconds."""
        before = self._cpu_seconds()
        calls, spent = run_h2load(self.url, self.calls[case], seconds)
        cpu = self._cpu_seconds() - before
        return calls * UNITS[case] / spent, cpu / calls * 1e6

    def _cpu_seconds(self) -> float:
        return cpu_seconds(pid for parent in self.pids for pid in family(parent))


class Stored:
    """What all contestants keep, and the messages that ask for it, in files."""

    def __init__(self, folder: Path) -> None:
        self.large = payload(LARGE)
        self.small = [number.to_bytes(4, "big") + payload(SMALL - 4) for number in range(BATCH)]
        outputs = [
            reapi.OutputFile(path=f"out/{number}", digest=digest_of(blob))
            for number, blob in enumerate(self.small[:3])
        ]
        self.result = reapi.ActionResult(output_files=outputs, exit_code=0)
        self.action = digest_of(b"action")
        instance = str(PROJECT)
        digests = [digest_of(blob) for blob in self.small]
        digest = digest_of(self.large)
        name = f"{instance}/blobs/{digest.hash}/{digest.size_bytes}"
        action = reapi.GetActionResultRequest(instance_name=instance, action_digest=self.action)
        batch = reapi.BatchReadBlobsRequest(instance_name=instance, digests=digests)
        read = bytestream.ReadRequest(resource_name=name)
        self.calls = {
            case: Call(path, _in_file(folder / path.rpartition("/")[2], message), least, at_once)
            for case, path, message, least, at_once in (
                (ACTION, f"{ACTIONS}/GetActionResult", action, self.result.ByteSize(), 4),
                (READ_BATCH, f"{BLOBS}/BatchReadBlobs", batch, BATCH * SMALL, 4),
                (READ, f"{STREAM}/Read", read, LARGE, 1),
            )
        }

    def put(self, cache: RemoteCache) -> None:
        """Store all of it in `cache`."""
        for start in range(0, BATCH, 50):
            cache.store(*self.small[start : start + 50])
        cache.write(self.large)
        cache.store_action(self.action, self.result)


def _in_file(path: Path, message: Any) -> Path:
    path.write_bytes(_framed(message.SerializeToString()))
    return path


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextmanager
def limit(folder: Path, stored: Stored) -> Iterator[Contestant]:
    """nginx with each answer in a file, as it travels."""
    answers = folder / "answers"
    answers.mkdir()
    read = [
        reapi.BatchReadBlobsResponse.Response(digest=digest_of(blob), data=blob)
        for blob in stored.small
    ]
    pieces = [stored.large[start : start + (1 << 20)] for start in range(0, LARGE, 1 << 20)]
    prepared: dict[str, list[Any]] = {
        ACTION: [stored.result],
        READ_BATCH: [reapi.BatchReadBlobsResponse(responses=read)],
        READ: [bytestream.ReadResponse(data=piece) for piece in pieces],
    }
    calls = {}
    for number, (case, messages) in enumerate(prepared.items()):
        body = b"".join(_framed(message.SerializeToString()) for message in messages)
        (answers / str(number)).write_bytes(body)
        calls[case] = replace(stored.calls[case], path=f"/{number}")
    server = f"""\
    server {{
        listen {{listen}} backlog=4096;
        http2 on;
        http2_chunk_size   64k;
        keepalive_requests 1000000;
        root               {answers};
        default_type       application/grpc;
        add_trailer        grpc-status 0;
        error_page         405 =200 $uri;
    }}"""
    with plain_nginx(server, workers=cores(), kind="wheel") as nginx:
        yield Contestant(LIMIT, nginx.url, (nginx.pid,), calls)


@contextmanager
def ours(folder: Path, stored: Stored) -> Iterator[tuple[Contestant, int]]:
    """This service behind nginx, with what is stored; and nginx's port."""
    storage = storage_in(folder, "cas")
    with StandInTuist({TOKEN: [str(PROJECT)]}) as tuist, socket_folder() as sockets:
        upstream = f"{sockets}/cache.sock"
        environment = {"WORKERS": str(WORKERS), "SOCKET_PATH": upstream}
        service = Service(storage, tuist.url, environment)
        with running_service(service, wait=False):
            service.wait_for_log('"started"')
            with nginx_before(
                f"unix:{upstream}", storage, "wheel", worker_processes=cores()
            ) as nginx:
                with remote_cache(nginx.port, instance=str(PROJECT), token=TOKEN) as cache:
                    stored.put(cache)
                pids = (service.pid, nginx.pid)
                yield Contestant(OURS, nginx.url, pids, stored.calls), nginx.port


@contextmanager
def buildgrid(folder: Path, stored: Stored, installed: Path) -> Iterator[Contestant]:
    """BuildGrid's cache, with what is stored, from the folder where it is `installed`.

    Raises:
        NotHere: it cannot be installed.
    """
    install(installed)
    with running_buildgrid(installed, folder) as (port, pid):
        with remote_cache(port, instance=str(PROJECT)) as cache:
            stored.put(cache)
        yield Contestant(BUILDGRID, f"http://127.0.0.1:{port}", (pid,), stored.calls)


def measure_remote(plan: Plan, installed: Path, say: Callable[[str], None]) -> Remote:
    """Measure everybody, then the builds.

    Args:
        plan: how many rounds, and how long a turn is.
        installed: a folder in which to install BuildGrid.
        say: told how it goes.

    Raises:
        NotHere: there is nothing to call with, or no nginx that passes gRPC on.
    """
    if shutil.which("h2load") is None:
        raise NotHere("h2load is not installed (apt-get install nghttp2-client)")
    skipped = list[str]()
    with scratch_folder() as folder, ExitStack() as stack:
        stored = Stored(folder)
        mine, port = stack.enter_context(ours(folder, stored))
        contestants = [stack.enter_context(limit(folder, stored)), mine]
        try:
            say("installing BuildGrid, unless it is there")
            contestants.append(stack.enter_context(buildgrid(folder, stored, installed)))
        except NotHere as error:
            skipped.append(str(error))
        calls = [each for case in UNITS for each in _turns(case, contestants, plan, say)]
        builds: list[Builds] = []
        try:
            builds = _builds(folder, port, plan, say)
        except NotHere as error:
            skipped.append(str(error))
    return Remote(
        machine=describe({"h2load": first_number(["h2load", "--version"])}),
        seconds=plan.turn_seconds,
        calls=calls,
        actions=plan.small_actions,
        builds=builds,
        skipped=skipped,
    )


def _turns(
    case: str, contestants: list[Contestant], plan: Plan, say: Callable[[str], None]
) -> list[Calls]:
    """Have each contestant's turns at a case."""
    say(case)
    for each in contestants:
        each.turn(case, WARM_UP_SECONDS)
    turns: dict[str, list[tuple[float, float]]] = {each.name: [] for each in contestants}
    for number in range(plan.call_rounds):
        for each in contestants if number % 2 == 0 else contestants[::-1]:
            turns[each.name].append(each.turn(case, plan.turn_seconds))
    return [
        Calls(case, name, [rate for rate, _ in found], [cost for _, cost in found])
        for name, found in turns.items()
    ]


# --- A build of many small actions ----------------------------------------------------------------

FILES = """\
    server {
        listen {listen} backlog=4096;
        root                 FOLDER;
        keepalive_requests   1000000;
        client_max_body_size 0;
        dav_methods          PUT;
        create_full_put_path on;
    }"""


@contextmanager
def files(folder: Path) -> Iterator[str]:
    """nginx as a cache of files in `folder`, which Bazel reads and writes over HTTP: its URL."""
    folder.mkdir()
    folder.chmod(0o777)  # nginx's workers have a user of their own
    server = FILES.replace("FOLDER", str(folder))
    with plain_nginx(server, temporary=folder, workers=cores()) as nginx:
        yield nginx.url


RULES = """\
[genrule(name = "g%d" % n, outs = ["g%d.txt" % n], cmd = "echo {} > $@".format(n))
 for n in range(COUNT)]
"""


def _builds(folder: Path, port: int, plan: Plan, say: Callable[[str], None]) -> list[Builds]:
    """Have Bazel build from an empty output folder, each way in turns.

    Raises:
        NotHere: there is no Bazel.
    """
    if shutil.which("bazel") is None:
        raise NotHere("Bazel is not installed (apt-get install bazel-bootstrap)")
    workspace = folder / "workspace"
    workspace.mkdir()
    (workspace / "WORKSPACE").touch()
    (workspace / "BUILD").write_text(RULES.replace("COUNT", str(plan.small_actions)))
    remote = [f"--remote_cache=grpc://127.0.0.1:{port}", f"--remote_instance_name={PROJECT}"]
    remote.append(f"--remote_header=authorization=Bearer {TOKEN}")
    with files(folder / "files") as url:
        ways = {
            WITHOUT: [],
            DISK: [f"--disk_cache={folder}/disk"],
            HTTP: [f"--remote_cache={url}"],
            OURS: remote,
            f"{OURS}, --jobs={MANY_JOBS}": [*remote, f"--jobs={MANY_JOBS}"],
        }
        return _turns_of_builds(folder, workspace, ways, plan, say)


def _turns_of_builds(
    folder: Path,
    workspace: Path,
    ways: dict[str, list[str]],
    plan: Plan,
    say: Callable[[str], None],
) -> list[Builds]:
    """Build all `ways`, which are options for Bazel, in turns; at first to fill caches."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + plan.build_rounds):
        what = "all hits" if number else "to fill caches"
        say(f"builds of {plan.small_actions:,} actions, {what}")
        for name, options in ways.items():
            hits, took = _build(folder, workspace, options)
            if number:
                seconds[name].append(took)
                if hits != (0 if name == WITHOUT else plan.small_actions):
                    raise BenchmarkFailed(f"Bazel, {name}: {hits} hits")
    return [Builds(name, found) for name, found in seconds.items()]


def _build(folder: Path, workspace: Path, options: list[str]) -> tuple[int, float]:
    """Build all from an empty output folder: how many hits, and in how many seconds, by Bazel."""
    root = folder / "root"
    command = ["bazel", "--batch", f"--output_user_root={root}", "build", "//:all"]
    command += ["--spawn_strategy=local", "--noshow_progress", "--color=no", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    said = subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    found = re.search(r"Elapsed time: ([0-9.]+)s", said.stderr)
    if said.returncode != 0 or found is None:
        raise BenchmarkFailed(said.stderr)
    subprocess.run(["/bin/rm", "-rf", root], check=True)
    hits = re.findall(r"(\d+) (?:remote|disk) cache hit", said.stderr)
    return sum(map(int, hits)), float(found[1])
