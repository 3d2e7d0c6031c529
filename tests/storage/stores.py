"""What tests of stored files share: writing and reading one file, damage, a disk that fails."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cache_actors.storage.files.open_file import OpenFile
from cache_actors.storage.files.store import (
    FileStore,
    Lookup,
    Publication,
    Published,
    Replacement,
    Version,
)
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.layout import QUARANTINE, TEMPORARY

STORED, EXISTS = Published.STORED, Published.EXISTS
Outcome = Published | OSError | None


def publish(store: FileStore, path: Path, *pieces: bytes) -> Published | OSError:
    (outcome,) = store.publish([Publication(str(path), pieces)])
    return outcome


def publish_file(store: FileStore, path: Path, source: TemporaryFile) -> Published | OSError:
    """Publish a file as an upload is, and discard what has been made for it."""
    try:
        prepare = store.prepare(source)
    except OSError as error:
        return error
    (outcome,) = store.publish([Publication(str(path), prepare)])
    if prepare is not source:
        prepare.discard()
    return outcome


def uploaded(temporary: TemporaryFolder, data: bytes = b"abc") -> TemporaryFile:
    """An upload that has been received, and is its owner's to discard."""
    upload = temporary.create()
    upload.write([data])
    return upload


def replace(store: FileStore, path: Path, data: bytes) -> OSError | None:
    (outcome,) = store.replace([Replacement(str(path), data)])
    return outcome


@dataclass(frozen=True)
class Way:
    """One of the two ways to write files, for rules that hold for both.

    Attributes:
        write: writes a batch, of paths and what goes there.
        naming: the function of `os` that gives a file its name.
        done: the outcome of what was written.
    """

    write: Callable[[FileStore, list[tuple[Path, bytes]]], list[Outcome]]
    naming: str
    done: Published | None

    def one(self, store: FileStore, path: Path, data: bytes) -> Outcome:
        """The outcome of writing one file."""
        (outcome,) = self.write(store, [(path, data)])
        return outcome

    def same(self, store: FileStore, paths: list[Path], data: bytes = b"x") -> list[Outcome]:
        """The outcomes of writing the same to each path, in one batch."""
        return self.write(store, [(path, data) for path in paths])


def _publish_all(store: FileStore, batch: list[tuple[Path, bytes]]) -> list[Outcome]:
    return list(store.publish([Publication(str(path), [data]) for path, data in batch]))


def _replace_all(store: FileStore, batch: list[tuple[Path, bytes]]) -> list[Outcome]:
    return list(store.replace([Replacement(str(path), data) for path, data in batch]))


PUBLISH = Way(_publish_all, "link", STORED)
REPLACE = Way(_replace_all, "replace", None)


def load(store: FileStore, path: Path, known: Version | None = None) -> Version | OSError | None:
    (found,) = store.load([Lookup(str(path), known)])
    return found


def loaded(store: FileStore, path: Path, known: Version | None = None) -> Version:
    version = load(store, path, known)
    assert isinstance(version, Version)
    return version


def opened(store: FileStore, path: Path) -> OpenFile:
    file = store.open(path)
    assert file is not None
    return file


def number_of(outcome: object) -> int | None:
    """The number of the operating system error that an outcome is."""
    assert isinstance(outcome, OSError)
    return outcome.errno


def open_descriptors() -> set[tuple[int, int, int]]:
    """The descriptors that are open, each with the device and inode that it leads to.

    Nothing was left open if these are a subset of what there was before. They need not be the same,
    as garbage of earlier tests may be collected, and closed, at any moment.
    """
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        with suppress(OSError):  # that of the listing itself
            status = os.fstat(fd)
            found.add((fd, status.st_dev, status.st_ino))
    return found


def leftovers(temporary: TemporaryFolder) -> list[str]:
    """Temporary files that still have a name, or no name but a descriptor."""
    open_files = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [str(file) for file in temporary.path.iterdir()] + [
        file for file in open_files if file.startswith(f"{temporary.path}/")
    ]


def files_below(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and TEMPORARY not in p.parts)


def held(root: Path) -> list[bytes]:
    """What the files in quarantine hold."""
    return [p.read_bytes() for p in (root / QUARANTINE).rglob("*") if p.is_file()]


def can_lock(folder: Path, how: int) -> bool:
    """Whether nobody holds a lock (`flock`) on a folder that is in the way of one of that sort."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


# Damage.


def flip(path: Path, offset: int = 0) -> None:
    """Change one bit, and nothing else."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


