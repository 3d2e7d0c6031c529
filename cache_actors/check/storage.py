"""The storage folder: can it be written to, what can its file system do, and may nginx read it."""

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
from cache_actors.storage.files import FileStore
from cache_actors.storage.layout import TEMPORARY, is_account, shard_depth
from cache_actors.storage.needs import TRIAL, is_readable_by, try_storing
from cache_actors.storage.record import Record, read_record, write_record
from cache_actors.storage.temporary import TemporaryFolder

from .access_times import Moves, moves_of
from .finding import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MOST_LISTED = 1000
"""Files, or folders, that are looked at at one depth of the storage."""

LEAST_FREE = 0.05
"""Of bytes and inodes; with less, uploads may be refused before long."""

FOR_ITS_GROUP = stat.S_IRGRP | stat.S_IXGRP


def check_storage(settings: Settings) -> Iterator[Finding]:
    """What there is to say of the storage folder, and of the one for large uploads."""
    storage = settings.cas_storage_dir
    try:
        with TemporaryDirectory(prefix=TRIAL, dir=storage) as own:
            _try_storing(storage, Path(own), durable=settings.durability == "fsync")
            file = Path(own) / "file"
            file.write_bytes(b"check")
            features = list(_features(file, storage))
    except Unfit as error:
        text = f"{storage} cannot be used: {error.strerror}"
        yield Finding("storage", Verdict.BROKEN, text, error.advice)
    except OSError as error:
        text = f"{storage} cannot be written to: {error.strerror}"
        yield Finding("storage", Verdict.BROKEN, text, advice_for(error.errno, storage))
    else:
        text = f"{storage} can be written to, and does what is needed"
        yield Finding("storage", Verdict.OK, text)
        yield from features
    if os.path.isdir(storage):  # noqa: PTH112 - which is not upset by what it may not see
        yield _group(storage)
        yield from _nginx_user(storage)
        yield from _room(storage)
    if settings.tmp_dir is not None:
        yield _temporary_device(settings.tmp_dir, storage)


def _try_storing(storage: Path, own: Path, *, durable: bool) -> None:
    """Do what storing does, by way of the service's temporary folder if there is one already."""
    used = storage / TEMPORARY
    temporary = TemporaryFolder(used if used.exists() else own)
    try:
        try_storing(storage, temporary, durable=durable)
    finally:
        temporary.remove()


def advice_for(number: int | None, folder: Path) -> str:
    """What to do about a folder that cannot be written to, with the error `number`."""
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


def _features(file: Path, storage: Path) -> Iterator[Finding]:
    """What the file system can do, tried on a file of our own."""
    with file.open("rb") as opened:
        write_record(opened.fileno(), Record(bytes(32), 5))
    if read_record(file) is None:
        yield Finding(
            "extended attributes",
            Verdict.WARNING,
            "the file system has none",
            "Digests are not recorded, and a scrub finds less. Use ext4 or xfs.",
        )
    else:
        yield Finding("extended attributes", Verdict.OK, "digests are recorded")
    advice = f"Mount {storage} with strictatime,lazytime to see what is in use."
    match moves_of(file, file.read_bytes):
        case Moves.ALWAYS:
            yield Finding("access times", Verdict.OK, "every read counts")
        case Moves.ONCE_A_DAY:
            text = "they move once a day (relatime)"
            yield Finding("access times", Verdict.WARNING, text, advice)
        case Moves.NEVER:
            text = "reads do not move them (noatime)"
            yield Finding("access times", Verdict.WARNING, text, advice)


