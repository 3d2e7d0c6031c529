"""What the storage's file system has to be able to do, found out by doing it.

Storing links files under names that are long and told apart by case, renames over others, syncs
folders, locks them, and hands the group of the storage folder down to nginx. Network file systems,
FUSE and what comes from other systems lack one or the other, and most of them say so only when it
is too late: at the first upload, or never.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from .errors import OF_THE_MOMENT, Unfit
from .files.folders import make_folder, sync_folder
from .files.last_use import touch_path
from .files.temporary import CANNOT_LOCK, LOCK_ADVICE, TemporaryFolder
from .layout import TEMPORARY
from .locks import FolderLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADVICE = "Use a local disk with ext4, xfs or btrfs."

TRIAL = ".try-"
"""Prefix of the folders in which it is tried; no account's name begins so."""

MAX_TRIAL_SECONDS = 3600.0
"""Age in seconds from which such a folder counts as left by a process that was killed."""

_NAME = "0~" + "aB" * 99 + ".json"
"""Name of a file, as long as names get, and with a counterpart in the other case."""

_READABLE = {stat.S_IFREG: stat.S_IRGRP, stat.S_IFDIR: stat.S_IRGRP | stat.S_IXGRP}


def require_storage(root: Path, tmp_dir: Path | None, *, durable: bool) -> None:
    """Try everything in the storage folder `root`, and make it before if need be.

    A disk that is full, or fails at the moment, may be another in a minute, and reads go on until
    then: nothing is said of it here.

    Args:
        root: the storage folder.
        tmp_dir: where large uploads wait, if not below it.
        durable: whether what is stored will be synced.

    Raises:
        Unfit: something that is needed cannot be done.
        OSError: a folder cannot be made or written to.
    """
    root.mkdir(parents=True, exist_ok=True)
    _remove_left(root)
    with _temporary_folder(root / TEMPORARY) as temporary, _trouble_may_pass():
        try_storing(root, temporary, durable=durable)
    if tmp_dir is not None:
        with _temporary_folder(tmp_dir) as uploads, _trouble_may_pass():
            uploads.create().discard()


def try_storing(
    folder: Path, temporary: TemporaryFolder, *, durable: bool, reserve: int = 0
) -> None:
    """Do in `folder` what storing does, leaving nothing behind.

    Args:
        folder: the storage folder, or one below it.
        temporary: where files wait until they get their names.
        durable: whether what is stored is synced.
        reserve: bytes that have to be free.

    Raises:
        Unfit: something that is needed cannot be done.
        OSError: the disk failed, is full, or forbids it.
    """
    file = temporary.create()
    place = folder / f"{TRIAL}{uuid4().hex}"
    try:
        if reserve:
            file.reserve(reserve)
        file.write([b"artifact"])
        file.seal()
        make_folder(place)
        make_folder(place / "deeper")
        target = place / "deeper" / _NAME
        if durable:
            file.sync()
        with _needed("it has no hard links"):
            file.link(target)
        with _needed("it cannot note when a file was used"):
            touch_path(target, time.time_ns())
        _try_names(target)
        _try_rename(target, temporary)
        _try_lock(place)
        if durable:
            with _needed("its folders cannot be synced"):
                sync_folder(place / "deeper")
                sync_folder(folder)
        _try_group(folder, place, place / "deeper", target)
    finally:
        file.discard()
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _trouble_may_pass() -> Iterator[None]:
    """Go on after what says nothing of what the storage can do: it is full, or the disk failed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Unfit) or error.errno not in OF_THE_MOMENT:
            raise


@contextmanager
def _needed(lacking: str) -> Iterator[None]:
    """Something without which nothing can be stored; it is `lacking` if it fails."""
    try:
        yield
    except OSError as error:
        if error.errno in OF_THE_MOMENT:
            raise
        raise Unfit(error.errno, f"{lacking}: {error.strerror}", ADVICE) from error


def _try_names(target: Path) -> None:
    """Whether names that differ in case are different names."""
    with suppress(FileNotFoundError):
        target.with_name(target.name.swapcase()).lstat()
        text = "its names have no case: one key's value would be read for another's"
        raise Unfit(errno.EINVAL, text, ADVICE)


def _try_rename(target: Path, temporary: TemporaryFolder) -> None:
    """Whether an entry can be put in the place of another."""
    entry = temporary.create(named=True)
    try:
        entry.write([b"entry"])
        entry.seal()
        with _needed("files cannot be renamed over others"):
            entry.rename(target)
    finally:
        entry.discard()


def _try_lock(folder: Path) -> None:
    """Whether a folder can be locked, and whether that keeps others out."""
    try:
        FolderLock(folder, shared=True).close()
        with FolderLock(folder), suppress(BlockingIOError):
            FolderLock(folder, shared=True).close()
            raise Unfit(errno.ENOLCK, "its locks keep nobody out", LOCK_ADVICE)
    except OSError as error:
        if isinstance(error, Unfit) or error.errno in OF_THE_MOMENT:
            raise
        raise Unfit(error.errno, f"{CANNOT_LOCK}: {error.strerror}", LOCK_ADVICE) from error


def _try_group(root: Path, *stored: Path) -> None:
    """Whether the group of `root` may read what is `stored` below, if it is to be handed down.

    nginx reads as one of that group. What it may not read is a miss, and nobody is told.
    """
    status = root.stat()
    if not status.st_mode & stat.S_ISGID:
        return
    for path in stored:
        if not is_readable_by(status.st_gid, path):
            found = path.lstat()
            text = (
                f"its group {status.st_gid} may not read what is stored: that belongs to group "
                f"{found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
            )
            advice = (
                f"Make user {os.geteuid()} a member of group {status.st_gid}, remove "
                f"{TEMPORARY} there, and start the service anew."
            )
            raise Unfit(errno.EPERM, text, advice)


def is_readable_by(group: int, path: Path) -> bool:
    """Whether those of `group` may read the file at `path`, or look for files in the folder."""
    status = path.lstat()
    needed = _READABLE.get(stat.S_IFMT(status.st_mode), 0)
    return status.st_gid == group and status.st_mode & needed == needed


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[TemporaryFolder]:
    temporary = TemporaryFolder(parent)
    try:
        yield temporary
    finally:
        temporary.remove()


def _remove_left(root: Path) -> None:
    """Remove what trials have left that were killed."""
    for folder in root.glob(f"{TRIAL}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > MAX_TRIAL_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
