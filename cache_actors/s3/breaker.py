"""A circuit breaker: while the bucket fails, it is asked only now and then.

Who asks nevertheless hears at once why, instead of waiting for a time-out. It is closed at first.
`MAX_FAILURES` failures in a row open it, for `OPEN_SECONDS`; then one request goes through. If that
fails too it stays open, for twice as long each time, up to `MAX_OPEN_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .errors import BreakerOpen, BucketError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAILURES = 5
OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 60.0


class Breaker:
    """A circuit breaker, shared by all that ask one bucket; safe to use from threads.

    Args:
        now: a clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures = 0
        self._period = 0  # grows with each change; of earlier ones, no failure counts any more
        self._seconds = OPEN_SECONDS
        self._until = 0.0
        self._error: BucketError | None = None

    @property
    def error(self) -> BucketError | None:
        """Why it is open; None while it is closed."""
        return self._error

    def enter(self) -> int:
        """Begin a request, and return what `failed` takes as `period`.

        Raises:
            BreakerOpen: it is open, and there must be no request.
        """
        with self._lock:
            if self._error is not None:
                left = self._until - self._now()
                if left > 0:
                    raise BreakerOpen(self._error, left)
                self._until = self._now() + self._seconds  # for all others, while this one tries
                self._period += 1
            return self._period

    def succeeded(self) -> None:
        """Note that a request has had an answer."""
        with self._lock:
            self._failures = 0
            self._seconds = OPEN_SECONDS
            if self._error is not None:
                self._error = None
                self._period += 1

    def failed(self, period: int, error: BucketError) -> None:
        """Note that a request that began in `period` has failed."""
        with self._lock:
            if period != self._period:
                return
            self._failures += 1
            if self._error is not None:
                self._seconds = min(2 * self._seconds, MAX_OPEN_SECONDS)
            if self._error is not None or self._failures >= MAX_FAILURES:
                self._error = error
                self._until = self._now() + self._seconds
                self._period += 1
