"""Reading, publishing and replacing files.

*Published* files are exclusive: the bytes go to a temporary file, are made durable, and get their
name with `link()`, which fails if the name is taken. *Replaced* files get theirs with `rename()`. A
reader sees all of a file or none of it. When `publish` or `replace` return, the file and every
folder above it will survive a power cut, unless the store is relaxed.

A file that is about to go, as another node has cleaned its project (`known_cleans.py`), does not
exist for those who publish: theirs takes its place, and is newer than the clean, so that it stays.

Both take batches, and work through them in stages (`commit.py`): all files are written, all are
made durable, and all get their names. With a log (`write_ahead_log.py`) durable means logged, which
is one sync for all; without one each file is synced, and each folder once. They report on each
item: what one of them meets does not hurt the others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cache_actors.storage.capacity import Capacity
from cache_actors.storage.health import StorageHealth
from cache_actors.storage.integrity.quarantine import DAMAGE, Quarantine
from cache_actors.storage.integrity.validation import ValidFiles
from cache_actors.storage.known_cleans import known_clean
from cache_actors.storage.layout import Project, project_folder_of
from cache_actors.storage.needs import try_logs, try_storing
from cache_actors.storage.project_lock import brief

from .commit import Written, attempt, commit
from .folders import Folders, identity_of, is_complete, is_same_folder, sync_folder
from .group_sync import GroupSync
from .last_use import WRONG_CLOCK_NS, last_use, touch, touch_path
from .open_file import OpenFile
from .temporary import TemporaryFile, TemporaryFolder, device_of
from .write_ahead_log import LogRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .write_ahead_log import WriteAheadLog

PROBE_BYTES = 1 << 20
"""Smallest room beside the reserve, in bytes; with less, the storage counts as full."""

RECENT_NS = 500_000_000
"""Age in nanoseconds up to which a use is not noted again. Eviction takes nothing that was used
within a second (`HURRIED_SECONDS`), so nothing depends on the difference."""

NOTED_EVERY_NS = 60_000_000_000
"""Interval in nanoseconds at which the use of an entry in memory is noted on its file."""

Outcome = TypeVar("Outcome")


class Published(Enum):
    """The outcome of publishing a file."""

    STORED = "stored"
    EXISTS = "exists"


@dataclass(frozen=True)
class Publication:
    """A file to publish at `path`: the pieces of it, or a file from `FileStore.prepare`."""

    path: str
    source: Sequence[bytes] | TemporaryFile

    @property
    def folder(self) -> Path:
        """The folder that the file goes to."""
        return _folder_of(self.path)

    @property
    def size(self) -> int:
        """The size of the file, in bytes."""
        if isinstance(self.source, TemporaryFile):
            return self.source.size
        return sum(map(len, self.source))


@dataclass(frozen=True)
class Replacement:
    """A file to put at `path`, whether or not there is one.

    Attributes:
        path: where.
        data: its bytes.
        time: its modification time, in nanoseconds since the epoch; the present one if 0.
    """

    path: str
    data: bytes
    time: int = 0

    @property
    def folder(self) -> Path:
        """The folder that the file goes to."""
        return _folder_of(self.path)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of one version of a replaceable file; no other version has the same."""

    inode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """The fingerprint in a file's status."""
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class Version:
    """The content of a replaceable file, and the fingerprint of that version."""

    fingerprint: Fingerprint
    data: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """A replaceable file to read at `path`, and the version of it that is in memory."""

    path: str
    known: Version | None


Item = TypeVar("Item", Publication, Replacement)


def _folder_of(path: str) -> Path:
    return _as_path(path.rpartition("/")[0])


@lru_cache(maxsize=4096)  # many files go to one folder, and it takes long to make a path's hash
def _as_path(folder: str) -> Path:
    return Path(folder)


def _tell_nobody(_seconds: float) -> None:
    """Ignore how long a sync took."""


