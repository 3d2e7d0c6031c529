"""What the process does once its parent is gone: nothing that somebody else may have undone."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from cache_actors.disk.__main__ import Committer, ParentGone, is_connected
from cache_actors.disk.messages import LENGTH, Done, Line, Put, Terms, framed
from cache_actors.kinds import Kind
from cache_actors.storage.layout import TEMPORARY, Entry, Project
from cache_actors.storage.temporary import TemporaryFolder
from tests.support.waiting import LIMIT

ENTRY = Entry(Project("acme", "app"), Kind.KEYVALUE, "0~A")
SLOW = """
import os, sys, time, msgspec
from cache_actors.disk import __main__ as disk
really_sync = os.fdatasync
def slowly(fd):
    print("syncing", flush=True)
    sys.stdin.read()
    really_sync(fd)
os.fdatasync = slowly
disk.run(msgspec.json.decode(sys.argv[-1], type=disk.Terms))
"""
"""The process, with syncs that take until its standard input is closed."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The storage folder."""
    folder = tmp_path / "cas"
    folder.mkdir()
    return folder


def putting(body: bytes) -> Put:
    return Put([Line("acme", "app", ENTRY.id, body, ())])


def test_entry_does_not_replace_another_when_the_parent_is_gone(root: Path) -> None:
    terms, temporary = Terms(-1, str(root), True), TemporaryFolder(root / TEMPORARY)
    before = Committer(terms, temporary, lambda: True)
    assert before.commit(putting(b"first")).outcomes == [Done()]
    with pytest.raises(ParentGone):
        Committer(terms, temporary, lambda: False).commit(putting(b"second"))
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
        terms = msgspec.json.encode(Terms(theirs.fileno(), str(root), True)).decode()
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, terms],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        theirs.close()
        with process:
            ours.settimeout(LIMIT)
            assert ours.recv(LENGTH.size) == bytes(LENGTH.size)
            ours.sendall(framed(putting(b"{}")))
            assert process.stdout is not None
            assert process.stdout.readline() == b"syncing\n"
            ours.close()
            process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    assert not ENTRY.path(root).exists()
    assert list((root / TEMPORARY).iterdir()) == []
