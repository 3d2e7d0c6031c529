"""Damage on the disk below a real service and a real nginx: found, taken away, stored again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cache_actors.storage.layout import QUARANTINE
from tests.contract.examples import (
    bearer,
    cas_path,
    handles,
    kv_path,
    new_cas_id,
    new_kv_id,
)
from tests.support.nginx import Nginx, nginx_before, shared_storage
from tests.support.service import Service, running_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.dev.tuist import StandInTuist

DIGEST_HEADER = "tuist-checksum-sha256"
PATIENCE = 15.0
"""Seconds within which nginx has forgotten a file, or a background scrub has found one."""


@dataclass
class Site:
    """A service, nginx in front of it, and a client of each."""

    service: Service
    nginx: Nginx
    through_nginx: httpx.Client
    direct: httpx.Client
    bodies: dict[str, bytes] = field(default_factory=dict)

    def store(self, size: int = 20_000) -> str:
        """The id of a new artifact that has been stored, and read, through nginx."""
        cas_id = new_cas_id()
        self.bodies[cas_id] = random.randbytes(size)
        self.store_again(cas_id)
        return cas_id

    def store_again(self, cas_id: str) -> None:
        response = self.through_nginx.post(cas_path(cas_id), content=self.bodies[cas_id])
        assert response.status_code == 204, response.text
        assert self.through_nginx.get(cas_path(cas_id)).content == self.bodies[cas_id]

    def file(self, cas_id: str) -> Path:
        return self.service.storage / "acme/app/cas" / cas_id[2:4] / cas_id

    def name(self, cas_id: str) -> str:
        return str(self.file(cas_id).relative_to(self.service.storage))

    def scrub(self, *options: str) -> tuple[int, dict[str, Any]]:
        """The exit status and the report of the command."""
        done = subprocess.run(
            scrub_command(self.service.storage, *options),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The service's log lines of one event."""
        lines = map(json.loads, self.service.log.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    def expect_missing(self, path: str) -> None:
        """It is a miss at once at the service, and soon at nginx, which remembers open files."""
        assert self.direct.get(path).status_code == 404
        eventually(lambda: self.through_nginx.get(path).status_code == 404)

    def damage(self, flipped: str, shortened: str, emptied: str) -> dict[str, tuple[str, bytes]]:
        """Damage three artifacts, one in each way: fault and bytes by id."""
        with self.file(flipped).open("r+b") as file:
            file.seek(12_345)
            file.write(bytes([self.bodies[flipped][12_345] ^ 4]))
        os.truncate(self.file(shortened), 10_000)
        os.truncate(self.file(emptied), 0)
        return {
            cas_id: (fault, self.file(cas_id).read_bytes())
            for cas_id, fault in (
                (flipped, "has other bytes than recorded"),
                (shortened, "has another size than recorded"),
                (emptied, "is empty"),
            )
        }

    def expect_found(
        self, findings: list[dict[str, Any]], damaged: dict[str, tuple[str, bytes]]
    ) -> None:
        """Exactly the damaged ones were found, and are kept as they were found."""
        faults = {finding["path"]: finding["fault"] for finding in findings}
        assert faults == {self.name(cas_id): fault for cas_id, (fault, _) in damaged.items()}
        kept = {finding["path"]: finding["quarantined"] for finding in findings}
        for cas_id, (_, content) in damaged.items():
            place = kept[self.name(cas_id)]
            assert place.startswith(f"{QUARANTINE}/acme/app/cas/{cas_id}.")
            assert (self.service.storage / place).read_bytes() == content

    def expect_healed(self, damaged: dict[str, tuple[str, bytes]], good: list[str]) -> None:
        """The damaged ones are misses, and can be stored again; the good ones are as before."""
        for cas_id in damaged:
            self.expect_missing(cas_path(cas_id))
        for cas_id in damaged:
            self.store_again(cas_id)
        for cas_id in (*damaged, *good):
            for client in (self.direct, self.through_nginx):
                assert client.get(cas_path(cas_id)).content == self.bodies[cas_id]


def scrub_command(storage: Path, *options: str) -> list[str]:
    arguments = ["scrub", "--storage", str(storage), "--json", *options]
    return [sys.executable, "-m", "cache_actors", *arguments]


def eventually(is_so: Callable[[], bool]) -> None:
    """Return once something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.1)


@pytest.fixture
def start(tuist: StandInTuist) -> Iterator[Callable[..., Site]]:
    """Starts a site, with settings of the service."""
    with ExitStack() as stack:

        def start(**settings: str) -> Site:
            storage = stack.enter_context(shared_storage())
            service = Service(storage, tuist.url, settings)
            stack.enter_context(running_service(service))
            nginx = stack.enter_context(nginx_before(f"127.0.0.1:{service.port}", storage, "wheel"))
            through_nginx, direct = [
                stack.enter_context(
                    httpx.Client(
                        base_url=url,
                        params=handles("acme/app"),
                        headers=bearer("token"),
                        trust_env=False,
                        timeout=20,
                    )
                )
                for url in (nginx.url, service.url)
            ]
            return Site(service, nginx, through_nginx, direct)

        yield start


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start()


def test_scrub_finds_exactly_what_is_damaged_and_all_of_it_can_be_stored_again(
    site: Site,
) -> None:
    good = [site.store(size) for size in (1, 4096, 300_000, 3_000_000)]
    damaged = site.damage(*(site.store() for _ in range(3)))
    status, report = site.scrub()
    assert status == 1
    assert report["complete"]
    assert (report["files"], report["unrecorded"], report["skipped"]) == (7, 0, 0)
    site.expect_found(report["findings"], damaged)
    site.expect_healed(damaged, good)
    status, report = site.scrub()
    assert (status, report["findings"], report["files"]) == (0, [], 7)


def test_background_scrub_does_the_same_by_itself(start: Callable[..., Site]) -> None:
    site = start(SCRUB_INTERVAL="3")
    good, ids = [site.store()], [site.store() for _ in range(3)]
    # Damaged right after a scrub, so that none meets them before this test is done with them.
    known = len(site.logged("scrub_finished"))
    eventually(lambda: len(site.logged("scrub_finished")) > known)
    damaged = site.damage(*ids)
    eventually(lambda: len(site.logged("scrub_found")) >= len(damaged))
    site.expect_found(site.logged("scrub_found"), damaged)
    site.expect_healed(damaged, good)
    known = len(site.logged("scrub_finished"))
    eventually(lambda: len(site.logged("scrub_finished")) >= known + 2)
    assert site.logged("scrub_finished")[-1]["found"] == 0
    assert len(site.logged("scrub_found")) == len(damaged)
    assert site.service.stop(signal.SIGTERM) == 0


def test_damaged_entry_is_a_miss_and_can_be_written_again(site: Site) -> None:
    kv_ids = [new_kv_id() for _ in range(2)]

    def put(kv_id: str) -> None:
        body = {"cas_id": kv_id, "entries": [{"value": "value"}]}
        for_project = site.through_nginx.put("/api/cache/keyvalue", json=body)
        assert for_project.status_code == 204, for_project.text

    for kv_id in kv_ids:
        put(kv_id)
    broken, good = kv_ids
    file = site.service.storage / "acme/app/keyvalue" / broken[2:4] / f"{broken}.json"
    with file.open("r+b") as opened:
        opened.seek(15)
        opened.write(b"*")
    status, report = site.scrub()
    assert status == 1
    assert [finding["fault"] for finding in report["findings"]] == ["has other bytes than recorded"]
    site.expect_missing(kv_path(broken))
    put(broken)
    expected = {"entries": [{"value": "value"}]}
    for kv_id in (broken, good):
        for client in (site.direct, site.through_nginx):
            eventually(lambda c=client, i=kv_id: c.get(kv_path(i)).is_success)  # type: ignore[misc]
            assert client.get(kv_path(kv_id)).json() == expected


def test_damaged_file_is_stored_again_without_a_scrub(site: Site) -> None:
    cas_ids = [site.store(), site.store()]
    os.truncate(site.file(cas_ids[0]), 0)
    os.truncate(site.file(cas_ids[1]), 5)
    for cas_id in cas_ids:
        response = site.direct.post(cas_path(cas_id), content=site.bodies[cas_id])
        assert response.status_code == 204
        assert site.direct.get(cas_path(cas_id)).content == site.bodies[cas_id]
    held = (site.service.storage / QUARANTINE).rglob("*")
    assert sorted(path.stat().st_size for path in held if path.is_file()) == [0, 5]
    assert site.scrub()[0] == 0


def test_interrupted_command_exits_with_130_and_another_may_run(site: Site) -> None:
    for _ in range(3):
        site.store(3_000_000)
    command = scrub_command(site.service.storage, "--rate", "0.5")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        eventually(lambda: is_locked(site.service.storage))  # it would read for 18 seconds
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert not json.loads(output)["complete"]
    assert site.scrub()[0] == 0


def is_locked(folder: Path) -> bool:
    return f":{folder.stat().st_ino} " in Path("/proc/locks").read_text()


def test_digest_is_told_with_whole_artifacts_in_direct_mode(site: Site) -> None:
    cas_id = site.store()
    digest = hashlib.sha256(site.bodies[cas_id]).hexdigest()
    path = cas_path(cas_id)
    whole = site.direct.get(path)
    assert (whole.status_code, whole.headers[DIGEST_HEADER]) == (200, digest)
    head = site.direct.head(path)
    assert (head.status_code, head.headers[DIGEST_HEADER]) == (200, digest)
    part = site.direct.get(path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, site.bodies[cas_id][5:10])
    same = site.direct.get(path, headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    beyond = site.direct.get(path, headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416
    by_nginx = site.through_nginx.get(path)
    assert (by_nginx.status_code, by_nginx.content) == (200, site.bodies[cas_id])
    for response in (part, same, beyond, by_nginx):
        assert DIGEST_HEADER not in response.headers
    os.removexattr(site.file(cas_id), "user.cache_actors")
    unrecorded = site.direct.get(path)
    assert (unrecorded.status_code, unrecorded.content) == (200, site.bodies[cas_id])
    assert DIGEST_HEADER not in unrecorded.headers
