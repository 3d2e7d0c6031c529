"""What a file system has to be able to do is tried by doing it, and nothing is left of that."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from cache_actors.storage.errors import Unfit
from cache_actors.storage.files import FileStore
from cache_actors.storage.health import StorageState
from cache_actors.storage.needs import LONGEST_TRIAL, TRIAL, require_storage, try_storing
from cache_actors.storage.temporary import TemporaryFile, TemporaryFolder
from tests.support.mounts import require_root

from .stores import refusing

OTHER_GROUP = 60_002


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != ".tmp"]


def test_ordinary_folder_does_all_that_is_needed_and_nothing_is_left(root: Path) -> None:
    require_storage(root, None, durable=True)
    assert left_in(root) == []


def test_storage_and_uploads_folder_are_made(tmp_path: Path) -> None:
    require_storage(tmp_path / "a" / "cas", tmp_path / "b" / "uploads", durable=True)
    assert (tmp_path / "a" / "cas").is_dir()
    assert list((tmp_path / "b" / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("module", "call", "number", "words"),
    [
        (os, "link", errno.EPERM, "no hard links: Operation not permitted"),
        (os, "link", errno.EOPNOTSUPP, "no hard links"),
        (os, "link", errno.EMLINK, "no hard links"),
        (os, "link", errno.EXDEV, "no hard links"),
        (os, "replace", errno.EINVAL, "cannot be renamed over others"),
        (os, "fsync", errno.EINVAL, "folders cannot be synced"),
        (os, "utime", errno.ENOSYS, "cannot note when a file was used"),
        (fcntl, "flock", errno.EBADF, r"cannot be locked \(flock\): Bad file descriptor"),
        (fcntl, "flock", errno.ENOLCK, r"cannot be locked \(flock\): No locks available"),
    ],
)
def test_what_is_lacking_is_told_and_nothing_is_left(
    root: Path, module: object, call: str, number: int, words: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, call, refusing(number))
        with pytest.raises(Unfit, match=words) as raised:
            require_storage(root, None, durable=True)
    assert raised.value.errno == number
    assert raised.value.advice
    assert left_in(root) == []


def test_names_without_case_are_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_link = TemporaryFile.link

    def link_without_case(file: TemporaryFile, target: Path) -> None:
        really_link(file, target)
        os.link(target, target.with_name(target.name.swapcase()))

    monkeypatch.setattr(TemporaryFile, "link", link_without_case)
    with pytest.raises(Unfit, match="names have no case"):
        require_storage(root, None, durable=True)
    assert left_in(root) == []


def test_locks_that_keep_nobody_out_are_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(Unfit, match="keep nobody out"):
        require_storage(root, None, durable=True)


def test_relaxed_store_needs_no_syncs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, call, refusing(errno.EINVAL))
    require_storage(root, None, durable=False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("call", ["link", "fdatasync"])
def test_trouble_of_the_moment_does_not_say_that_a_storage_is_unfit(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Reads go on meanwhile, and eviction makes room: so the service may start."""
    monkeypatch.setattr(os, call, refusing(number))
    require_storage(root, None, durable=True)


def test_folders_of_trials_that_were_killed_are_removed(root: Path) -> None:
    old, young = root / f"{TRIAL}old", root / f"{TRIAL}young"
    for folder in old, young:
        (folder / "deeper").mkdir(parents=True)
    long_ago = time.time() - LONGEST_TRIAL - 10
    os.utime(old, (long_ago, long_ago))
    require_storage(root, None, durable=True)
    assert not old.exists()
    assert young.exists()


def test_store_that_cannot_link_is_failing_until_it_can(
    durable: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the probe alone, whether or not somebody tries to store something."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refusing(errno.EPERM))
        for _ in range(2):
            durable.probe()
            status = durable.health.status()
            assert status.state is StorageState.FAILING
            assert status.reason == (
                "The storage failed: it has no hard links: Operation not permitted"
            )
    durable.probe()
    assert durable.health.status().state is StorageState.OK


def test_inodes_are_not_told_where_none_are_counted(
    durable: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on btrfs."""
    really = os.statvfs

    def uncounted(path: Path) -> os.statvfs_result:
        values = list(really(path))
        values[5:8] = [0, 0, 0]
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", uncounted)
    durable.probe()
    status = durable.health.status()
    assert status.state is StorageState.OK
    assert status.free_bytes is not None
    assert status.free_inodes is None


def test_temporary_folder_of_another_group_is_found(root: Path) -> None:
    """As it is if the service ran once before the storage folder got its group."""
    require_root()
    (root / ".tmp").mkdir()
    os.chown(root, 0, OTHER_GROUP)
    root.chmod(0o2750)
    with pytest.raises(Unfit, match=f"group {OTHER_GROUP} may not read what is stored"):
        require_storage(root, None, durable=True)
    (root / ".tmp").rmdir()
    require_storage(root, None, durable=True)


def test_upload_of_another_group_is_brought_over(root: Path, tmp_path: Path) -> None:
    """nginx could not read it."""
    require_root()
    os.chown(root, 0, OTHER_GROUP)
    root.chmod(0o2750)
    temporary, uploads = TemporaryFolder(root / ".tmp"), TemporaryFolder(tmp_path / "uploads")
    store = FileStore(root, temporary, durable=False)
    upload = uploads.create()
    upload.write([b"abc"])
    assert not store.holds(upload)
    ready = store.ready(upload)
    assert ready.group() == OTHER_GROUP
    ready.discard()
    for folder in temporary, uploads:
        folder.remove()


def test_trial_in_a_folder_of_its_own_leaves_nothing(
    root: Path, temporary: TemporaryFolder
) -> None:
    before = set(root.rglob("*"))
    try_storing(temporary.path, temporary, durable=True, reserve=1 << 20)
    assert set(root.rglob("*")) == before
