"""The storage folder: permissions, its file system's features, room, nginx's access, `TMP_DIR`."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cache_actors.storage.errors import Unfit
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.integrity.checksum import StoredChecksum, read_checksum, write_checksum
from cache_actors.storage.layout import LOGS, TEMPORARY, is_account, shard_depth
from cache_actors.storage.needs import TRIAL, is_readable_by, try_logs, try_storing

from .access_times import AtimePolicy, atime_policy_of
from .nginx import serves
from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MAX_LISTED = 1000
"""Largest number of files and folders checked at each depth of the storage."""

MIN_FREE = 0.05
"""Smallest free share of bytes and of inodes that passes; with less, uploads may soon fail."""

GROUP_READ_AND_ENTER = stat.S_IRGRP | stat.S_IXGRP
"""The mode bits that let a folder's group, nginx say, list it and open what is in it."""


def check_storage(settings: Settings) -> Iterator[CheckResult]:
    """Check the storage folder, and `TMP_DIR` if it is set."""
    storage = settings.cas_storage_dir
    try:
        with TemporaryDirectory(prefix=TRIAL, dir=storage) as own:
            _try_storing(storage, Path(own), durable=settings.durability == "fsync")
            try_logs(storage)
            file = Path(own) / "file"
            file.write_bytes(b"check")
            features = list(_features(file, storage))
    except Unfit as error:
        text = f"{storage} cannot be used: {error.strerror}"
        yield CheckResult("storage", Verdict.BROKEN, text, error.advice)
    except OSError as error:
        place = Path(error.filename or storage)
        where = storage / LOGS if storage / LOGS in place.parents else storage
        text = f"{where} cannot be written to: {error.strerror}"
        yield CheckResult("storage", Verdict.BROKEN, text, advice_for(error.errno, where))
    else:
        text = f"{storage} can be written to, and does what is needed"
        yield CheckResult("storage", Verdict.OK, text)
        yield from features
    if os.path.isdir(storage):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        yield _group(storage)
        yield from _nginx_user(storage)
        yield from _room(storage)
    if settings.tmp_dir is not None:
        yield _temporary_device(settings.tmp_dir, storage)


def _try_storing(storage: Path, own: Path, *, durable: bool) -> None:
    """Store a file as the service does, through its temporary folder if that exists already."""
    used = storage / TEMPORARY
    temporary = TemporaryFolder(used if used.exists() else own)
    try:
        try_storing(storage, temporary, durable=durable)
    finally:
        temporary.remove()


def advice_for(number: int | None, folder: Path) -> str:
    """Advice for a folder that cannot be written to, by the `errno` of the failure."""
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
    """Check extended attributes and access times, on a trial file in the storage."""
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
    """Check that nginx, as a member of the group, may read stored files; else it answers 404."""
    status = storage.stat()
    mode = stat.S_IMODE(status.st_mode)
    advice = f"`chmod 2750 {storage}`, with a group that nginx is in."
    if mode & GROUP_READ_AND_ENTER != GROUP_READ_AND_ENTER:
        text = f"{storage} is closed to its group (mode {mode:04o}): nginx finds nothing"
        return CheckResult("storage group", Verdict.WARNING, text, advice)
    if not mode & stat.S_ISGID:
        text = f"{storage} does not hand its group down (mode {mode:04o}): nginx may find nothing"
        return CheckResult("storage group", Verdict.WARNING, text, advice)
    for path in _some_stored(storage):
        if not is_readable_by(status.st_gid, path):
            text = f"{path} may not be read by group {status.st_gid}: nginx does not find it"
            advice = (
                f"`chgrp --recursive {status.st_gid} {storage}; "
                f"find {storage} -type d -exec chmod 2750 {{}} +; "
                f"find {storage} -type f -exec chmod 640 {{}} +`."
            )
            return CheckResult("storage group", Verdict.WARNING, text, advice)
    return CheckResult(
        "storage group", Verdict.OK, f"group {status.st_gid} may read what is stored"
    )


