"""Files appear whole or not at all, once or replaced, and stay when that has been said."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import stat
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cache_actors.storage import folders
from cache_actors.storage.capacity import Capacity
from cache_actors.storage.files import (
    FileStore,
    Lookup,
    Publication,
    Published,
    Replacement,
    Version,
)
from cache_actors.storage.health import StorageState
from cache_actors.storage.layout import QUARANTINE, TEMPORARY
from cache_actors.storage.record import ATTRIBUTE
from cache_actors.storage.temporary import TemporaryFile, TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

SPAWN = multiprocessing.get_context("spawn")
STORED, EXISTS = Published.STORED, Published.EXISTS


@pytest.fixture(params=[True, False], ids=["durable", "relaxed"])
def store(root: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest) -> FileStore:
    """A store of either sort."""
    return FileStore(root, temporary, durable=request.param)


@pytest.fixture
def durable(root: Path, temporary: TemporaryFolder) -> FileStore:
    return FileStore(root, temporary, durable=True)


@pytest.fixture
def relaxed(root: Path, temporary: TemporaryFolder) -> FileStore:
    return FileStore(root, temporary, durable=False)


@pytest.fixture
def path(root: Path) -> Path:
    """Where a file may go; none of the folders above is there yet."""
    return root / "acme" / "app" / "cas" / "AB" / "01AB"


def publish(store: FileStore, path: Path, *pieces: bytes) -> Published | OSError:
    (outcome,) = store.publish([Publication(path, pieces)])
    return outcome


def publish_file(store: FileStore, path: Path, source: TemporaryFile) -> Published | OSError:
    """Publish a file as an upload is, and discard what has been made for it."""
    try:
        ready = store.ready(source)
    except OSError as error:
        return error
    (outcome,) = store.publish([Publication(path, ready)])
    if ready is not source:
        ready.discard()
    return outcome


def replace(store: FileStore, path: Path, data: bytes) -> OSError | None:
    (outcome,) = store.replace([Replacement(path, data)])
    return outcome


def load(store: FileStore, path: Path, known: Version | None = None) -> Version | OSError | None:
    (found,) = store.load([Lookup(path, known)])
    return found


def loaded(store: FileStore, path: Path, known: Version | None = None) -> Version:
    version = load(store, path, known)
    assert isinstance(version, Version)
    return version


def number_of(outcome: object) -> int | None:
    """The number of the operating system error that an outcome is."""
    assert isinstance(outcome, OSError)
    return outcome.errno


def leftovers(temporary: TemporaryFolder) -> list[str]:
    """Temporary files that still have a name, or no name but a descriptor."""
    open_files = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [str(file) for file in temporary.path.iterdir()] + [
        file for file in open_files if file.startswith(f"{temporary.path}/")
    ]


def files_below(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and TEMPORARY not in p.parts)


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


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


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(monkeypatch)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for one more byte per write."""
    full: set[int] = set()

    def writev(fd: int, buffers: Sequence[bytes]) -> int:
        if fd in full:
            raise fail(errno.ENOSPC)
        full.add(fd)
        return os.write(fd, b"".join(buffers)[:1])

    monkeypatch.setattr(os, "writev", writev)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# Publishing.


def test_published_file_has_all_pieces(store: FileStore, path: Path) -> None:
    assert publish(store, path, b"abc", b"", b"def") is STORED
    assert path.read_bytes() == b"abcdef"


def test_second_publication_gets_exists_and_changes_nothing(store: FileStore, path: Path) -> None:
    publish(store, path, b"first")
    before = path.stat()
    assert publish(store, path, b"second") is EXISTS
    assert path.read_bytes() == b"first"
    assert path.stat().st_ino == before.st_ino


def test_first_of_a_batch_wins_a_path(store: FileStore, path: Path) -> None:
    batch = [Publication(path, [letter]) for letter in (b"a", b"b", b"c")]
    assert store.publish(batch) == [STORED, EXISTS, EXISTS]
    assert path.read_bytes() == b"a"


