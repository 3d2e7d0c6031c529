"""The command `evict`: what it prints, its exit status, and what it leaves for the service."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache_actors.cli import evict as command
from cache_actors.cli.main import main
from cache_actors.storage.eviction import run as run_module
from cache_actors.storage.eviction import sweep
from cache_actors.storage.eviction.last_pass import EvictionLock, last_eviction
from cache_actors.storage.eviction.run import EvictionPass, Limits
from cache_actors.storage.eviction.sweep import ClockStepped, Step
from cache_actors.storage.layout import LAST_EVICTION
from tests.storage.stores import fail_calls_for
from tests.support.stored import BLOCK_BYTES, DAY, HOUR, LIB, Stored, artifact_id, times_below

FILES = 50
LIMIT = f"--max-bytes={FILES * BLOCK_BYTES}"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that do not wait, and do not make the tests nice."""
    for name in "PROTECTED_SECONDS", "GRACE_SECONDS", "HURRIED_SECONDS":
        monkeypatch.setattr(run_module, name, 0.01)
    monkeypatch.setattr(os, "nice", lambda _: 0)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Fifty artifacts of as many hours of age."""
    root = tmp_path / "cas"
    root.mkdir()
    stored = Stored(root)
    for number in range(FILES):
        stored.artifact(number, number * HOUR + HOUR)
    return stored


def evict(root: Path, *options: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["evict", "--storage", str(root), *options], env=environment)


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    return report


# What it does, and says.


def test_least_recently_used_go_and_json_says_so(stored: Stored) -> None:
    result = evict(stored.root, LIMIT, "--target=60", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = report_of(result)
    assert last_eviction(stored.root) is not None
    left_to_the_service = json.loads((stored.root / LAST_EVICTION).read_bytes())
    assert left_to_the_service == {name: report[name] for name in report.keys() - {"projects"}}
    left = len(stored.names())
    assert left == pytest.approx(0.6 * FILES, abs=3)
    assert stored.names() == {artifact_id(number) for number in range(left)}
    assert report.pop("ended") == pytest.approx(time.time(), abs=30)
    assert report.pop("folders") == 0
    assert report.pop("entries_checked") == pytest.approx(time.time(), abs=30)
    assert report.pop("seconds") >= 0
    [project] = report.pop("projects")
    assert project.pop("oldest_kept_seconds") == pytest.approx(left * HOUR, abs=60)
    assert project == {"project": "acme/app", "artifacts": left, "bytes": left * BLOCK_BYTES}
    assert report.pop("youngest_evicted_seconds") == pytest.approx((left + 1) * HOUR, abs=60)
    assert report == {
        "artifacts": FILES - left,
        "entries": 0,
        "bytes": (FILES - left) * BLOCK_BYTES,
        "stored_artifacts": left,
        "stored_entries": 0,
        "stored_bytes": left * BLOCK_BYTES,
        "dropped": 0,
    }


@pytest.mark.parametrize("spelling", ["acme/lib", "ACME/Lib"])
def test_text_has_a_row_for_each_project_and_a_summary(stored: Stored, spelling: str) -> None:
    """Only the project that is named is evicted from."""
    stored.artifact(1, 2 * DAY, LIB)
    stored.entry("a", 1, age=3 * DAY, project=LIB)
    result = evict(stored.root, "--max-bytes=1", "--target=0", f"--project={spelling}")
    assert len(stored.names()) == FILES
    assert (result.exit_code, result.stderr) == (0, "")
    header, *rows, gone, youngest = [
        line.strip() for line in result.stdout.splitlines() if line.strip(" ─")
    ]
    assert header.split() == ["project", "artifacts", "bytes", "oldest", "kept"]
    assert rows[0].split()[:2] == ["acme/app", str(FILES)]
    assert rows[0].endswith("2 d 2 h")
    assert rows[1].split()[:2] == ["acme/lib", "0"]
    assert gone.startswith("Gone: 1 artifacts and 1 entries, 8.2 kB, in ")
    assert youngest == "The most recently used artifact of them was used 2 d ago"
    assert "\x1b" not in result.stdout


def test_nothing_goes_where_there_is_room(stored: Stored) -> None:
    result = evict(stored.root, "--max-bytes=1000000000")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("Gone: 0 artifacts and 0 entries, 0 B, in ")
    assert len(stored.names()) == FILES


def test_whole_disk_counts_unless_there_is_a_limit(stored: Stored) -> None:
    assert report_of(evict(stored.root, "--target=100", "--json"))["artifacts"] == 0
    assert report_of(evict(stored.root, "--target=0", "--json"))["artifacts"] == FILES


def test_dry_run_changes_nothing_and_leaves_no_report(stored: Stored) -> None:
    stored.entry("a", 49, age=50 * HOUR)
    before = times_below(stored.root)
    result = evict(stored.root, LIMIT, "--target=60", "--dry-run")
    assert result.exit_code == 0
    assert "Would go, at most: 2" in result.stdout
    report = report_of(evict(stored.root, LIMIT, "--target=60", "--dry-run", "--json"))
    assert last_eviction(stored.root) is None
    assert times_below(stored.root) == before
    assert evict(stored.root, LIMIT, "--target=60").exit_code == 0
    assert len(stored.names()) == report["stored_artifacts"] + report["stored_entries"]


def test_dry_run_of_a_missing_folder_says_only_that(tmp_path: Path) -> None:
    result = evict(tmp_path / "missing", "--dry-run")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"Cannot evict from {tmp_path / 'missing'}: No such file or directory\n"


def test_settings_are_those_of_the_service(stored: Stored) -> None:
    result = CliRunner().invoke(
        main,
        ["evict", "--json"],
        env={
            "CAS_STORAGE_DIR": str(stored.root),
            "STORAGE_MAX_BYTES": str(FILES * BLOCK_BYTES),
            "DISK_TARGET_PERCENT": "20",
            "DISK_HIGH_WATERMARK_PERCENT": "30",
        },
    )
    assert result.exit_code == 0
    assert report_of(result)["stored_artifacts"] == pytest.approx(0.2 * FILES, abs=3)


def test_target_may_be_above_the_high_watermark_of_the_service(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Limits] = []

    def run_evict(_storage: Path, limits: Limits, *_: object, **__: object) -> int:
        told.append(limits)
        return 0

    monkeypatch.setattr(command, "run_evict", run_evict)
    evict(stored.root, LIMIT, "--target=90", DISK_HIGH_WATERMARK_PERCENT="50")
    evict(stored.root, "--target=50", "--high=60")
    assert told == [Limits(0.9, 0.9, FILES * BLOCK_BYTES), Limits(0.6, 0.5, None)]


# When it cannot.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--target", "-1"),
        ("--target", "101"),
        ("--target", "much"),
        ("--high", "101"),
        ("--max-bytes", "0"),
        ("--max-bytes", "1G"),
        ("--project", "acme"),
        ("--project", "acme/"),
        ("--project", "/app"),
        ("--project", "acme/app/cas"),
        ("--project", "acme/.."),
    ],
)
def test_bad_option_is_named(stored: Stored, option: str, value: str) -> None:
    result = evict(stored.root, option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert len(stored.names()) == FILES
    assert not (stored.root / LAST_EVICTION).exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "Cannot evict from {}/.tmp: No such file or directory"),
        ("file", "'{}' is a file"),
    ],
)
def test_storage_that_is_no_folder_exits_with_2(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = evict(tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason.format(tmp_path / name) in result.stderr
    assert not (tmp_path / "missing").exists()


def test_percentage_that_is_no_number_is_refused(stored: Stored) -> None:
    result = evict(stored.root, "--target=nan")
    assert result.exit_code == 2
    assert "percentages are numbers" in result.stderr


def test_second_eviction_at_once_exits_with_3(stored: Stored) -> None:
    with EvictionLock(stored.root):
        result = evict(stored.root, LIMIT)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "Another eviction of this storage is running\n"
    assert len(stored.names()) == FILES


def test_files_of_somebody_else_are_named(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = stored.entry("a", 1, age=2 * HOUR)
    fail_calls_for(monkeypatch, os, "open", entry, errno.EPERM)
    result = evict(stored.root, LIMIT, "--target=60")
    assert result.exit_code == 2
    assert result.stderr == (
        f"{entry} belongs to somebody else: run this as the service's user, or give it "
        f"everything below {stored.root}\n"
    )
    assert len(stored.names()) == FILES + 1


def test_disk_that_fails_exits_with_2_and_what_has_gone_is_told(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_unlink, unlinked = os.unlink, list[object]()

    def unlink(path: Any, *arguments: Any, **how: Any) -> None:
        if len(unlinked) == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlinked.append(path)
        really_unlink(path, *arguments, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    result = evict(stored.root, LIMIT, "--target=60", "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Cannot evict from {stored.root}/acme/app/cas/")
    assert result.stderr.endswith(": Input/output error\n")
    assert report_of(result)["artifacts"] == 5
    last = last_eviction(stored.root)
    assert last is not None
    assert (last.artifacts, last.stored_artifacts) == (5, FILES - 5)


def test_clock_that_is_set_exits_with_2(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(*_: object) -> Iterator[Step]:
        yield Step()
        raise ClockStepped("The clock was set during the pass")

    monkeypatch.setattr(sweep.Sweep, "run", stepped)
    result = evict(stored.root, LIMIT, "--target=60")
    assert result.exit_code == 2
    assert result.stderr == "The clock was set during the pass\n"


# When it is interrupted.


def interrupt(patch: pytest.MonkeyPatch, at: int) -> None:
    """Have somebody press Ctrl-C at that step of a pass."""
    really_run = EvictionPass.run

    def run(self: EvictionPass) -> Iterator[None]:
        for number, step in enumerate(really_run(self)):
            if number == at:
                raise KeyboardInterrupt
            yield step

    patch.setattr(EvictionPass, "run", run)


def test_interrupted_eviction_exits_with_130_and_says_what_has_gone(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, at=9)
        result = evict(stored.root, LIMIT, "--target=0", "--json")
    assert result.exit_code == 130
    report = report_of(result)
    assert 0 < report["artifacts"] < FILES
    assert report["stored_artifacts"] == FILES - report["artifacts"] == len(stored.names())
    last = last_eviction(stored.root)
    assert last is not None
    assert last.stored_artifacts == report["stored_artifacts"]
    assert evict(stored.root, LIMIT, "--target=0").exit_code == 0
    assert stored.names() == set()


def test_eviction_that_is_interrupted_while_it_looks_leaves_no_report(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has counted is not what is stored, and the service would take it for that."""
    interrupt(monkeypatch, at=1)
    result = evict(stored.root, LIMIT, "--target=0", "--json")
    assert result.exit_code == 130
    assert report_of(result)["artifacts"] == 0
    assert last_eviction(stored.root) is None
    assert len(stored.names()) == FILES


def test_eviction_ends_with_its_parent(stored: Stored) -> None:
    result = evict(stored.root, LIMIT, "--target=0", f"--parent={os.getppid() + 1}")
    assert result.exit_code == 130
    assert len(stored.names()) == FILES
    assert evict(stored.root, LIMIT, "--target=0", f"--parent={os.getppid()}").exit_code == 0
