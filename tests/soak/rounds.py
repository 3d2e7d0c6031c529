"""The soak itself: rounds of work under faults, each followed by a look at everything."""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cache_actors.storage.layout import Key

from .checks import Inspector
from .clients import Client, Pool, Round
from .faults import Faults, Kind, Plan, draw_plan
from .report import Tally
from .site import Site
from .world import Fault, Violation, World

CLIENTS = 6
READS = 12
"""Acknowledged writes that are read through nginx after each round."""

GRACE = 3.5
"""Seconds after an outage in which the service may still say that Tuist cannot be asked: it tries
again 3 s after it failed (`ATTEMPT_INTERVAL` in the auth cache)."""

AFTERMATH = 0.15
"""Seconds that clients go on when the faults of a round are over."""

FINISH = 10.0
"""Seconds that are kept for the end, or less if there are only a few."""


class Soak:
    """One soak of a site.

    Args:
        seed: what every decision is drawn from.
        seconds: how long it may take.
        kills: how often the service is to be killed at least.
        say: told how it goes.
    """

    def __init__(
        self,
        site: Site,
        tally: Tally,
        *,
        seed: int,
        seconds: float,
        kills: int,
        say: Callable[[str], None],
    ) -> None:
        self._site = site
        self._tally = tally
        self._seed = seed
        self._seconds = seconds
        self._kills = kills
        self._say = say
        self._world = World()
        self._pool = Pool()
        self._faults = Faults(site, tally)
        self._inspector = Inspector(site, self._world, tally)
        self._clients = [
            Client(number, site, self._world, tally, self._pool) for number in range(CLIENTS)
        ]
        self._grace_until = 0.0

    def run(self) -> None:
        """Rounds until the time is over, and a last look at everything."""
        began = time.monotonic()
        for_rounds = self._seconds - min(FINISH, self._seconds / 4)
        number = 0
        try:
            while (passed := time.monotonic() - began) < for_rounds:
                behind = self._tally.counts["kills"] < self._kills * passed / for_rounds
                if not self._round(number, must_kill=behind):
                    return
                number += 1
            self._finish(number)
        finally:
            self._faults.clear()
            for client in self._clients:
                client.close()
            self._tally.add("weak", self._world.weak())

    def _round(self, number: int, *, must_kill: bool) -> bool:
        """One round; False if the service did not come back."""
        plan = draw_plan(
            random.Random(f"{self._seed} {number}"),
            can_fill=self._site.disk_is_small,
            can_trace=self._faults.can_trace,
            must_kill=must_kill,
        )
        this = Round(
            self._seed,
            number,
            has_faults=not plan.is_calm,
            calls_fail=plan.has_failing_calls,
            is_full=plan.may_be_full,
            grace_until=self._grace_until,
        )
        before = len(self._tally.violations)
        crashed, injected = (self._site.injected(what) for what in ("crashed", "injected"))
        started = time.monotonic()
        alive = self._work(this, plan)
        worked = time.monotonic() - started
        self._tally.add("rounds")
        self._tally.add("calm", plan.is_calm)
        self._tally.add("crashes", self._site.injected("crashed") - crashed)
        self._tally.add("injected", self._site.injected("injected") - injected)
        if plan.has(Kind.OUTAGE):
            self._grace_until = time.monotonic() + GRACE
        if alive:
            self._check(number)
        found = self._tally.violations[before:]
        events = ", ".join(f"{e.at:.2f} {e.kind.value} {e.argument}".strip() for e in plan.events)
        checked = time.monotonic() - started - worked
        self._say(f"round {number} ({worked:.1f} s, checks {checked:.1f} s): {events or 'calm'}")
        for violation in found:
            self._say(f"  VIOLATION {violation}")
        return alive

    def _work(self, this: Round, plan: Plan) -> bool:
        """Let the clients work while the plan's events happen; whether the service is up then."""
        over = threading.Event()
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as threads:
            work = [threads.submit(client.work, this, over) for client in self._clients]
            try:
                for event in plan.events:
                    time.sleep(max(0, began + event.at - time.monotonic()))
                    self._note_end(plan)
                    self._faults.do(event)
                time.sleep(max(0, began + plan.seconds - time.monotonic()))
                self._faults.clear()
                self._note_end(plan)
                alive = self._site.wait_until_up()
                time.sleep(AFTERMATH)
            finally:
                over.set()
        for each in work:
            each.result()
        if not (alive and self._site.wait_until_up()):
            tail = f"{self._site.state()}\n{self._site.service.log_tail()}"
            self._tally.violate(Violation(Fault.UNAVAILABLE, f"after round {this.number}", tail))
            return False
        return True

    def _note_end(self, plan: Plan) -> None:
        """A service may end without being killed only if the disk did not let it start."""
        process = self._site.service.process
        status = None if process is None else process.poll()
        if status is not None and not (
            status == 2 and (plan.may_be_full or plan.has_failing_calls)
        ):
            self._tally.violate(Violation(Fault.STOP, f"the service ended with status {status}"))

    def _check(self, number: int) -> None:
        """Nobody writes now: look at everything."""
        rng = random.Random(f"{self._seed} {number} check")
        self._inspector.check_places()
        self._inspector.check_disk(rng)
        self._inspector.check_logs()
        firm = self._world.firm()
        self._read(rng.sample(firm, min(READS, len(firm))), number)
        if time.monotonic() > self._grace_until:
            self._clients[0].try_everything(Round(self._seed, number))
        self._pool.drop(self._inspector.retire())

    def _read(self, entries: Sequence[Key], number: int) -> None:
        calm = Round(self._seed, number, grace_until=self._grace_until)
        for entry in entries:
            self._tally.add("reads", self._clients[0].read(entry, calm))

    def _finish(self, number: int) -> None:
        """Everything has to be there, also after a stop in order, which leaves nothing behind."""
        self._say("the last look: everything through nginx, a stop, everything on disk, a scrub")
        time.sleep(max(0, self._grace_until - time.monotonic()))
        self._clients[0].try_everything(Round(self._seed, number + 1))
        self._read(self._world.firm(), number)
        status = self._site.service.stop(signal.SIGTERM)
        if status != 0:
            self._tally.violate(Violation(Fault.STOP, f"exit status {status} after SIGTERM"))
        self._inspector.check_places(stopped=True)
        self._inspector.check_disk(None)
        self._inspector.check_logs()
        self._inspector.check_scrub()