class FileStore:
    """The files below one folder.

    Args:
        root: the storage folder, which exists.
        temporary: a folder on the same file system.
        durable: whether to sync before anything is reported done.
        capacity: the room that there is; all of the file system unless it says otherwise.
        synced: told how many seconds each sync took, by the thread that made it.
        log: makes small files durable; each is synced by itself if there is none.

    Attributes:
        root: the storage folder.
        durable: whether it syncs before anything is reported done.
        capacity: the room that there is.
        health: how writing has gone.
        quarantine: where files go that turn out to be broken.
    """

    def __init__(
        self,
        root: Path,
        temporary: TemporaryFolder,
        *,
        durable: bool,
        capacity: Capacity | None = None,
        synced: Callable[[float], None] = _tell_nobody,
        log: WriteAheadLog | None = None,
    ) -> None:
        self.root = root
        self._log = log
        self._logged: list[LogRecord] = []  # of the batch that is just being committed
        self.capacity = capacity or Capacity(root)
        self._temporary = temporary
        self.durable = durable
        self._group_sync = GroupSync(synced)
        self._folders = Folders(root, self._sync_parent)
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._device = device_of(folder)
            status = os.fstat(folder)
        finally:
            os.close(folder)
        self._group = status.st_gid if status.st_mode & stat.S_ISGID else None
        self._publishing: set[str] = set()  # being published at the moment
        self.health = StorageHealth()
        self.quarantine = Quarantine(root)
        self._valid = ValidFiles(self.quarantine)

    def publish(self, batch: Sequence[Publication]) -> list[Published | OSError]:
        """Publish each item of `batch` in order; of those that share a path the first one wins."""
        with self.publishing({item.path for item in batch}), ExitStack() as rooms:
            write = partial(self._write_artifacts, rooms)
            outcomes = self._commit(batch, write, self._link, Published.EXISTS)
            settled = self._settle(batch, outcomes, undo=_unlink_if_stored)
        self.health.note([each for each in settled if each is not Published.EXISTS])
        return settled

    @contextmanager
    def publishing(self, paths: set[str]) -> Iterator[None]:
        """`paths` are being published, here or by another process: they do not exist meanwhile."""
        self._publishing.update(paths)
        try:
            yield
        finally:
            self._publishing.difference_update(paths)

    def prepare(self, file: TemporaryFile) -> TemporaryFile:
        """Make a large `file` ready, so that publishing it is a link and a sync of its folder.

        It is sealed and synced. One from another file system is brought over first; then it is
        discarded, and the file that has taken its place returned.

        Raises:
            OSError: the disk failed, or is full; `file` must be discarded.
        """
        here = file if self.can_link(file) else self._temporary.create()
        try:
            if here is not file:
                here.copy_from(file)
            here.seal()
            self._sync_file(here)
        except OSError as error:
            self.health.note([error])
            if here is not file:
                here.discard()
            raise
        if here is not file:
            file.discard()
        return here

    def replace(self, batch: Sequence[Replacement]) -> list[OSError | None]:
        """Write each item of `batch` in order; of those that share a path the last one stays."""
        last_first = batch[::-1]
        outcomes = self._commit(last_first, self._write_entries, self._rename, None)[::-1]
        settled = self._settle(batch, outcomes, undo=_leave)
        # Entries may use the reserve: that they can be written does not say that artifacts can.
        self.health.note([each for each in settled if each is not None])
        return settled

    def exists(self, path: Path) -> bool:
        """Whether `path` has been published, to stay: its folders are synced before a yes.

        One that this process is just publishing does not count: it is taken back if its own sync
        fails. Hence the second look, after it is settled.
        """
        file = str(path)
        if not self._is_published(file):
            return False
        self._folders.ensure(path.parent)
        self._sync_folder(path.parent)
        return file not in self._publishing and self._is_published(file)

    def load(self, batch: Sequence[Lookup]) -> list[Version | OSError | None]:
        """The content of each path of `batch`, None where there is no file.

        It is the version known itself, if it still is that one. A broken one is put in quarantine.
        """
        return [attempt(self._load, lookup) for lookup in batch]

    def open(self, path: Path) -> OpenFile | None:
        """The file at `path`, or None if there is none, or a broken one."""
        found = self._valid.open(path)
        if found is None:
            return None
        fd, status, record = found
        quarantine = partial(self._valid.quarantine, path, status.st_ino)
        return OpenFile(fd, status, record.digest if record else None, quarantine)

    def touch(self, path: str | Path, when: int, size: int | None = None, going: int = 0) -> bool:
        """Whether there is a whole file at `path`; if so, note that it was used at `when` (ns).

        One with another size than `size`, if that is given, does not count, and neither does one
        that was stored at `going` (ns) or earlier.

        Raises:
            OSError: the disk failed.
        """
        file = self._use(path, when, size, going)
        if file is None:
            return False
        os.close(file[0])
        return True

    def content(self, path: str | Path, when: int, size: int) -> bytes | None:
        """The bytes of the file at `path`, which is used at `when` (ns); None if there is none.

        One with another size than `size` is not read. A broken one is put in quarantine.

        Raises:
            OSError: the disk failed.
        """
        file = self._use(path, when, size)
        if file is None:
            return None
        fd, status = file
        try:
            data = _read(fd, size)
            if len(data) != size:
                self._valid.quarantine(path, status.st_ino)
                return None
            return data
        finally:
            os.close(fd)

    def _use(
        self, path: str | Path, when: int, size: int | None, going: int = 0
    ) -> tuple[int, os.stat_result] | None:
        """Open the whole file at `path`, and note its use; None without one that counts: `touch`.

        Raises:
            OSError: the disk failed.
        """
        found = self._valid.open(path)
        if found is None:
            return None
        fd, status, _ = found
        is_going = going > 0 and status.st_mtime_ns <= going
        try:
            if not is_going and size in (None, status.st_size):
                touch(fd, status, when, RECENT_NS)
                return fd, status
        except PermissionError:  # somebody else's, which eviction leaves alone
            return fd, status
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def with_folder(self, folder: Path, action: Callable[[Path], None]) -> None:
        """Call `action(folder)`, after making that folder below the root, to stay."""
        self._folders.call_in(folder, action, folder)

    def can_link(self, file: TemporaryFile) -> bool:
        """Whether `file` can be linked among what is stored, and is nginx's to read there.

        It lies on the same file system, and belongs to the group that the storage hands down.
        """
        return file.device() == self._device and self._group in (None, file.group())

    def probe(self) -> None:
        """Find out whether files can be stored now, and note it in `health`, with the room."""
        with self.health.probed():
            self.health.note([attempt(self._probe, PROBE_BYTES)])
            with suppress(OSError):
                room = os.statvfs(self.root)
                inodes = room.f_favail if room.f_files else None  # some file systems count none
                self.health.note_room(room.f_bavail * room.f_frsize, inodes)

    def _probe(self, size: int) -> None:
        self.capacity.check_room(size)
        try_storing(self._temporary.path, self._temporary, durable=self.durable, reserve=size)
        try_logs(self.root)

    def _is_published(self, path: str) -> bool:
        """Whether there is an artifact at `path`, whole, that stays; it is in use from then on."""
        now = time.time_ns()
        if not self.touch(path, now):
            return False
        project = Project(*self._place(path).split("/", 2)[:2])
        going = known_clean(self.root, project).going
        return not going or self.touch(path, now, going=going)

    def _load(self, lookup: Lookup) -> Version | None:
        known = lookup.known
        if known is not None and self._still_is(lookup.path, known):
            return known
        found = self._valid.open(lookup.path)
        if found is None:
            return None
        fd, status, record = found
        with open(fd, "rb") as file:  # noqa: PTH123
            try:
                data = file.read()
            except OSError as error:
                if error.errno not in DAMAGE:
                    raise
                data = b""
            if not data or (record is not None and hashlib.sha256(data).digest() != record.digest):
                self._valid.quarantine(lookup.path, status.st_ino)
                return None
        return Version(Fingerprint.of(status), data)

    def _still_is(self, path: str, version: Version) -> bool:
        """Whether `path` holds that version. If so, it is in use, though its file is not read."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if Fingerprint.of(status) != version.fingerprint:
            return False
        now = time.time_ns()
        if last_use(status) < now - NOTED_EVERY_NS:
            with suppress(OSError):  # it is the next look that counts
                touch_path(path, now)
        return True

    def _commit(
        self,
        batch: Sequence[Item],
        write: Callable[[Sequence[Item]], Iterable[Written | Outcome | OSError]],
        name: Callable[[Item, TemporaryFile], Outcome],
        duplicate_outcome: Outcome,
    ) -> list[Outcome | OSError]:
        """Commit what lies in folders that can be made; the others' have failed."""
        failed = self._folders.prepare({item.folder for item in batch})
        if not failed:
            return commit(batch, write, self._make_durable, name, duplicate_outcome)
        fit = [item for item in batch if item.folder not in failed]
        outcomes = iter(commit(fit, write, self._make_durable, name, duplicate_outcome))
        return [failed.get(item.folder) or next(outcomes) for item in batch]

    def _write_artifacts(
        self, rooms: ExitStack, batch: Sequence[Publication]
    ) -> Iterator[Written | Published | OSError]:
        """Write files, in room that `rooms` keeps until all of the batch is stored."""
        found = [attempt(self._is_published, item.path) for item in batch]
        missing = [item for item, is_there in zip(batch, found, strict=True) if is_there is False]
        has_room = not isinstance(attempt(rooms.enter_context, self._reserve(missing)), OSError)
        for item, is_there in zip(batch, found, strict=True):
            if isinstance(is_there, OSError):
                yield is_there
            elif is_there:
                yield Published.EXISTS
            elif has_room:
                yield attempt(self._write_artifact, item)
            else:  # for all of them; perhaps there is for some
                yield attempt(partial(self._write_artifact_in, rooms), item)

    def _write_artifact_in(self, rooms: ExitStack, item: Publication) -> Written:
        rooms.enter_context(self._reserve([item]))
        return self._write_artifact(item)

    def _write_artifact(self, item: Publication) -> Written:
        if isinstance(item.source, TemporaryFile):
            return Written(item.source, is_ours=False)
        return _written(self._temporary.create(), item.source)

    def _reserve(self, batch: Sequence[Publication]) -> AbstractContextManager[None]:
        """Room to write all of it; files that are ready have had theirs from the start."""
        sizes = [item.size for item in batch if not isinstance(item.source, TemporaryFile)]
        return self.capacity.reserve(sum(sizes), len(sizes)) if sizes else nullcontext()

    def _link(self, item: Publication, file: TemporaryFile) -> Published:
        assert file.is_sealed, "it would be published without its record"  # noqa: S101
        if not file.has_time:  # its bytes may have come before a clean that it is to outlive
            file.set_time(time.time_ns())
        try:
            self._folders.call_in(item.folder, file.link, item.path)
        except FileExistsError:
            if self._is_published(item.path):
                return Published.EXISTS
            # Something else was in its place, and is gone by now or is about to go.
            self._folders.call_in(item.folder, partial(self._take_place, file), item.path)
        return Published.STORED

    def _take_place(self, file: TemporaryFile, path: str) -> None:
        """Link `file` to `path`, in place of a file there, while nobody removes one as too old."""
        with brief(project_folder_of(Path(path), self.root)):
            self._temporary.replace(file, path)

    def _write_entries(self, batch: Sequence[Replacement]) -> Iterator[Written | OSError]:
        return (attempt(self._write_entry, item) for item in batch)

    def _write_entry(self, item: Replacement) -> Written:
        file = self._temporary.create(named=True)
        return _written(file, [item.data], item.time or _later_than(item.path))

    def _rename(self, item: Replacement, file: TemporaryFile) -> None:
        self._folders.call_in(item.folder, file.rename, item.path)

    def _settle(
        self,
        batch: Sequence[Item],
        outcomes: list[Outcome | OSError],
        *,
        undo: Callable[[Item, Outcome], None],
    ) -> list[Outcome | OSError]:
        """Sync each folder of the batch once; what lies in one that cannot be synced has failed.

        A folder of which the log holds all files need not be synced.
        """
        failed = self._log_again()
        logged = {f"{self.root}/{record.place}" for record in self._logged}
        self._logged.clear()
        folders: dict[Path, bool] = {}  # whether they have to be synced
        for item, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, OSError):
                needed = folders.get(item.folder, False)
                folders[item.folder] = needed or item.path not in logged
        synced = self._sync_folders(folders)
        settled: list[Outcome | OSError] = []
        for item, outcome in zip(batch, outcomes, strict=True):
            failure = synced.get(item.folder) or failed.get(item.path)
            if failure is None or isinstance(outcome, OSError):
                settled.append(outcome)
            else:
                undo(item, outcome)
                settled.append(failure)
        return settled

    def _make_durable(self, batch: Sequence[tuple[Item, Written]]) -> list[OSError | None]:
        """Append files to the log or, without one, sync them; return what went wrong with each."""
        if self._log is None:
            return self._sync_files([written.file for _, written in batch])
        identities: dict[str, bytes | OSError] = {}
        found = [attempt(partial(self._record, *each), identities) for each in batch]
        records = [each for each in found if isinstance(each, LogRecord)]
        failure = attempt(self._log.append, records) if records else None
        if failure is None:
            self._logged += records
        return [failure if isinstance(each, LogRecord) else each for each in found]

    def _record(
        self,
        item: Publication | Replacement,
        written: Written,
        identities: dict[str, bytes | OSError],
    ) -> LogRecord:
        pieces = [item.data] if isinstance(item, Replacement) else item.source
        assert not isinstance(pieces, TemporaryFile), "it is not written here"  # noqa: S101
        place = self._place(item.path)
        project = self._identity(place, identities)
        return LogRecord(place, written.time, project, written.file.digest(), pieces)

    def _place(self, path: str) -> str:
        return path[len(str(self.root)) + 1 :]

    def _identity(self, place: str, identities: dict[str, bytes | OSError]) -> bytes:
        """The identity of the project's folder, which is looked at once for all `identities`.

        Raises:
            OSError: the disk failed.
        """
        project = place[: place.index("/", place.index("/") + 1)]
        if project not in identities:
            identities[project] = attempt(identity_of, f"{self.root}/{project}")
        found = identities[project]
        if isinstance(found, OSError):
            raise found
        return found

    def _log_again(self) -> dict[str, OSError]:
        """Log files once more whose project's folder was made again before they had their names.

        Returns what went wrong, by their paths.
        """
        if self._log is None:
            return {}
        failed: dict[str, OSError] = {}
        moved: list[LogRecord] = []
        identities: dict[str, bytes | OSError] = {}
        for record in self._logged:
            try:
                found = self._identity(record.place, identities)
            except OSError as error:
                failed[f"{self.root}/{record.place}"] = error
                continue
            if found and not is_same_folder(record.project, found):  # else cleaned, or the same
                moved.append(dataclasses.replace(record, project=found))
        failure = attempt(self._log.append, moved) if moved else None
        return failed | {f"{self.root}/{record.place}": failure for record in moved if failure}

    def _sync_files(self, files: Sequence[TemporaryFile]) -> list[OSError | None]:
        """Sync files, and return what went wrong with each."""
        if not self.durable:
            return [None] * len(files)
        if len(files) > 1:
            for file in files:
                file.start_sync()
        return self._group_sync.run([file.sync for file in files])

    def _sync_folders(self, folders: Mapping[Path, bool]) -> dict[Path, OSError | None]:
        """Sync those folders that have to be synced, and return what went wrong with each.

        All of them are made to survive, which somebody may have made again meanwhile.
        """
        made_again: set[Path] = set()

        def settle(folder: Path, sync: Callable[[Path], bool]) -> None:
            with suppress(FileNotFoundError):  # its project has just been cleaned: it was stored
                if not sync(folder):
                    made_again.add(folder)

        to_sync = [folder for folder, needed in folders.items() if needed and self.durable]
        synced = self._group_sync.run([partial(settle, each, sync_folder) for each in to_sync])
        failures = dict(zip(to_sync, synced, strict=True))
        for folder in folders.keys() - failures.keys():
            failures[folder] = attempt(partial(settle, sync=_is_settled), folder)
        return failures | self._folders.settle(made_again)

    def _sync_parent(self, folder: Path) -> None:
        """Sync a folder in which others have been made."""
        if self.durable:
            _raise_first(self._group_sync.run([partial(sync_folder, folder)]))

    def _sync_file(self, file: TemporaryFile) -> None:
        _raise_first(self._sync_files([file]))

    def _sync_folder(self, folder: Path) -> None:
        _raise_first(self._sync_folders({folder: True}).values())


