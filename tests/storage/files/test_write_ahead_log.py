"""The write-ahead log: what is read of it, when it is checkpointed, and what failures cost."""

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cache_actors.storage.files import store as file_store
from cache_actors.storage.files import write_ahead_log
from cache_actors.storage.files.folders import (
    IDENTITY_BYTES,
    identity_of,
    is_same_folder,
    opened_folder,
)
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.files.write_ahead_log import (
    BLOCK_BYTES,
    DAMAGED,
    LogRecord,
    WriteAheadLog,
    abandoned_logs,
    can_log,
    checkpoint,
    needs_recovery,
    read,
    read_at,
)
from cache_actors.storage.layout import LOGS
from tests.storage.stores import STORED, fail, number_of, refusing
from tests.support.waiting import eventually

SEGMENT = 64 << 10


class Disk:
    """The one call that the C library is used for.

    Attributes:
        syncs: how often all has been synced.
        descriptors: those of the file system by which it was.
        failing: how many of the next ones fail.
    """

    def __init__(self) -> None:
        self.syncs = self.failing = 0
        self.descriptors: set[int] = set()

    def syncfs(self, fd: int) -> int:
        self.descriptors.add(fd)
        self.syncs += 1
        self.failing -= 1
        return -1 if self.failing >= 0 else 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(write_ahead_log, "_libc", disk)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EIO)
    monkeypatch.setattr(write_ahead_log, "SEGMENT_BYTES", SEGMENT)
    return disk


@pytest.fixture
def recovered() -> list[Path]:
    """The logs that had to be recovered."""
    return []


@pytest.fixture
def log(root: Path, disk: Disk, recovered: list[Path]) -> Iterator[WriteAheadLog]:
    log = WriteAheadLog(root, lambda _: None, recovered.append)
    yield log
    log.close()


def record(name: str, size: int = 100) -> LogRecord:
    data = name.encode().ljust(size, b".")
    digest = hashlib.sha256(data).digest()
    return LogRecord(
        f"acme/app/cas/AA/{name}", 7, b"p" * IDENTITY_BYTES, digest, [data[:9], data[9:]]
    )


def folders(root: Path) -> list[Path]:
    return sorted((root / LOGS).iterdir())


def open_logs(root: Path) -> Iterator[Path]:
    """The files of logs that this process has open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_symlink() and descriptor.readlink().parent.parent == root / LOGS:
            yield descriptor.readlink()


def is_at_rest(log: WriteAheadLog, root: Path) -> bool:
    """Whether the log has closed its files, as it does when it has nothing to do."""
    log.checkpoint_if_old()
    return not list(open_logs(root))


def names_in(root: Path) -> list[str]:
    """The names of what the logs hold, as recovery would find them."""
    found = [each for folder in folders(root) for each in read(folder)]
    for position, record in found:
        with position.segment.open("rb") as segment:
            assert read_at(position, segment) == record
    return [Path(record.place).name for _, record in found]


def test_log_is_read_as_it_was_written(log: WriteAheadLog, root: Path) -> None:
    written = [record("a"), record("b", 10_000), record("ü" * 30)]
    log.append(written[:2])
    log.append(written[2:])
    (folder,) = folders(root)
    for (_, one), other in zip(read(folder), written, strict=True):
        assert (one.place, one.time, one.project) == (other.place, other.time, other.project)
        assert b"".join(one.pieces) == b"".join(other.pieces)


@pytest.mark.parametrize("what", ["head", "place", "data"])
def test_log_ends_before_a_record_that_is_torn(log: WriteAheadLog, root: Path, what: str) -> None:
    for name in "abc":
        log.append([record(name)])
    (folder,) = folders(root)
    at = {"head": 9, "place": 85, "data": 150}[what]
    with (folder / "1").open("r+b") as file:
        file.seek(2 * BLOCK_BYTES + at)
        file.write(b"\xff")
    assert names_in(root) == ["a"]


def test_batch_overwrites_no_block_that_an_earlier_one_has_synced(
    log: WriteAheadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    really_write = os.pwritev

    def write(fd: int, views: Any, at: int) -> int:
        written.append((at, at + sum(map(len, views))))
        return really_write(fd, views, at)

    monkeypatch.setattr(os, "pwritev", write)
    for name in "abc":
        log.append([record(name)])
    blocks = [range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)) for start, end in written]
    assert all(one.stop <= other.start for one, other in itertools.pairwise(blocks))


def test_batch_whose_sync_failed_is_overwritten_by_the_next(
    log: WriteAheadLog, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([record("a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _failing)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            log.append([record("b"), record("c")])
    log.append([record("d")])
    assert names_in(root)[:2] == ["a", "d"]
    assert "b" not in names_in(root)


def _failing(_fd: int) -> None:
    raise fail(errno.EIO)


def test_full_segment_is_void_after_its_checkpoint(
    log: WriteAheadLog, root: Path, disk: Disk
) -> None:
    size = SEGMENT // 2
    log.append([record("a", size)])
    assert disk.syncs == 0
    log.append([record("b", size)])  # does not fit beside the other
    eventually(lambda: names_in(root) == ["b"])
    assert disk.syncs == 1
    log.append([record("c", size)])
    eventually(lambda: names_in(root) == ["c"])


def test_batch_larger_than_a_segment_is_logged(log: WriteAheadLog, root: Path) -> None:
    log.append([record("a", 3 * SEGMENT)])
    log.append([record("b")])
    eventually(lambda: names_in(root) == ["b"])


def test_old_records_are_checkpointed_when_there_is_nothing_to_do(
    log: WriteAheadLog, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([record("a")])
    log.checkpoint_if_old()
    assert disk.syncs == 0
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    log.checkpoint_if_old()
    eventually(lambda: names_in(root) == [])
    assert disk.syncs == 1


def test_new_folder_that_another_process_takes_for_an_abandoned_one_is_left_to_it(
    log: WriteAheadLog, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process makes a checkpoint, and finds a folder which its owner has not locked yet."""
    make, taken = Path.mkdir, ExitStack()

    def make_and_lose(path: Path, *arguments: Any, **how: Any) -> None:
        make(path, *arguments, **how)
        if path.parent.name == LOGS:
            monkeypatch.setattr(Path, "mkdir", make)
            assert list(abandoned_logs(root, taken)) == [path]

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    with taken:
        log.append([record("a")])
        assert names_in(root) == ["a"]


