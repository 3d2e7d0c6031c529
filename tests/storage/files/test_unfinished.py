"""Unfinished uploads: parts become the artifact whole, or are nothing."""

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.kinds import Kind
from cache_actors.storage.errors import NoRoom, Shortage
from cache_actors.storage.files import unfinished
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.files.unfinished import (
    ModuleTooLarge,
    TooManyUploads,
    UnfinishedUploads,
    UnknownUpload,
    WrongParts,
)
from cache_actors.storage.integrity.checksum import read_checksum
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.locks import FolderLock
from tests.storage.stores import EXISTS, STORED, files_below
from tests.support.stored import APP, LIB

PART = 8
KEY = Key(APP, Kind.MODULE, "ab" * 32)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "MAX_PART_BYTES", PART)


@pytest.fixture
def uploads(store: FileStore, temporary: TemporaryFolder) -> UnfinishedUploads:
    return UnfinishedUploads(store, temporary)


@pytest.fixture
def place(root: Path) -> Path:
    """Where the artifact of `KEY` lies."""
    return KEY.path(root)


def folder_of(store: FileStore, upload: str) -> Path:
    (folder,) = (store.root / TEMPORARY).glob(f"*/*.{upload}")
    return folder


def begun(uploads: UnfinishedUploads, *parts: bytes, key: Key = KEY) -> str:
    """An upload of which these parts have come."""
    upload_id = uploads.start(key)
    for number, part in enumerate(parts, 1):
        uploads.put(upload_id, key.project, number, [part])
    return upload_id


def published(
    store: FileStore, uploads: UnfinishedUploads, upload_id: str, *numbers: int, end: bool = False
) -> object:
    """The outcome of publishing those parts; without the `end`, as if the process had died."""
    with uploads.open(upload_id, APP) as upload:
        file = upload.assembled(numbers)
        try:
            (outcome,) = store.publish(
                [Publication(str(upload.key.path(store.root)), store.prepare(file))]
            )
            if end:
                upload.finish(file)
        finally:
            file.discard()
    return outcome


def assembled(uploads: UnfinishedUploads, upload: str, numbers: list[int]) -> bytes:
    """The bytes that the parts make; they stay unfinished."""
    with uploads.open(upload, APP) as opened:
        file = opened.assembled(numbers)
        try:
            return os.pread(file._fd, file.size + 1, 0)
        finally:
            file.discard()


