"""Standard output as log lines need it: writing one never waits, and never raises.

A reader that stands still, a disk that is full, or a closed descriptor costs lines, and nothing
else. Lost lines are counted.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import socket
import stat
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


LOCK_ATTEMPTS = 100
"""Number of attempts to lock a shared pipe; other threads run between two of them."""


FINISH_SECONDS = 1.0
"""Longest time that the end of a process waits for its last line to be taken, in seconds."""


class LogOutput:
    """The file behind a descriptor, written to a line at a time.

    Args:
        fd: the descriptor; it stays open, and blocking for others who have it.

    Attributes:
        fd: the descriptor.
        dropped: how many lines were lost so far.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        self._send: Callable[[bytes], int] | None = None
        self._rest = b""  # of a line that has been written in part
        self._opened = ExitStack()

    def write(self, line: str) -> bool:
        """Write `line` and the end of it, and say whether that worked; if not, it is lost."""
        try:
            if self._send is None:
                self._send = self._sender()
            if self._rest:
                self._rest = self._rest[self._send(self._rest) :]
            if not self._rest:
                text = line.encode(errors="backslashreplace") + b"\n"
                self._rest = text[self._send(text) :]
                return True
        except OSError:
            pass
        self.dropped += 1
        return False

    def finish(self) -> None:
        """Write what is left of a line, if somebody takes it soon: to be called at the end.

        Else the first line of another process would stand right behind a half of this one's.
        """
        give_up = time.monotonic() + FINISH_SECONDS
        while self._send is not None and self._rest and (left := give_up - time.monotonic()) > 0:
            try:
                self._rest = self._rest[self._send(self._rest) :]
            except BlockingIOError:
                select.select([], [self.fd], [], left)
            except OSError:
                break

    def close(self) -> None:
        """Close what was opened to write; the descriptor itself stays open."""
        self._opened.close()
        self._send = None

    def _sender(self) -> Callable[[bytes], int]:
        """The function that writes bytes without waiting, and returns how many it took.

        Raises:
            OSError: the descriptor is closed.
        """
        fd = self.fd
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            connection = self._opened.enter_context(socket.socket(fileno=os.dup(fd)))
            how = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            return lambda text: connection.send(text, how)
        if not stat.S_ISREG(mode):
            # Opened anew, since others, such as a shell, may share the open file and want it to
            # block.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with suppress(OSError):
                fd = os.open(f"/proc/self/fd/{fd}", flags)
                self._opened.callback(os.close, fd)
            os.set_blocking(fd, False)
            return partial(self._send_whole, fd)
        return lambda text: os.write(fd, text)

    def _send_whole(self, fd: int, text: bytes) -> int:
        """Write to a pipe that other processes write to, so that none gets into a line of another.

        Up to `PIPE_BUF` bytes the kernel sees to that (pipe(7)). Whoever writes more keeps the
        others out with a lock, until all of it is written.
        """
        alone = bool(self._rest) or len(text) > select.PIPE_BUF
        _lock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        written = 0
        try:
            written = os.write(fd, text)
        finally:
            if written == len(text) or (written == 0 and not self._rest):
                fcntl.flock(fd, fcntl.LOCK_UN)
        return written


def _lock(fd: int, how: int) -> None:
    """Lock a file, unless another process keeps it for longer than a write takes.

    Raises:
        BlockingIOError: it does.
    """
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            return fcntl.flock(fd, how | fcntl.LOCK_NB)
        os.sched_yield()
    return fcntl.flock(fd, how | fcntl.LOCK_NB)


def open_standard_descriptors() -> None:
    """Make sure that descriptors 0 to 2 are open, to nowhere if they were closed.

    Else the next files and sockets would get these numbers, and log lines with them. To be called
    before anything is opened.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


STANDARD_OUTPUT = LogOutput(1)
"""Standard output of this process."""

atexit.register(STANDARD_OUTPUT.finish)
