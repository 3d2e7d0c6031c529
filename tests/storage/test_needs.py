"""What a file system has to be able to do is tried by doing it, and nothing is left of that."""

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cache_actors.storage.errors import Unfit
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFile, TemporaryFolder
from cache_actors.storage.health import StorageState
from cache_actors.storage.layout import LOGS
from cache_actors.storage.needs import MAX_TRIAL_SECONDS, TRIAL, require_storage, try_storing
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
    long_ago = time.time() - MAX_TRIAL_SECONDS - 10
    olds = [folder / f"{TRIAL}old" for folder in (root, root / LOGS)]
    youngs = [folder / f"{TRIAL}young" for folder in (root, root / LOGS)]
    for folder in (*olds, *youngs):
        (folder / "deeper").mkdir(parents=True)
    for old in olds:
        os.utime(old, (long_ago, long_ago))
    require_storage(root, None, durable=True)
    assert not any(old.exists() for old in olds)
    assert all(young.exists() for young in youngs)


@pytest.mark.parametrize("kind", ["file", "link that leads nowhere"])
def test_logs_that_cannot_be_made_are_told_at_the_start_and_by_the_probe(
    durable: FileStore, root: Path, kind: str
) -> None:
    logs = root / LOGS
    if kind == "file":
        logs.touch()
    else:
        logs.symlink_to(root / "nowhere")
    with pytest.raises(Unfit, match=r"\.log in it is no folder"):
        require_storage(root, None, durable=True)
    durable.probe()
    assert durable.health.status().state is StorageState.FAILING
    logs.unlink()
    durable.probe()
    assert durable.health.status().state is StorageState.OK


def test_log_that_may_not_be_read_is_told_at_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery would not know what is torn. It is the log of another user, as a rule."""
    foreign = root / LOGS / ("0" * 32)
    foreign.mkdir(parents=True)
    really = os.open

    def open_others(path: Path, *arguments: Any, **how: Any) -> int:
        if path == foreign:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, *arguments, **how)

    monkeypatch.setattr(os, "open", open_others)
    with pytest.raises(PermissionError, match=foreign.name):
        require_storage(root, None, durable=True)


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
    assert not store.can_link(upload)
    prepare = store.prepare(upload)
    assert prepare.group() == OTHER_GROUP
    prepare.discard()
    for folder in temporary, uploads:
        folder.remove()


def test_trial_in_a_folder_of_its_own_leaves_nothing(
    root: Path, temporary: TemporaryFolder
) -> None:
    before = set(root.rglob("*"))
    try_storing(temporary.path, temporary, durable=True, reserve=1 << 20)
    assert set(root.rglob("*")) == before
