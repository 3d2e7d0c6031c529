"""nginx's log of its answers, read to count those that it gave without the service.

nginx appends a line for each answer, in the format of `platform/nginx/http.conf`:

    <label of the kind, or empty> <method> <status> <bytes of the body> <seconds> <service's status>

The last field is `-` if the service was not asked. Its status 502 or 504 is nginx's own, and means
that the service could not be reached. All other answers have been counted by the service itself.

The process that reads the lines empties the file, so that it stays small and has only lines that
were not counted yet. A lock on the file lets only one process read it. If nginx made the file, the
service often may not write to it. Then only later lines are counted, and the file grows until its
mode is changed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.locks import try_lock

from .request_event import STATUSES, RequestEvent, Responder, Route

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024
"""Largest part of the log that is read at once, in bytes: some 250,000 lines."""

FILE_MODE = 0o660
"""Mode of the log, to which nginx writes as another user of the same group."""

_LINE = re.compile(
    rb"([a-z]{0,16}) ([A-Z_-]{1,32}) (\d{3}) (\d{1,15}) (\d{1,6}\.\d{3}) ([0-9 ,:-]{1,64})"
)

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_NOT_PROXIED = {b"-", b"502", b"504"}

_ROUTES = {
    (kind.label.encode(), method.encode()): Route(f"{kind.label}_{action}")
    for kind in Kind
    for action, methods in (("read", kind.read_methods), ("store", kind.store_methods))
    for method in methods
}


@dataclass(frozen=True, slots=True)
class ParsedLog:
    """The content of the log: nginx's own answers, and the number of lines with a bad format."""

    served: Sequence[RequestEvent] = ()
    ignored: int = 0


def read_lines(text: bytes) -> ParsedLog:
    """Parse the lines of `text`. Answers of the same route, status and duration are added up."""
    times: Counter[tuple[Route, int, float]] = Counter()
    sent: defaultdict[tuple[Route, int, float], int] = defaultdict(int)
    ignored = 0
    # Most lines occur many times, so that counting them first saves most of the parsing.
    for line, count in Counter(text.splitlines()).items():
        found = _LINE.fullmatch(line)
        if found is None:
            ignored += count
            continue
        kind, method, status, size, seconds, upstream = found.groups()
        if upstream[-3:] not in _NOT_PROXIED:
            continue
        route = _ROUTES.get((kind, method), Route.OTHER)
        key = (route, STATUSES.get(status.decode(), 0), float(seconds))
        times[key] += count
        sent[key] += count * int(size)
    served = [
        RequestEvent(Responder.NGINX, *key, sent=sent[key], duplicate=True, times=count)
        for key, count in times.items()
    ]
    return ParsedLog(served, ignored)


class NginxLog:
    """The log at `path`. All methods block, and belong in a thread.

    Reading and emptying are two steps. Lines that nginx writes between them, in a few microseconds
    of every second, are lost.

    Attributes:
        is_emptied: whether this process may empty the log; if not, lines from before the log was
            opened are not counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.is_emptied = True
        self._position = 0  # the end of the lines that have been read
        self._size = 0  # of the log, after the last read

    def take(self) -> ParsedLog:
        """Read the lines since the last call; none while another process holds the lock.

        Raises:
            OSError: the log cannot be made, locked or read.
        """
        if not self._is_open() and not self._open():
            return ParsedLog()
        size = os.fstat(self._fd).st_size
        if size < self._position:  # another program has emptied it
            self._position = 0
        text = os.pread(self._fd, MAX_BYTES, self._position)
        read = text.rfind(b"\n") + 1
        # nginx may not have written the last line in full yet. If it has not grown by the next
        # call, as on a full disk, or is longer than `MAX_BYTES`, it is dropped.
        is_all = self._position + len(text) == size
        if (is_all and size == self._size) or (read == 0 and len(text) == MAX_BYTES):
            read = len(text)
        self._position += read
        self._size = os.fstat(self._fd).st_size
        if self._size == self._position > 0 and self.is_emptied:
            os.ftruncate(self._fd, 0)
            self._position = self._size = 0
        return read_lines(text[:read])

    def close(self) -> None:
        """Close the log, so that another process may read it. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _is_open(self) -> bool:
        """Whether the open file is still that at the path; closes it if it has to be reopened."""
        if self._fd < 0:
            return False
        with suppress(OSError):
            if os.fstat(self._fd).st_ino == self._path.stat().st_ino:
                return self.is_emptied or not self._empty_if_allowed()
        self.close()
        return False

    def _empty_if_allowed(self) -> bool:
        """Empty and close the log, if this process may write to it by now; return whether it may.

        Lines that were not read yet are lost.
        """
        try:
            fd = os.open(self._path, os.O_WRONLY | _FLAGS)
        except OSError:
            return False
        os.ftruncate(fd, 0)
        os.close(fd)
        self.close()
        return True

    def _open(self) -> bool:
        """Open and lock the log, or make it; return False if another process holds the lock."""
        is_emptied = True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | _FLAGS, FILE_MODE)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            fd = os.open(self._path, os.O_RDONLY | _FLAGS)
            is_emptied = False
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "It is no file", str(self._path))
            if not try_lock(fd):
                return False
            if status.st_uid == os.geteuid():
                os.fchmod(fd, FILE_MODE)  # the umask may have removed bits
            undo.pop_all()
        self._fd, self._size, self.is_emptied = fd, -1, is_emptied
        self._position = 0 if is_emptied else os.fstat(fd).st_size
        return True
