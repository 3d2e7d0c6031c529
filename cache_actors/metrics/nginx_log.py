"""nginx's log of its answers: those that it has given alone are added up, and the log emptied.

nginx appends a line for each, in the form that `platform/nginx/http.conf` gives it:

    <artifact, entry or nothing> <method> <status> <bytes of the body> <seconds> <service's status>

The last is `-` if the service was not asked. What it has answered it has counted itself. It never
says 502 or 504: those are nginx's own, for when it cannot be reached.

Whoever reads the lines empties the file, so that it stays small, and what is in it has not been
counted yet, whoever was to count it. Only one process may read it at a time: the one that holds the
lock on it. A file that nginx has made, as it was there first, can often be read only: then what
comes from now on is counted, and the file grows until somebody changes its mode.
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
"""Mode of the log: nginx writes to it as another user of the same group."""

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
    """The content of lines: nginx's answers, and the number of lines that cannot be read."""

    served: Sequence[RequestEvent] = ()
    ignored: int = 0


def read_lines(text: bytes) -> ParsedLog:
    """The answers in the lines of `text`. Those that differ in nothing but size are added up."""
    times: Counter[tuple[Route, int, float]] = Counter()
    sent: defaultdict[tuple[Route, int, float], int] = defaultdict(int)
    ignored = 0
    # Most lines are there many times. Counting them first costs much less than reading each.
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
    """The log at `path`. All methods block, and belong into a thread.

    Attributes:
        is_emptied: whether it may be; if not, what it has had before is not counted.

    Reading and emptying are two steps. What nginx writes in between, in a few microseconds of every
    second, is lost.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.is_emptied = True
        self._position = 0  # up to which it has been read
        self._size = 0  # which it had at the last look

    def take(self) -> ParsedLog:
        """The lines since the last call; none while another process reads the log.

        Raises:
            OSError: the log cannot be made, locked or read.
        """
        if not self._is_open() and not self._open():
            return ParsedLog()
        size = os.fstat(self._fd).st_size
        if size < self._position:  # somebody else has emptied it
            self._position = 0
        text = os.pread(self._fd, MAX_BYTES, self._position)
        read = text.rfind(b"\n") + 1
        # The end of a line may be on its way. If it has not come by the next look, as after a full
        # disk, or is too far away, that line is dropped.
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
        """Let another process read it. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _is_open(self) -> bool:
        """Whether what is open still is the file at the path."""
        if self._fd < 0:
            return False
        with suppress(OSError):
            if os.fstat(self._fd).st_ino == self._path.stat().st_ino:
                return self.is_emptied or not self._may_be_emptied_now()
        self.close()
        return False

    def _may_be_emptied_now(self) -> bool:
        """Whether somebody has given us the right to write; what has been counted goes then."""
        try:
            fd = os.open(self._path, os.O_WRONLY | _FLAGS)
        except OSError:
            return False
        os.ftruncate(fd, 0)
        os.close(fd)
        self.close()
        return True

    def _open(self) -> bool:
        """Open the log, and make it if need be, unless another process has it."""
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
                os.fchmod(fd, FILE_MODE)  # whatever the umask is
            undo.pop_all()
        self._fd, self._size, self.is_emptied = fd, -1, is_emptied
        self._position = 0 if is_emptied else os.fstat(fd).st_size
        return True
