"""What is stored goes to a bucket, on a real S3 server, whatever becomes of the way there."""

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.kinds import Kind
from cache_actors.replicator_process.protocol import ReplicatorConfig
from cache_actors.s3.names import SHA256, STORED, key_of, object_name
from cache_actors.storage.layout import Key, Project
from cache_actors.storage.references import references_in
from tests.support.metrics import Scrape
from tests.support.s3 import Fault, FaultProxy, Refuse, Reset, S3Bucket, Silence
from tests.support.service import Service, client_of, running_service
from tests.support.stored import artifact_id, value_of
from tests.support.waiting import eventually
from tests.support.writer_processes import processes_with

APP = Project("acme", "app")


@contextmanager
def service_with(
    folder: Path, tuist: StandInTuist, environment: dict[str, str]
) -> Iterator[Service]:
    with running_service(Service(folder / "cas", tuist.url, environment)) as service:
        yield service


def store(service: Service, number: int, salt: str = "") -> tuple[Key, Key]:
    """Store an artifact, and an entry that refers to it."""
    artifact = Key(APP, Kind.CAS, artifact_id(number))
    entry = Key(APP, Kind.KEYVALUE, f"0~{number:06}")
    values = [{"value": value_of(artifact.id)}, {"value": salt}]
    with client_of(service.url) as client:
        path = f"/api/cache/cas/{artifact.id}"
        assert client.post(path, content=b"artifact %d" % number).status_code == 204
        body = {"cas_id": entry.id, "entries": values}
        assert client.put("/api/cache/keyvalue", json=body).status_code == 204
    return artifact, entry


def has(bucket: S3Bucket, *keys: Key) -> bool:
    return {object_name("", key) for key in keys} <= set(bucket.names())


def shared(service: Service) -> dict[str, object]:
    found: dict[str, object] = service.up().json()["shared"]
    return found


def is_shared(service: Service) -> bool:
    found = shared(service)
    return (found["state"], found["backlog_files"]) == ("ok", 0)


def dangling(bucket: S3Bucket) -> list[str]:
    """Entries in the bucket without an artifact of theirs."""
    names = set(bucket.names())
    return [
        name
        for name in names
        if (key := key_of("", name)) and key.kind.refers
        for artifact in references_in(bucket.get(name))
        if not is_there(bucket, object_name("", Key(key.project, Kind.CAS, artifact)), names)
    ]


def is_there(bucket: S3Bucket, name: str, names: set[str]) -> bool:
    """Whether there is an object, which may have been put after these were listed."""
    if name in names:
        return True
    with suppress(FileNotFoundError):
        bucket.get(name)
        return True
    return False


def puts(service: Service) -> float:
    """The number of successful puts, in all workers, as far as they have reported it."""
    scrape = Scrape(service.up("/metrics").text)
    return scrape.value("cache_actors_shared_requests_total", op="put", outcome="ok")


def replicators(service: Service) -> list[int]:
    """The processes that push."""
    return processes_with(service.pid, ReplicatorConfig)


def test_what_is_stored_is_in_the_bucket_with_its_metadata(
    tmp_path: Path, tuist: StandInTuist, s3_bucket: S3Bucket
) -> None:
    with service_with(tmp_path, tuist, {}) as service:
        before = store(service, 1)
        assert "shared" not in service.up().json()
        assert "cache_actors_shared" not in service.up("/metrics").text
        assert replicators(service) == []
        service.stop()
        service.environment = s3_bucket.settings() | {"WORKERS": "2"}
        service.start()
        eventually(lambda: has(s3_bucket, *before))
        keys = [key for number in range(2, 30) for key in store(service, number)]
        eventually(lambda: has(s3_bucket, *keys))
        for key in keys[:2]:
            found = s3_bucket.store.get(object_name("", key))
            path = key.path(service.storage)
            assert bytes(found.bytes()) == path.read_bytes()
            assert found.attributes[STORED] == str(path.stat().st_mtime_ns)
            assert len(found.attributes[SHA256]) == 64
        eventually(lambda: is_shared(service))
        eventually(lambda: puts(service) >= len(keys))
        assert dangling(s3_bucket) == []
        _, entry = store(service, 2, salt="replaced")
        service.stop()  # in the middle of it
        assert s3_bucket.get(object_name("", entry)) == entry.path(service.storage).read_bytes()


def test_wait_makes_an_upload_write_through(
    tmp_path: Path, tuist: StandInTuist, s3_bucket: S3Bucket, s3_proxy: FaultProxy
) -> None:
    environment = s3_bucket.settings(s3_proxy.url) | {"S3_WAIT": "60", "S3_PREFIX": "a/b"}
    with service_with(tmp_path, tuist, environment) as service:
        eventually(lambda: is_shared(service))
        for number in range(5):
            keys = store(service, number, salt=str(number))
            assert {object_name("a/b", key) for key in keys} <= set(s3_bucket.names())


FAULTS: list[tuple[Callable[[], Fault], str, str]] = [
    (lambda: Refuse(403, "AccessDenied"), "misconfigured", "access is denied"),
    (lambda: Refuse(404, "NoSuchBucket"), "misconfigured", "no such bucket"),
    (lambda: Refuse(403, "RequestTimeTooSkewed"), "misconfigured", "clock"),
    (lambda: Refuse(503, "SlowDown"), "unreachable", "SlowDown"),
    (lambda: Refuse(500, "InternalError"), "unreachable", "500"),
    (Reset, "unreachable", "con"),
    (Silence, "unreachable", "no answer in time"),
]


