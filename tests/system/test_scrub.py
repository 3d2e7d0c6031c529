"""Damage on the disk below a real service and a real nginx: found, taken away, stored again."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_actors.storage.layout import LOGS, QUARANTINE, TEMPORARY
from tests.contract.examples import cas_path, new_cas_id
from tests.support.folders import files_below
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import PROJECT, Site, running_site

DIGEST_HEADER = "tuist-checksum-sha256"

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "has other bytes than recorded": lambda body: body[:12] + bytes([body[12] ^ 4]) + body[13:],
    "has another size than recorded": lambda body: body[:10_000],
    "is empty": lambda _: b"",
}
"""What a file may be found with, and what makes that of its bytes."""


@dataclass
class Storage:
    """What has been stored at a site.

    Attributes:
        bodies: the artifacts, by id.
        damaged: the fault of each artifact that has been damaged, by id.
    """

    site: Site
    bodies: dict[str, bytes] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.site.service.storage

    def store(self, size: int = 20_000) -> str:
        """The id of a new artifact that has been stored, and read, through nginx."""
        cas_id = new_cas_id()
        self.bodies[cas_id] = random.randbytes(size)
        self.store_again(cas_id)
        return cas_id

    def store_again(self, cas_id: str) -> None:
        self.site.upload(cas_id, self.bodies[cas_id])
        assert self.site.ask("GET", cas_path(cas_id)).content == self.bodies[cas_id]

    def direct(self, path: str, method: str = "GET", **how: Any) -> httpx.Response:
        """Ask the service itself."""
        return self.site.direct.request(method, path, **how)

    def scrub(self, *options: str) -> tuple[int, dict[str, Any]]:
        """The exit status and the report of the command."""
        command = scrub_command(self.root, *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout)

    def expect_missing(self, path: str) -> None:
        """It is a miss at once at the service, and soon at nginx, which remembers open files."""
        assert self.direct(path).status_code == 404
        eventually(lambda: self.site.ask("GET", path).status_code == 404)

    def damage(self, *cas_ids: str) -> None:
        """Damage artifacts, each in a way of its own.

        Not where they are: nginx may have them open still, and complain of less than it promised.
        """
        for cas_id, (fault, change) in zip(cas_ids, DAMAGES.items(), strict=True):
            path = self.site.file(cas_id)
            damaged = Path(shutil.copy2(path, self.root.parent / cas_id))  # with what is recorded
            with damaged.open("r+b") as file:
                file.truncate(file.write(change(self.bodies[cas_id])))
            damaged.replace(path)
            self.damaged[cas_id] = fault

    def expect_found(self, findings: list[dict[str, Any]]) -> None:
        """Exactly the damaged ones were found, and are kept as they were found."""
        found = {Path(finding["path"]).name: finding for finding in findings}
        assert {cas_id: finding["fault"] for cas_id, finding in found.items()} == self.damaged
        for cas_id, finding in found.items():
            assert self.root / finding["path"] == self.site.file(cas_id)
            assert finding["quarantined"].startswith(f"{QUARANTINE}/{PROJECT}/cas/{cas_id}.")
            change = DAMAGES[finding["fault"]]
            kept = (self.root / finding["quarantined"]).read_bytes()
            assert kept == change(self.bodies[cas_id])

    def expect_healed(self) -> None:
        """The damaged ones are misses, and can be stored again; the good ones are as before."""
        for cas_id in self.damaged:
            self.expect_missing(cas_path(cas_id))
            self.store_again(cas_id)
        for cas_id, body in self.bodies.items():
            assert self.direct(cas_path(cas_id)).content == body
            assert self.site.ask("GET", cas_path(cas_id)).content == body


def scrub_command(storage: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "cache_actors", "scrub", "--json", *options]
    return [*command, f"--storage={storage}"]


@pytest.fixture(scope="module")
def shared(shared_tuist: HeldTuist) -> Iterator[Site]:
    """A site that all tests share."""
    with running_site("wheel", shared_tuist) as site:
        yield site


@pytest.fixture
def storage(shared: Site) -> Iterator[Storage]:
    """What a test stores there; afterwards it is empty."""
    yield Storage(shared)
    for path in files_below(shared.service.storage):
        if {TEMPORARY, LOGS}.isdisjoint(path.parts):
            path.unlink()


def test_scrub_finds_exactly_what_is_damaged_and_all_of_it_can_be_stored_again(
    storage: Storage,
) -> None:
    for size in (1, 4096, 300_000, 3_000_000):
        storage.store(size)
    storage.damage(*(storage.store() for _ in DAMAGES))
    status, report = storage.scrub()
    assert status == 1
    assert report["complete"]
    assert (report["files"], report["unrecorded"], report["skipped"]) == (7, 0, 0)
    storage.expect_found(report["findings"])
    storage.expect_healed()
    status, report = storage.scrub()
    assert (status, report["findings"], report["files"]) == (0, [], 7)


def test_background_scrub_does_the_same_by_itself(tuist: HeldTuist) -> None:
    with running_site("wheel", tuist, {"SCRUB_INTERVAL": "1"}) as site:
        storage = Storage(site)
        storage.store()
        storage.damage(*(storage.store() for _ in DAMAGES))
        logged = site.service.logged
        eventually(lambda: len(logged("scrub_found")) >= len(DAMAGES))
        storage.expect_found(logged("scrub_found"))
        storage.expect_healed()
        known = len(logged("scrub_finished"))
        eventually(lambda: len(logged("scrub_finished")) >= known + 2)
        assert logged("scrub_finished")[-1]["found"] == 0
        assert len(logged("scrub_found")) == len(DAMAGES)
        assert site.service.stop() == 0


def test_digest_is_told_with_whole_artifacts_in_direct_mode(storage: Storage) -> None:
    cas_id = storage.store()
    body, path = storage.bodies[cas_id], cas_path(cas_id)
    digest = hashlib.sha256(body).hexdigest()
    whole = storage.direct(path)
    assert (whole.status_code, whole.headers[DIGEST_HEADER]) == (200, digest)
    head = storage.direct(path, "HEAD")
    assert (head.status_code, head.headers[DIGEST_HEADER]) == (200, digest)
    part = storage.direct(path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, body[5:10])
    same = storage.direct(path, headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    beyond = storage.direct(path, headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416
    by_nginx = storage.site.ask("GET", path)
    assert (by_nginx.status_code, by_nginx.content) == (200, body)
    os.removexattr(storage.site.file(cas_id), "user.cache_actors")
    unrecorded = storage.direct(path)
    assert (unrecorded.status_code, unrecorded.content) == (200, body)
    for response in (part, same, beyond, by_nginx, unrecorded):
        assert DIGEST_HEADER not in response.headers
