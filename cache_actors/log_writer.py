"""The writer of finished log lines to standard output: a write never waits and never raises.

With a stalled reader, a full disk or a closed descriptor, lines are lost and counted; nothing else
happens. The lines, JSON or text, are made in `log.py`.
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
"""Number of attempts to lock a shared pipe; between them, others get the processor."""


FINISH_SECONDS = 1.0
"""Longest time that a process waits at its end to complete its last line, in seconds."""


class LogWriter:
    """The file behind a descriptor, to which whole lines are written.

    Args:
        fd: the descriptor. It stays open, and blocking for other processes that share it.

    Attributes:
        fd: the descriptor.
        dropped: the number of lines lost so far.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        self._send: Callable[[bytes], int] | None = None
        self._rest = b""  # unwritten end of a line that has been written in part
        self._opened = ExitStack()

    def write(self, line: str) -> bool:
        """Write `line` and a newline, and return whether that worked; if not, the line is lost."""
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
        """Complete a line written in part, within `FINISH_SECONDS`; to be called at process end.

        Otherwise the next line of another process would be joined to it.
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
        """Close the descriptors opened for writing; `fd` itself stays open."""
        self._opened.close()
        self._send = None

    def _sender(self) -> Callable[[bytes], int]:
        """A function that writes bytes without waiting, and returns the number written.

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
            # Opened anew, as O_NONBLOCK would also apply to others that share the open file, such
            # as a shell.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with suppress(OSError):
                fd = os.open(f"/proc/self/fd/{fd}", flags)
                self._opened.callback(os.close, fd)
            os.set_blocking(fd, False)
            return partial(self._send_whole, fd)
        return lambda text: os.write(fd, text)

    def _send_whole(self, fd: int, text: bytes) -> int:
        """Write to a pipe shared with other processes, without mixing their lines.

        Writes of up to `PIPE_BUF` bytes are atomic (pipe(7)). A longer line is protected by an
        exclusive lock until all of it is written.
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
    """Lock a file, in at most `LOCK_ATTEMPTS` attempts and one more.

    Raises:
        BlockingIOError: another process holds the lock for longer than a write takes.
    """
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            return fcntl.flock(fd, how | fcntl.LOCK_NB)
        os.sched_yield()
    return fcntl.flock(fd, how | fcntl.LOCK_NB)


def open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 at `/dev/null`, if they are closed.

    Otherwise the next files and sockets would get these numbers, and log lines with them. To be
    called before anything is opened.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


STANDARD_OUTPUT = LogWriter(1)
"""The standard output of this process."""

atexit.register(STANDARD_OUTPUT.finish)
