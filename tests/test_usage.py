"""The command `usage`: who has stored how much, and when that was used."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache_actors.__main__ import main
from tests.storage.stores import fail_calls_for
from tests.support.stored import BLOCK_BYTES, DAY, HOUR, LIB, Stored, times_below


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    root = tmp_path / "cas"
    root.mkdir()
    stored = Stored(root)
    stored.artifact(1, HOUR)
    stored.entry("a", 1, age=9 * DAY)
    for number in range(3):
        stored.artifact(number, 2 * DAY + number * DAY, LIB)
    return stored


def usage(root: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["usage", "--storage", str(root), *options])


def test_json_has_the_largest_project_first(stored: Stored) -> None:
    result = usage(stored.root, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told: dict[str, Any] = json.loads(result.stdout)
    room = os.statvfs(stored.root)
    used = room.f_blocks - room.f_bfree
    assert told.pop("disk_used_percent") == pytest.approx(100 * used / (used + room.f_bavail), 0.05)
    lib, app = told.pop("projects")
    assert told == {}
    assert lib.pop("oldest_use_seconds") == pytest.approx(4 * DAY, abs=60)
    assert lib.pop("latest_use_seconds") == pytest.approx(2 * DAY, abs=60)
    assert lib == {
        "project": "acme/lib",
        "artifacts": 3,
        "artifact_bytes": 3 * BLOCK_BYTES,
        "entries": 0,
        "entry_bytes": 0,
    }
    assert app["latest_use_seconds"] == pytest.approx(HOUR, abs=60)  # entries' ages do not count
    assert (app["entries"], app["entry_bytes"]) == (1, BLOCK_BYTES)


def test_text_has_a_row_for_each_project_and_a_sum(stored: Stored) -> None:
    result = usage(stored.root)
    assert (result.exit_code, result.stderr) == (0, "")
    header, lib, app, total = [
        line.strip() for line in result.stdout.splitlines() if line.strip(" ─")
    ]
    assert header.split()[:2] == ["project", "artifacts"]
    assert lib.split()[:5] == ["acme/lib", "3", "12.3", "kB", "0"]
    assert lib.endswith("2 d")
    assert "4 d" in lib
    assert app.split()[:7] == ["acme/app", "1", "4.1", "kB", "1", "4.1", "kB"]
    assert app.endswith("1 h")
    assert total.startswith("20.5 kB stored; the disk is ")
    assert total.endswith("% full")
    assert "\x1b" not in result.stdout


def test_project_without_artifacts_was_never_used(tmp_path: Path) -> None:
    Stored(tmp_path).entry("a", age=HOUR)
    [project] = json.loads(usage(tmp_path, "--json").stdout)["projects"]
    assert (project["oldest_use_seconds"], project["latest_use_seconds"]) == (None, None)
    assert usage(tmp_path).exit_code == 0


def test_empty_storage_has_no_projects(tmp_path: Path) -> None:
    assert json.loads(usage(tmp_path, "--json").stdout)["projects"] == []
    assert usage(tmp_path).stdout.splitlines()[-1].startswith("0 B stored; ")


def test_storage_folder_is_that_of_the_service(stored: Stored) -> None:
    result = CliRunner().invoke(
        main, ["usage", "--json"], env={"CAS_STORAGE_DIR": str(stored.root)}
    )
    assert len(json.loads(result.stdout)["projects"]) == 2


def test_looking_changes_nothing(stored: Stored) -> None:
    before = times_below(stored.root)
    assert usage(stored.root).exit_code == 0
    assert times_below(stored.root) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "Cannot look at {}: No such file or directory\n"), ("file", "'{}' is a file")],
)
def test_storage_that_is_no_folder_exits_with_2(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = usage(tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason.format(tmp_path / name) in result.stderr


def test_folder_of_somebody_else_is_named(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = LIB.path(stored.root) / "cas"
    fail_calls_for(monkeypatch, os, "scandir", closed, errno.EACCES)
    result = usage(stored.root)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Cannot look at {closed}: Permission denied\n"
