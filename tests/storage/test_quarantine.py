"""Broken files are moved out of everyone's way, and nothing else ever is."""

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache_actors.storage import project_lock
from cache_actors.storage import quarantine as module
from cache_actors.storage.layout import QUARANTINE
from cache_actors.storage.project_lock import exclusive, shared
from cache_actors.storage.quarantine import (
    KEPT_SECONDS,
    Quarantine,
    hand_over,
    last_taken,
    remove_old,
)
from tests.support.mounts import require_root, tmpfs

from .stores import refusing

NOBODY = 65534


@pytest.fixture
def quarantine(root: Path) -> Quarantine:
    return Quarantine(root)


@pytest.fixture
def path(root: Path) -> Path:
    path = root / "acme" / "app" / "cas" / "AB" / "01AB"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken")
    return path


def inode_of(path: Path) -> int:
    return path.lstat().st_ino


def held(root: Path) -> list[Path]:
    """The files in quarantine."""
    return sorted(path for path in (root / QUARANTINE).rglob("*") if not path.is_dir())


def put(path: Path, content: bytes) -> int:
    """Put another file at `path`, as a writer does, and return its number."""
    new = path.with_name("new")
    new.write_bytes(content)
    os.replace(new, path)  # noqa: PTH105
    return inode_of(path)


