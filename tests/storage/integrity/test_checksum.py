"""What is recorded beside a file's bytes: always before its name, and wherever that can be done."""

import errno
import hashlib
import os
from dataclasses import replace as replace_record
from pathlib import Path

import pytest

from cache_actors.storage.errors import StorageFull, storage_error
from cache_actors.storage.files.store import FileStore, Publication, Published
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.integrity.checksum import (
    ATTRIBUTE,
    Mark,
    StoredChecksum,
    read_checksum,
    write_checksum,
)
from tests.storage.stores import (
    files_below,
    loaded,
    open_descriptors,
    opened,
    publish,
    refusing,
    replace,
)

CONTENT = b"what an artifact holds"
RECORD = StoredChecksum(hashlib.sha256(CONTENT).digest(), len(CONTENT))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    return file


def record_into(path: Path, record: StoredChecksum) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        write_checksum(fd, record)
    finally:
        os.close(fd)


# One record.


def test_record_is_read_as_it_was_written(file: Path) -> None:
    record_into(file, RECORD)
    assert read_checksum(file) == RECORD
    fd = os.open(file, os.O_RDONLY)
    assert read_checksum(fd) == RECORD
    os.close(fd)


def test_mark_is_read_as_it_was_written_and_takes_no_room_nor_another_time(file: Path) -> None:
    record_into(file, RECORD)
    before = file.stat()
    marked = replace_record(RECORD, mark=Mark(2**32 - 1, 0xDEADBEEF))
    record_into(file, marked)
    assert read_checksum(file) == marked
    assert len(os.getxattr(file, ATTRIBUTE)) <= 60  # the most that fits into an inode of ext4
    after = file.stat()
    assert (after.st_blocks, after.st_mtime_ns, after.st_ino) == (
        before.st_blocks,
        before.st_mtime_ns,
        before.st_ino,
    )


def test_record_without_a_mark_is_the_one_that_older_versions_wrote(file: Path) -> None:
    record_into(file, RECORD)
    assert os.getxattr(file, ATTRIBUTE) == RECORD.digest + len(CONTENT).to_bytes(8, "big")


def test_what_a_later_version_adds_is_no_trouble(file: Path) -> None:
    marked = replace_record(RECORD, mark=Mark(1, 2))
    record_into(file, marked)
    os.setxattr(file, ATTRIBUTE, os.getxattr(file, ATTRIBUTE) + b"more")
    assert read_checksum(file) == marked


@pytest.mark.parametrize("size", [0, 1, 2**32, 2**64 - 1])
def test_record_is_small_whatever_the_size_of_the_file(file: Path, size: int) -> None:
    record = StoredChecksum(b"\xff" * 32, size)
    record_into(file, record)
    assert read_checksum(file) == record
    assert len(os.getxattr(file, ATTRIBUTE)) == 40


def test_record_is_replaced_by_a_later_one(file: Path) -> None:
    record_into(file, StoredChecksum(bytes(32), 7))
    record_into(file, RECORD)
    assert read_checksum(file) == RECORD


def test_file_without_a_record_has_none(file: Path, tmp_path: Path) -> None:
    assert read_checksum(file) is None
    assert read_checksum(tmp_path / "missing") is None
    assert read_checksum(file / "below a file") is None


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 39, b"x" * 41])
def test_attribute_of_another_form_is_no_record(file: Path, value: bytes) -> None:
    os.setxattr(file, ATTRIBUTE, value)
    assert read_checksum(file) is None


def test_record_of_what_a_link_leads_to_is_not_the_links(file: Path, tmp_path: Path) -> None:
    record_into(file, RECORD)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_checksum(link) is None


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_attributes_has_no_records(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", refusing(number))
        record_into(file, RECORD)
    assert read_checksum(file) is None
    record_into(file, RECORD)
    monkeypatch.setattr(os, "getxattr", refusing(number))
    assert read_checksum(file) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_disk_is_not_taken_for_one_without_attributes(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "setxattr", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        record_into(file, RECORD)
    monkeypatch.setattr(os, "getxattr", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        read_checksum(file)


# Those of stored files.


def test_stored_file_has_the_record_of_its_bytes(durable: FileStore, path: Path) -> None:
    publish(durable, path, CONTENT[:5], b"", CONTENT[5:])
    assert read_checksum(path) == RECORD
    for content in (b"before, and longer than what comes after", CONTENT):
        replace(durable, path.with_name("entry"), content)
    assert read_checksum(path.with_name("entry")) == RECORD


def test_uploaded_file_has_its_record_wherever_it_lay(
    durable: FileStore, temporary: TemporaryFolder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("same device", "other device"):
        upload = temporary.create()
        upload.reserve(1 << 16)
        for letter in CONTENT:
            upload.write([bytes([letter])])
        prepare = durable.prepare(upload)
        (outcome,) = durable.publish([Publication(str(path.with_name(name)), prepare)])
        prepare.discard()
        assert outcome is Published.STORED
        assert read_checksum(path.with_name(name)) == RECORD
        assert path.with_name(name).read_bytes() == CONTENT
        monkeypatch.setattr(durable, "can_link", lambda _: False)


def test_record_is_written_before_the_file_is_synced(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_sync = os.fdatasync
    recorded: list[StoredChecksum | None] = []

    def sync(fd: int) -> None:
        recorded.append(read_checksum(fd))
        really_sync(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    publish(durable, path, CONTENT)
    replace(durable, path, CONTENT)
    assert recorded == [RECORD, RECORD]


def test_everything_works_on_a_file_system_without_attributes(
    durable: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setxattr", refusing(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "getxattr", refusing(errno.EOPNOTSUPP))
    assert publish(durable, path, CONTENT) is Published.STORED
    assert publish(durable, path, b"other") is Published.EXISTS
    assert durable.exists(path)
    file = opened(durable, path)
    assert file.digest is None
    assert file.read(0, 100) == CONTENT
    file.close()
    entry = path.with_name("entry")
    assert replace(durable, entry, CONTENT) is None
    assert replace(durable, entry, CONTENT * 2) is None
    assert loaded(durable, entry).data == CONTENT * 2


def test_record_without_room_is_a_full_disk_and_nothing_stays(
    durable: FileStore, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", refusing(errno.ENOSPC))
        for outcome in (publish(durable, path, CONTENT), replace(durable, path, CONTENT)):
            assert isinstance(outcome, OSError)
            assert isinstance(storage_error(outcome), StorageFull)
    assert files_below(root) == []
    assert open_descriptors() <= before
    assert publish(durable, path, CONTENT) is Published.STORED
