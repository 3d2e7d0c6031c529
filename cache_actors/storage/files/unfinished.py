"""Unfinished uploads: parts of a module artifact, received in any order and assembled at the end.

    <storage>/.tmp/uploads/<upload id>/about         the artifact's path, and the id of the boot
    <storage>/.tmp/uploads/<upload id>/data          the parts, each at its offset
    <storage>/.tmp/uploads/<upload id>/part-<n>-<s>  part n is complete, with s bytes; an empty file
    <storage>/.tmp/uploads/<upload id>/whole-<n>     n parts have been joined; an empty file
    <storage>/.tmp/uploads/<upload id>/done          the artifact is stored; an empty file

The state of an upload is all on disk, so that any worker, and any instance that shares the storage
folder, can receive any part, and a crash loses none. A lock on the upload's folder serializes
changes. Part n begins at n - 1 times `MAX_PART_BYTES`: if all parts but the last have that size, as
clients send them, the data file is the artifact, and is linked to its name without a copy. Smaller
parts are moved together first, within the file.

Parts are not synced before the artifact is stored. A power cut may tear them, so uploads that were
started before the machine's last boot are unknown.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

from cache_actors.kinds import MAX_PART_BYTES
from cache_actors.storage.layout import TEMPORARY, Key, key_at
from cache_actors.storage.locks import FolderLock

from .temporary import FILE_MODE, TemporaryFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cache_actors.storage.layout import Project

    from .store import FileStore

MAX_ARTIFACT_BYTES = 2 << 30
"""Largest size of an artifact that is uploaded in parts, in bytes."""

MAX_PART_NUMBER = 10_000
"""Largest number of a part; parts smaller than `MAX_PART_BYTES` need higher numbers."""

MAX_UPLOADS = 1_000
"""Largest number of unfinished uploads of all projects together."""

MAX_PROJECT_UPLOADS = 250
"""Largest number of unfinished uploads of one project; clients have about 100 at once."""

MAX_SHARE = 0.1
"""Largest share of the disk, or of `STORAGE_MAX_BYTES`, for all unfinished uploads together; one
upload of the largest size always fits."""

IDLE_SECONDS = 300.0
"""Time in seconds after which an upload without requests is removed."""

UPLOADS = "uploads"
"""Name of the folder of unfinished uploads, below that of temporary files."""

_PIECE = 1 << 20


class UnknownUpload(LookupError):
    """The upload does not exist, is another project's, is complete, or was idle for too long."""


class WrongParts(ValueError):
    """The client's list of parts does not match the received parts."""


class ArtifactTooLarge(ValueError):
    """The parts together exceed `MAX_ARTIFACT_BYTES`."""


class TooManyUploads(Exception):
    """Unfinished uploads are too many, or take too much room."""


def uploads_of(project: Project, root: Path) -> list[Path]:
    """The folders of all unfinished uploads of `project` below the storage folder `root`."""
    folders = root / TEMPORARY / UPLOADS
    keys = {folder: _about(folder)[0] for folder in _listed(folders)}
    return [folder for folder, key in keys.items() if key is not None and key.project == project]