def _group(storage: Path) -> Finding:
    """Whether nginx, as one of the folder's group, may read what is stored: else all is 404."""
    status = storage.stat()
    mode = stat.S_IMODE(status.st_mode)
    advice = f"`chmod 2750 {storage}`, with a group that nginx is in."
    if mode & FOR_ITS_GROUP != FOR_ITS_GROUP:
        text = f"{storage} is closed to its group (mode {mode:04o}): nginx finds nothing"
        return Finding("storage group", Verdict.WARNING, text, advice)
    if not mode & stat.S_ISGID:
        text = f"{storage} does not hand its group down (mode {mode:04o}): nginx may find nothing"
        return Finding("storage group", Verdict.WARNING, text, advice)
    for path in _some_stored(storage):
        if not is_readable_by(status.st_gid, path):
            text = f"{path} may not be read by group {status.st_gid}: nginx does not find it"
            advice = (
                f"`chgrp --recursive {status.st_gid} {storage}; "
                f"find {storage} -type d -exec chmod 2750 {{}} +; "
                f"find {storage} -type f -exec chmod 640 {{}} +`."
            )
            return Finding("storage group", Verdict.WARNING, text, advice)
    return Finding("storage group", Verdict.OK, f"group {status.st_gid} may read what is stored")


def _nginx_user(storage: Path) -> Iterator[Finding]:
    """Whether the workers of nginx may look into the storage, if any run here.

    A worker has the groups of when it was started. Several nginx may run: one that may is enough.
    """
    found = [barrier_of(process, storage) for process in Path("/proc").glob("[0-9]*")]
    workers = [each for each in found if each is not None]
    for user, barrier in workers:
        if barrier is None:
            yield Finding("nginx's user", Verdict.OK, f"user {user} may look into {storage}")
            return
    for user, barrier in workers[:1]:
        text = f"nginx's workers run as user {user}, who may not look into {barrier}"
        advice = (
            f"Make that user a member of group {storage.stat().st_gid}, let all through what is "
            "above, and restart nginx: workers keep the groups that they were started with."
        )
        yield Finding("nginx's user", Verdict.WARNING, text, advice)


def barrier_of(process: Path, storage: Path) -> tuple[int, Path | None] | None:
    """The user that a worker of nginx runs as, and the folder that keeps it from the storage.

    None if the process, a folder in /proc, is no worker, or one that is just ending.
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
    """Of what is stored some, at every depth, with the folders above it."""
    found = [storage]
    for depth in range(4 + shard_depth()):
        below: list[Path] = []
        for folder in found:
            with suppress(OSError), os.scandir(folder) as entries:
                each = [Path(entry) for entry in islice(entries, MOST_LISTED - len(below))]
                below += [path for path in each if depth or is_account(path.name)]
        yield from below
        found = below


def _room(storage: Path) -> Iterator[Finding]:
    room = os.statvfs(storage)
    amounts = [("bytes", room.f_bavail, room.f_blocks), ("inodes", room.f_favail, room.f_files)]
    for what, free, total in amounts:
        if total == 0:  # some file systems have no fixed number of inodes
            continue
        share = free / total
        text = f"{share:.0%} are free"
        if share < LEAST_FREE:
            yield Finding(f"free {what}", Verdict.WARNING, text, "Make room, or use a larger disk.")
        else:
            yield Finding(f"free {what}", Verdict.OK, text)


def _temporary_device(folder: Path, storage: Path) -> Finding:
    try:
        folder.stat()
        temporary = TemporaryFolder(folder)
        try:
            file = temporary.create()
            same = FileStore(storage, temporary, durable=False).holds(file)
            file.discard()
        finally:
            temporary.remove()
    except Unfit as error:
        return Finding("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", error.advice)
    except (FileNotFoundError, NotADirectoryError) as error:
        advice = "Make it, or unset TMP_DIR."
        return Finding("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", advice)
    except OSError as error:
        advice = f"Give it to user {os.geteuid()}, or unset TMP_DIR."
        text = f"{folder} cannot be written to: {error.strerror}"
        return Finding("TMP_DIR", Verdict.BROKEN, text, advice)
    if same:
        return Finding("TMP_DIR", Verdict.OK, "files go from there to the storage as they are")
    advice = "Large uploads are copied once more. Unset TMP_DIR to avoid that."
    return Finding(
        "TMP_DIR", Verdict.WARNING, "it is on another device, or mount, or of another group", advice
    )
