"""Memory stays bounded, however many upload at once and however slow the disk is."""

import resource
import threading
from pathlib import Path

import pytest
import trio

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.service import CHANGED_COMMAND, Service, running_service
from tests.support.wire import upload_head

MEBIBYTE = 1024 * 1024


@pytest.mark.alone
@pytest.mark.parametrize(
    ("uploads", "size", "slowness", "allowed_growth"),
    [
        pytest.param(32, 25 * MEBIBYTE, 0.25, 64 * MEBIBYTE, id="32 of 25 MiB to a slow disk"),
        pytest.param(1000, 256 * 1024, 0.0, 128 * MEBIBYTE, id="1,000 of 256 KiB"),
        pytest.param(
            2000, 256 * 1024, 0.0, 128 * MEBIBYTE, id="2,000 of 256 KiB", marks=pytest.mark.nightly
        ),
    ],
)
async def test_uploads_at_once_stay_within_bounded_memory(
    tmp_path: Path,
    tuist: StandInTuist,
    uploads: int,
    size: int,
    slowness: float,
    allowed_growth: int,
) -> None:
    allow_many_files()
    environment = {"SLOW_PUBLISH": str(slowness)}
    service = Service(tmp_path / "cas", tuist.url, environment, CHANGED_COMMAND)
    with running_service(service):
        await upload(service, size=1)
        before = service.resident_bytes()
        with PeakMemory(service) as peak:
            statuses = await upload_at_once(service, uploads, size)
        assert statuses == [204] * uploads
        assert peak.bytes - before < allowed_growth


async def upload_at_once(service: Service, uploads: int, size: int) -> list[int]:
    statuses: list[int] = []

    async def one() -> None:
        statuses.append(await upload(service, size))

    async with trio.open_nursery() as nursery:
        for _ in range(uploads):
            nursery.start_soon(one)
    return statuses


async def upload(service: Service, size: int) -> int:
    """Upload an artifact of `size` bytes on a connection of its own; return the status."""
    stream = await trio.open_tcp_stream("127.0.0.1", service.port)
    async with stream:
        await stream.send_all(upload_head(size))
        piece = memoryview(bytes(MEBIBYTE))
        for start in range(0, size, MEBIBYTE):
            await stream.send_all(piece[: min(MEBIBYTE, size - start)])
        answer = await stream.receive_some()
        return int(answer.split()[1])


class PeakMemory:
    """Watches the service's resident memory while the context lasts."""

    def __init__(self, service: Service) -> None:
        self.bytes = 0
        self._service = service
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._service.resident_bytes())

    def __enter__(self) -> "PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()


def allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