@pytest.mark.usefixtures("small_parts")
@given(parts=st.lists(st.tuples(st.integers(1, 5), st.binary(min_size=1, max_size=PART))))
def test_last_of_each_part_counts_whatever_the_order(parts: list[tuple[int, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        temporary = TemporaryFolder(root / TEMPORARY)
        uploads = UnfinishedUploads(FileStore(root, temporary, durable=False), temporary)
        upload = uploads.start(KEY)
        for number, data in parts:
            uploads.put(upload, APP, number, [data[:3], data[3:]])
        expected = dict(parts)
        numbers = list(expected)
        if sorted(numbers) == list(range(1, len(numbers) + 1)) and numbers:
            content = b"".join(expected[number] for number in sorted(numbers))
            assert assembled(uploads, upload, numbers) == content
        else:
            with pytest.raises(WrongParts):
                assembled(uploads, upload, numbers)
        temporary.remove()


def test_artifact_of_full_parts_is_linked_and_not_copied(
    store: FileStore, uploads: UnfinishedUploads, temporary: TemporaryFolder
) -> None:
    upload = uploads.start(KEY)
    large = temporary.create()
    large.write([b"a" * PART])
    uploads.put(upload, APP, 1, large)
    large.discard()
    uploads.put(upload, APP, 2, [b"b" * PART])
    uploads.put(upload, APP, 2, [b"b"])
    inode = (folder_of(store, upload) / "data").stat().st_ino
    assert published(store, uploads, upload, 1, 2, end=True) is STORED
    path = KEY.path(store.root)
    assert path.read_bytes() == b"a" * PART + b"b"
    assert path.stat().st_ino == inode
    record = read_checksum(path)
    assert record is None or record.size == PART + 1
    assert path.stat().st_nlink == 1
    (left,) = folder_of(store, upload).iterdir()
    assert left.stat().st_size == 0
    with pytest.raises(UnknownUpload):
        uploads.put(upload, APP, 1, [b"again"])


def test_file_of_odd_parts_that_cannot_be_written_costs_none_of_them(
    uploads: UnfinishedUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begun(uploads, b"11111", b"22222", b"33333")
    written = iter([None])

    def fail(*_: object) -> None:
        next(written)

    with monkeypatch.context() as patch:
        patch.setattr(TemporaryFile, "write", fail)
        with pytest.raises(StopIteration):
            assembled(uploads, upload, [1, 2, 3])
    uploads.put(upload, APP, 2, [b"222"])
    assert assembled(uploads, upload, [1, 2, 3]) == b"1111122233333"
    assert assembled(uploads, upload, [1, 2, 3]) == b"1111122233333"


def test_complete_upload_is_remembered_with_its_parts_and_its_digest(
    uploads: UnfinishedUploads, store: FileStore
) -> None:
    upload_id = begun(uploads, b"12345678", b"9")
    with pytest.raises(UnknownUpload):
        uploads.completed(upload_id, APP, [1, 2])
    published(store, uploads, upload_id, 1, 2, end=True)
    assert uploads.completed(upload_id, APP, [2, 1]) == hashlib.sha256(b"123456789").digest()
    for numbers in (), (1,), (1, 1), (1, 2, 3):
        with pytest.raises(WrongParts):
            uploads.completed(upload_id, APP, numbers)
    with pytest.raises(UnknownUpload):
        uploads.completed(upload_id, LIB, [1, 2])
    with pytest.raises(UnknownUpload):
        uploads.open(upload_id, APP)
    os.utime(folder_of(store, upload_id), (0, 0))
    uploads.sweep()
    with pytest.raises(UnknownUpload):
        uploads.completed(upload_id, APP, [1, 2])


def test_part_that_fails_half_way_does_not_count(
    uploads: UnfinishedUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.start(KEY)
    uploads.put(upload, APP, 1, [b"before"])

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fail)
        with pytest.raises(OSError, match="disk failed"):
            uploads.put(upload, APP, 1, [b"after"])
    with pytest.raises(WrongParts):
        assembled(uploads, upload, [1])


def test_part_that_came_while_the_upload_was_removed_is_of_no_upload(
    uploads: UnfinishedUploads, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = begun(uploads, b"part")

    def removed_meanwhile(folder: Path) -> FolderLock:
        lock = FolderLock(folder)
        shutil.rmtree(folder)
        return lock

    monkeypatch.setattr(unfinished, "FolderLock", removed_meanwhile)
    with pytest.raises(UnknownUpload):
        uploads.put(upload_id, APP, 2, [b"part"])


# A process that dies at the end of an upload, before it has noted that it was the end.


ends = pytest.mark.parametrize(
    "parts", [(b"12345678", b"9"), (b"12", b"3456")], ids=["full", "odd"]
)


@ends
def test_part_that_comes_after_such_an_end_leaves_the_artifact_alone(
    uploads: UnfinishedUploads, store: FileStore, place: Path, parts: tuple[bytes, ...]
) -> None:
    upload_id = begun(uploads, *parts)
    assert published(store, uploads, upload_id, 1, 2) is STORED
    with suppress(UnknownUpload):
        uploads.put(upload_id, APP, 1, [b"xxxx"])
    assert place.read_bytes() == b"".join(parts)


@ends
def test_such_an_end_can_be_repeated(
    uploads: UnfinishedUploads, store: FileStore, place: Path, parts: tuple[bytes, ...]
) -> None:
    upload_id = begun(uploads, *parts)
    assert published(store, uploads, upload_id, 1, 2) is STORED
    before = place.stat().st_mtime_ns
    assert published(store, uploads, upload_id, 1, 2) is EXISTS
    assert (place.read_bytes(), place.stat().st_mtime_ns) == (b"".join(parts), before)


def test_upload_of_what_another_has_stored_is_not_taken_for_it(
    uploads: UnfinishedUploads, store: FileStore, place: Path
) -> None:
    first, second = begun(uploads, b"1234"), begun(uploads, b"abcd")
    assert published(store, uploads, first, 1) is STORED
    uploads.put(second, APP, 2, [b"ef"])
    assert published(store, uploads, second, 1, 2) is EXISTS
    assert place.read_bytes() == b"1234"


@ends
def test_upload_whose_end_has_failed_can_be_tried_again(
    uploads: UnfinishedUploads, store: FileStore, place: Path, parts: tuple[bytes, ...]
) -> None:
    upload_id = begun(uploads, *parts)
    with uploads.open(upload_id, APP) as upload:
        upload.assembled([1, 2]).discard()  # and then, say, the digest is wrong
    assert published(store, uploads, upload_id, 1, 2) is STORED
    assert place.read_bytes() == b"".join(parts)


def test_wrong_numbers_change_nothing(uploads: UnfinishedUploads, root: Path) -> None:
    upload_id = begun(uploads, b"12", b"34")
    before = files_below(root)
    for numbers in (), (1,), (1, 1, 2), (0, 1), (1, 2, 3):
        with uploads.open(upload_id, APP) as upload, pytest.raises(WrongParts):
            upload.assembled(numbers)
    assert files_below(root) == before


def test_others_know_nothing_of_it(uploads: UnfinishedUploads) -> None:
    upload = uploads.start(KEY)
    for name, project in (upload, LIB), (str(uuid4()), APP), ("../x", APP), ("", APP):
        with pytest.raises(UnknownUpload):
            uploads.put(name, project, 1, [b"part"])
    assert uploads.key(upload, APP) == KEY
    assert uploads.key(upload.upper(), APP) == KEY


def test_upload_that_was_begun_before_the_last_boot_is_unknown(
    store: FileStore, uploads: UnfinishedUploads
) -> None:
    """What a power cut may have torn is not looked at."""
    upload = uploads.start(KEY)
    uploads.put(upload, APP, 1, [b"part"])
    folder = folder_of(store, upload)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    folder.rename(folder.with_name(folder.name.replace(boot, str(uuid4())[:8])))
    with pytest.raises(UnknownUpload):
        uploads.open(upload, APP)


def test_idle_uploads_are_swept_and_others_stay(
    store: FileStore, uploads: UnfinishedUploads
) -> None:
    idle, recent, used = (uploads.start(KEY) for _ in range(3))
    folder = folder_of(store, idle)
    for upload in idle, used:
        os.utime(folder_of(store, upload), (0, 0))
    with uploads.open(used, APP):
        os.utime(folder_of(store, used), (0, 0))
        uploads.sweep()
    assert not folder.exists()
    for upload in recent, used:
        assert uploads.key(upload, APP) == KEY
    with pytest.raises(UnknownUpload):
        uploads.open(idle, APP)


def test_sweep_of_a_process_that_is_gone_leaves_uploads_to_the_others(
    root: Path, store: FileStore, uploads: UnfinishedUploads
) -> None:
    upload = uploads.start(KEY)
    another = TemporaryFolder(root / TEMPORARY)
    another.sweep()
    another.remove()
    assert uploads.key(upload, APP) == KEY


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "MAX_UPLOADS", 3)
    monkeypatch.setattr(unfinished, "MAX_PROJECT_UPLOADS", 2)
    monkeypatch.setattr(unfinished, "MAX_MODULE_BYTES", 20)


@pytest.mark.usefixtures("few")
def test_uploads_are_limited_in_number_by_project_and_together(uploads: UnfinishedUploads) -> None:
    for _ in range(2):
        uploads.start(KEY)
    with pytest.raises(TooManyUploads):
        uploads.start(KEY)
    uploads.start(Key(LIB, Kind.MODULE, KEY.id))
    with pytest.raises(TooManyUploads):
        uploads.start(Key(Project("other", "app"), Kind.MODULE, KEY.id))


@pytest.mark.usefixtures("few")
def test_complete_uploads_do_not_count(uploads: UnfinishedUploads, store: FileStore) -> None:
    for _ in range(5):
        published(store, uploads, begun(uploads, b"part"), 1, end=True)
    uploads.start(KEY)


def test_folders_of_uploads_are_closed_to_others(
    uploads: UnfinishedUploads, store: FileStore
) -> None:
    published(store, uploads, begun(uploads, b"part"), 1, end=True)
    for folder in (store.root / TEMPORARY).iterdir():
        assert folder.stat().st_mode & 0o7777 == 0o750


@pytest.mark.usefixtures("few")
def test_parts_are_limited_together(
    uploads: UnfinishedUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.start(KEY)
    uploads.put(upload, APP, 1, [b"x" * PART])
    uploads.put(upload, APP, 2, [b"x" * PART])
    with pytest.raises(ModuleTooLarge):
        uploads.put(upload, APP, 3, [b"x" * 5])
    uploads.put(upload, APP, 2, [b"x" * 4])  # in place of the one before
    uploads.put(upload, APP, 3, [b"x" * PART])
    assert assembled(uploads, upload, [1, 2, 3]) == b"x" * 20
    monkeypatch.setattr(unfinished, "MAX_SHARE", 0.0)
    with pytest.raises(TooManyUploads):
        uploads.put(uploads.start(KEY), APP, 1, [b"x" * PART])


def test_project_has_half_of_the_share(
    store: FileStore, uploads: UnfinishedUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "MAX_MODULE_BYTES", PART)
    uploads.put(uploads.start(KEY), APP, 1, [b"x" * PART])
    taken = (folder_of(store, "*") / "data").stat().st_blocks * 512
    store.capacity.max_bytes = 20 * taken  # a tenth is for all: for twice as much
    with pytest.raises(TooManyUploads):
        uploads.put(uploads.start(KEY), APP, 1, [b"x" * PART])
    uploads.put(uploads.start(Key(LIB, Kind.MODULE, KEY.id)), LIB, 1, [b"x" * PART])


def test_part_is_refused_where_there_is_no_room(
    store: FileStore, uploads: UnfinishedUploads
) -> None:
    upload = uploads.start(KEY)
    store.capacity.max_bytes = 4
    with pytest.raises(OSError, match="No space") as refused:
        uploads.put(upload, APP, 1, [b"x" * PART])
    assert getattr(refused.value, "shortage", None) is Shortage.LIMIT


@ends
def test_parts_that_had_room_have_none_together(
    store: FileStore, uploads: UnfinishedUploads, parts: tuple[bytes, ...]
) -> None:
    upload_id = begun(uploads, *parts)
    store.capacity.max_bytes = len(b"".join(parts)) - 1
    with pytest.raises(NoRoom) as refused:
        assembled(uploads, upload_id, [1, 2])
    assert refused.value.shortage is Shortage.LIMIT


def test_upload_that_another_request_has_is_busy(uploads: UnfinishedUploads) -> None:
    upload = uploads.start(KEY)
    with uploads.open(upload, APP), pytest.raises(OSError, match="another request"):
        uploads.put(upload, APP, 1, [b"part"])
    uploads.put(upload, APP, 1, [b"part"])