# A disk that fails.


@dataclass
class Disk:
    """A disk of blocks of 4 KiB, as `statvfs` describes it: so many, free, and free for users."""

    f_blocks: int = 1_000_000
    f_bfree: int = 500_000
    f_bavail: int = 500_000
    f_files: int = 1000
    f_ffree: int = 900
    f_favail: int = 900
    f_frsize: int = 4096
    f_bsize: int = 1 << 20  # not what anything is counted in


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def refusing(number: int) -> Callable[..., Any]:
    """A function that fails with that error, whatever it is called with."""

    def refuse(*_: object, **__: object) -> None:
        raise fail(number)

    return refuse


def fail_calls_for(
    patch: pytest.MonkeyPatch, owner: object, name: str, path: Path, number: int
) -> None:
    """Have `owner.<name>` fail with that error for one path; the error names it."""
    really_call = getattr(owner, name)

    def call(at: Any, *arguments: Any, **how: Any) -> Any:
        if str(at) == str(path):
            raise OSError(number, os.strerror(number), str(path))
        return really_call(at, *arguments, **how)

    patch.setattr(owner, name, call)


def refuse_anonymous_files(patch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Make `os.open` raise error `number` for O_TMPFILE; return a list that grows with each try."""
    really_open = os.open
    tries: list[int] = []

    def refusing_open(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            tries.append(flags)
            raise fail(number)
        return really_open(path, flags, mode)

    patch.setattr(os, "open", refusing_open)
    return tries


def fail_second(patch: pytest.MonkeyPatch, name: str, error: BaseException | None = None) -> None:
    """Have the second call of `os.<name>` raise `error`, or EIO; the others work."""
    really_call = getattr(os, name)
    calls: list[object] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise error or fail(errno.EIO)
        return really_call(*args, **options)

    patch.setattr(os, name, call)


class Journal:
    """What has been asked of the kernel, in order, and from that, what survives a power cut.

    Attributes:
        data_fails: whether syncing files fails.
        folders_that_fail: those that cannot be synced.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, Path | int]] = []
        self.data_fails = False
        self.folders_that_fail: set[Path] = set()
        for name in ("mkdir", "link", "replace"):
            patch.setattr(os, name, self._naming(getattr(os, name), 0 if name == "mkdir" else 1))
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._syncing(getattr(os, name)))

    def survives(self, path: Path, root: Path) -> bool:
        """Whether the file at `path` would be there, whole, after a power cut."""
        if not path.exists():
            return False
        data = ("data", path.stat().st_ino)
        named = ("name", path)
        written_first = data in self.events and self.events.index(data) < self.events.index(named)
        return written_first and all(
            self._name_survives(part) for part in (path, *path.parents) if root in part.parents
        )

    def syncs(self) -> list[tuple[str, Path | int]]:
        """All syncs so far."""
        return [event for event in self.events if event[0] != "name"]

    def synced_folders(self) -> list[Path | int]:
        """The folders among them."""
        return [what for kind, what in self.events if kind == "folder"]

    def _name_survives(self, path: Path) -> bool:
        events = self.events
        named = max((i for i, event in enumerate(events) if event == ("name", path)), default=-1)
        return ("folder", path.parent) in events[named + 1 :]

    def _naming(self, action: Callable[..., None], position: int) -> Callable[..., None]:
        def naming(*args: Any, **options: Any) -> None:
            action(*args, **options)
            self.events.append(("name", Path(args[position])))

        return naming

    def _syncing(self, action: Callable[[int], None]) -> Callable[[int], None]:
        def syncing(fd: int) -> None:
            status = os.fstat(fd)
            folder = Path(f"/proc/self/fd/{fd}").readlink()
            is_folder = stat.S_ISDIR(status.st_mode)
            if folder in self.folders_that_fail or (self.data_fails and not is_folder):
                raise fail(errno.EIO)
            action(fd)
            self.events.append(("folder", folder) if is_folder else ("data", status.st_ino))

        return syncing


# Uses.


HOUR_NS = 3600 * 10**9


def make_old(path: Path) -> tuple[int, int]:
    """Have a file look as if nobody had used it for hours; say when it was read and written."""
    now = time.time_ns()
    read, written = now - HOUR_NS, now - 2 * HOUR_NS
    os.utime(path, ns=(read, written))
    return read, written


def times_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns
