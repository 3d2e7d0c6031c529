"""`cache-actors serve` that can be broken from outside, by files in the folder `SOAK_FLAGS`.

    crash.<actor>   the next batch of a `DiskWriter`, a `KeyValueStore` or an `AuthCache` raises,
                    and the file is gone; its text says when: `before` the work or `after` it, but
                    before anyone has been told
    syscalls        while it is there, calls that write fail at random; its text says how:
                    `<chance> <error> <call> ...`, as in `0.2 EIO fsync fdatasync`; the calls are
                    `fsync`, `fdatasync`, `link`, `writev`, `rename`, `setxattr` and
                    `posix_fallocate`; syncs take up to 20 ms then, failing or not, as a tmpfs has
                    none that take any time

What is injected is counted: a character for each in the files `crashed` and `injected`. An upload
that the service itself has answered with 204 carries the header `X-Soak`, which nginx hands on.

Workers, and the processes that write to the disk, fail in the same way.

Run as `python -m tests.soak.service`.
"""

import errno
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cache_actors.actors.auth_cache import AuthCache
from cache_actors.actors.disk_writer import DiskWriter
from cache_actors.actors.kv_store import KeyValueStore
from cache_actors.http.responses import Response, empty_response
from cache_actors.http.routes import artifacts
from cache_actors.storage.files import folders, store, temporary
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.integrity import checksum
from cache_actors.supervision import Actor, Envelope
from cache_actors.writer_process.client import ArtifactWriterProcess, EntryWriterProcess
from tests.support.workers import run_as_writer_process_if_asked, run_service

Handle = Callable[[Any, list[Envelope]], Awaitable[None]]


MARK = "X-Soak"
"""The header of uploads that the service itself has acknowledged."""

SLOWEST_SYNC = 0.02
"""Seconds."""


class InjectedCrash(Exception):
    """The exception that crashes an actor."""


class Flags:
    """The folder with the flags."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._random = random.Random()

    def crash(self, actor: str) -> str | None:
        """Whether, and when, the next batch of `actor` is to raise; the flag is gone then."""
        path = self._folder / f"crash.{actor}"
        try:
            when = path.read_text()
            path.unlink()
        except FileNotFoundError:
            return None
        self._count("crashed")
        return when

    def syscall(self, name: str) -> None:
        """Raise if the call `name` is to fail now.

        Raises:
            OSError: it is.
        """
        try:
            chance, error, *calls = (self._folder / "syscalls").read_text().split()
        except (FileNotFoundError, ValueError):
            return
        if name in calls and self._random.random() < float(chance):
            self._count("injected")
            number: int = getattr(errno, error)
            raise OSError(number, os.strerror(number))

    def sync(self, name: str) -> None:
        """Take time for the call `name` that syncs, and raise if it is to fail now.

        Raises:
            OSError: it is.
        """
        if (self._folder / "syscalls").exists():
            time.sleep(self._random.uniform(0, SLOWEST_SYNC))
        self.syscall(name)

    def _count(self, what: str) -> None:
        with (self._folder / what).open("ab", buffering=0) as file:
            file.write(b".")


class FaultyOs:
    """The module `os`, for a module of the storage, with calls that may fail.

    A write may also fail half way: then some of its bytes are in the file.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        """Like `os.fsync`."""
        self._flags.sync("fsync")
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Like `os.fdatasync`."""
        self._flags.sync("fdatasync")
        os.fdatasync(fd)

    def link(self, source: str, target: str, **how: Any) -> None:
        """Like `os.link`."""
        self._flags.syscall("link")
        os.link(source, target, **how)

    def writev(self, fd: int, buffers: list[memoryview]) -> int:
        """Like `os.writev`."""
        try:
            self._flags.syscall("writev")
        except OSError:
            os.write(fd, buffers[0][: len(buffers[0]) // 2])
            raise
        return os.writev(fd, buffers)

    def setxattr(self, *what: Any) -> None:
        """Like `os.setxattr`."""
        self._flags.syscall("setxattr")
        os.setxattr(*what)

    def posix_fallocate(self, fd: int, start: int, size: int) -> None:
        """Like `os.posix_fallocate`."""
        self._flags.syscall("posix_fallocate")
        os.posix_fallocate(fd, start, size)


def break_actors(flags: Flags) -> None:
    """Make batches raise when a flag says so."""
    for kind in (DiskWriter, KeyValueStore, AuthCache):
        setattr(kind, "handle", crashing(kind.handle, kind.__name__, flags))  # noqa: B010
    # In the middle: the work is done, and nobody has been told.
    for hands, actor in (
        (ArtifactWriterProcess, "DiskWriter"),
        (EntryWriterProcess, "KeyValueStore"),
    ):
        setattr(hands, "commit", crashing_after(hands.commit, actor))  # noqa: B010
    publish = FileStore.publish  # of large artifacts, in a thread

    def publish_and_crash(self: FileStore, batch: Any) -> Any:
        outcomes = publish(self, batch)
        crash_if_due("DiskWriter")
        return outcomes

    FileStore.publish = publish_and_crash  # type: ignore[method-assign]


_after_the_work: set[str] = set()


def crashing(handle: Handle, actor: str, flags: Flags) -> Handle:
    async def handle_or_crash(self: Actor, batch: list[Envelope]) -> None:
        when = flags.crash(actor)
        if when == "after" and actor != "AuthCache":
            _after_the_work.add(actor)
        elif when is not None:
            raise InjectedCrash(actor)
        await handle(self, batch)

    return handle_or_crash


def crashing_after(commit: Callable[..., Any], actor: str) -> Callable[..., Any]:
    async def commit_and_crash(self: Any, batch: Any) -> Any:
        outcomes = await commit(self, batch)
        crash_if_due(actor)
        return outcomes

    return commit_and_crash


def crash_if_due(actor: str) -> None:
    if actor in _after_the_work:
        _after_the_work.discard(actor)
        raise InjectedCrash(actor)


def break_storage(flags: Flags) -> None:
    """Make calls that write fail when a flag says so."""
    faulty = FaultyOs(flags)
    for module in (store, folders, checksum, temporary):
        setattr(module, "os", faulty)  # noqa: B010
    rename = temporary.TemporaryFile.rename

    def rename_or_fail(self: temporary.TemporaryFile, target: str | Path) -> None:
        flags.syscall("rename")
        rename(self, target)

    temporary.TemporaryFile.rename = rename_or_fail  # type: ignore[method-assign]


def mark_answers() -> None:
    """Mark what the service itself acknowledges."""

    def marked_response(*status_and_headers: Any) -> Response:
        response = empty_response(*status_and_headers)
        response.headers[MARK] = "service"
        return response

    setattr(artifacts, "empty_response", marked_response)  # noqa: B010


if __name__ == "__main__":
    its_flags = Flags(Path(os.environ["SOAK_FLAGS"]))
    break_storage(its_flags)
    run_as_writer_process_if_asked("tests.soak.service")
    break_actors(its_flags)
    mark_answers()
    sys.exit(run_service("tests.soak.service"))
