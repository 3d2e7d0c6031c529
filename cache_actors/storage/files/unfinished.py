"""Unfinished uploads: parts of a module, received in any order and assembled at the end.

    <storage>/.tmp/uploads/<name>/about         the module's id
    <storage>/.tmp/uploads/<name>/data          the parts, each at its offset
    <storage>/.tmp/uploads/<name>/part-<n>-<s>  part n is complete, with s bytes; an empty file
    <storage>/.tmp/completed/<name>/done-<n>-<SHA-256>  the module of n parts is stored; likewise

`<name>` is `<boot>.<account>.<project>.<upload id>`. So uploads are counted by their names alone,
without those that are complete, which are remembered for clients that ask again.

The state of an upload is all on disk, so that any worker, and any instance that shares the storage
folder, can receive any part, and a crash loses none. A lock on the upload's folder serializes
changes. Part n begins at n - 1 times `MAX_PART_BYTES`: if all parts but the last have that size, as
clients send them, the data file is the module, and is linked to its name without a copy. Other
parts are copied to another file. Either way all parts stay until the module is stored, whatever
fails before.

Parts are not synced before the module is stored. A power cut may tear them, so uploads that were
started before the machine's last boot are unknown: `<boot>` is the beginning of that boot's id.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

from cache_actors.kinds import MAX_PART_BYTES, Kind
from cache_actors.storage.layout import TEMPORARY, Key
from cache_actors.storage.locks import FolderLock
from cache_actors.storage.walk import BLOCK

from .temporary import FILE_MODE, TemporaryFile, write_at
from .write_ahead_log import boot_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from cache_actors.storage.layout import Project

    from .store import FileStore
    from .temporary import TemporaryFolder

MAX_MODULE_BYTES = 2 << 30
"""Largest size of a module, in bytes."""

MAX_PART_NUMBER = 10_000
"""Largest number of a part; parts smaller than `MAX_PART_BYTES` need higher numbers."""

MAX_UPLOADS = 1_000
"""Largest number of unfinished uploads of all projects together."""

MAX_PROJECT_UPLOADS = 250
"""Largest number of unfinished uploads of one project; clients have about 100 at once."""

MAX_SHARE = 0.1
"""Largest share of the disk, or of `STORAGE_MAX_BYTES`, for all unfinished uploads together, and
half of it for one project's; one upload of the largest size always fits."""

IDLE_SECONDS = 300.0
"""Time in seconds after which an upload without requests is removed, and a complete one
forgotten."""

UPLOADS = "uploads"
"""Name of the folder of unfinished uploads, below that of temporary files."""

COMPLETED = "completed"
"""Name of the folder of complete uploads, below that of temporary files."""

_PIECE = 1 << 20


class UnknownUpload(LookupError):
    """The upload does not exist, is another project's, is complete, or was idle for too long."""


class WrongParts(ValueError):
    """The client's list of parts does not match the received parts."""


class ModuleTooLarge(ValueError):
    """The parts together exceed `MAX_MODULE_BYTES`."""


class TooManyUploads(Exception):
    """Unfinished uploads are too many, or take too much room."""


def uploads_of(project: Project, root: Path) -> list[Path]:
    """The folders of all uploads of `project` below the storage folder `root`, complete or not."""
    wanted = [project.account, project.name]
    folders = _listed(root / TEMPORARY / UPLOADS) + _listed(root / TEMPORARY / COMPLETED)
    return [folder for folder in folders if folder.name.split(".")[1:3] == wanted]