def survive(
    service: Service, bucket: S3Bucket, proxy: FaultProxy, fault: Fault, first: int
) -> None:
    """Store from the number `first` on while the bucket has a fault, and see it arrive later."""
    proxy.fault = lambda _method, _path: fault
    keys = [key for number in range(first, first + 20) for key in store(service, number)]
    eventually(lambda: shared(service)["state"] in ("unreachable", "misconfigured"))
    eventually(lambda: shared(service)["backlog_files"] == len(keys))
    assert service.up("/ready").status_code == 200
    assert service.up().status_code == 200
    proxy.fault = lambda *_: None
    proxy.release.set()
    eventually(lambda: has(bucket, *keys))
    eventually(lambda: is_shared(service))
    proxy.release.clear()


@pytest.mark.parametrize(
    "faults", [FAULTS[:1], pytest.param(FAULTS[1:], marks=pytest.mark.nightly)], ids=["403", "all"]
)
def test_outage_refuses_no_upload_and_all_is_sent_after_it(
    tmp_path: Path,
    tuist: StandInTuist,
    s3_bucket: S3Bucket,
    s3_proxy: FaultProxy,
    faults: list[tuple[Callable[[], Fault], str, str]],
) -> None:
    environment = s3_bucket.settings(s3_proxy.url) | {"S3_WAIT": "0.2"}
    with service_with(tmp_path, tuist, environment) as service:
        for number, (new, state, reason) in enumerate(faults):
            survive(service, s3_bucket, s3_proxy, new(), 100 * number)
            said = service.logged("shared_state")[-2]
            assert (said["state"], reason in said["reason"]) == (state, True), said
        assert dangling(s3_bucket) == []
        text = service.log.read_text()
        assert environment["AWS_SECRET_ACCESS_KEY"] not in text
        assert environment["AWS_ACCESS_KEY_ID"] not in text


@pytest.mark.parametrize("kills", [1, pytest.param(60, marks=pytest.mark.nightly)])
def test_kills_at_any_time_lose_nothing_and_leave_no_entry_without_its_artifact(
    tmp_path: Path, tuist: StandInTuist, s3_bucket: S3Bucket, kills: int
) -> None:
    chance = random.Random(kills)
    numbers = itertools.count()
    keys: list[Key] = []
    with service_with(tmp_path, tuist, s3_bucket.settings()) as service:
        for kill in range(kills):
            with ThreadPoolExecutor(8) as threads:
                some = [next(numbers) for _ in range(chance.randrange(8, 40))]
                for pair in threads.map(partial(store, service), some):
                    keys += pair
            if kill % 3 == 0:
                service.kill()
                assert dangling(s3_bucket) == []
                service.start()
            else:
                eventually(lambda: replicators(service))
                for pid in replicators(service):
                    os.kill(pid, signal.SIGKILL)
        eventually(lambda: is_shared(service))
        eventually(lambda: has(s3_bucket, *keys))
    assert dangling(s3_bucket) == []


@pytest.mark.nightly
def test_server_that_stands_still_in_the_middle_of_pushes(
    tmp_path: Path, tuist: StandInTuist, s3_bucket: S3Bucket
) -> None:
    with service_with(tmp_path, tuist, s3_bucket.settings()) as service:
        keys = [key for number in range(100) for key in store(service, number)]
        with s3_bucket.server.stopped():
            keys += [key for number in range(100, 150) for key in store(service, number)]
            eventually(lambda: shared(service)["state"] == "unreachable")
            assert service.up("/ready").status_code == 200
            service.stop()
            service.start()
            keys += [key for number in range(150, 200) for key in store(service, number)]
        eventually(lambda: has(s3_bucket, *keys))
        eventually(lambda: is_shared(service))
    assert dangling(s3_bucket) == []


@pytest.mark.nightly
def test_full_disk_with_the_bucket_down_drops_last_what_is_not_there(
    tmp_path: Path, tuist: StandInTuist, s3_bucket: S3Bucket, s3_proxy: FaultProxy
) -> None:
    environment = s3_bucket.settings(s3_proxy.url) | {
        "STORAGE_MAX_BYTES": "1000000",
        "DISK_HIGH_WATERMARK_PERCENT": "60",
        "DISK_TARGET_PERCENT": "50",
    }
    with service_with(tmp_path, tuist, environment) as service:
        early = [key for number in range(30) for key in store(service, number)]
        eventually(lambda: has(s3_bucket, *early))
        eventually(lambda: is_shared(service))
        s3_proxy.fault = lambda *_: Refuse(503, "SlowDown")
        late: list[Key] = []
        numbers = itertools.count(100)
        with client_of(service.url) as client:

            def has_dropped() -> bool:
                key = Key(APP, Kind.CAS, artifact_id(next(numbers)))
                status = client.post(f"/api/cache/cas/{key.id}", content=b"late").status_code
                assert status in (204, 507)
                late.extend([key] * (status == 204))
                return bool(shared(service)["dropped"])

            eventually(has_dropped)
        assert not any(key.path(service.storage).exists() for key in early)
        s3_proxy.fault = lambda *_: None
        eventually(lambda: is_shared(service))
        left = [key for key in late if key.path(service.storage).exists()]
        assert left
        assert has(s3_bucket, *left)
    assert dangling(s3_bucket) == []