def _nginx_user(storage: Path) -> Iterator[CheckResult]:
    """Check that nginx's workers may enter the storage folder, if any run on this host.

    A worker keeps the groups that it was started with. Several nginx may run: those whose
    configuration names the folder count, or all if there are none; one with access is enough.
    """
    found = {each: barrier_of(each, storage) for each in Path("/proc").glob("[0-9]*")}
    workers = {each: barrier for each, barrier in found.items() if barrier is not None}
    ours = {each: barrier for each, barrier in workers.items() if serves(each, storage)}
    judged = sorted((ours or workers).items(), key=lambda item: item[1][1] is not None)
    for process, (user, barrier) in judged[:1]:
        who = f"user {user}, as whom nginx's worker {process.name} runs,"
        if not ours:
            who += f" though no configuration was found that names {storage},"
        if barrier is None:
            yield CheckResult("nginx's user", Verdict.OK, f"{who} may look into {storage}")
            return
        text = f"{who} may not look into {barrier}"
        advice = (
            f"Make that user a member of group {storage.stat().st_gid}, let all through what is "
            "above, and restart nginx: workers keep the groups that they were started with."
        )
        yield CheckResult("nginx's user", Verdict.WARNING, text, advice)


def barrier_of(process: Path, storage: Path) -> tuple[int, Path | None] | None:
    """The user of an nginx worker, and the folder that keeps it from `storage`, if any.

    None if `process`, a folder in `/proc`, is not that of an nginx worker, or has just gone.
    """
    try:
        if (process / "cmdline").read_bytes().rstrip(b" \0") != b"nginx: worker process":
            return None
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    user = int(fields["Uid"].split()[1])
    groups = {int(group) for group in fields["Groups"].split()} | {int(fields["Gid"].split()[1])}
    for folder in (storage, *storage.parents):
        if not _may_pass(user, groups, folder.stat()):
            return user, folder
    return user, None


def _may_pass(user: int, groups: set[int], folder: os.stat_result) -> bool:
    if user == 0:
        return True
    if user == folder.st_uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    return bool(folder.st_mode & (stat.S_IXGRP if folder.st_gid in groups else stat.S_IXOTH))


def _some_stored(storage: Path) -> Iterator[Path]:
    """Stored files and their folders, up to `MAX_LISTED` at each depth."""
    found = [storage]
    for depth in range(4 + shard_depth()):
        below: list[Path] = []
        for folder in found:
            with suppress(OSError), os.scandir(folder) as entries:
                each = [Path(entry) for entry in islice(entries, MAX_LISTED - len(below))]
                below += [path for path in each if depth or is_account(path.name)]
        yield from below
        found = below


def _room(storage: Path) -> Iterator[CheckResult]:
    room = os.statvfs(storage)
    amounts = [("bytes", room.f_bavail, room.f_blocks), ("inodes", room.f_favail, room.f_files)]
    for what, free, total in amounts:
        if total == 0:  # some file systems have no fixed number of inodes
            continue
        share = free / total
        text = f"{share:.0%} are free"
        if share < MIN_FREE:
            yield CheckResult(
                f"free {what}", Verdict.WARNING, text, "Make room, or use a larger disk."
            )
        else:
            yield CheckResult(f"free {what}", Verdict.OK, text)


def _temporary_device(folder: Path, storage: Path) -> CheckResult:
    try:
        folder.stat()
        temporary = TemporaryFolder(folder)
        try:
            file = temporary.create()
            same = FileStore(storage, temporary, durable=False).can_link(file)
            file.discard()
        finally:
            temporary.remove()
    except Unfit as error:
        return CheckResult("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", error.advice)
    except (FileNotFoundError, NotADirectoryError) as error:
        advice = "Make it, or unset TMP_DIR."
        return CheckResult("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", advice)
    except OSError as error:
        advice = f"Give it to user {os.geteuid()}, or unset TMP_DIR."
        text = f"{folder} cannot be written to: {error.strerror}"
        return CheckResult("TMP_DIR", Verdict.BROKEN, text, advice)
    if same:
        return CheckResult("TMP_DIR", Verdict.OK, "files go from there to the storage as they are")
    advice = "Large uploads are copied once more. Unset TMP_DIR to avoid that."
    return CheckResult(
        "TMP_DIR", Verdict.WARNING, "it is on another device, or mount, or of another group", advice
    )
