"""Modules, uploaded to several workers that are killed: an upload goes on where it was."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.kinds import MAX_PART_BYTES
from tests.support.service import Service, client_of, running_service

MODULE = "/api/cache/module"


@pytest.fixture
def module() -> dict[str, str]:
    return {"hash": uuid4().hex, "name": "App.xcframework.zip"}


def start(client: httpx.Client, module: dict[str, str]) -> str:
    return str(client.post(f"{MODULE}/start", params=module).json()["upload_id"])


def send(service: Service, upload: str, number: int, body: bytes) -> int:
    """Send a part over a connection of its own, so to any worker."""
    where = {"upload_id": upload, "part_number": str(number)}
    with client_of(service.url) as client:
        return client.post(f"{MODULE}/part", params=where, content=body).status_code


def complete(client: httpx.Client, upload: str, count: int) -> int:
    where = {"upload_id": upload}
    content = {"parts": list(range(1, count + 1))}
    return client.post(f"{MODULE}/complete", params=where, json=content).status_code


def test_any_worker_takes_any_part_and_a_crash_loses_none(
    tmp_path: Path, tuist: StandInTuist, module: dict[str, str]
) -> None:
    parts = [bytes([number]) * MAX_PART_BYTES for number in range(3)] + [b"end"]
    with running_service(Service(tmp_path / "cas", tuist.url, {"WORKERS": "2"})) as service:
        with client_of(service.url) as client:
            upload = start(client, module)
            for number in 2, 1:
                assert send(service, upload, number, parts[number - 1]) == 204
        service.stop(signal.SIGKILL)
        service.environment["WORKERS"] = "1"
        service.start()
        for number in 4, 3:
            assert send(service, upload, number, parts[number - 1]) == 204
        with client_of(service.url) as client:
            assert complete(client, upload, 4) == 204
            read = client.get(f"{MODULE}/{module['hash']}", params=module)
            assert read.content == b"".join(parts)
        nothing_is_left_but_what_is_remembered(service)


@pytest.mark.parametrize("size", [MAX_PART_BYTES, MAX_PART_BYTES - 1])
def test_completion_that_is_killed_can_be_asked_for_again(
    tmp_path: Path, tuist: StandInTuist, module: dict[str, str], size: int
) -> None:
    parts = [bytes([number]) * size for number in range(4)]
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        with client_of(service.url) as client:
            upload = start(client, module)
        for number, part in enumerate(parts, 1):
            assert send(service, upload, number, part) == 204
        asked = threading.Thread(target=ask_in_vain, args=(service, upload, 4))
        asked.start()
        service.wait_for_log('"path":"/api/cache/module/part"', 4)
        service.stop(signal.SIGKILL)  # at whatever point it is
        asked.join()
        service.start()
        with client_of(service.url) as client:
            assert complete(client, upload, 4) == 204
            read = client.get(f"{MODULE}/{module['hash']}", params=module)
            assert read.content == b"".join(parts)
        nothing_is_left_but_what_is_remembered(service)


def ask_in_vain(service: Service, upload: str, count: int) -> None:
    """Ask for completion, and be cut off perhaps."""
    with suppress(httpx.TransportError), client_of(service.url) as client:
        complete(client, upload, count)


def nothing_is_left_but_what_is_remembered(service: Service) -> None:
    """Of a complete upload it is known for a while that it was complete; its bytes are gone."""
    assert list((service.storage / ".tmp" / "uploads").iterdir()) == []
    (folder,) = (service.storage / ".tmp" / "completed").iterdir()
    (done,) = folder.iterdir()
    assert done.stat().st_size == 0
