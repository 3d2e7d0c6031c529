"""The storage folder: can it be written to, what can its file system do, and may nginx read it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from cache_actors.storage.integrity.checksum import StoredChecksum, read_checksum, write_checksum

from .access_times import AtimePolicy, atime_policy_of
from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MIN_FREE = 0.05
"""Smallest share of free bytes and inodes that passes the check; with less, uploads may be refused
before long."""

FOR_ITS_GROUP = stat.S_IRGRP | stat.S_IXGRP


def check_storage(settings: Settings) -> Iterator[CheckResult]:
    """Check the storage folder, and the folder for large uploads."""
    storage = settings.cas_storage_dir
    try:
        with NamedTemporaryFile(prefix=".check-", dir=storage) as file:
            file.write(b"check")
            file.flush()
            os.fsync(file.fileno())
            features = list(_features(Path(file.name), storage))
    except OSError as error:
        text = f"{storage} cannot be written to: {error.strerror}"
        yield CheckResult("storage", Verdict.BROKEN, text, advice_for(error.errno, storage))
    else:
        yield CheckResult("storage", Verdict.OK, f"{storage} can be written to")
        yield from features
    if os.path.isdir(storage):  # noqa: PTH112 - which is not upset by what it may not see
        yield _group(storage)
        yield from _room(storage)
    if settings.tmp_dir is not None:
        yield _temporary_device(settings.tmp_dir, storage)


def advice_for(number: int | None, folder: Path) -> str:
    """The advice for a folder that cannot be written to, by the error's `number`."""
    match number:
        case errno.ENOENT:
            command = f"install -d -m 2750 -o {os.geteuid()} -g <nginx's group> {folder}"
            return f"Make it, with `{command}`."
        case errno.ENOTDIR:
            return "It, or what is above it, is no folder: move that away."
        case errno.EACCES | errno.EPERM:
            return f"Give it to user {os.geteuid()}; who is above has to let that user through."
        case errno.EROFS:
            return "Mount it for writing. If it was, `dmesg` tells what went wrong with the disk."
        case errno.ENOSPC | errno.EDQUOT:
            return "Make room, or use a larger disk."
        case _:
            return "`dmesg` may tell what is wrong with the disk."


def _features(file: Path, storage: Path) -> Iterator[CheckResult]:
    """Check the features of the file system, by trying them on a file of our own."""
    with file.open("rb") as opened:
        write_checksum(opened.fileno(), StoredChecksum(bytes(32), 5))
    if read_checksum(file) is None:
        yield CheckResult(
            "extended attributes",
            Verdict.WARNING,
            "the file system has none",
            "Digests are not recorded, and a scrub finds less. Use ext4 or xfs.",
        )
    else:
        yield CheckResult("extended attributes", Verdict.OK, "digests are recorded")
    advice = f"Mount {storage} with strictatime,lazytime to see what is in use."
    match atime_policy_of(file, file.read_bytes):
        case AtimePolicy.ALWAYS:
            yield CheckResult("access times", Verdict.OK, "every read counts")
        case AtimePolicy.ONCE_A_DAY:
            text = "they move once a day (relatime)"
            yield CheckResult("access times", Verdict.WARNING, text, advice)
        case AtimePolicy.NEVER:
            text = "reads do not move them (noatime)"
            yield CheckResult("access times", Verdict.WARNING, text, advice)


def _group(storage: Path) -> CheckResult:
    """Whether nginx, as one of the folder's group, may read what is stored: else all is 404."""
    status = storage.stat()
    mode = stat.S_IMODE(status.st_mode)
    advice = f"`chmod 2750 {storage}`, with a group that nginx is in."
    if mode & FOR_ITS_GROUP != FOR_ITS_GROUP:
        text = f"{storage} is closed to its group (mode {mode:04o}): nginx finds nothing"
        return CheckResult("storage group", Verdict.WARNING, text, advice)
    if not mode & stat.S_ISGID:
        text = f"{storage} does not hand its group down (mode {mode:04o}): nginx may find nothing"
        return CheckResult("storage group", Verdict.WARNING, text, advice)
    return CheckResult(
        "storage group", Verdict.OK, f"group {status.st_gid} may read what is stored"
    )


def _room(storage: Path) -> Iterator[CheckResult]:
    room = os.statvfs(storage)
    amounts = [("bytes", room.f_bavail, room.f_blocks), ("inodes", room.f_favail, room.f_files)]
    for what, free, total in amounts:
        share = free / total if total else 1.0  # some file systems have no fixed number of inodes
        text = f"{share:.0%} are free"
        if share < MIN_FREE:
            yield CheckResult(
                f"free {what}", Verdict.WARNING, text, "Make room, or use a larger disk."
            )
        else:
            yield CheckResult(f"free {what}", Verdict.OK, text)


def _temporary_device(folder: Path, storage: Path) -> CheckResult:
    try:
        same = folder.stat().st_dev == storage.stat().st_dev
    except OSError as error:
        advice = "Make it, or unset TMP_DIR."
        return CheckResult("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = f"Give it to user {os.geteuid()}, or unset TMP_DIR."
        return CheckResult("TMP_DIR", Verdict.BROKEN, f"{folder} cannot be written to", advice)
    if same:
        return CheckResult("TMP_DIR", Verdict.OK, "it is on the storage's device")
    advice = "Large uploads are copied once more. Unset TMP_DIR to avoid that."
    return CheckResult("TMP_DIR", Verdict.WARNING, "it is on another device", advice)
