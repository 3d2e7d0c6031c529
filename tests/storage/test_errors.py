"""What operating system errors mean to callers."""

from __future__ import annotations

import errno
import os

import pytest

from cache_actors.storage.errors import StorageError, StorageFull, storage_error


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/cas/secret/path")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_lack_of_room_is_storage_full(number: int) -> None:
    error = storage_error(os_error(number))
    assert isinstance(error, StorageFull)
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.ENOENT])
def test_anything_else_is_not_lack_of_room(number: int) -> None:
    error = storage_error(os_error(number))
    assert type(error) is StorageError
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_no_path_is_named(number: int) -> None:
    assert "path" not in str(storage_error(os_error(number)))


def test_error_without_a_reason_is_named_by_its_class() -> None:
    assert "TimeoutError" in str(storage_error(TimeoutError()))
