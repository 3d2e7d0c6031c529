"""What the storage lacks is told by the start and by `check`, and nobody is ready without it."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cache_actors.cli.check.storage import barrier_of
from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.folders import files_below
from tests.support.mounts import require_root
from tests.support.nginx import NOBODY, nginx_before, shared_storage
from tests.support.programs import find_program
from tests.support.service import (
    CHANGED_COMMAND,
    COMMAND,
    ID,
    Service,
    client_of,
    constants,
    free_port,
    running_service,
)
from tests.support.strace import family, injected
from tests.support.waiting import eventually

USER, OWN_GROUP, NGINX_GROUP = 60_001, 60_002, 60_003

nightly = partial(pytest.param, marks=pytest.mark.nightly)

LACKING = [  # all are tried every day in `tests/storage/test_needs.py`
    ("link,linkat", "EPERM", "it has no hard links: Operation not permitted"),
    nightly("link,linkat", "EOPNOTSUPP", "it has no hard links: Operation not supported"),
    nightly("link,linkat", "EMLINK", "it has no hard links: Too many links"),
    nightly("flock", "EBADF", "its folders cannot be locked (flock): Bad file descriptor"),
    ("flock", "ENOLCK", "its folders cannot be locked (flock): No locks available"),
    nightly("fsync", "EINVAL", "its folders cannot be synced: Invalid argument"),
    nightly("rename,renameat,renameat2", "EINVAL", "files cannot be renamed over others: Invalid"),
]


def without(calls: str, error: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """`command`, with system calls that fail."""
    maybe = ",".join(f"?{call}" for call in calls.split(","))
    inject = ["-e", f"trace={maybe}", "-e", f"inject={maybe}:error={error}"]
    return (find_program("strace"), "-f", "-qq", "-o", "/dev/null", *inject, *command)


def run(command: tuple[str, ...], storage: Path, **environment: str) -> tuple[int, str]:
    """The exit status of a command with that storage, and what it says."""
    done = subprocess.run(
        command,
        env={
            "PATH": os.environ["PATH"],
            "SERVER_URL": "http://127.0.0.1:1",
            "CAS_STORAGE_DIR": str(storage),
            "PORT": str(free_port()),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("calls", "error", "words"), LACKING)
def test_what_the_storage_lacks_is_one_line_of_the_start_and_of_the_check(
    tmp_path: Path, calls: str, error: str, words: str
) -> None:
    storage = tmp_path / "cas"
    storage.mkdir()
    status, said = run(without(calls, error, COMMAND), storage)
    assert status == 2
    assert said.startswith(f"Cannot use {storage}: {words}"), said
    assert said.count("\n") == 1
    assert ". Use a local disk" in said
    check = (sys.executable, "-m", "cache_actors", "check")
    status, said = run(without(calls, error, check), storage)
    assert status == 1
    assert f"broken   storage: {storage} cannot be used: {words}" in said
    assert [path.name for path in storage.rglob("*")] == [".tmp"]


def test_several_workers_are_not_started_for_it_either(tmp_path: Path) -> None:
    status, said = run(without("link,linkat", "EPERM", COMMAND), tmp_path / "cas", WORKERS="2")
    assert status == 2
    assert said.startswith(f"Cannot use {tmp_path / 'cas'}: it has no hard links"), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (("link", "linkat"), "EMLINK"),
        nightly(("link", "linkat"), "EPERM"),
        nightly(("fsync",), "EINVAL"),
        (("flock",), "ENOLCK"),
    ],
)
def test_nobody_is_ready_for_as_long_as_nothing_can_be_stored(
    tmp_path: Path, tuist: StandInTuist, calls: tuple[str, ...], error: str
) -> None:
    often = constants({"actors.housekeeper.PROBE_SECONDS": 0.2})
    service = Service(tmp_path / "cas", tuist.url, often, CHANGED_COMMAND)
    trace = tmp_path / "trace"

    def failures() -> int:
        return trace.read_text().count("(INJECTED)")

    def is_ready() -> bool:
        return service.up("/ready").is_success

    with running_service(service), client_of(service.url) as client:
        eventually(is_ready)
        with injected(service, trace, calls, error):
            if calls != ("flock",):  # without which artifacts are stored
                answer = client.post(f"/api/cache/cas/{ID}", content=b"bytes")
                assert answer.status_code == 500
            eventually(lambda: not is_ready())
            known = failures()
            eventually(lambda: failures() >= known + 3)  # it has been looked again
            assert not is_ready()
            assert "The storage failed: it" in service.up().json()["storage"]["reason"]
        eventually(is_ready)
        assert client.post(f"/api/cache/cas/{ID}", content=b"bytes").status_code == 204


@contextmanager
def group_of_nginx() -> Iterator[Path]:
    """A storage folder of a user's, whose group that user is not a member of."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-storage-") as folder:
        Path(folder).chmod(0o755)
        storage = Path(folder) / "cas"
        storage.mkdir()
        os.chown(storage, USER, NGINX_GROUP)
        storage.chmod(0o2750)
        yield storage


def as_user(umask: str, command: tuple[str, ...], *, member: bool = False) -> tuple[str, ...]:
    """`command`, run by the user, who may be a `member` of nginx's group."""
    user = [find_program("setpriv"), f"--reuid={USER}", f"--regid={OWN_GROUP}"]
    user += [f"--groups={NGINX_GROUP}" if member else "--clear-groups"]
    # Python may lie where only root may look; its processes have to be started all the same.
    user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return (*user, "sh", "-c", f'umask {umask}; exec "$0" "$@"', *command)


