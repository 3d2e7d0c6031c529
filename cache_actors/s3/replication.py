"""Replication: threads that push what is stored, from a queue and from walks, until all is there.

Theory of operation
-------------------
What has just been stored is *announced*, and waits in a queue. The queue is bounded: of what does
not fit only numbers are kept, and a walk finds it on the disk. So nothing has to survive a crash:
at the start there is a walk. Walks and announcements take turns, so that neither waits for the
other.

A push is tried until it ends. While the bucket cannot be asked (`breaker.py`), threads wait. A file
that fails `ATTEMPTS` times by itself is left to the next walk, as is an entry whose artifacts have
not come yet. There is a walk every hour; after seconds if something was left, and then at growing
intervals; and soon after an outage.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from .errors import BreakerOpen, BucketError, Rejected
from .push import Pushed, Pusher
from .walk import Unshared, WalkRunning, unshared, walk_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cache_actors.storage.layout import Key

    from .installation import ClaimedBucket

MAX_WAITING = 20_000
"""Largest number of announced files that wait, some 500 bytes each."""

ATTEMPTS = 3
"""Number of attempts after which a file is left to the next walk, while others get through."""

BACK_OFF_SECONDS = 0.2
"""Pause in seconds before a second attempt; it doubles with each."""

MAX_BREAK_SECONDS = 1.0
"""Longest pause in seconds until a thread asks again whether the breaker is closed."""

WALK_SECONDS = 3600.0
"""Pause in seconds after a walk that has left nothing."""

WALK_SOON_SECONDS = 5.0
"""Pause in seconds before a walk after an outage, or after more was announced than could wait, and
after a walk that has left something, or found another one running: then it doubles each time."""

NICENESS = 10


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that need not be pushed any more, or is left to the next walk.

    Attributes:
        key: which file.
        outcome: what became of it; None if it is left.
        reason: why it is left, in one line; None if it is not, or waits for its artifacts.
        lag: seconds since it was announced; None if a walk has found it.
    """

    key: Key
    outcome: Pushed | None
    reason: str | None
    lag: float | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not in the bucket yet: files, their bytes on disk, and the seconds that the oldest
    of them has waited; 0 if none does."""

    files: int = 0
    bytes: int = 0
    oldest: float = 0.0


@dataclass(slots=True)
class _Waiting:
    """A file that waits: bytes on disk, since when (`time.monotonic()`), found by a walk or not."""

    size: int
    since: float
    is_found: bool = False


@dataclass(slots=True)
class _Sum:
    """Files that are known only by their number: their bytes, and since when the oldest waits."""

    files: int = 0
    size: int = 0
    since: float | None = None

    def add(self, size: int, since: float) -> None:
        self.files += 1
        self.size += size
        self.since = since if self.since is None else min(since, self.since)

    def take_out(self, size: int) -> None:
        self.files = max(0, self.files - 1)
        self.size = max(0, self.size - size) if self.files else 0
        if not self.files:
            self.since = None


class Replication:
    """Pushes files of the storage folder `root` into `bucket`, between `start` and `stop`.

    Args:
        root: the storage folder.
        bucket: the bucket.
        concurrency: number of pushes at once.
        entries: whether files of kinds that refer to others are pushed too.
        finished: called by any thread with each file that is finished with.
        log: called with what else has gone wrong, in one line.
        waits: called with the reason while the bucket cannot be asked, by any thread; returns
            whether the push waits, or is left.

    Raises:
        Misconfigured: files in `root` cannot be marked.
        OSError: the disk failed.
    """

    def __init__(
        self,
        root: Path,
        bucket: ClaimedBucket,
        *,
        concurrency: int,
        entries: bool,
        finished: Callable[[Finished], None],
        log: Callable[[str], None],
        waits: Callable[[BucketError], bool] = lambda _error: True,
    ) -> None:
        self._root = root
        self._bucket = bucket
        self._pusher = Pusher(root, bucket)
        self._concurrency = concurrency
        self._entries = entries
        self._finished = finished
        self._log = log
        self._waits = waits
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # there is something to push
        self._progress = threading.Condition(self._lock)  # something was pushed, or is to be found
        self._announced: OrderedDict[Key, _Waiting] = OrderedDict()
        self._announced_size = 0
        self._found: deque[tuple[Key, _Waiting]] = deque()
        self._active: dict[Key, _Waiting] = {}
        self._again: dict[Key, _Waiting] = {}  # announced anew while they are active
        self._left = _Sum()  # to the next walk
        self._unwalked = _Sum()  # counted by the walk that is under way, and not found again yet
        self._oldest: float | None = None  # mark that is good enough; by default of the push
        self._walk_at = time.monotonic()
        self._walk_pause = WALK_SOON_SECONDS
        self._was_open = False
        self._is_founds_turn = False
        self._stopping = False
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the threads that push."""
        for number in range(self._concurrency):
            threading.Thread(target=self._push_all, name=f"push-{number}", daemon=True).start()

    def stop(self, seconds: float = 0.0) -> None:
        """Stop, once nothing is announced any more or after so many seconds.

        Pushes that are under way then are left alone; they end with the process, and do no harm.
        """
        with self._lock:
            self._progress.wait_for(lambda: not (self._announced or self._active), seconds)
            self._stopping = True
            self._work.notify_all()
            self._progress.notify_all()
        self._stop.set()

    def announce(self, batch: Sequence[Unshared]) -> None:
        """Push files that have just been stored."""
        now = time.monotonic()
        too_many: list[Key] = []
        with self._lock:
            for each in batch:
                waiting = _Waiting(each.size, now)
                if each.key in self._active:
                    self._again[each.key] = waiting
                elif each.key in self._announced:
                    pass  # it is the newest version that will be read
                elif len(self._announced) < MAX_WAITING:
                    self._put_in_line(each.key, waiting)
                else:
                    self._left.add(each.size, now)
                    self._walk_soon()
                    too_many.append(each.key)
        for key in too_many:
            self._finished(Finished(key, None, None, None))

    def _put_in_line(self, key: Key, waiting: _Waiting) -> None:
        self._announced[key] = waiting
        self._announced_size += waiting.size
        self._work.notify()

    def walk_soon(self) -> None:
        """Walk within seconds: something may have been stored that was not announced."""
        with self._lock:
            self._walk_soon()

    def backlog(self) -> Backlog:
        """What is not in the bucket yet, as far as it is known."""
        with self._lock:
            active = [*self._active.values(), *self._again.values()]
            waiting = [each for each in active if not each.is_found]
            since = [each.since for each in (*waiting, *islice(self._announced.values(), 1))]
            since += [s for s in (self._left.since, self._unwalked.since) if s is not None]
            size = self._announced_size + self._left.size + self._unwalked.size
            return Backlog(
                len(self._announced) + len(waiting) + self._left.files + self._unwalked.files,
                size + sum(each.size for each in waiting),
                max(0.0, time.monotonic() - min(since)) if since else 0.0,
            )

    def keep_walking(self) -> None:
        """Walk now, every hour and when there is a reason, until it is stopped; blocks.

        The thread that calls this gets a lower priority.
        """
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while self._await_walk():
            try:
                is_complete = self.walk() == 0
            except (WalkRunning, OSError) as error:
                is_complete = False
                if isinstance(error, OSError):
                    self._log(f"cannot look for what is not in the bucket: {error.strerror}")
            with self._lock:
                pause = self._walk_pause
                due = time.monotonic() + (WALK_SECONDS if is_complete else pause)
                self._walk_at = min(self._walk_at, due)
                longer = min(2 * pause, WALK_SECONDS)
                self._walk_pause = WALK_SOON_SECONDS if is_complete else longer

    def walk(self, again_before: float | None = None) -> int:
        """Push all files that are not in the bucket, and return the number of those left; blocks.

        Args:
            again_before: time in seconds since the epoch; files put before it are put again.

        Raises:
            WalkRunning: another process walks through the same storage.
            OSError: the disk failed, or a folder belongs to somebody else.
        """
        with walk_lock(self._root):
            with self._lock:
                since = self._left.since
                self._unwalked, self._left, self._oldest = self._left, _Sum(), again_before
            try:
                self._count(time.monotonic() if since is None else since)
                self._find()
            finally:
                with self._lock:
                    self._unwalked, self._oldest = _Sum(), None
            with self._lock:
                return self._left.files

    def _count(self, since: float) -> None:
        """Count what a walk is going to find, for the backlog."""
        counted = _Sum()
        for folder in self._folders():
            for each in folder:
                counted.add(each.size, since)
        with self._lock:
            self._unwalked = counted

    def _find(self) -> None:
        """Find files to push, no faster than they are pushed, and wait until all of them are."""
        for folder in self._folders():
            for each in folder:
                with self._lock:
                    self._progress.wait_for(self._has_room)
                    self._found.append((each.key, _Waiting(each.size, 0.0, is_found=True)))
                    self._work.notify()
        with self._lock:
            self._progress.wait_for(self._has_pushed_all_found)

    def _has_room(self) -> bool:
        return self._stopping or len(self._found) < self._concurrency

    def _has_pushed_all_found(self) -> bool:
        is_found = (each.is_found for each in self._active.values())
        return self._stopping or not (self._found or any(is_found))

    def _folders(self) -> Iterator[list[Unshared]]:
        """What there is to find, folder by folder, with a rest after each as long as it took."""
        folders = unshared(
            self._root,
            self._bucket.config.target,
            entries=self._entries,
            again_before=self._oldest or 0.0,
        )
        began = time.monotonic()
        for folder in folders:
            took = time.monotonic() - began
            yield [each for each in folder if not self._is_known(each.key)]
            if self._stop.wait(took):
                return
            began = time.monotonic()

    def _is_known(self, key: Key) -> bool:
        with self._lock:
            return key in self._announced or key in self._active

    def _await_walk(self) -> bool:
        """Wait until it is time for a walk; False if it is time to stop."""
        with self._lock:
            while not self._stopping and (left := self._walk_at - time.monotonic()) > 0:
                self._progress.wait(min(left, threading.TIMEOUT_MAX))
            self._walk_at = math.inf
            return not self._stopping

    def _walk_soon(self) -> None:
        self._walk_within(WALK_SOON_SECONDS)

    def _walk_within(self, seconds: float) -> None:
        self._walk_at = min(self._walk_at, time.monotonic() + seconds)
        self._progress.notify_all()

    def _push_all(self) -> None:
        """Push one file after the other, until it is stopped."""
        while taken := self._take():
            key, waiting = taken
            outcome, reason = self._push(key)
            with self._lock:
                del self._active[key]
                if waiting.is_found:
                    self._unwalked.take_out(waiting.size)
                newer = self._again.pop(key, None)
                if newer is not None:
                    self._put_in_line(key, newer)
                elif outcome is None:
                    self._left.add(waiting.size, waiting.since or time.monotonic())
                    if not waiting.is_found:  # else the walk that has found it comes again
                        self._walk_within(self._walk_pause)
                self._progress.notify_all()
            if newer is None:
                lag = None if waiting.is_found else time.monotonic() - waiting.since
                self._finished(Finished(key, outcome, reason, lag))

    def _take(self) -> tuple[Key, _Waiting] | None:
        """The next file to push, from the queue and from the walk by turns; None to stop."""
        with self._lock:
            while not self._stopping:
                if self._found and (self._is_founds_turn or not self._announced):
                    self._is_founds_turn = False
                    key, waiting = self._found.popleft()
                    self._progress.notify_all()
                    if key in self._active:
                        self._unwalked.take_out(waiting.size)
                        continue
                elif self._announced:
                    self._is_founds_turn = True
                    key, waiting = self._announced.popitem(last=False)
                    self._announced_size -= waiting.size
                    if key in self._active:
                        self._again[key] = waiting
                        continue
                else:
                    self._work.wait()
                    continue
                self._active[key] = waiting
                return key, waiting
            return None

    def _push(self, key: Key) -> tuple[Pushed | None, str | None]:
        """Push a file; if it is left, the first is None and the second the reason."""
        attempt = 0
        while not self._stop.is_set():
            try:
                pushed = self._pusher.push(key, self._oldest)
            except BreakerOpen as error:
                if not self._waits(error.cause):
                    return None, str(error)
                self._was_open = True
                self._stop.wait(min(error.seconds, MAX_BREAK_SECONDS) * random.uniform(1, 1.1))  # noqa: S311
            except BucketError as error:
                attempt += 1
                if isinstance(error, Rejected) or attempt == ATTEMPTS:
                    return None, str(error)
                self._stop.wait(BACK_OFF_SECONDS * 2**attempt * random.uniform(0.5, 1))  # noqa: S311
            except OSError as error:
                return None, error.strerror or type(error).__name__
            else:
                self._note_success()
                if pushed is Pushed.INCOMPLETE:
                    return None, None
                return pushed, None
        return None, None

    def _note_success(self) -> None:
        """After an outage, look for what was left during it."""
        if self._was_open and self._bucket.breaker.error is None:
            self._was_open = False
            if self._left.files:
                self.walk_soon()