def _written(file: TemporaryFile, pieces: Sequence[bytes], when: int = 0) -> Written:
    """Write `pieces` to the new `file`, as of `when`; it is discarded if that fails."""
    try:
        file.write(pieces)
        if when:
            file.set_time(when)
        file.seal()
    finally:
        if not file.is_sealed:
            file.discard()
    return Written(file, is_ours=True, time=when or time.time_ns())


def _later_than(path: str) -> int:
    """The present time, or one later than that of the file at `path`: a clock may be set back.

    In nanoseconds since the epoch. It tells the versions of a file apart, and which one is newer.
    """
    now = time.time_ns()
    try:
        written = os.stat(path, follow_symlinks=False).st_mtime_ns  # noqa: PTH116 - for each entry
    except OSError:
        return now
    return now if written < now or written > now + WRONG_CLOCK_NS else written + 1


def _read(fd: int, size: int) -> bytes:
    """The first `size` bytes of a file; fewer if it is shorter, or cannot be read."""
    try:
        data = os.pread(fd, size, 0)
        while len(data) < size and (more := os.pread(fd, size - len(data), len(data))):
            data += more
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        return b""
    return data


def _is_settled(folder: Path) -> bool:
    return is_complete(folder.stat())


def _raise_first(failures: Iterable[OSError | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


def _unlink_if_stored(item: Publication, outcome: Published) -> None:
    if outcome is Published.STORED:
        with suppress(OSError):
            Path(item.path).unlink()


def _leave(_item: Replacement, _outcome: None) -> None:
    """Leave a replaced file: it is complete, and the one before it is gone."""
