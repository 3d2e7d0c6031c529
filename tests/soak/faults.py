"""What goes wrong in a round: drawn at random, then done at its time."""

import os
import random
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from tests.support.strace import family
from tests.support.writer_processes import disk_processes

from .report import Tally
from .site import Site

BALLAST = ".soak-ballast"
TRACER_SECONDS = 5.0

ACTORS = ("DiskWriter", "KeyValueStore", "AuthCache")
CALLS = ("fsync", "fdatasync", "link", "writev", "rename", "setxattr", "posix_fallocate")
TRACED = ("fsync", "fdatasync", "linkat", "writev", "rename")


class Kind(Enum):
    """What can be done to a site."""

    KILL = "kill"
    CRASH = "crash"
    HANDS = "kill hands"
    INJECT = "inject"
    INJECT_END = "inject end"
    TRACE = "trace"
    TRACE_END = "trace end"
    FILL = "fill"
    FILL_END = "fill end"
    OUTAGE = "outage"
    OUTAGE_END = "outage end"


@dataclass(frozen=True, order=True)
class Event:
    """Something is done `at` that many seconds of a round."""

    at: float
    kind: Kind = field(compare=False)
    argument: str = field(default="", compare=False)


@dataclass(frozen=True)
class Plan:
    """What happens in a round of at least `seconds`."""

    seconds: float
    events: tuple[Event, ...]

    def has(self, *kinds: Kind) -> bool:
        """Whether something of these kinds happens."""
        return any(event.kind in kinds for event in self.events)

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong."""
        return not self.events

    @property
    def has_failing_calls(self) -> bool:
        """Whether calls fail that write."""
        return self.has(Kind.INJECT, Kind.TRACE)

    @property
    def may_be_full(self) -> bool:
        """Whether there may seem to be no room."""
        return self.has(Kind.FILL) or any("ENOSPC" in event.argument for event in self.events)


def draw_plan(rng: random.Random, *, can_fill: bool, can_trace: bool, must_kill: bool) -> Plan:
    """What goes wrong in a round.

    Args:
        rng: where chance comes from.
        can_fill, can_trace: whether the disk can be filled up, and strace be used.
        must_kill: whether the kills lag behind; then there are three in any case.
    """
    events: list[Event] = []

    def window(begin: Kind, end: Kind, argument: str = "") -> None:
        at = rng.uniform(0.05, 0.5)
        events.append(Event(at, begin, argument))
        events.append(Event(at + rng.uniform(0.3, 0.9), end))

    calm = rng.random() < 0.08
    kills = rng.choices((0, 1, 2), (10, 70, 20))[0]
    kills = 0 if calm else kills
    events.extend(Event(rng.uniform(0.1, 1.2), Kind.KILL) for _ in range(3 if must_kill else kills))
    if not calm and rng.random() < 0.4:
        for _ in range(rng.randint(1, 4)):
            crash = f"{rng.choice(ACTORS)} {rng.choice(('before', 'after'))}"
            events.append(Event(rng.uniform(0.0, 1.2), Kind.CRASH, crash))
    if not calm and rng.random() < 0.3:
        events.append(Event(rng.uniform(0.0, 1.2), Kind.HANDS, str(rng.randrange(2))))
    failing = rng.random()
    if not calm and failing < 0.25:
        calls = rng.sample(CALLS, rng.randint(1, len(CALLS)))
        chance = rng.choice(("0.05", "0.2", "0.5", "1"))
        error = rng.choice(("EIO", "EIO", "ENOSPC"))
        window(Kind.INJECT, Kind.INJECT_END, f"{chance} {error} {' '.join(calls)}")
    elif not calm and can_trace and failing < 0.35:
        calls = rng.sample(TRACED, rng.randint(1, 3))
        step = rng.randint(1, 5)
        window(Kind.TRACE, Kind.TRACE_END, f"{','.join(calls)} EIO {step}")
    if not calm and can_fill and rng.random() < 0.15:
        window(Kind.FILL, Kind.FILL_END, str(rng.choice((0, 20_000, 300_000, 1_500_000))))
    if not calm and rng.random() < 0.12:
        window(Kind.OUTAGE, Kind.OUTAGE_END)
    return Plan(rng.uniform(0.7, 1.4), tuple(sorted(events)))


class Faults:
    """Does to a site what a plan says."""

    def __init__(self, site: Site, tally: Tally) -> None:
        self._site = site
        self._tally = tally
        self._strace = shutil.which("strace")
        self._tracer: subprocess.Popen[bytes] | None = None
        self.can_trace = self._strace is not None and os.geteuid() == 0

    def do(self, event: Event) -> None:
        """Let `event` happen."""
        flags = self._site.flags
        match event.kind:
            case Kind.KILL:
                if self._site.kill():
                    self._tally.add("kills")
                self._site.start()
            case Kind.CRASH:
                actor, when = event.argument.split()
                temporary = flags / "new"
                temporary.write_text(when)
                temporary.replace(flags / f"crash.{actor}")
            case Kind.HANDS:
                self._kill_hands(int(event.argument))
            case Kind.INJECT:
                temporary = flags / "new"
                temporary.write_text(event.argument)
                temporary.replace(flags / "syscalls")
            case Kind.INJECT_END:
                (flags / "syscalls").unlink(missing_ok=True)
            case Kind.TRACE:
                self._trace(*event.argument.split())
            case Kind.TRACE_END:
                self._end_trace()
            case Kind.FILL:
                self._fill(int(event.argument))
            case Kind.FILL_END:
                (self._site.storage / BALLAST).unlink(missing_ok=True)
            case Kind.OUTAGE:
                self._site.tuist.stop()
                self._tally.add("outages")
            case Kind.OUTAGE_END:
                self._site.tuist.start()

    def clear(self) -> None:
        """End all faults that are still there."""
        self._end_trace()
        (self._site.storage / BALLAST).unlink(missing_ok=True)
        (self._site.flags / "syscalls").unlink(missing_ok=True)
        for actor in ACTORS:
            (self._site.flags / f"crash.{actor}").unlink(missing_ok=True)

    def _kill_hands(self, which: int) -> None:
        """Kill one of the processes that write, if they run."""
        process = self._site.service.process
        pids = disk_processes(process.pid) if process is not None else []
        if which < len(pids):
            with suppress(ProcessLookupError):
                os.kill(pids[which], signal.SIGKILL)
                self._tally.add("hands")

    def _trace(self, calls: str, error: str, step: str) -> None:
        process = self._site.service.process
        if self._strace is None or process is None or process.poll() is not None:
            return
        what = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when=1+{step}"]
        whom = [f"--attach={pid}" for pid in family(process.pid)]
        self._tracer = subprocess.Popen(
            [self._strace, "-f", "-q", *what, "-o", "/dev/null", *whom],
            stderr=subprocess.DEVNULL,
        )
        self._tally.add("traced")

    def _end_trace(self) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.terminate()
            try:
                tracer.wait(TRACER_SECONDS)
            except subprocess.TimeoutExpired:  # it waits for one that was killed as it came
                tracer.kill()
                tracer.wait()

    def _fill(self, leave: int) -> None:
        """Fill up the disk but for `leave` bytes."""
        fd = os.open(self._site.storage / BALLAST, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            step = 64 << 20
            size = 0
            while step >= 4096:
                room = os.statvfs(self._site.storage)
                if room.f_bavail * room.f_frsize - step < leave:
                    step //= 4
                    continue
                with suppress(OSError):
                    os.posix_fallocate(fd, size, step)
                    size += step
                    continue
                step //= 4
        finally:
            os.close(fd)
        self._tally.add("full")
