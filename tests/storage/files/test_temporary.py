"""Temporary files, and folders of them that never outlive their owner for long."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.storage.files.temporary import (
    MAX_LIFE_SECONDS,
    TemporaryFile,
    TemporaryFolder,
    sweep,
)
from cache_actors.storage.integrity.checksum import StoredChecksum, read_checksum
from tests.storage.stores import open_descriptors, refuse_anonymous_files, refusing
from tests.support.mounts import tmpfs

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "storage" / ".tmp"


@pytest.fixture
def folder(parent: Path) -> Iterator[TemporaryFolder]:
    folder = TemporaryFolder(parent)
    yield folder
    folder.remove()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content_of(file: TemporaryFile) -> bytes:
    return os.pread(file._fd, 1 << 24, 0)


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


# Folders and their owners.


def test_folder_is_made_with_its_parents_and_closed_to_others(parent: Path) -> None:
    folder = TemporaryFolder(parent)
    assert folder.path.parent == parent
    assert mode_of(folder.path) & 0o007 == 0
    folder.remove()


def test_owners_live_side_by_side(parent: Path) -> None:
    owners = [TemporaryFolder(parent) for _ in range(3)]
    assert len({owner.path for owner in owners}) == 3
    assert all(owner.path.is_dir() for owner in owners)
    owners[1].remove()
    assert [owner.path.is_dir() for owner in owners] == [True, False, True]
    for owner in owners[::2]:
        owner.create(named=True).discard()
        owner.remove()


def test_folder_of_a_living_owner_is_left_alone(parent: Path) -> None:
    owner = TemporaryFolder(parent)
    file = owner.create(named=True)
    before = open_descriptors()
    sweep(parent)
    assert open_descriptors() <= before
    assert file.path is not None
    assert file.path.exists()
    file.discard()
    owner.remove()


def test_folder_without_an_owner_is_removed_with_all_in_it(parent: Path) -> None:
    left = parent / "cache-actors-0123456789abcdef0123456789abcdef"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half a file")
    before = open_descriptors()
    sweep(parent)
    assert list(parent.iterdir()) == []
    assert open_descriptors() <= before


def test_new_owner_sweeps_first(parent: Path) -> None:
    (parent / ("cache-actors-" + "0" * 32)).mkdir(parents=True)
    folder = TemporaryFolder(parent)
    assert list(parent.iterdir()) == [folder.path]
    folder.remove()


@pytest.mark.parametrize("name", ["file", "cache-actors-file"])
def test_files_beside_the_folders_are_left_alone(parent: Path, name: str) -> None:
    parent.mkdir(parents=True)
    (parent / name).write_bytes(b"not ours")
    sweep(parent)
    assert (parent / name).read_bytes() == b"not ours"


def test_folder_that_is_no_temporary_folder_is_left_alone(parent: Path) -> None:
    (parent / "somebody's" / "work").mkdir(parents=True)
    sweep(parent)
    assert (parent / "somebody's" / "work").exists()


def test_folder_behind_a_link_is_left_alone(parent: Path, tmp_path: Path) -> None:
    parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"not ours")
    (parent / "cache-actors-link").symlink_to(tmp_path / "elsewhere")
    sweep(parent)
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"not ours"


def test_remove_leaves_nothing_and_closes_the_lock(parent: Path) -> None:
    folder = TemporaryFolder(parent)
    folder.create(named=True)
    folder.remove()
    assert list(parent.iterdir()) == []
    assert not is_open(folder._lock._fd)


def own_a_folder(parent: str, pipe: Connection) -> None:
    """What another process does: own a folder with a file in it until it is killed."""
    folder = TemporaryFolder(Path(parent))
    folder.create(named=True).write([b"half a file"])
    pipe.send(str(folder.path))
    pipe.recv()


def test_folder_is_swept_once_its_owner_was_killed(parent: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    owner = SPAWN.Process(target=own_a_folder, args=(str(parent), theirs), daemon=True)
    owner.start()
    theirs.close()  # so that receiving fails when the process is gone
    try:
        path = Path(ours.recv())
        sweep(parent)
        assert (path / "0").read_bytes() == b"half a file"
    finally:
        owner.kill()
        owner.join()
        ours.close()
    assert path.exists()
    sweep(parent)
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("how", ["swept before it is locked", "being swept"])
def test_owner_who_loses_its_new_folder_to_a_sweep_makes_another(
    parent: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    really_lock = fcntl.flock
    lost: list[Path] = []

    def lock(fd: int, operation: int) -> None:
        if lost:
            return really_lock(fd, operation)
        lost.append(Path(f"/proc/self/fd/{fd}").readlink())
        lost[0].rmdir()
        if how == "being swept":
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return really_lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    folder = TemporaryFolder(parent)
    assert folder.path not in lost
    sweep(parent)
    assert list(parent.iterdir()) == [folder.path]
    folder.remove()


# Files.


def test_anonymous_file_cannot_be_found(folder: TemporaryFolder) -> None:
    file = folder.create()
    file.write([b"abc"])
    assert file.path is None
    assert list(folder.path.iterdir()) == []
    assert content_of(file) == b"abc"
    file.discard()


def test_named_files_lie_in_the_folder_each_under_its_own_name(folder: TemporaryFolder) -> None:
    files = [folder.create(named=True) for _ in range(3)]
    assert {file.path for file in files} == set(folder.path.iterdir())
    assert len(set(folder.path.iterdir())) == 3
    for file in files:
        file.discard()
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("named", [True, False])
def test_file_has_its_mode_whatever_the_umask(folder: TemporaryFolder, named: bool) -> None:
    umask = os.umask(0o077)
    try:
        file = folder.create(named=named)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.fstat(file._fd).st_mode) == 0o640
    file.discard()


@pytest.mark.parametrize("named", [True, False])
def test_discarded_file_is_closed_and_gone(folder: TemporaryFolder, named: bool) -> None:
    file = folder.create(named=named)
    fd = file._fd
    file.discard()
    file.discard()
    assert not is_open(fd)
    assert list(folder.path.iterdir()) == []


def test_discarding_a_renamed_file_leaves_its_new_name(
    folder: TemporaryFolder, tmp_path: Path
) -> None:
    file = folder.create(named=True)
    file.write([b"abc"])
    file.rename(tmp_path / "target")
    file.discard()
    assert (tmp_path / "target").read_bytes() == b"abc"
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("named", [True, False])
def test_link_gives_a_name_that_stays(folder: TemporaryFolder, tmp_path: Path, named: bool) -> None:
    file = folder.create(named=named)
    file.write([b"abc"])
    file.link(tmp_path / "target")
    file.discard()
    assert (tmp_path / "target").read_bytes() == b"abc"


@pytest.mark.parametrize("named", [True, False])
def test_link_never_takes_a_name_that_is_taken(
    folder: TemporaryFolder, tmp_path: Path, named: bool
) -> None:
    (tmp_path / "target").write_bytes(b"first")
    file = folder.create(named=named)
    file.write([b"second"])
    with pytest.raises(FileExistsError):
        file.link(tmp_path / "target")
    file.discard()
    assert (tmp_path / "target").read_bytes() == b"first"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_file_has_a_name_where_anonymous_ones_are_not_supported(
    folder: TemporaryFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tries = refuse_anonymous_files(monkeypatch, number)
    files = [folder.create() for _ in range(3)]
    assert {file.path for file in files} == set(folder.path.iterdir())
    assert len(tries) == 1
    for file in files:
        file.discard()


def test_other_failures_are_not_taken_for_lack_of_support(folder: TemporaryFolder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        refuse_anonymous_files(patch, errno.ENOSPC)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            folder.create()
    file = folder.create()
    assert file.path is None
    file.discard()


# Writing.


@pytest.fixture
def file() -> Iterator[TemporaryFile]:
    file = TemporaryFile(os.memfd_create("file"), None)
    yield file
    file.discard()


def writing(most: Callable[[], int]) -> Callable[[int, Sequence[bytes]], int]:
    """An `os.writev` that writes at most so many bytes at a time."""

    def writev(fd: int, buffers: Sequence[bytes]) -> int:
        return os.write(fd, b"".join(buffers)[: most()])

    return writev


@given(
    st.lists(st.binary(max_size=6), max_size=6),
    st.lists(st.integers(1, 8), min_size=1),
)
def test_interrupted_writes_are_continued_where_they_stopped(
    chunks: list[bytes], sizes: list[int]
) -> None:
    file = TemporaryFile(os.memfd_create("file"), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", writing(lambda: sizes[file.size % len(sizes)]))
        file.write(chunks)
        file.write(chunks)
    assert content_of(file) == b"".join(chunks * 2)
    assert file.size == len(b"".join(chunks * 2))
    file.discard()


def test_more_chunks_than_one_call_takes_are_written(file: TemporaryFile) -> None:
    chunks = [bytes([number % 256]) * 3 for number in range(2500)]
    file.write(chunks)
    assert content_of(file) == b"".join(chunks)
    assert file.size == 7500


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
def test_writing_nothing_writes_nothing(file: TemporaryFile, chunks: list[bytes]) -> None:
    file.write(chunks)
    assert file.size == 0
    assert content_of(file) == b""


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (2 << 20) + 7])
def test_copy_has_all_of_its_source(file: TemporaryFile, size: int) -> None:
    source = TemporaryFile(os.memfd_create("source"), None)
    source.write([os.urandom(size)])
    file.copy_from(source)
    assert content_of(file) == content_of(source)
    assert file.size == size
    source.discard()


def test_folder_that_somebody_has_removed_is_made_again(parent: Path) -> None:
    folder = TemporaryFolder(parent)
    shutil.rmtree(parent)
    for named in False, True:
        folder.create(named=named).discard()
    assert list(parent.iterdir()) == [folder.path]
    folder.remove()


# Room, records and digests.


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_digest_is_that_of_all_that_was_written(chunks: list[bytes]) -> None:
    file = TemporaryFile(os.memfd_create("file"), None)
    for chunk in chunks:
        file.write([chunk])
    file.write(chunks)
    assert file.digest() == hashlib.sha256(b"".join(chunks * 2)).digest()
    file.discard()


@pytest.mark.parametrize(("reserved", "size"), [(1000, 10), (10, 10), (10, 1000), (1000, 0)])
@pytest.mark.parametrize("named", [True, False])
def test_sealed_file_ends_where_its_bytes_end_and_says_what_they_are(
    folder: TemporaryFolder, tmp_path: Path, reserved: int, size: int, named: bool
) -> None:
    content = os.urandom(size)
    file = folder.create(named=named)
    file.reserve(reserved)
    file.write([content])
    file.seal()
    file.link(tmp_path / "target")
    file.discard()
    assert (tmp_path / "target").read_bytes() == content
    assert read_checksum(tmp_path / "target") == StoredChecksum(
        hashlib.sha256(content).digest(), size
    )


def test_room_is_really_set_aside(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=4m") as parent:
        folder = TemporaryFolder(parent)
        file, other = folder.create(), folder.create()
        file.reserve(3 << 20)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            other.reserve(2 << 20)
        other.discard()
        file.write([bytes(3 << 20)])
        file.discard()
        again = folder.create()
        again.reserve(2 << 20)
        again.discard()
        folder.remove()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_disk_that_cannot_set_room_aside_is_written_to_all_the_same(
    folder: TemporaryFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refusing(number))
    file = folder.create()
    file.reserve(1000)
    file.write([b"abc"])
    file.seal()
    file.link(tmp_path / "target")
    file.discard()
    assert (tmp_path / "target").read_bytes() == b"abc"


def change(fd: int) -> None:
    os.pwrite(fd, b"?", 5)


def cut(fd: int) -> None:
    os.ftruncate(fd, 5)


def test_copy_of_what_is_not_as_it_was_written_fails() -> None:
    for damage in (change, cut):
        source = TemporaryFile(os.memfd_create("source"), None)
        source.write([b"0123456789"])
        damage(source._fd)
        copy = TemporaryFile(os.memfd_create("copy"), None)
        with pytest.raises(OSError, match="not as it was written") as caught:
            copy.copy_from(source)
        assert caught.value.errno == errno.EIO
        copy.discard()
        source.discard()


def test_copy_leaves_out_room_that_was_set_aside(file: TemporaryFile) -> None:
    source = TemporaryFile(os.memfd_create("source"), None)
    source.reserve(1 << 16)
    source.write([b"abc"])
    file.copy_from(source)
    assert content_of(file) == b"abc"
    source.discard()


# What is left behind.


def test_file_that_nobody_has_written_to_for_long_is_removed(folder: TemporaryFolder) -> None:
    old, recent = folder.create(named=True), folder.create(named=True)
    assert old.path is not None
    assert recent.path is not None
    now = time.time()
    os.utime(old.path, (now, now - MAX_LIFE_SECONDS - 60))
    os.utime(recent.path, (now, now - MAX_LIFE_SECONDS + 60))
    before = open_descriptors()
    folder.sweep()
    assert list(folder.path.iterdir()) == [recent.path]
    assert open_descriptors() <= before
    for file in (old, recent):
        file.discard()


def test_sweep_of_a_folder_removes_those_of_others_too(
    parent: Path, folder: TemporaryFolder
) -> None:
    (parent / ("cache-actors-" + "0" * 32)).mkdir()
    folder.sweep()
    assert list(parent.iterdir()) == [folder.path]


def test_name_that_cannot_be_removed_is_left_to_the_sweep(
    folder: TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder.create(named=True)
    fd, path = file._fd, file.path
    assert path is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing(errno.EIO))
        file.discard()
    assert not is_open(fd)
    os.utime(path, (0, 0))
    folder.sweep()
    assert list(folder.path.iterdir()) == []


def test_folder_that_cannot_be_made_again_closes_nobody_elses_file(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TemporaryFolder(parent)
    shutil.rmtree(parent)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refusing(errno.ENOSPC))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            folder.create()
    another = os.open("/dev/null", os.O_RDONLY)  # gets the number that was just freed
    try:
        folder.create().discard()
        assert Path(f"/proc/self/fd/{another}").readlink() == Path("/dev/null")
    finally:
        with suppress(OSError):
            os.close(another)
        folder.remove()
