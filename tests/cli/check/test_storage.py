"""The storage folder: who may read what is in it, and what to do when it cannot be written to."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cache_actors.cli.check.result import CheckResult, Verdict
from cache_actors.cli.check.storage import advice_for, check_storage
from cache_actors.settings import Settings
from cache_actors.storage.layout import LOGS


def findings(storage: Path) -> dict[str, CheckResult]:
    settings = Settings(server_url="http://tuist", cas_storage_dir=storage)
    return {finding.subject: finding for finding in check_storage(settings)}


@pytest.mark.parametrize(
    ("mode", "verdict", "words"),
    [
        (0o2750, Verdict.OK, "may read"),
        (0o2770, Verdict.OK, "may read"),
        (0o2700, Verdict.WARNING, "closed to its group (mode 2700)"),
        (0o2710, Verdict.WARNING, "closed to its group"),
        (0o2740, Verdict.WARNING, "closed to its group"),
        (0o0750, Verdict.WARNING, "does not hand its group down (mode 0750)"),
    ],
)
def test_folder_that_nginx_may_not_read_is_told(
    tmp_path: Path, mode: int, verdict: Verdict, words: str
) -> None:
    tmp_path.chmod(mode)
    found = findings(tmp_path)["storage group"]
    assert (found.verdict, words in found.text) == (verdict, True), found
    assert (found.advice is None) == (verdict is Verdict.OK)


def test_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "cas").write_text("no folder")
    found = findings(tmp_path / "cas")
    assert [*found] == ["storage"]
    assert found["storage"].verdict is Verdict.BROKEN
    assert found["storage"].advice == advice_for(errno.ENOTDIR, tmp_path / "cas")


def test_logs_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    (tmp_path / LOGS).touch()
    found = findings(tmp_path)["storage"]
    assert (found.verdict, ".log in it is no folder" in found.text) == (Verdict.BROKEN, True)
    assert found.advice == "Move .log away."


def test_logs_of_somebody_else_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / LOGS
    logs.mkdir()
    make = Path.mkdir

    def refuse(path: Path, *arguments: Any, **how: Any) -> None:
        if path.parent == logs:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        make(path, *arguments, **how)

    monkeypatch.setattr(Path, "mkdir", refuse)
    found = findings(tmp_path)["storage"]
    assert found.text == f"{logs} cannot be written to: Permission denied"
    assert found.advice == advice_for(errno.EACCES, logs)


def test_advice_fits_the_error() -> None:
    words = {
        errno.ENOENT: "Make it",
        errno.ENOTDIR: "no folder",
        errno.EACCES: f"user {os.geteuid()}",
        errno.EPERM: f"user {os.geteuid()}",
        errno.EROFS: "Mount it for writing",
        errno.ENOSPC: "Make room",
        errno.EDQUOT: "Make room",
        errno.EIO: "dmesg",
    }
    for number, expected in words.items():
        assert expected in advice_for(number, Path("/cas")), errno.errorcode[number]
