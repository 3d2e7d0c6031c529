"""The command `scrub`: what it prints, its exit status, and the rate that it keeps to."""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache_actors.cli import scrub as command
from cache_actors.cli.main import main
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from cache_actors.storage.integrity.scrub import MIN_COST, READ_BYTES, ScrubLock, last_scrub
from cache_actors.storage.layout import QUARANTINE, TEMPORARY
from tests.storage.stores import refusing

MEBIBYTE = 1 << 20


@dataclass
class Clock:
    """A clock that only sleeping moves, and that somebody may interrupt."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    interrupt_at: float = float("inf")

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.slept.append(seconds)
        if self.now >= self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(command, "time", clock)
    return clock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cas"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    temporary = TemporaryFolder(root / TEMPORARY)
    yield FileStore(root, temporary, durable=False)
    temporary.remove()


def artifact(store: FileStore, entry_id: str, content: bytes) -> Path:
    path = store.root / "acme" / "app" / "cas" / entry_id[2:4] / entry_id
    assert store.publish([Publication(str(path), [content])]) == [Published.STORED]
    return path


def scrub(root: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["scrub", "--storage", str(root), *options])


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_good_storage_exits_with_0(root: Path, store: FileStore) -> None:
    artifact(store, "01AB", b"bytes")
    result = scrub(root, "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert report_of(result) == {
        "files": 1,
        "bytes": 5,
        "unrecorded": 0,
        "skipped": 0,
        "unknown": 0,
        "folders": 1,
        "folders_done": 1,
        "complete": True,
        "findings": [],
    }
    assert last_scrub(root) is not None


def test_broken_file_exits_with_1_and_is_named(root: Path, store: FileStore) -> None:
    artifact(store, "01AB", b"bytes").write_bytes(b"bytez")
    artifact(store, "02AB", b"good")
    result = scrub(root, "--json")
    assert result.exit_code == 1
    (finding,) = report_of(result)["findings"]
    quarantined = finding.pop("quarantined")
    assert finding == {"path": "acme/app/cas/AB/01AB", "fault": "has other bytes than recorded"}
    assert quarantined.startswith(f"{QUARANTINE}/acme/app/cas/01AB.")
    assert (root / quarantined).read_bytes() == b"bytez"
    assert scrub(root).exit_code == 0


def test_text_names_each_broken_file_and_counts_the_others(root: Path, store: FileStore) -> None:
    artifact(store, "01AB", b"bytes").write_bytes(b"bytez")
    os.truncate(artifact(store, "02CD", b"bytes"), 0)
    os.removexattr(artifact(store, "03AB", b"bytes"), ATTRIBUTE)
    artifact(store, "04AB", b"bytes").with_name("stranger.txt").write_bytes(b"x")
    result = scrub(root)
    assert result.exit_code == 1
    *findings, summary = result.stdout.splitlines()
    first, second = sorted(findings)
    assert first.startswith(
        f"acme/app/cas/AB/01AB has other bytes than recorded; now {QUARANTINE}/acme/app/cas/01AB."
    )
    assert second.startswith("acme/app/cas/CD/02CD is empty; now ")
    assert summary == (
        "4 files (15 bytes) checked, 2 broken, 1 without a recorded digest, 1 unknown left alone"
    )


def test_file_that_could_not_be_moved_is_told(
    root: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact(store, "01AB", b"bytes").write_bytes(b"bytez")
    monkeypatch.setattr(os, "rename", refusing(errno.EPERM))
    result = scrub(root)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith("; it could not be moved")
    assert report_of(scrub(root, "--json"))["findings"][0]["quarantined"] is None


def test_storage_folder_is_that_of_the_service(root: Path, store: FileStore) -> None:
    artifact(store, "01AB", b"bytes")
    result = CliRunner().invoke(main, ["scrub", "--json"], env={"CAS_STORAGE_DIR": str(root)})
    assert report_of(result)["files"] == 1


# When it cannot run.


def test_storage_that_is_not_there_exits_with_2(tmp_path: Path) -> None:
    result = scrub(tmp_path / "missing")
    assert result.exit_code == 2
    assert str(tmp_path / "missing") in result.stderr
    assert "No such file" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "missing").exists()


def test_second_scrub_at_once_exits_with_2(root: Path) -> None:
    with ScrubLock(root):
        result = scrub(root)
    assert result.exit_code == 2
    assert result.stderr == "Another scrub of this storage is running\n"
    assert result.stdout == ""
    assert last_scrub(root) is None


def test_disk_that_fails_exits_with_2_and_counts_for_no_scrub(
    root: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact(store, "01AB", b"bytes")
    monkeypatch.setattr(os, "preadv", refusing(errno.ENOMEM))
    result = scrub(root)
    assert result.exit_code == 2
    assert "Cannot allocate memory" in result.stderr
    assert last_scrub(root) is None


@pytest.mark.parametrize("rate", ["0", "-1", "fast"])
def test_rate_that_is_none_is_refused(root: Path, rate: str) -> None:
    result = scrub(root, "--rate", rate)
    assert result.exit_code == 2
    assert "--rate" in result.stderr


# When it is interrupted.


def test_interrupted_scrub_exits_with_130_and_reports_what_it_has_found(
    root: Path, store: FileStore, clock: Clock
) -> None:
    for number in range(10):
        artifact(store, f"{number:02}AB", b"bytes").write_bytes(b"bytez")
    clock.interrupt_at = clock.now + 5 * MIN_COST / MEBIBYTE
    result = scrub(root, "--rate", "1", "--json")
    assert result.exit_code == 130
    report = report_of(result)
    assert not report["complete"]
    assert 1 <= len(report["findings"]) < 10
    assert all((root / finding["quarantined"]).exists() for finding in report["findings"])
    assert last_scrub(root) is None
    clock.interrupt_at = clock.now
    *more, summary = scrub(root).stdout.splitlines()
    assert summary.endswith(", not finished")
    clock.interrupt_at = float("inf")
    rest = scrub(root)
    assert rest.exit_code == 1
    assert len(rest.stdout.splitlines()) == 10 - len(report["findings"]) - len(more) + 1


# How fast it goes.


@pytest.mark.parametrize("rate", [0.5, 1, 8, 1000])
def test_rate_bounds_what_is_read(root: Path, store: FileStore, clock: Clock, rate: float) -> None:
    artifact(store, "01AB", os.urandom(5 * READ_BYTES))
    for number in range(100):
        artifact(store, f"{number:02}CD", b"bytes")
    began = clock.now
    assert scrub(root, "--rate", str(rate)).exit_code == 0
    cost = 5 * READ_BYTES + 100 * MIN_COST
    assert clock.now - began == pytest.approx(cost / (rate * MEBIBYTE))
    assert max(clock.slept) <= READ_BYTES / (rate * MEBIBYTE) * 1.001


def test_time_that_reading_takes_is_not_added(
    root: Path, store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_read = os.preadv

    def preadv(*arguments: Any) -> int:
        clock.now += 2.0
        return really_read(*arguments)

    artifact(store, "01AB", os.urandom(4 * READ_BYTES))
    monkeypatch.setattr(os, "preadv", preadv)
    assert scrub(root, "--rate", "1").exit_code == 0
    assert sum(clock.slept) == 0
