"""Trials of the file system features that the storage needs.

The storage needs hard links, long case-sensitive names, renames that replace a file, syncs and
locks of folders, and the storage folder's group on stored files, for nginx. Network file systems,
FUSE and file systems of other operating systems lack one or another, and most report that only at
the first upload, or never.
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
from .files.write_ahead_log import log_folders
from .layout import LOGS, TEMPORARY
from .locks import FolderLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADVICE = "Use a local disk with ext4, xfs or btrfs."

TRIAL = ".try-"
"""Prefix of the folders that trials use; no account's name begins with it."""

MAX_TRIAL_SECONDS = 3600.0
"""Age in seconds from which a trial's folder counts as a leftover of a killed process."""

_NAME = "0~" + "aB" * 99 + ".json"
"""A file name as long as stored names get, with letters in both cases."""

_READABLE = {stat.S_IFREG: stat.S_IRGRP, stat.S_IFDIR: stat.S_IRGRP | stat.S_IXGRP}


def require_storage(root: Path, tmp_dir: Path | None, *, durable: bool) -> None:
    """Make the storage folder `root` if it is missing, and try all needed features in it.

    A disk that is full of bytes, busy or failing is no error here: that may pass, and reads go on.

    Args:
        root: the storage folder.
        tmp_dir: folder for large uploads; None if they go below the storage folder.
        durable: whether stored files will be synced.

    Raises:
        Unfit: the file system lacks a feature.
        OSError: a folder cannot be made or written to.
    """
    root.mkdir(parents=True, exist_ok=True)
    _remove_left(root)
    _remove_left(root / LOGS)
    with _trouble_may_pass():
        try_logs(root)
    with _temporary_folder(root / TEMPORARY) as temporary, _trouble_may_pass():
        try_storing(root, temporary, durable=durable)
    if tmp_dir is not None:
        with _temporary_folder(tmp_dir) as uploads, _trouble_may_pass():
            uploads.create().discard()


def try_storing(
    folder: Path, temporary: TemporaryFolder, *, durable: bool, reserve: int = 0
) -> None:
    """Store a file in `folder` as the storage does, and remove it.

    Args:
        folder: the storage folder, or one below it.
        temporary: folder for files that are not yet published.
        durable: whether stored files are synced.
        reserve: bytes that have to be free.

    Raises:
        Unfit: the file system lacks a feature.
        OSError: the disk failed, is full, or denies access.
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


def try_logs(root: Path) -> None:
    """Check that a log can be made below the storage folder, and that those there can be read.

    Raises:
        Unfit: what has the name of the logs' folder is no folder.
        OSError: the disk failed, is full, or denies access.
    """
    logs = root / LOGS
    try:
        is_folder = stat.S_ISDIR(logs.lstat().st_mode)
    except FileNotFoundError:
        return  # it is made when it is needed
    if not is_folder:
        raise Unfit(errno.ENOTDIR, f"{LOGS} in it is no folder", f"Move {LOGS} away.")
    trial = logs / f"{TRIAL}{uuid4().hex}"
    trial.mkdir()
    trial.rmdir()
    for folder in log_folders(root):
        with suppress(FileNotFoundError):  # its owner has just ended
            for path in (folder, *folder.glob("[12]")):
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


@contextmanager
def _trouble_may_pass() -> Iterator[None]:
    """Suppress errors of a full, busy or failing disk, which prove nothing of its features."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Unfit) or error.errno not in OF_THE_MOMENT:
            raise


@contextmanager
def _needed(lacking: str) -> Iterator[None]:
    """Raise `Unfit`, with the description `lacking`, if the context fails for want of a feature."""
    try:
        yield
    except OSError as error:
        if error.errno in OF_THE_MOMENT:
            raise
        raise Unfit(error.errno, f"{lacking}: {error.strerror}", ADVICE) from error


def _try_names(target: Path) -> None:
    """Check that names which differ only in case are different files."""
    with suppress(FileNotFoundError):
        target.with_name(target.name.swapcase()).lstat()
        text = "its names have no case: one key's value would be read for another's"
        raise Unfit(errno.EINVAL, text, ADVICE)


def _try_rename(target: Path, temporary: TemporaryFolder) -> None:
    """Check that a rename can replace an entry."""
    entry = temporary.create(named=True)
    try:
        entry.write([b"entry"])
        entry.seal()
        with _needed("files cannot be renamed over others"):
            entry.rename(target)
    finally:
        entry.discard()


def _try_lock(folder: Path) -> None:
    """Check that a folder can be locked, and that the lock excludes others."""
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
    """Check that the group of `root` may read the files `stored`, if `root` has its setgid bit.

    nginx reads as a member of that group, and answers a file that it may not read with a miss.
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
    """Whether `path` belongs to `group` and its members may read the file, or search the folder."""
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
    """Remove the folders of trials that were killed."""
    for folder in root.glob(f"{TRIAL}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > MAX_TRIAL_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