def test_log_that_rests_holds_no_file_open_for_writing(
    log: WriteAheadLog, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its file system can be made read-only."""

    log.append([record("a")])
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    eventually(lambda: is_at_rest(log, root))
    log.append([record("b")])
    assert names_in(root) == ["b"]


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("rests", [False, True])
def test_log_that_recovery_would_not_find_any_more_is_made_anew(
    log: WriteAheadLog,
    root: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    is_moved: bool,
    rests: bool,
) -> None:
    """What it has is put on the disk first, as a power cut would take it otherwise."""
    log.append([record("a")])
    if rests:
        with monkeypatch.context() as patch:
            patch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
            eventually(lambda: is_at_rest(log, root))
    syncs = disk.syncs
    if is_moved:
        (root / LOGS).rename(root / "moved")
    else:
        shutil.rmtree(root / LOGS)
    log.append([record("b")])
    assert names_in(root) == ["b"]
    assert disk.syncs == syncs + 1
    log.append([record("c")])
    assert names_in(root) == ["b", "c"]


def test_checkpoint_of_a_removed_log_that_fails_costs_one_batch(
    log: WriteAheadLog, root: Path, disk: Disk
) -> None:
    log.append([record("a")])
    shutil.rmtree(root / LOGS)
    disk.failing = 1
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.append([record("b")])
    log.mend()
    log.append([record("c")])
    assert names_in(root) == ["c"]


def test_log_that_its_owner_removes_meanwhile_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = root / LOGS / ("0" * 32)
    gone.parent.mkdir()
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    with ExitStack() as locks:
        assert list(abandoned_logs(root, locks)) == []


def test_what_is_no_folder_is_no_log(root: Path) -> None:
    (root / LOGS).mkdir()
    (root / LOGS / ("0" * 32)).touch()
    (root / LOGS / ("1" * 32)).symlink_to(root)
    with ExitStack() as locks:
        assert list(abandoned_logs(root, locks)) == []


def test_failed_checkpoint_costs_one_batch_and_has_the_log_recovered_before_the_next(
    log: WriteAheadLog, root: Path, disk: Disk, recovered: list[Path]
) -> None:
    """What the kernel could not write once it believes to have written the next time."""
    size = SEGMENT // 2
    disk.failing = 1
    log.append([record("a", size)])
    log.append([record("b", size)])
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.append([record("c", size)])
    (left,) = folders(root)
    assert (left / DAMAGED).exists()
    assert names_in(root) == ["a", "b"]
    assert recovered == []
    log.mend()
    log.append([record("d")])
    assert recovered == [left]
    assert names_in(root).count("d") == 1


def test_log_that_cannot_be_recovered_takes_nothing(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []

    def recover(folder: Path) -> None:
        tries.append(folder)
        if len(tries) == 1:
            raise fail(errno.ENOSPC)

    log = WriteAheadLog(root, lambda _: None, recover)
    disk.failing = 1
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    log.append([record("a")])
    log.append([record("b")])
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.append([record("c")])
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        log.mend()
    for _ in range(2):
        log.mend()
    log.append([record("d")])
    assert len(tries) == 2
    log.close()


def test_checkpoint_removes_the_logs_of_the_dead_and_no_others(
    log: WriteAheadLog, root: Path, disk: Disk
) -> None:
    log.append([record("a")])
    dead = WriteAheadLog(root, lambda _: None, lambda _: None)
    dead.append([record("b")])
    assert dead._open is not None
    dead._open.release()
    damaged = WriteAheadLog(root, lambda _: None, lambda _: None)
    damaged.append([record("c")])
    assert damaged._open is not None
    (damaged._open.folder / DAMAGED).touch()
    damaged._open.release()
    with opened_folder(root) as file_system:
        checkpoint(root, file_system)
    assert sorted(names_in(root)) == ["a", "c"]
    with ExitStack() as locks:
        assert list(abandoned_logs(root, locks)) == [damaged._open.folder]


def test_file_system_is_open_from_before_the_first_file_for_all_checkpoints(
    log: WriteAheadLog, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it reports to each log what could not be written, though another has heard it."""
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    log.append([record("a")])
    links = {fd: Path(f"/proc/self/fd/{fd}") for fd in range(256)}
    opened = {fd for fd, link in links.items() if link.is_symlink() and link.readlink() == root}
    for name in "bcd":
        log.append([record(name)])
    eventually(lambda: disk.syncs == 3)
    assert len(disk.descriptors) == 1
    assert disk.descriptors <= opened


def test_failed_checkpoint_says_so_of_the_logs_of_the_dead_too(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one may hear nothing of it, and would remove them."""
    dead = WriteAheadLog(root, lambda _: None, lambda _: None)
    dead.append([record("a")])
    assert dead._open is not None
    dead._open.release()
    disk.failing = 1
    for expected in (pytest.raises(OSError, match=os.strerror(errno.EIO)), nullcontext()):
        with expected, opened_folder(root) as file_system:
            checkpoint(root, file_system)
    assert names_in(root) == ["a"]
    assert needs_recovery(dead._open.folder)


def test_log_of_a_failed_checkpoint_is_not_abandoned_before_it_is_recovered(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be noted in it, another process might take it for a sound one."""

    def recover(folder: Path) -> None:
        with ExitStack() as locks:
            assert list(abandoned_logs(root, locks)) == [folder]

    log = WriteAheadLog(root, lambda _: None, recover)
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    monkeypatch.setattr(write_ahead_log, "_note_damage", lambda _: None)
    disk.failing = 1
    log.append([record("a")])
    log.append([record("b")])
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        log.append([record("c")])
    with ExitStack() as locks:
        assert list(abandoned_logs(root, locks)) == []
    log.mend()
    log.append([record("d")])
    log.close()


def test_log_that_cannot_be_read_is_left_to_recovery_which_fails(
    log: WriteAheadLog, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([record("a")])
    (folder,) = folders(root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing(errno.EIO))
        assert needs_recovery(folder)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            list(read(folder))
    assert not needs_recovery(folder)


def test_end_removes_the_log(root: Path, disk: Disk) -> None:
    log = WriteAheadLog(root, lambda _: None, lambda _: None)
    log.append([record("a")])
    log.close()
    assert folders(root) == []
    assert disk.syncs == 1


def test_log_that_was_never_needed_is_not_made(root: Path, disk: Disk) -> None:
    log = WriteAheadLog(root, lambda _: None, lambda _: None)
    log.checkpoint_if_old()
    log.close()
    assert not (root / LOGS).exists()


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", True), ("fuse.sshfs", False), ("overlay", False)]
)
def test_log_is_used_where_one_call_is_known_to_sync_all(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: bool
) -> None:
    monkeypatch.setattr(write_ahead_log, "file_system_at", lambda _: kind)
    assert can_log(root) is expected


def test_folder_that_is_made_again_is_another(root: Path) -> None:
    folder = root / "acme" / "app"
    assert identity_of(folder) == b""
    folder.mkdir(parents=True)
    plain = identity_of(folder)
    os.setxattr(folder, "user.cache_actors.folder", b"12345678")
    known = identity_of(folder)
    assert is_same_folder(plain, known)  # it has got its number since
    assert not is_same_folder(known, plain)
    assert not is_same_folder(known, b"")
    assert not is_same_folder(bytes(IDENTITY_BYTES), known)  # there was none


def test_folder_that_goes_while_it_is_looked_at_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getxattr", refusing(errno.ENOENT))
    assert identity_of(root) == b""


@pytest.mark.parametrize("looks", [0, 1], ids=["before the log", "after it"])
def test_project_whose_folder_cannot_be_looked_at_costs_only_its_own_files(
    log: WriteAheadLog,
    root: Path,
    temporary: TemporaryFolder,
    monkeypatch: pytest.MonkeyPatch,
    looks: int,
) -> None:
    left = looks

    def identity(project: str) -> bytes:
        nonlocal left
        if project.endswith("broken"):
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return identity_of(project)

    monkeypatch.setattr(file_store, "identity_of", identity)
    store = FileStore(root, temporary, durable=True, log=log)
    batch = [
        Publication(f"{root}/acme/{project}/cas/AA/AA", [b"x"])
        for project in ("app", "broken", "other")
    ]
    first, failed, last = store.publish(batch)
    assert (first, last) == (STORED, STORED)
    assert number_of(failed) == errno.EIO
    assert [Path(item.path).exists() for item in batch] == [True, False, True]