def _listed(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


class UnfinishedUploads:
    """The unfinished uploads in the storage folder of `store`.

    Args:
        store: where the modules go.
        temporary: the temporary folder of `store`.
    """

    def __init__(self, store: FileStore, temporary: TemporaryFolder) -> None:
        self._store = store
        self._temporary = temporary
        self._folder = store.root / TEMPORARY / UPLOADS
        self._completed = store.root / TEMPORARY / COMPLETED
        self._boot = boot_id().decode()[:8]

    def start(self, key: Key) -> str:
        """Start an upload of the module `key`, and return the upload's id.

        Raises:
            TooManyUploads: the project, or all together, have too many unfinished uploads.
            OSError: the disk failed, or has no room.
        """
        started = [each.name for each in _listed(self._folder) if each.name.startswith(self._boot)]
        ours = [name for name in started if name.startswith(self._prefix(key.project))]
        if len(started) >= MAX_UPLOADS or len(ours) >= MAX_PROJECT_UPLOADS:
            raise TooManyUploads("Too many uploads have been started and are not complete")
        self._store.capacity.check_room(0, files=3)
        upload_id = str(uuid4())
        folder = self._folder / upload_id  # where no clean looks for it before it is whole
        self._folder.mkdir(mode=0o750, exist_ok=True)
        folder.mkdir(mode=0o750)
        try:
            os.close(os.open(folder / "data", os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
            (folder / "data").chmod(FILE_MODE)  # whatever the umask is
            (folder / "about").write_text(key.id)
            folder.rename(self._folder / self._name(upload_id, key.project))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return upload_id

    def key(self, upload_id: str, project: Project) -> Key:
        """The key of the module that an upload of `project` is for; restarts its idle time.

        Raises:
            UnknownUpload: the project has no such upload, or the upload is complete.
        """
        folder = self._folder / self._name(upload_id, project)
        try:
            os.utime(folder)
            return Key(project, Kind.MODULE, (folder / "about").read_text())
        except FileNotFoundError:
            raise UnknownUpload("There is no such upload") from None

    def completed(self, upload_id: str, project: Project, numbers: Sequence[int]) -> bytes:
        """The SHA-256 of the module that a complete upload of `project` has become.

        Raises:
            UnknownUpload: the project has no such upload, it is not complete, or it has been so for
                longer than `IDLE_SECONDS`.
            WrongParts: it did not have the parts `numbers`.
        """
        for done in (self._completed / self._name(upload_id, project)).glob("done-*"):
            _, count, digest = done.name.split("-")
            _check_parts(numbers, range(1, int(count) + 1))
            return bytes.fromhex(digest)
        raise UnknownUpload("There is no such upload")

    def put(
        self, upload_id: str, project: Project, number: int, source: Sequence[bytes] | TemporaryFile
    ) -> None:
        """Store part `number` of an upload, replacing an earlier one of that number.

        Raises:
            UnknownUpload: the project has no such upload, or the upload is complete.
            ModuleTooLarge: the parts together would exceed `MAX_MODULE_BYTES`.
            TooManyUploads: unfinished uploads of the project, or all together, would take too much
                room.
            OSError: the disk failed, is full, or another request holds the lock (EBUSY).
        """
        with self.open(upload_id, project) as upload, _still_there():
            if upload.is_published:
                raise UnknownUpload("The upload is complete already")
            size = source.size if isinstance(source, TemporaryFile) else sum(map(len, source))
            others = sum(each for other, each in upload.parts.items() if other != number)
            if others + size > MAX_MODULE_BYTES:
                raise ModuleTooLarge(f"The parts are more than {MAX_MODULE_BYTES} bytes")
            self._check_share(size, project)
            with self._store.capacity.reserve(size):
                upload.write(number, size, source)

    def open(self, upload_id: str, project: Project) -> OpenUpload:
        """Open an upload, which stays locked until it is closed.

        Raises:
            UnknownUpload: the project has no such upload, or the upload is complete.
            OSError: the disk failed, or another request holds the lock (EBUSY).
        """
        key = self.key(upload_id, project)
        folder = self._folder / self._name(upload_id, project)
        with ExitStack() as undo, _still_there():
            try:
                lock = undo.enter_context(FolderLock(folder))
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another request has the upload") from None
            if not lock.is_on(folder):  # removed, and made again, before the lock was taken
                raise UnknownUpload("There is no such upload any more")
            undo.pop_all()
            return OpenUpload(key, folder, lock, self._store, self._temporary)

    def sweep(self) -> None:
        """Remove uploads without requests for `IDLE_SECONDS`, and forget complete ones."""
        for folder in _listed(self._folder) + _listed(self._completed):
            with suppress(OSError), FolderLock(folder):
                if time.time() - folder.stat().st_mtime > IDLE_SECONDS:
                    shutil.rmtree(folder)

    def _check_share(self, size: int, project: Project) -> None:
        taken, ours = 0, 0
        for folder in _listed(self._folder):
            with suppress(FileNotFoundError):
                blocks = (folder / "data").stat().st_blocks
                taken += blocks * BLOCK
                ours += blocks * BLOCK if folder.name.startswith(self._prefix(project)) else 0
        limit = self._store.capacity.usage().limit.bytes * MAX_SHARE
        one = MAX_MODULE_BYTES + MAX_PART_BYTES
        if taken + size > max(limit, one) or ours + size > max(limit / 2, one):
            raise TooManyUploads("Uploads that are not complete take too much room")

    def _prefix(self, project: Project) -> str:
        """The beginning of the names of the project's uploads since the last boot."""
        return f"{self._boot}.{project.account}.{project.name}."

    def _name(self, upload_id: str, project: Project) -> str:
        try:
            return self._prefix(project) + str(UUID(upload_id))
        except ValueError:
            raise UnknownUpload("There is no such upload") from None


@dataclass(slots=True)
class OpenUpload:
    """An upload that is locked until it is closed.

    Attributes:
        key: key of the module.
    """

    key: Key
    _folder: Path
    _lock: FolderLock
    _store: FileStore
    _temporary: TemporaryFolder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the upload's lock."""
        self._lock.close()

    @property
    def is_published(self) -> bool:
        """Whether the data file is the stored module.

        Such a file is found if a process died between publishing and `finish`; it must not change.
        """
        with suppress(FileNotFoundError):
            return self.key.path(self._store.root).samefile(self._folder / "data")
        return False

    @property
    def parts(self) -> dict[int, int]:
        """The sizes in bytes of the received parts, by number."""
        marks = (path.name.split("-") for path in self._folder.glob("part-*"))
        return {int(number): int(size) for _, number, size in marks}

    def write(self, number: int, size: int, source: Sequence[bytes] | TemporaryFile) -> None:
        """Write a part at its offset, and mark it as received once it is complete."""
        for mark in self._folder.glob(f"part-{number}-*"):
            mark.unlink()
        at = (number - 1) * MAX_PART_BYTES
        fd = os.open(self._folder / "data", os.O_WRONLY | os.O_CLOEXEC)
        try:
            if isinstance(source, TemporaryFile):
                source.copy_to(fd, at)
            else:
                write_at(fd, source, at)
        finally:
            os.close(fd)
        (self._folder / f"part-{number}-{size}").touch()

    def assembled(self, numbers: Sequence[int]) -> TemporaryFile:
        """A file of all parts in order, to be published; the parts stay as they are.

        Raises:
            UnknownUpload: a clean has removed the upload.
            WrongParts: `numbers` are not those of the received parts, from 1 on, each once.
            OSError: the disk failed, or has no room.
        """
        with _still_there():
            self._folder.stat()
            parts = self.parts
            _check_parts(numbers, parts)
            sizes = [parts[number] for number in sorted(parts)]
            if any(size < MAX_PART_BYTES for size in sizes[:-1]):
                with self._store.capacity.reserve(sum(sizes)):
                    return self._joined(sizes)
            self._store.capacity.check_limit(sum(sizes))
            data = self._folder / "data"
            if data.stat().st_size != sum(sizes):  # else it keeps its time; it may be published
                os.truncate(data, sum(sizes))
            file = self._temporary.link(data)
            try:
                file.take_in()
            except BaseException:
                file.discard()
                raise
            return file

    def finish(self, file: TemporaryFile) -> None:
        """Remember the upload as complete, with `file` from `assembled`, and remove its parts.

        A crash on the way leaves it unfinished, or its parts to the next sweep.
        """
        done = f"done-{len(self.parts)}-{file.digest().hex()}"
        completed = self._folder.parent.with_name(COMPLETED)
        with suppress(FileNotFoundError):  # a clean has removed the upload
            (self._folder / done).touch()
            completed.mkdir(mode=0o750, exist_ok=True)
            for each in self._folder.rename(completed / self._folder.name).iterdir():
                if each.name != done:
                    each.unlink()

    def _joined(self, sizes: Sequence[int]) -> TemporaryFile:
        """A new file of parts that do not follow each other in the data file without gaps."""
        file = self._temporary.create()
        try:
            with (self._folder / "data").open("rb") as data:
                for index, size in enumerate(sizes):
                    data.seek(index * MAX_PART_BYTES)
                    for offset in range(0, size, _PIECE):
                        file.write([data.read(min(_PIECE, size - offset))])
        except BaseException:
            file.discard()
            raise
        return file


def _check_parts(numbers: Sequence[int], received: Collection[int]) -> None:
    """Raise `WrongParts` unless `numbers` are those received, and count from 1 on, each once."""
    if not numbers or sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise WrongParts("The parts must be counted from 1 on, each once")
    if set(numbers) != set(received):
        raise WrongParts(f"The parts do not match: {len(received)} have come")


@contextmanager
def _still_there() -> Iterator[None]:
    """Raise `UnknownUpload` if the upload's folder disappears, as in a clean of its project."""
    try:
        yield
    except FileNotFoundError:
        raise UnknownUpload("There is no such upload any more") from None