def before_the_move(patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Have `action` happen after the last look at the file, and just before it is moved."""
    really_rename = os.rename

    def rename(*arguments: Any, **how: Any) -> None:
        action()
        really_rename(*arguments, **how)

    patch.setattr(os, "rename", rename)


def test_broken_file_is_moved_and_keeps_its_bytes(
    quarantine: Quarantine, root: Path, path: Path
) -> None:
    number = inode_of(path)
    target = quarantine.take(path, number)
    assert target is not None
    assert not path.exists()
    assert inode_of(target) == number
    assert target.read_bytes() == b"broken"
    name = str(target.relative_to(root))
    assert re.fullmatch(r"\.quarantine/acme/app/cas/01AB\.[0-9a-f]{8}", name)


def test_files_of_one_name_are_all_kept(quarantine: Quarantine, root: Path, path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        quarantine.take(path, put(path, content))
    assert sorted(file.read_bytes() for file in held(root)) == [b"1", b"2", b"3"]


def test_quarantine_is_closed_to_others(quarantine: Quarantine, root: Path, path: Path) -> None:
    target = quarantine.take(path, inode_of(path))
    assert target is not None
    folders = [folder for folder in target.parents if root in folder.parents]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 4


def test_file_that_has_been_replaced_is_not_even_moved_for_a_moment(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = inode_of(path)
    good = put(path, b"good")
    before_the_move(monkeypatch, lambda: pytest.fail("it is moved"))
    assert quarantine.take(path, broken) is None
    assert inode_of(path) == good
    assert held(root) == []


def test_file_that_is_gone_is_none(quarantine: Quarantine, root: Path, path: Path) -> None:
    broken = inode_of(path)
    path.unlink()
    assert quarantine.take(path, broken) is None
    path.parent.rmdir()
    assert quarantine.take(path, broken) is None
    assert held(root) == []


def test_file_that_vanishes_just_before_the_move_is_none(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_move(monkeypatch, path.unlink)
    assert quarantine.take(path, inode_of(path)) is None
    assert held(root) == []


def test_good_file_that_comes_just_before_the_move_is_put_back(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: list[int] = []
    before_the_move(monkeypatch, lambda: good.append(put(path, b"good")))
    assert quarantine.take(path, inode_of(path)) is None
    assert path.read_bytes() == b"good"
    assert [inode_of(path)] == good
    assert path.stat().st_nlink == 1
    assert held(root) == []


def test_good_file_is_not_put_back_over_a_later_one(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = os.link

    def link(*arguments: Any, **how: Any) -> None:
        path.write_bytes(b"later")
        really_link(*arguments, **how)

    before_the_move(monkeypatch, lambda: put(path, b"good"))
    monkeypatch.setattr(os, "link", link)
    assert quarantine.take(path, inode_of(path)) is None
    assert path.read_bytes() == b"later"
    assert held(root) == []


def test_broken_file_on_a_full_disk_is_moved_if_the_folder_is_there(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=64k") as root:
        path = root / "acme" / "app" / "cas" / "AB" / "01AB"
        path.parent.mkdir(parents=True)
        quarantine = Quarantine(root)
        quarantine.take(path, put(path, b"first"))
        broken = put(path, b"second")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (root / "ballast").write_bytes(bytes(1 << 17))
        target = quarantine.take(path, broken)
        assert target is not None
        assert target.read_bytes() == b"second"


def test_what_root_makes_belongs_to_the_storages_owner(root: Path, path: Path) -> None:
    require_root()
    os.chown(root, NOBODY, NOBODY)
    target = Quarantine(root).take(path, inode_of(path))
    assert target is not None
    folders = [folder for folder in target.parents if root in folder.parents]
    assert {(folder.stat().st_uid, folder.stat().st_gid) for folder in folders} == {
        (NOBODY, NOBODY)
    }


def test_only_root_hands_anything_over(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(os, "chown", lambda *arguments, **_: given.append(arguments))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    hand_over(path, root)
    assert given == []


def test_root_that_may_not_hand_over_goes_on(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chown", refusing(errno.EPERM))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Quarantine(root).take(path, inode_of(path)) is not None


# Eviction.


def test_last_taken_is_when_something_was_moved_here_last(
    quarantine: Quarantine, root: Path, path: Path
) -> None:
    assert last_taken(root) == 0.0
    for content in (b"1", b"2"):
        began = time.time() - 0.1  # the clock for files is coarser
        quarantine.take(path, put(path, content))
        assert began <= last_taken(root) <= time.time()
        os.utime(root / QUARANTINE, ns=(0, 0))


def test_what_was_not_taken_does_not_count(quarantine: Quarantine, root: Path, path: Path) -> None:
    quarantine.take(path, put(path, b"1"))
    os.utime(root / QUARANTINE, ns=(0, 0))
    put(path, b"2")
    assert quarantine.take(path, inode_of(path) + 1) is None
    remove_old(root)
    assert last_taken(root) == 0.0


def test_eviction_is_kept_out_while_a_file_is_moved(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could take the next file of that name for the one that it has looked at."""
    project = path.parents[2]
    broken = inode_of(path)
    monkeypatch.setattr(project_lock, "LONGEST_WAIT", 0.0)
    with exclusive(project), pytest.raises(OSError, match="being evicted") as caught:
        quarantine.take(path, broken)
    assert caught.value.errno == errno.EBUSY
    assert path.exists()
    (project / "keyvalue").mkdir()
    with shared(project):
        assert quarantine.take(path, broken)


def later(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """As if so many seconds had gone by; times of change cannot be set."""
    now = time.time() + seconds
    patch.setattr(module, "time", SimpleNamespace(time=lambda: now))


def test_what_was_here_for_a_month_is_removed(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("cas", "keyvalue"):
        other = root / "acme" / "lib" / kind / "AB" / "x"
        other.parent.mkdir(parents=True)
        other.write_bytes(b"x")
        quarantine.take(other, inode_of(other))
    os.utime(path, ns=(0, 0))  # it is not its own age that counts
    target = quarantine.take(path, inode_of(path))
    assert target is not None
    later(monkeypatch, KEPT_SECONDS - 60)
    remove_old(root)
    assert len(held(root)) == 3
    later(monkeypatch, KEPT_SECONDS + 60)
    remove_old(root)
    assert held(root) == []
    assert target.parent.is_dir()


def test_nothing_else_is_removed(root: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, 2 * KEPT_SECONDS)
    remove_old(root)  # there is no quarantine yet
    (root / QUARANTINE).mkdir()
    (root / QUARANTINE / "note").write_bytes(b"of the operator")
    remove_old(root)
    assert path.exists()
    assert (root / QUARANTINE / "note").exists()


def test_what_cannot_be_removed_does_not_keep_the_rest(
    quarantine: Quarantine, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    path.mkdir()
    quarantine.take(path, inode_of(path))
    quarantine.take(path, put(path, b"x"))
    later(monkeypatch, 2 * KEPT_SECONDS)
    remove_old(root)
    assert held(root) == []
