"""A real service after a power cut, as far as one can be had: see `tests/storage/test_recovery.py`.

Everything is killed, files are damaged as unsynced ones may be, and the logs made to look as if
they were of before a start of the machine.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.storage.files.write_ahead_log import boot_id, can_log
from cache_actors.storage.layout import LOGS
from tests.support.service import Service, client_of, running_service
from tests.support.strace import family
from tests.support.writer_processes import disk_processes

NAMES = [f"AB{number:02}CD" for number in range(12)]
ENTRY = b'{"cas_id": "0~key", "entries": [{"value": "%b"}]}'


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """A storage folder on a file system that a log is used on."""
    where = next(each for each in (tmp_path, Path("/dev/shm")) if can_log(each))  # noqa: S108
    with TemporaryDirectory(dir=where) as folder:
        yield Path(folder) / "cas"


def store_something(service: Service) -> None:
    with client_of(service.url) as client:
        for name in NAMES:
            answer = client.post(f"/api/cache/cas/{name}", content=name.encode() * 1000)
            assert answer.status_code == 204
        for value in (b"first", b"second"):
            assert client.put("/api/cache/keyvalue", content=ENTRY % value).status_code == 204


def kill_all(service: Service) -> None:
    """Kill the service and its writers, which would make a checkpoint if they outlived it."""
    writers = disk_processes(service.pid)
    others = [pid for pid in family(service.pid) if pid not in writers]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    for pid in writers + others:
        os.kill(pid, signal.SIGKILL)
    service.stop(signal.SIGKILL)


def cut_the_power(storage: Path) -> None:
    """Damage files that no sync has put on the disk, and have the machine start anew."""
    for segment in (storage / LOGS).glob("*/*"):
        segment.write_bytes(segment.read_bytes().replace(boot_id(), b"f" * 36, 1))
    files = sorted((storage / "acme" / "app" / "cas").rglob("AB*"))
    assert len(files) == len(NAMES)
    for number, path in enumerate(files):
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(b"")
        else:
            path.write_bytes(bytes(path.stat().st_size))
    (entry,) = (storage / "acme" / "app" / "keyvalue").rglob("*.json")
    entry.write_bytes(b"")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_service_answers_nothing_before_it_has_recovered_what_it_acknowledged(
    storage: Path, tuist: StandInTuist, workers: int
) -> None:
    service = Service(storage, tuist.url, {"WORKERS": str(workers)})
    with running_service(service):
        store_something(service)
        kill_all(service)
    cut_the_power(service.storage)
    again = Service(service.storage, tuist.url, {"WORKERS": str(workers)})
    with running_service(again), client_of(again.url) as client:
        for name in NAMES:
            assert client.get(f"/api/cache/cas/{name}").content == name.encode() * 1000
        assert client.get("/api/cache/keyvalue/0~key").json()["entries"] == [{"value": "second"}]
        (line,) = again.logged("recovered")
        told = {name: line[name] for name in ("when", "logged", "stored", "removed", "failed")}
        files = len(NAMES) + 1
        assert told == {
            "when": "start",
            "logged": files,
            "stored": files,
            "removed": 0,
            "failed": 0,
        }
        assert again.stop() == 0
    assert list((again.storage / LOGS).iterdir()) == []


def test_logs_of_the_killed_are_removed_without_a_recovery(
    storage: Path, tuist: StandInTuist
) -> None:
    service = Service(storage, tuist.url)
    with running_service(service):
        store_something(service)
        kill_all(service)
    assert len(list((service.storage / LOGS).iterdir())) == 2
    again = Service(service.storage, tuist.url)
    with running_service(again):
        store_something(again)
        assert again.stop() == 0
    assert again.logged("recovered") == []
    assert list((again.storage / LOGS).iterdir()) == []