def test_name_taken_at_the_last_moment_is_exists(
    store: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = TemporaryFile.link

    def link_too_late(file: TemporaryFile, target: Path) -> None:
        target.write_bytes(b"another process's")
        really_link(file, target)

    monkeypatch.setattr(TemporaryFile, "link", link_too_late)
    assert publish(store, path, b"ours") is EXISTS
    assert path.read_bytes() == b"another process's"
    assert leftovers(temporary) == []


@pytest.fixture(params=["folder is a file", "name is too long"])
def impossible(root: Path, request: pytest.FixtureRequest) -> Path:
    """A path at which there can be no file."""
    if request.param == "name is too long":
        return root / "acme" / ("x" * 300)
    (root / "file").write_bytes(b"")
    return root / "file" / "x"


def test_failing_publication_does_not_hurt_the_others(
    store: FileStore, root: Path, impossible: Path, temporary: TemporaryFolder
) -> None:
    batch = [Publication(p, [b"x"]) for p in (root / "a" / "1", impossible, root / "a" / "2")]
    first, failed, last = store.publish(batch)
    assert (first, last) == (STORED, STORED)
    assert isinstance(failed, OSError)
    assert leftovers(temporary) == []


def test_temporary_files_are_gone_whatever_the_outcome(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    publish(store, path, b"stored")
    publish(store, path, b"exists")
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
def test_publication_on_a_full_disk_fails_and_leaves_nothing(
    store: FileStore, root: Path, path: Path, temporary: TemporaryFolder
) -> None:
    assert number_of(publish(store, path, b"abc")) == errno.ENOSPC
    assert files_below(root) == []
    assert leftovers(temporary) == []


def test_uploaded_file_is_published_as_it_is_and_left_to_its_owner(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    upload = temporary.create()
    upload.write([b"abc"])
    assert publish_file(store, path, upload) is STORED
    assert path.stat().st_ino == os.fstat(upload._fd).st_ino
    upload.discard()
    assert path.read_bytes() == b"abc"
    assert leftovers(temporary) == []


@pytest.mark.parametrize("how", ["publish", "replace", "publish a named file"])
def test_files_and_folders_are_for_the_group_whatever_the_umask(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with umask(0o077):
        if how == "publish a named file":
            without_anonymous_files(monkeypatch)
        if how == "replace":
            replace(store, path, b"x")
        else:
            publish(store, path, b"x")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, *path.parents) if root in p.parents]
    assert modes == [0o640, 0o2750, 0o2750, 0o2750, 0o2750]


def without_anonymous_files(patch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def refusing_open(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise fail(errno.EOPNOTSUPP)
        return really_open(path, flags, mode)

    patch.setattr(os, "open", refusing_open)


def test_publishing_works_without_anonymous_files(
    store: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_anonymous_files(monkeypatch)
    assert publish(store, path, b"first") is STORED
    assert publish(store, path, b"second") is EXISTS
    assert path.read_bytes() == b"first"
    assert leftovers(temporary) == []


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_folder_removed_behind_the_stores_back_is_made_again(
    store: FileStore, path: Path, level: int
) -> None:
    for store_it in (publish, replace):
        publish(store, path.with_name("other"), b"x")
        shutil.rmtree(path.parents[level - 1])
        assert store_it(store, path, b"again") in {STORED, None}
        assert path.read_bytes() == b"again"


# Files that are made ready; those from another device.


@pytest.fixture
def elsewhere(root: Path) -> Iterator[TemporaryFolder]:
    """A temporary folder on another file system than the store's."""
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is no second file system")
    parent = Path(tempfile.mkdtemp(dir=memory))
    folder = TemporaryFolder(parent)
    yield folder
    folder.remove()
    parent.rmdir()


def test_file_on_another_device_is_brought_over(
    store: FileStore, temporary: TemporaryFolder, elsewhere: TemporaryFolder
) -> None:
    upload = elsewhere.create()
    upload.write([b"abc"])
    ready = store.ready(upload)
    assert store.holds(ready)
    assert (ready.size, ready.digest()) == (3, upload.digest())
    assert leftovers(elsewhere) == []
    assert len(leftovers(temporary)) == 1
    ready.discard()


def test_publishing_a_file_that_is_ready_syncs_folders_only(
    durable: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = temporary.create()
    upload.write([b"abc"])
    ready = durable.ready(upload)
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.delattr(os, "setxattr")
    assert durable.publish([Publication(path, ready)]) == [STORED]
    ready.discard()


@pytest.mark.parametrize("device", ["same device", "other device"])
def test_file_that_cannot_be_made_ready_is_its_owners_to_discard(
    durable: FileStore,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    def no_sync(_: int) -> None:
        raise fail(errno.EIO)

    if device == "other device":
        monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    monkeypatch.setattr(os, "fdatasync", no_sync)
    upload = temporary.create()
    upload.write([b"abc"])
    with pytest.raises(OSError, match="Input/output error"):
        durable.ready(upload)
    assert len(leftovers(temporary)) == 1
    upload.discard()
    assert leftovers(temporary) == []
    assert durable.health.status().state is StorageState.FAILING


@pytest.mark.parametrize("named", [True, False])
def test_file_on_another_device_is_copied(
    store: FileStore,
    path: Path,
    temporary: TemporaryFolder,
    elsewhere: TemporaryFolder,
    named: bool,
) -> None:
    upload = elsewhere.create(named=named)
    data = os.urandom((1 << 20) + 1)
    upload.write([data])
    assert publish_file(store, path, upload) is STORED
    assert path.read_bytes() == data
    assert leftovers(temporary) == []
    upload.discard()


def test_copied_file_survives_a_power_cut(
    durable: FileStore,
    root: Path,
    path: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    upload = temporary.create()
    upload.write([b"abc"])
    inode = os.fstat(upload._fd).st_ino
    assert publish_file(durable, path, upload) is STORED
    assert path.stat().st_ino != inode
    assert journal.survives(path, root)
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
def test_copy_that_finds_no_room_leaves_nothing_but_its_source(
    store: FileStore,
    root: Path,
    path: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TemporaryFile, "device", lambda _: -1)
    upload = temporary.create()
    os.write(upload._fd, b"abc")
    upload.size = 3
    assert number_of(publish_file(store, path, upload)) == errno.ENOSPC
    assert os.pread(upload._fd, 3, 0) == b"abc"
    upload.discard()
    assert files_below(root) == []
    assert leftovers(temporary) == []


# Replacing.


def test_replacing_writes_and_overwrites(
    store: FileStore, path: Path, temporary: TemporaryFolder
) -> None:
    for data in (b"first", b"second, longer", b"3"):
        assert replace(store, path, data) is None
        assert path.read_bytes() == data
    assert leftovers(temporary) == []


def test_last_of_a_batch_stays(store: FileStore, path: Path) -> None:
    batch = [Replacement(path, letter) for letter in (b"a", b"b", b"c")]
    assert store.replace(batch) == [None, None, None]
    assert path.read_bytes() == b"c"


def test_failing_replacement_does_not_hurt_the_others(
    store: FileStore, root: Path, impossible: Path, temporary: TemporaryFolder
) -> None:
    batch = [Replacement(p, b"x") for p in (root / "a" / "1", impossible, root / "a" / "2")]
    first, failed, last = store.replace(batch)
    assert (first, last) == (None, None)
    assert isinstance(failed, OSError)
    assert (root / "a" / "2").read_bytes() == b"x"
    assert leftovers(temporary) == []


def test_replacement_that_finds_no_room_leaves_the_file_before_it(
    store: FileStore, path: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest
) -> None:
    replace(store, path, b"before")
    request.getfixturevalue("full_disk")
    assert number_of(replace(store, path, b"after")) == errno.ENOSPC
    assert path.read_bytes() == b"before"
    assert leftovers(temporary) == []


def test_readers_see_whole_versions_only(relaxed: FileStore, path: Path) -> None:
    versions = [letter * size for letter, size in ((b"a", 70_000), (b"b", 100_000), (b"c", 1))]
    replace(relaxed, path, versions[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        known: Version | None = None
        while not stop.is_set():
            seen.add(path.read_bytes())
            known = loaded(relaxed, path, known)
            seen.add(known.data)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(600):
        replace(relaxed, path, versions[number % 3])
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert len(seen) > 1


# Surviving a power cut.


@pytest.mark.parametrize("store_it", [publish, replace])
def test_durable_file_survives_with_every_new_folder_above_it(
    durable: FileStore,
    root: Path,
    path: Path,
    journal: Journal,
    store_it: Callable[[FileStore, Path, bytes], Published | OSError | None],
) -> None:
    assert store_it(durable, path, b"abc") in {STORED, None}
    assert journal.survives(path, root)


@pytest.mark.parametrize("store_it", [publish, replace])
def test_file_in_a_folder_that_was_removed_meanwhile_survives_too(
    durable: FileStore,
    root: Path,
    path: Path,
    journal: Journal,
    store_it: Callable[[FileStore, Path, bytes], Published | OSError | None],
) -> None:
    publish(durable, path.with_name("other"), b"x")
    shutil.rmtree(root / "acme")
    journal.events.clear()
    assert store_it(durable, path, b"abc") in {STORED, None}
    assert journal.survives(path, root)


def test_folders_that_another_made_are_synced_at_first_use(
    durable: FileStore, root: Path, path: Path, journal: Journal
) -> None:
    path.parent.mkdir(parents=True)  # somebody may not have come to syncing them
    journal.events.clear()
    publish(durable, path, b"x")
    assert journal.survives(path, root)


@pytest.mark.parametrize("ask", ["publish", "exists"])
def test_what_another_published_is_synced_before_it_is_said_to_exist(
    durable: FileStore, root: Path, path: Path, journal: Journal, ask: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another process's")
    journal.events.clear()
    assert (publish(durable, path, b"x") is EXISTS) if ask == "publish" else durable.exists(path)
    expected = {folder for folder in path.parents if folder == root or root in folder.parents}
    assert set(journal.synced_folders()) == expected


def test_files_of_a_batch_share_the_sync_of_their_folder(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    publish(durable, path, b"x")
    journal.events.clear()
    batch = [Publication(path.with_name(f"{number}"), [b"x"]) for number in range(9)]
    assert durable.publish(batch) == [STORED] * 9
    assert journal.synced_folders() == [path.parent]
    assert all(journal.survives(item.path, path.parent) for item in batch)


def test_every_folder_of_a_batch_is_synced(
    durable: FileStore, root: Path, journal: Journal
) -> None:
    paths = [root / "acme" / folder / name for folder in "abc" for name in "xy"]
    assert durable.publish([Publication(p, [b"x"]) for p in paths]) == [STORED] * 6
    assert all(journal.survives(p, root) for p in paths)
    paths = [p.with_name("replaced") for p in paths[::2]]
    assert durable.replace([Replacement(p, b"x") for p in paths]) == [None] * 3
    assert all(journal.survives(p, root) for p in paths)


def test_new_folders_of_a_batch_share_the_sync_of_the_folder_above(
    durable: FileStore, root: Path, journal: Journal
) -> None:
    paths = [root / "acme" / folder / "x" for folder in "abcdef"]
    assert durable.publish([Publication(p, [b"x"]) for p in paths]) == [STORED] * 6
    assert journal.synced_folders().count(root / "acme") == 1
    assert all(journal.survives(p, root) for p in paths)


def test_folders_beside_the_first_one_used_are_known_with_it(
    durable: FileStore, root: Path, journal: Journal, temporary: TemporaryFolder
) -> None:
    paths = [root / "acme" / folder / "x" for folder in "abc"]
    assert durable.publish([Publication(p, [b"x"]) for p in paths]) == [STORED] * 3
    paths[2].parent.chmod(0o700)  # its maker died before it was complete
    started_again = FileStore(root, temporary, durable=True)
    publish(started_again, paths[0].with_name("y"), b"x")
    journal.events.clear()
    publish(started_again, paths[1].with_name("y"), b"x")
    assert journal.synced_folders() == [paths[1].parent]
    publish(started_again, paths[2].with_name("y"), b"x")
    assert root / "acme" in journal.synced_folders()
    assert stat.S_IMODE(paths[2].parent.stat().st_mode) == 0o2750


def test_publication_that_cannot_be_synced_does_not_hurt_the_others(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def second_fails(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise fail(errno.EIO)

    publish(durable, path, b"x")
    monkeypatch.setattr(os, "fdatasync", second_fails)
    paths = [path.with_name(name) for name in "abc"]
    outcomes = durable.publish([Publication(each, [b"x"]) for each in paths])
    assert (outcomes[0], number_of(outcomes[1]), outcomes[2]) == (STORED, errno.EIO, STORED)
    assert [each.exists() for each in paths] == [True, False, True]


@pytest.mark.parametrize("call", ["writev", "link", "fsync of a folder"])
def test_one_artifact_of_a_batch_that_fails_does_not_hurt_the_others(
    durable: FileStore,
    root: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    paths = [root / "acme" / name / name for name in "abc"]
    if call == "fsync of a folder":
        journal.folders_that_fail = {paths[1].parent}
    else:
        fail_second(monkeypatch, call)
    outcomes = durable.publish([Publication(each, [b"x"]) for each in paths])
    assert (outcomes[0], number_of(outcomes[1]), outcomes[2]) == (STORED, errno.EIO, STORED)
    assert files_below(root) == [paths[0], paths[2]]
    assert all(journal.survives(each, root) for each in paths[::2])
    assert leftovers(temporary) == []


@pytest.mark.parametrize("call", ["writev", "fdatasync", "replace", "fsync of a folder"])
def test_one_entry_of_a_batch_that_fails_does_not_hurt_the_others(
    durable: FileStore,
    root: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    paths = [root / "acme" / name / name for name in "abc"]
    assert durable.replace([Replacement(each, b"before") for each in paths]) == [None] * 3
    journal.events.clear()
    if call == "fsync of a folder":
        journal.folders_that_fail = {paths[1].parent}
    else:
        fail_second(monkeypatch, call)
    outcomes = durable.replace([Replacement(each, b"after") for each in paths])
    assert (outcomes[0], number_of(outcomes[1]), outcomes[2]) == (None, errno.EIO, None)
    stays = b"after" if call == "fsync of a folder" else b"before"
    assert [each.read_bytes() for each in paths] == [b"after", stays, b"after"]
    assert all(journal.survives(each, each.parent) for each in paths[::2])
    assert leftovers(temporary) == []


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


class Crash(BaseException):
    """The end of everything, in the middle of a batch."""


@pytest.mark.parametrize("store_it", ["publish", "replace"])
@pytest.mark.parametrize("call", ["writev", "fdatasync", "name", "fsync"])
def test_crash_in_any_stage_leaves_nothing_in_sight_that_is_not_synced(
    durable: FileStore,
    root: Path,
    temporary: TemporaryFolder,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    store_it: str,
    call: str,
) -> None:
    paths = [root / "acme" / name / name for name in "abc"]
    durable.publish([Publication(each.with_name("other"), [b"x"]) for each in paths])
    naming = "link" if store_it == "publish" else "replace"
    with monkeypatch.context() as patch:
        fail_second(patch, naming if call == "name" else call, Crash())
        if store_it == "publish":
            with pytest.raises(Crash):
                durable.publish([Publication(each, [b"x"]) for each in paths])
        else:
            with pytest.raises(Crash):
                durable.replace([Replacement(each, b"x") for each in paths])
    in_sight = [each for each in paths if each.exists()]
    assert len(in_sight) == {"writev": 0, "fdatasync": 0, "name": 1, "fsync": 3}[call]
    for each in in_sight:
        data = ("data", each.stat().st_ino)
        assert journal.events.index(data) < journal.events.index(("name", each))
    assert leftovers(temporary) == []
    assert durable.publish([Publication(each, [b"x"]) for each in paths]) == [
        EXISTS if each in in_sight else STORED for each in paths
    ]


@pytest.mark.parametrize("store_it", [publish, replace])
def test_upload_whose_new_folder_was_not_synced_has_failed(
    durable: FileStore,
    root: Path,
    path: Path,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    store_it: Callable[[FileStore, Path, bytes], Published | OSError | None],
) -> None:
    """Even if a second sync would say yes: what the first one has lost stays lost."""
    really_sync = folders.sync_folder
    failed: list[Path] = []

    def sync_once(folder: Path) -> None:
        if folder == path.parents[1] and not failed:
            failed.append(folder)
            raise fail(errno.EIO)
        really_sync(folder)

    monkeypatch.setattr("cache_actors.storage.files.sync_folder", sync_once)
    assert number_of(store_it(durable, path, b"x")) == errno.EIO
    assert files_below(root) == []
    assert store_it(durable, path, b"x") in {STORED, None}
    assert journal.survives(path, root)


def test_of_a_batch_each_path_is_written_once(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    really_write = TemporaryFile.write

    def write(file: TemporaryFile, chunks: Sequence[bytes]) -> None:
        written.extend(chunks)
        really_write(file, chunks)

    monkeypatch.setattr(TemporaryFile, "write", write)
    store.publish([Publication(path, [letter]) for letter in (b"a", b"b", b"c")])
    store.replace([Replacement(path.with_name("entry"), letter) for letter in (b"d", b"e", b"f")])
    assert written == [b"a", b"f"]


def test_those_that_share_a_path_get_their_turn_when_one_fails(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = TemporaryFile.write

    def write(file: TemporaryFile, chunks: Sequence[bytes]) -> None:
        if b"bad" in chunks:
            raise fail(errno.EIO)
        really_write(file, chunks)

    monkeypatch.setattr(TemporaryFile, "write", write)
    contents = (b"bad", b"good", b"bad")
    outcomes = durable.publish([Publication(path, [each]) for each in contents])
    assert (number_of(outcomes[0]), outcomes[1:]) == (errno.EIO, [STORED, EXISTS])
    entry = path.with_name("entry")
    replaced = durable.replace([Replacement(entry, each) for each in (b"old", b"good", b"bad")])
    assert (replaced[:2], number_of(replaced[2])) == ([None, None], errno.EIO)
    assert path.read_bytes() == entry.read_bytes() == b"good"


def test_uploads_that_have_been_synced_already_stay_in_memory(
    durable: FileStore, path: Path, temporary: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops what is written when it is told to begin writing."""
    hinted: list[TemporaryFile] = []
    monkeypatch.setattr(TemporaryFile, "start_sync", lambda file: hinted.append(file))
    upload = temporary.create()
    upload.write([b"x"])
    durable.ready(upload)
    both = [Publication(path.with_name(name), [b"x"]) for name in "ab"]
    durable.publish([Publication(path, upload), *both])
    assert len(hinted) == 2
    assert upload not in hinted
    upload.discard()


def test_disk_that_takes_no_hints_is_used_without(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise fail(errno.EINVAL)

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    batch = [Publication(path.with_name(name), [b"x"]) for name in "ab"]
    assert durable.publish(batch) == [STORED, STORED]


def test_nothing_of_a_batch_has_its_name_before_all_of_it_is_synced(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    batch = [Publication(path.with_name(name), [b"x"]) for name in "abc"]
    durable.publish(batch)
    kinds = [kind for kind, what in journal.events if kind == "data" or what in _paths(batch)]
    assert kinds == ["data"] * 3 + ["name"] * 3


def _paths(batch: list[Publication]) -> list[Path | int]:
    return [item.path for item in batch]


def test_files_survive_when_more_folders_are_used_than_remembered(
    durable: FileStore, root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_MOST_KNOWN_FOLDERS", 3)
    paths = [root / a / b / c for c in "xy" for a in "123" for b in "456"]
    for p in paths:
        publish(durable, p, b"x")
    assert all(journal.survives(p, root) for p in paths)


def test_relaxed_store_never_syncs(
    relaxed: FileStore, path: Path, temporary: TemporaryFolder, journal: Journal
) -> None:
    upload = temporary.create()
    upload.write([b"x"])
    publish_file(relaxed, path, upload)
    publish(relaxed, path.with_name("b"), b"x")
    publish(relaxed, path.with_name("b"), b"x")
    replace(relaxed, path.with_name("c"), b"x")
    assert relaxed.exists(path)
    upload.discard()
    assert journal.syncs() == []


def test_publication_that_cannot_be_synced_is_never_seen(
    durable: FileStore, root: Path, path: Path, temporary: TemporaryFolder, journal: Journal
) -> None:
    journal.data_fails = True
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    assert ("name", path) not in journal.events
    assert files_below(root) == []
    assert leftovers(temporary) == []


def test_replacement_that_cannot_be_synced_leaves_the_file_before_it(
    durable: FileStore, path: Path, temporary: TemporaryFolder, journal: Journal
) -> None:
    replace(durable, path, b"before")
    journal.data_fails = True
    assert number_of(replace(durable, path, b"after")) == errno.EIO
    assert path.read_bytes() == b"before"
    assert leftovers(temporary) == []


def test_publications_in_a_folder_that_cannot_be_synced_are_taken_back(
    durable: FileStore, root: Path, path: Path, journal: Journal
) -> None:
    journal.folders_that_fail = {path.parent}
    elsewhere = root / "acme" / "x"
    paths = (path, path, path.with_name("b"), elsewhere)
    *failed, stored = durable.publish([Publication(p, [b"x"]) for p in paths])
    assert [number_of(outcome) for outcome in failed] == [errno.EIO] * 3
    assert stored is STORED
    assert files_below(root) == [elsewhere]


def test_what_was_there_before_stays_in_a_folder_that_cannot_be_synced(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    publish(durable, path, b"before")
    journal.folders_that_fail = {path.parent}
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        durable.exists(path)
    assert path.read_bytes() == b"before"


def test_replacement_in_a_folder_that_cannot_be_synced_fails_and_stays(
    durable: FileStore, path: Path, journal: Journal
) -> None:
    journal.folders_that_fail = {path.parent}
    assert number_of(replace(durable, path, b"after")) == errno.EIO
    assert path.read_bytes() == b"after"


def test_folder_above_that_could_not_be_synced_is_synced_at_the_next_attempt(
    durable: FileStore, root: Path, path: Path, journal: Journal
) -> None:
    journal.folders_that_fail = {root / "acme"}
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    assert files_below(root) == []
    journal.folders_that_fail = set()
    assert publish(durable, path, b"x") is STORED
    assert journal.survives(path, root)


# Whether a file exists.


def test_exists_says_what_is_published(store: FileStore, path: Path) -> None:
    assert not store.exists(path)
    publish(store, path, b"x")
    assert store.exists(path)
    path.unlink()
    assert not store.exists(path)


def test_file_that_is_just_being_published_does_not_exist_yet(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told that it exists must not lose it when its own sync fails."""
    told: list[bool] = []
    sync = folders.sync_folder

    def failing_sync(folder: Path) -> None:
        if folder == path.parent and path.exists() and not told:
            told.append(False)  # while it asks
            told[0] = durable.exists(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(folder)

    monkeypatch.setattr("cache_actors.storage.files.sync_folder", failing_sync)
    assert number_of(publish(durable, path, b"x")) == errno.EIO
    assert told == [False]
    assert not durable.exists(path)
    assert publish(durable, path, b"x") is STORED
    assert durable.exists(path)


# Loading.


def test_file_that_is_not_there_loads_as_none(store: FileStore, path: Path, root: Path) -> None:
    (root / "file").write_bytes(b"")
    assert load(store, path) is None
    assert load(store, root / "file" / "x") is None


def test_known_version_is_returned_while_it_is_the_latest(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    assert version.data == b"a"
    assert loaded(store, path, version) is version


def test_replaced_version_is_read_again_even_if_its_size_is_the_same(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    replace(store, path, b"b")
    assert loaded(store, path, version).data == b"b"


def touch_later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grow_at_the_same_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"bb")
    os.removexattr(path, ATTRIBUTE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [touch_later, grow_at_the_same_time])
def test_version_is_told_by_its_fingerprint(
    store: FileStore, path: Path, change: Callable[[Path], None]
) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    change(path)
    assert loaded(store, path, version) is not version


def test_version_that_was_removed_loads_as_none(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    path.unlink()
    assert load(store, path, version) is None


def test_batch_is_loaded_in_order_and_failures_hurt_nobody_else(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    replace(store, path.with_name("b"), b"b")
    long = path.with_name("x" * 300)
    paths = [path, long, path.with_name("c"), path.with_name("b")]
    first, failed, missing, last = store.load([Lookup(p, None) for p in paths])
    assert isinstance(first, Version)
    assert isinstance(last, Version)
    assert (first.data, last.data) == (b"a", b"b")
    assert number_of(failed) == errno.ENAMETOOLONG
    assert missing is None


# Reading.


def test_open_file_reads_any_part(store: FileStore, path: Path) -> None:
    publish(store, path, b"0123456789")
    file = store.open(path)
    assert file is not None
    assert file.size == 10
    assert file.mtime == int(path.stat().st_mtime)
    assert file.read(3, 4) == b"3456"
    assert file.read(0, 3) == b"012"
    assert file.read(8, 100) == b"89"
    assert file.read(10, 1) == b""
    path.unlink()
    assert file.read(0, 1) == b"0"
    file.close()


def test_modification_time_is_cut_to_whole_seconds(store: FileStore, path: Path) -> None:
    publish(store, path, b"x")
    os.utime(path, ns=(0, 1_700_000_000_999_999_000))
    file = store.open(path)
    assert file is not None
    assert file.mtime == 1_700_000_000
    file.close()


def test_closing_again_closes_nobody_elses_file(store: FileStore, path: Path) -> None:
    publish(store, path, b"x")
    file = store.open(path)
    assert file is not None
    file.close()
    another = os.open(path, os.O_RDONLY)  # gets the number that was just freed
    file.close()
    assert os.read(another, 1) == b"x"
    os.close(another)


def test_nothing_is_opened_where_there_is_no_file(store: FileStore, path: Path, root: Path) -> None:
    (root / "file").write_bytes(b"")
    assert store.open(path) is None
    assert store.open(root / "file" / "x") is None


def test_folder_is_no_file_and_is_not_left_open(store: FileStore, path: Path) -> None:
    path.mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert store.open(path) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_symbolic_link_is_not_followed(store: FileStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    assert store.open(path) is None


# Several processes.

PATHS = 60


def shared_path(root: Path, number: int) -> Path:
    return root / "acme" / str(number // 5) / str(number)


def publish_everything(root: Path, data: bytes, pipe: Connection) -> None:
    """What each of two processes does at once: publish its own `data` at the same paths."""
    temporary = TemporaryFolder(root / TEMPORARY)
    store = FileStore(root, temporary, durable=True)
    pipe.send("ready")
    pipe.recv()
    pipe.send([publish(store, shared_path(root, number), data) for number in range(PATHS)])
    temporary.remove()


class Publisher:
    """A process that publishes its own `data` at the paths that others publish at, too."""

    def __init__(self, root: Path, data: bytes) -> None:
        self.data = data
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(
            target=publish_everything, args=(root, data, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # so that receiving fails when the process is gone

    def receive(self) -> Any:
        return self._pipe.recv()

    def go(self) -> None:
        self._pipe.send("go")

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def test_of_two_processes_that_publish_at_once_one_stores_a_whole_file(root: Path) -> None:
    publishers = [Publisher(root, data) for data in (b"a" * 50_000, b"b" * 60_000)]
    assert [publisher.receive() for publisher in publishers] == ["ready", "ready"]
    for publisher in publishers:
        publisher.go()
    outcomes = [publisher.receive() for publisher in publishers]
    for publisher in publishers:
        publisher.end()
    for number, outcome in enumerate(zip(*outcomes, strict=True)):
        assert set(outcome) == {STORED, EXISTS}
        winner = publishers[outcome.index(STORED)]
        assert shared_path(root, number).read_bytes() == winner.data
    assert list((root / TEMPORARY).iterdir()) == []


# Broken files.


def held(root: Path) -> list[bytes]:
    """What the files in quarantine hold."""
    return [p.read_bytes() for p in (root / QUARANTINE).rglob("*") if p.is_file()]


@pytest.mark.parametrize("size", [0, 5])
def test_torn_file_makes_place_for_a_new_upload_and_is_kept(
    store: FileStore, root: Path, path: Path, size: int
) -> None:
    publish(store, path, b"0123456789")
    os.truncate(path, size)
    assert not store.exists(path)
    publish(store, path, b"0123456789")
    os.truncate(path, size)
    assert publish(store, path, b"0123456789") is STORED
    assert publish(store, path, b"0123456789") is EXISTS
    assert path.read_bytes() == b"0123456789"
    assert held(root) == [b"01234"[:size]] * 2


def test_empty_file_without_a_record_makes_place_too(
    store: FileStore, root: Path, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert publish(store, path, b"bytes") is STORED
    assert held(root) == [b""]


def test_torn_file_that_comes_at_the_last_moment_is_not_said_to_exist(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = TemporaryFile.link

    def link_too_late(file: TemporaryFile, target: Path) -> None:
        target.write_bytes(b"")
        really_link(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(TemporaryFile, "link", link_too_late)
        assert number_of(publish(store, path, b"bytes")) == errno.EEXIST
    assert held(root) == [b""]
    assert publish(store, path, b"bytes") is STORED


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def empty(path: Path) -> None:
    os.truncate(path, 0)


def shorten(path: Path) -> None:
    os.truncate(path, 1)


@pytest.mark.parametrize("damage", [flip, empty, shorten])
def test_damaged_entry_loads_as_none_and_can_be_written_again(
    store: FileStore, root: Path, path: Path, damage: Callable[[Path], None]
) -> None:
    replace(store, path, b"value")
    version = loaded(store, path)
    damage(path)
    damaged = path.read_bytes()
    assert load(store, path, version) is None
    assert not path.exists()
    assert held(root) == [damaged]
    replace(store, path, b"value")
    assert loaded(store, path).data == b"value"


def test_unrecorded_entry_is_believed_unless_it_is_empty(
    store: FileStore, root: Path, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"value")
    assert loaded(store, path).data == b"value"
    path.write_bytes(b"")
    assert load(store, path) is None
    assert held(root) == [b""]


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.ENOMEM])
def test_entry_whose_bytes_are_lost_is_none_and_one_that_is_not_is_an_error(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def getxattr(*_: object, **__: object) -> bytes:
        raise fail(number)

    replace(store, path, b"value")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getxattr", getxattr)
        found = load(store, path)
    if number == errno.ENOMEM:
        assert number_of(found) == number
        assert path.exists()
    else:
        assert found is None
        assert held(root) == [b"value"]


def test_good_entry_that_replaces_a_damaged_one_meanwhile_stays(
    store: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(store, path, b"value")
    flip(path)
    really_take = store.quarantine.take

    def take(at: Path, inode: int) -> Path | None:
        replace(store, path, b"good")
        return really_take(at, inode)

    monkeypatch.setattr(store.quarantine, "take", take)
    assert load(store, path) is None
    assert path.read_bytes() == b"good"
    assert held(root) == []


def test_copy_that_differs_is_not_stored(
    store: FileStore,
    root: Path,
    path: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "holds", lambda _: False)
    upload = temporary.create()
    upload.write([b"0123456789"])
    os.pwrite(upload._fd, b"?", 5)
    assert number_of(publish_file(store, path, upload)) == errno.EIO
    upload.discard()
    assert files_below(root) == []
    assert leftovers(temporary) == []


# Room and health.


def test_room_is_required_up_to_what_there_is(store: FileStore, root: Path) -> None:
    room = os.statvfs(root)
    store.capacity.require_room(0)
    store.capacity.require_room(1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        store.capacity.require_room(room.f_blocks * room.f_frsize + 1)
    assert caught.value.errno == errno.ENOSPC


def test_probe_leaves_nothing_and_notes_how_it_went(
    store: FileStore, root: Path, temporary: TemporaryFolder
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", lambda *_: (_ for _ in ()).throw(fail(errno.EIO)))
        store.probe()
    assert store.health.status().state is StorageState.FAILING
    store.probe()
    assert store.health.status().state is StorageState.OK
    assert store.health.status().free_bytes is not None
    assert files_below(root) == []
    assert leftovers(temporary) == []


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("store_it", [publish, replace])
def test_writer_that_finds_no_room_notes_it(
    store: FileStore,
    path: Path,
    store_it: Callable[[FileStore, Path, bytes], Published | OSError | None],
) -> None:
    store_it(store, path, b"bytes")
    assert store.health.status().state is StorageState.FULL


def test_what_exists_already_says_nothing_of_writing(store: FileStore, path: Path) -> None:
    publish(store, path, b"bytes")
    store.health.note([fail(errno.ENOSPC)])
    assert publish(store, path, b"bytes") is EXISTS
    assert store.health.status().state is StorageState.FULL


def test_entry_that_was_written_says_nothing_of_artifacts(store: FileStore, path: Path) -> None:
    store.health.note([fail(errno.ENOSPC)])
    assert replace(store, path.with_name("entry"), b"value") is None
    assert store.health.status().state is StorageState.FULL
    assert publish(store, path, b"bytes") is STORED
    assert store.health.status().state is StorageState.OK


# Room, and uses.


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of which nothing but the reserve is left."""

    class Room:
        f_frsize = 4096
        f_blocks = f_files = 1_000_000
        f_bfree = f_bavail = 100
        f_ffree = f_favail = 500_000

    monkeypatch.setattr(os, "statvfs", lambda _: Room)


def test_publications_leave_the_reserve_alone_and_replacements_use_it(
    store: FileStore, path: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest
) -> None:
    publish(store, path, b"x")
    request.getfixturevalue("no_room")
    late = path.with_name("02AB")
    assert number_of(publish(store, late, b"x")) == errno.ENOSPC
    assert not late.exists()
    assert store.health.status().state is StorageState.FULL
    assert publish(store, path, b"again") is EXISTS
    entry = path.with_name("entry")
    assert replace(store, entry, b"x") is None
    assert entry.read_bytes() == b"x"
    assert store.health.status().state is StorageState.FULL  # of uploads that is still true
    store.probe()
    assert store.health.status().state is StorageState.FULL
    assert leftovers(temporary) == []


def test_publications_of_a_batch_find_no_room_that_others_of_it_need(
    root: Path, temporary: TemporaryFolder, path: Path
) -> None:
    store = FileStore(root, temporary, durable=False, capacity=Capacity(root, max_bytes=1000))
    batch = [Publication(path.with_name(name), [b"x" * 400]) for name in "abc"]
    outcomes = store.publish(batch)
    assert outcomes[:2] == [STORED, STORED]
    assert number_of(outcomes[2]) == errno.ENOSPC
    assert publish(store, batch[2].path, b"x" * 400) is STORED  # that room is free again


@pytest.mark.parametrize("size", [300, 450], ids=["room for all", "room for some"])
def test_room_of_a_batch_is_its_own_until_it_is_stored(
    root: Path,
    temporary: TemporaryFolder,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """What has its name is only counted as stored when its writer has been told."""
    store = FileStore(root, temporary, durable=False, capacity=Capacity(root, max_bytes=1000))
    really_link = TemporaryFile.link
    found: list[bool] = []

    def link(file: TemporaryFile, target: Path) -> None:
        really_link(file, target)
        try:
            store.capacity.require_room(500)
        except OSError:
            found.append(False)
        else:
            found.append(True)

    monkeypatch.setattr(TemporaryFile, "link", link)
    store.publish([Publication(path.with_name(name), [b"x" * size]) for name in "abc"])
    assert set(found) == {False}
    store.capacity.require_room(1000)


def test_where_there_is_no_room_for_a_batch_there_may_be_for_some_of_it(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def require_room(size: int, files: int) -> None:
        asked.append((size, files))
        if size > 100:
            raise fail(errno.ENOSPC)

    monkeypatch.setattr(store.capacity, "require_room", require_room)
    batch = [Publication(path.with_name(f"{size}"), [bytes(size)]) for size in (40, 50, 101)]
    assert store.publish(batch[:2]) == [STORED, STORED]
    assert asked == [(90, 2)]
    outcomes = store.publish([replace_path(item, "again") for item in batch])
    assert (outcomes[:2], number_of(outcomes[2])) == ([STORED, STORED], errno.ENOSPC)
    assert asked[1:] == [(191, 3), (40, 1), (50, 1), (101, 1)]


def replace_path(item: Publication, ending: str) -> Publication:
    return Publication(item.path.with_name(item.path.name + ending), item.source)


def test_upload_that_has_its_room_already_is_published_without_more(
    store: FileStore, path: Path, temporary: TemporaryFolder, request: pytest.FixtureRequest
) -> None:
    upload = temporary.create()
    upload.write([b"abc"])
    request.getfixturevalue("no_room")
    assert publish_file(store, path, upload) is STORED
    upload.discard()


def test_publications_know_their_size(temporary: TemporaryFolder, path: Path) -> None:
    upload = temporary.create()
    upload.write([b"abc", b"de"])
    assert Publication(path, upload).size == 5
    assert Publication(path, [b"abc", b"", b"d"]).size == 4
    upload.discard()


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


@pytest.mark.parametrize("ask", ["exists", "publish", "publish a file"])
def test_artifact_that_is_said_to_exist_is_in_use_from_then_on(
    store: FileStore, path: Path, temporary: TemporaryFolder, ask: str
) -> None:
    """Its client goes on to put an entry that refers to it."""
    publish(store, path, b"x")
    _, written = make_old(path)
    began = time.time_ns()
    if ask == "exists":
        assert store.exists(path)
    elif ask == "publish":
        assert publish(store, path, b"y") is EXISTS
    else:
        upload = temporary.create()
        upload.write([b"y"])
        assert publish_file(store, path, upload) is EXISTS
        upload.discard()
    assert times_of(path)[0] >= began
    assert times_of(path)[1] == written


def test_asking_for_what_is_not_there_changes_nothing(store: FileStore, path: Path) -> None:
    publish(store, path.with_name("other"), b"x")
    before = make_old(path.with_name("other"))
    assert not store.exists(path)
    assert times_of(path.with_name("other")) == before


def test_touch_says_whether_there_is_a_whole_file(store: FileStore, path: Path, root: Path) -> None:
    assert not store.touch(path, time.time_ns())
    publish(store, path, b"0123")
    assert store.touch(path, time.time_ns())
    os.truncate(path, 2)
    assert not store.touch(path, time.time_ns())
    assert held(root) == [b"01"]


def test_entry_from_memory_is_in_use_and_stays_the_same_version(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    _, written = make_old(path)
    version = loaded(store, path)
    make_old(path)
    os.utime(path, ns=(times_of(path)[0], written))
    began = time.time_ns()
    assert loaded(store, path, version) is version
    assert times_of(path)[0] >= began
    assert times_of(path)[1] == written
    assert loaded(store, path, version) is version


def test_use_of_an_entry_from_memory_is_noted_once_a_minute(store: FileStore, path: Path) -> None:
    replace(store, path, b"a")
    _, written = make_old(path)
    version = loaded(store, path)
    for age, is_noted in ((0.0, False), (55.0, False), (65.0, True)):
        used = time.time_ns() - int(age * 1e9)
        os.utime(path, ns=(used, written))
        assert loaded(store, path, version) is version
        assert (times_of(path)[0] != used) is is_noted


def test_version_in_memory_that_is_out_of_date_notes_no_use_of_another(
    store: FileStore, path: Path
) -> None:
    replace(store, path, b"a")
    version = loaded(store, path)
    path.unlink()
    assert load(store, path, version) is None
    assert not path.exists()


def test_entry_whose_use_cannot_be_noted_is_served_all_the_same(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fail(errno.EROFS)

    replace(store, path, b"a")
    make_old(path)
    version = loaded(store, path)
    make_old(path)
    os.utime(path, ns=(0, version.fingerprint.mtime_ns))
    monkeypatch.setattr(os, "utime", refuse)
    assert loaded(store, path, version) is version
