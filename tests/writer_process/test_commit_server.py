"""What the process does once its parent is gone: nothing that somebody else may have undone.

And what it does when the disk has lost what was stored."""

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.files import write_ahead_log
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import TEMPORARY, Key, Project
from cache_actors.storage.recovery import Recovered
from cache_actors.writer_process.__main__ import ClientGone, CommitServer, is_connected
from cache_actors.writer_process.protocol import (
    Done,
    EntryItem,
    Failed,
    PutRequest,
    WriterConfig,
    framed,
)
from tests.storage.stores import refusing
from tests.support.waiting import LIMIT

ENTRY = Key(Project("acme", "app"), Kind.KEYVALUE, "0~A")
SLOW = """
import os, sys, time, msgspec
from cache_actors.writer_process import __main__ as server
really_sync = os.fdatasync
def slowly(fd):
    print("syncing", flush=True)
    sys.stdin.read()
    really_sync(fd)
os.fdatasync = slowly
server.run(msgspec.json.decode(sys.argv[-1], type=server.WriterConfig))
"""
"""The process, with syncs that take until its standard input is closed."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The storage folder."""
    folder = tmp_path / "cas"
    folder.mkdir()
    return folder


def putting(body: bytes) -> PutRequest:
    return PutRequest([EntryItem("acme", "app", ENTRY.id, body, ())])


def test_entry_does_not_replace_another_when_the_parent_is_gone(root: Path) -> None:
    config, temporary = WriterConfig(-1, str(root), True), TemporaryFolder(root / TEMPORARY)
    before = CommitServer(config, temporary, lambda: True)
    assert before.commit(putting(b"first")).outcomes == [Done()]
    with pytest.raises(ClientGone):
        CommitServer(config, temporary, lambda: False).commit(putting(b"second"))
    assert ENTRY.path(root).read_bytes() == b"first"
    temporary.remove()


def test_threads_see_at_once_whether_the_other_end_is_there() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(8) as threads:
        theirs.sendall(b"something to read")
        assert all(threads.map(is_connected, [ours] * 2000))
        theirs.close()
        assert not any(threads.map(is_connected, [ours] * 100))


def test_process_that_waits_for_a_sync_when_its_parent_ends_does_no_more(root: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        config = msgspec.json.encode(WriterConfig(theirs.fileno(), str(root), True)).decode()
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, config],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        theirs.close()
        with process:
            ours.settimeout(LIMIT)
            assert ours.recv(999) == framed(Recovered())
            ours.sendall(framed(putting(b"{}")))
            assert process.stdout is not None
            assert process.stdout.readline() == b"syncing\n"
            ours.close()
            process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    assert not ENTRY.path(root).exists()
    assert list((root / TEMPORARY).iterdir()) == []


def test_batch_after_a_failed_checkpoint_is_stored_once_all_before_it_is_stored_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([-1])  # of the first sync of all; the others work
    libc = SimpleNamespace(syncfs=lambda _: next(results, 0))
    monkeypatch.setattr(write_ahead_log, "_libc", libc)
    monkeypatch.setattr(write_ahead_log, "MAX_AGE_SECONDS", 0.0)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EIO)
    temporary = TemporaryFolder(root / TEMPORARY)
    server = CommitServer(WriterConfig(-1, str(root), True), temporary, lambda: True)
    bodies = (b"{}", b'{"a": 1}', b'{"b": 1}')
    found = [server.commit(putting(body)).outcomes[0] for body in bodies]
    assert found == [Done(), Done(), Failed(errno.EIO, os.strerror(errno.EIO))]
    inode = ENTRY.path(root).stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refusing(errno.ENOSPC))
        answer = server.commit(putting(b"{}"))
    (refused,) = answer.outcomes
    assert answer.recovered == Recovered(logged=1, failed=1)
    assert refused == Failed(errno.EIO, "what a failed checkpoint has left cannot be stored again")
    assert ENTRY.path(root).read_bytes() == bodies[1]
    other = EntryItem("acme", "app", "0~B", b"{}", ())
    answer = server.commit(PutRequest([other]))
    assert answer.outcomes == [Done()]
    assert answer.recovered == Recovered(logged=1, stored=1)
    assert server.commit(PutRequest([other])).recovered == Recovered()
    assert ENTRY.path(root).read_bytes() == bodies[1]
    assert ENTRY.path(root).stat().st_ino != inode
    server.close()
    temporary.remove()