def _listed(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


def _about(folder: Path) -> tuple[Key | None, str]:
    """The artifact's key and the boot id of the upload in `folder`; None and "" if unknown."""
    try:
        about = json.loads((folder / "about").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None, ""
    return key_at(tuple(about["place"].split("/"))), about["boot"]


class UnfinishedUploads:
    """The unfinished uploads in the storage folder of `store`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._folder = store.root / TEMPORARY / UPLOADS
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def start(self, key: Key) -> str:
        """Start an upload of the artifact `key`, and return the upload's id.

        Raises:
            TooManyUploads: the project, or all together, have too many unfinished uploads.
            OSError: the disk failed, or has no room.
        """
        keys = map(self._key, _listed(self._folder))
        projects = [each.project for each in keys if each is not None]
        if len(projects) >= MAX_UPLOADS or projects.count(key.project) >= MAX_PROJECT_UPLOADS:
            raise TooManyUploads("Too many uploads have been started and are not complete")
        self._store.capacity.check_room(0, files=3)
        upload_id = str(uuid4())
        folder = self._folder / upload_id
        folder.mkdir(mode=0o750, parents=True)
        try:
            os.close(os.open(folder / "data", os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
            (folder / "data").chmod(FILE_MODE)  # whatever the umask is
            about = {"place": key.place, "boot": self._boot}
            (folder / "about.new").write_text(json.dumps(about))
            (folder / "about.new").rename(folder / "about")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return upload_id

    def key(self, upload_id: str, project: Project) -> Key:
        """The key of the artifact that an upload of `project` is for; restarts its idle time.

        Raises:
            UnknownUpload: the project has no such upload.
        """
        with suppress(ValueError):
            folder = self._folder / str(UUID(upload_id))
            key = self._key(folder)
            if key is not None and key.project == project:
                with suppress(FileNotFoundError):
                    os.utime(folder)
                    return key
        raise UnknownUpload("There is no such upload")

    def put(
        self, upload_id: str, project: Project, number: int, source: Sequence[bytes] | TemporaryFile
    ) -> None:
        """Store part `number` of an upload, replacing an earlier one of that number.

        Raises:
            UnknownUpload: the project has no such upload, or the upload is complete.
            ArtifactTooLarge: the parts together would exceed `MAX_ARTIFACT_BYTES`.
            TooManyUploads: all unfinished uploads together would take too much room.
            OSError: the disk failed, is full, or another request holds the lock (EBUSY).
        """
        with self.open(upload_id, project) as upload, _still_there():
            if upload.is_done or upload.is_published:
                raise UnknownUpload("The upload is complete already")
            size = source.size if isinstance(source, TemporaryFile) else sum(map(len, source))
            others = sum(each for other, each in upload.parts.items() if other != number)
            if others + size > MAX_ARTIFACT_BYTES:
                raise ArtifactTooLarge(f"The parts are more than {MAX_ARTIFACT_BYTES} bytes")
            self._check_share(size)
            with self._store.capacity.reserve(size):
                upload.write(number, size, source)

    def open(self, upload_id: str, project: Project) -> OpenUpload:
        """Open an upload, which stays locked until it is closed.

        Raises:
            UnknownUpload: the project has no such upload.
            OSError: the disk failed, or another request holds the lock (EBUSY).
        """
        key = self.key(upload_id, project)
        folder = self._folder / str(UUID(upload_id))
        with ExitStack() as undo:
            try:
                lock = undo.enter_context(FolderLock(folder))
                if not lock.is_on(folder):  # removed before the lock was taken
                    raise UnknownUpload("There is no such upload")
                upload = OpenUpload(key, folder, lock, (folder / "done").exists())
            except FileNotFoundError:
                raise UnknownUpload("There is no such upload") from None
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another request has the upload") from None
            undo.pop_all()
        return upload

    def sweep(self) -> None:
        """Remove uploads without requests for `IDLE_SECONDS`."""
        for folder in _listed(self._folder):
            with suppress(OSError), FolderLock(folder):
                if time.time() - folder.stat().st_mtime > IDLE_SECONDS:
                    shutil.rmtree(folder)

    def _check_share(self, size: int) -> None:
        taken = 0
        for folder in _listed(self._folder):
            with suppress(FileNotFoundError):
                taken += (folder / "data").stat().st_blocks * 512
        limit = self._store.capacity.usage().limit.bytes * MAX_SHARE
        if taken + size > max(limit, MAX_ARTIFACT_BYTES + MAX_PART_BYTES):
            raise TooManyUploads("Uploads that are not complete take too much room")

    def _key(self, folder: Path) -> Key | None:
        """The artifact's key of the upload in `folder`; None unless started since the last boot."""
        key, boot = _about(folder)
        return key if boot == self._boot else None


@dataclass(slots=True)
class OpenUpload:
    """An upload that is locked until it is closed.

    Attributes:
        key: key of the artifact.
        is_done: whether the artifact was already stored when the upload was opened.
    """

    key: Key
    _folder: Path
    _lock: FolderLock
    is_done: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the upload's lock."""
        self._lock.close()

    @property
    def is_published(self) -> bool:
        """Whether the data file is linked to the artifact's name.

        Such a file is found if a process died between publishing and `finish`; it must not change.
        """
        return (self._folder / "data").stat().st_nlink > 1

    @property
    def parts(self) -> dict[int, int]:
        """The sizes in bytes of the received parts, by number."""
        marks = (path.name.split("-") for path in self._folder.glob("part-*"))
        return {int(number): int(size) for _, number, size in marks}

    def write(self, number: int, size: int, source: Sequence[bytes] | TemporaryFile) -> None:
        """Write a part at its offset, and mark it as received once it is complete."""
        self._forget_parts("whole-*")
        self._forget_parts(f"part-{number}-*")
        at = (number - 1) * MAX_PART_BYTES
        fd = os.open(self._folder / "data", os.O_WRONLY | os.O_CLOEXEC)
        try:
            if isinstance(source, TemporaryFile):
                source.copy_to(fd, at)
            else:
                _write(fd, b"".join(source), at)
        finally:
            os.close(fd)
        (self._folder / f"part-{number}-{size}").touch()

    def assembled(self, numbers: Sequence[int]) -> TemporaryFile:
        """The file of all parts in order; closing instead of discarding it keeps it in the upload.

        Raises:
            UnknownUpload: a clean has removed the upload.
            WrongParts: `numbers` are not those of the received parts, from 1 on, each once.
            OSError: the disk failed.
        """
        with _still_there():
            self._folder.stat()
            return self._assembled(numbers)

    def _assembled(self, numbers: Sequence[int]) -> TemporaryFile:
        parts = self.parts
        if not numbers or sorted(numbers) != list(range(1, len(numbers) + 1)):
            raise WrongParts("The parts must be counted from 1 on, each once")
        is_whole = (self._folder / f"whole-{len(numbers)}").exists()
        if not is_whole and parts.keys() != set(numbers):
            raise WrongParts(f"The parts do not match: {len(parts)} have come")
        fd = os.open(self._folder / "data", os.O_RDWR | os.O_CLOEXEC)
        file = TemporaryFile(fd, self._folder / "data")
        try:
            if not is_whole:
                self._close_gaps(fd, [parts[number] for number in sorted(parts)])
            file.take_in()
        except BaseException:
            file.close()
            raise
        return file

    def finish(self) -> None:
        """Mark the upload as done, for clients that ask again, and remove its parts."""
        (self._folder / "done").touch()
        self._forget_parts("part-*")
        (self._folder / "data").unlink(missing_ok=True)

    def _close_gaps(self, fd: int, sizes: Sequence[int]) -> None:
        """Move each part to the end of the one before, and truncate the file after the last one.

        A crash meanwhile leaves an upload without parts, which the client has to send again.
        """
        end = 0
        for index, size in enumerate(sizes):
            start = index * MAX_PART_BYTES
            if start != end:
                self._forget_parts("part-*")
                for offset in range(0, size, _PIECE):
                    piece = os.pread(fd, min(_PIECE, size - offset), start + offset)
                    _write(fd, piece, end + offset)
            end += size
        if os.fstat(fd).st_size != end:  # a published file keeps its modification time and ETag
            os.ftruncate(fd, end)
        if not self.parts:
            (self._folder / f"whole-{len(sizes)}").touch()

    def _forget_parts(self, pattern: str) -> None:
        for mark in self._folder.glob(pattern):
            mark.unlink()


@contextmanager
def _still_there() -> Iterator[None]:
    """Raise `UnknownUpload` if the upload's folder disappears, as in a clean of its project."""
    try:
        yield
    except FileNotFoundError:
        raise UnknownUpload("There is no such upload any more") from None


def _write(fd: int, data: bytes, at: int) -> None:
    """Write all of `data` at the offset `at`."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written