@pytest.mark.parametrize("umask", [nightly("022"), "077"])
def test_what_is_stored_is_its_groups_to_read(tuist: StandInTuist, umask: str) -> None:
    require_root()
    with group_of_nginx() as storage:
        service = Service(storage, tuist.url, command=as_user(umask, COMMAND, member=True))
        with running_service(service), client_of(service.url) as client:
            for size in (5, 2 << 20):
                answer = client.post(f"/api/cache/cas/{size:064}", content=bytes(size))
                assert answer.status_code == 204
            entry = {"cas_id": "0~key", "entries": [{"value": "dg=="}]}
            assert client.put("/api/cache/keyvalue", json=entry).status_code == 204
            files = [
                path for path in files_below(storage) if {".tmp", ".log"}.isdisjoint(path.parts)
            ]
            assert len(files) == 3
            folders = {each for file in files for each in file.parents if storage in each.parents}
            for path in (*files, *folders):
                status = path.stat()
                assert status.st_gid == NGINX_GROUP, path
                assert status.st_mode & 0o7777 == (0o2750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize("umask", [nightly("022"), "077"])
def test_group_that_cannot_be_handed_down_is_told_by_start_and_check(umask: str) -> None:
    """Setting the mode of a folder takes away its set-group-id bit (chmod(2))."""
    require_root()
    words = f"its group {NGINX_GROUP} may not read what is stored"
    advice = f"Make user {USER} a member of group {NGINX_GROUP}"
    with group_of_nginx() as storage:
        status, said = run(as_user(umask, COMMAND), storage)
        assert status == 2
        assert words in said
        assert advice in said
        check = (sys.executable, "-m", "cache_actors", "check")
        status, said = run(as_user(umask, check), storage)
        assert status == 1
        assert f"storage: {storage} cannot be used: {words}" in said
        assert advice in said


def test_what_was_stored_for_another_group_is_told_by_the_check(tmp_path: Path) -> None:
    require_root()
    shard = tmp_path / "cas" / "acme" / "app" / "cas" / "AB"
    shard.mkdir(parents=True)
    os.chown(tmp_path / "cas", 0, NGINX_GROUP)
    (tmp_path / "cas").chmod(0o2750)
    check = (sys.executable, "-m", "cache_actors", "check")
    _, said = run(check, tmp_path / "cas")
    assert f"warning  storage group: {tmp_path / 'cas' / 'acme'} may not be read by group" in said
    subprocess.run(["chgrp", "--recursive", str(NGINX_GROUP), tmp_path / "cas"], check=True)  # noqa: S607
    for folder in shard, *list(shard.parents)[:3]:
        folder.chmod(0o2750)
    _, said = run(check, tmp_path / "cas")
    assert "ok       storage group" in said


def test_uploads_that_wait_on_another_mount_of_the_same_disk_are_stored(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    """As with two volumes of a container: the device is the same, and a link refused (EXDEV)."""
    require_root()
    waiting = tmp_path / "waiting"
    for folder in tmp_path / "disk", waiting:
        folder.mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "disk", waiting], check=True)  # noqa: S607
    try:
        service = Service(tmp_path / "cas", tuist.url, {"TMP_DIR": str(waiting)})
        with running_service(service), client_of(service.url) as client:
            answer = client.post(f"/api/cache/cas/{ID}", content=bytes(2 << 20))
            assert answer.status_code == 204, answer.text
            assert service.stored(ID) == bytes(2 << 20)
    finally:
        subprocess.run(["umount", "--lazy", waiting], check=True)  # noqa: S607


def test_worker_of_nginx_that_may_not_look_into_the_storage_is_found() -> None:
    """It has the groups that it was started with."""
    require_root()
    with shared_storage() as storage, nginx_before("127.0.0.1:1", storage, "debian") as nginx:
        master = int((nginx.options.runtime / "nginx.pid").read_text())

        def found() -> list[tuple[int, Path | None]]:
            looked = [barrier_of(Path(f"/proc/{pid}"), storage) for pid in family(master)]
            return [each for each in looked if each is not None]

        eventually(lambda: found() == [(NOBODY, None)])
        os.chown(storage, 0, NGINX_GROUP)
        assert found() == [(NOBODY, storage)]
        storage.chmod(0o2755)
        assert found() == [(NOBODY, None)]
        storage.parent.chmod(0o700)
        assert found() == [(NOBODY, storage.parent)]
        storage.parent.chmod(0o755)
        _, said = run((sys.executable, "-m", "cache_actors", "check"), storage)
    assert "ok       nginx's user: user " in said


def test_nginx_whose_configuration_names_the_storage_is_judged(tmp_path: Path) -> None:
    """And not another one on the host, whose workers may look into anything."""
    require_root()
    check = (sys.executable, "-m", "cache_actors", "check")
    with shared_storage() as storage, nginx_before("127.0.0.1:1", storage, "debian") as nginx:
        os.chown(storage, 0, NGINX_GROUP)
        with nginx_before("127.0.0.1:1", tmp_path, "debian", user="root"):
            _, said = run(check, storage)
        master = int((nginx.options.runtime / "nginx.pid").read_text())
        judged = "|".join(str(pid) for pid in family(master))
    assert re.search(
        f"warning  nginx's user: user {NOBODY}, as whom nginx's worker ({judged}) runs,"
        f" may not look into {storage}",
        said,
    )
