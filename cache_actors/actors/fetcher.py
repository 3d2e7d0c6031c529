"""The fetcher: looks in the bucket for what is not on this disk, and has it stored here.

A process does the work (`fetcher_process/`), so that no byte crosses the event loop. The actor
decides who may use it: there is one flight for each key, however many ask for it, and there are at
most `MAX_FLIGHTS`. A project may have half of what the others leave, so that one with many misses
does not keep the others from theirs.

Nobody waits longer than a budget. What takes longer goes on, and the next one who asks finds it.

Until a process that is replaced (`bucket_process.py`) has started, and while one has not reported
for `QUIET_SECONDS`, all that is asked for counts as missing at once. So nothing that goes wrong
with the bucket, or with what comes from it, reaches the rest of the tree.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.actor_process.client import ProcessDied
from cache_actors.fetcher_process.protocol import (
    MAX_FLIGHTS,
    FetcherConfig,
    PullReport,
    PullRequest,
    TellRequest,
    decode_report,
)
from cache_actors.s3.outcome import Outcome
from cache_actors.storage.layout import Key, Project, StoredKey, key_at
from cache_actors.supervision import Actor, ActorError, Address, Call, Envelope, Holding, Shares

from .bucket_process import BucketProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from cache_actors.actor_process.client import ActorProcess
    from cache_actors.fetcher_process.protocol import FollowedClean
    from cache_actors.metrics.registry import Metrics
    from cache_actors.s3.status import SharedMonitor
    from cache_actors.storage.capacity import Capacity
    from cache_actors.storage.references import Target
    from cache_actors.supervision import Mailbox, Started

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cache_actors.fetcher_process")
"""Command that runs the process; its configuration is one more argument. `-P` has it import
nothing from the working directory."""

MAX_WAITING = 2_000
"""Number of flights that are in the air or wait for their turn, of which a project may have half of
what the others leave; more are refused."""

ARTIFACT_SECONDS = 10.0
"""Longest time that anybody waits for an artifact, in seconds, or for all artifacts of an entry."""


class CleanUntold(Exception):
    """The bucket has yet to be told of a clean; the message says why."""


class FetcherClient:
    """Asks for files that are not on this disk.

    Args:
        fetcher: the address of the actor.
        entry_seconds: longest time, in seconds, that is waited for the news whether there is an
            entry.
        metrics: where outcomes are counted.
        entries: whether entries go to the bucket.
    """

    def __init__(
        self, fetcher: Address, entry_seconds: float, metrics: Metrics, *, entries: bool
    ) -> None:
        self._fetcher = fetcher
        self._entry_seconds = entry_seconds
        self._metrics = metrics
        self._entries = entries

    async def pull(self, key: Key) -> Outcome:
        """Look for the file of `key`, and return what came of it; never `COMING`.

        A bucket or an actor that fails is `UNKNOWN`, and no error.
        """
        if key.kind.refers and not self._entries:
            return Outcome.ABSENT
        seconds = self._entry_seconds if key.kind.refers else ARTIFACT_SECONDS
        outcome = await self._wait(Pull(key), seconds)
        if outcome is Outcome.COMING:
            outcome = await self._wait(Pull(key, complete=True), ARTIFACT_SECONDS)
        self._metrics.pulled(key.kind.label, outcome)
        return outcome

    async def tell_cleans(self) -> None:
        """Tell all nodes of the cleans that this node knows of (`storage/known_cleans.py`).

        Raises:
            CleanUntold: they may not hear of it now; they are told later.
            ActorError: the fetcher is overloaded, or did not answer.
        """
        await self._fetcher.call(TellCleans())

    async def pull_targets(self, project: Project, targets: Iterable[Target]) -> None:
        """Look for artifacts and blobs, all at once; return when that has come to an end."""
        with trio.move_on_after(ARTIFACT_SECONDS):
            async with trio.open_nursery() as nursery:
                for target in targets:
                    nursery.start_soon(self._pull_either, project, target)

    async def _pull_either(self, project: Project, target: Target) -> None:
        for each in target.ids:
            if await self.pull(Key(project, target.kind, each)) is Outcome.HERE:
                return

    async def _wait(self, message: Pull, seconds: float) -> Outcome:
        with trio.move_on_after(seconds):
            try:
                return await self._fetcher.call(message)
            except ActorError:
                pass
        return Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Pull(Call[Outcome]):
    """Look for the file of `key`.

    The answer is `COMING` as soon as an entry has been found, unless `complete` says that its
    artifacts are waited for too.
    """

    key: Key
    complete: bool = False


@dataclass(frozen=True, slots=True)
class TellCleans(Call[None]):
    """Tell all nodes of the cleans that this node knows of."""


@dataclass(slots=True)
class _Flight:
    """A file that is being pulled, or waits for its turn, and those who wait for it."""

    key: Key
    number: int
    place: Holding
    waiting: list[Envelope] = field(default_factory=list)
    is_coming: bool = False
    landed: trio.Event = field(default_factory=trio.Event)


class Fetcher(Actor):
    """Has files pulled by its process, and shares it among projects.

    Args:
        config: makes the configuration of the process of its descriptor.
        capacity: the room that there is.
        announce: told of each batch of what has been stored, under which keys.
        monitor: the status of the bucket to update.
        metrics: where requests to the bucket are counted, what was wrong, and cleans.
        log: logs what was wrong, and cleans, with the event's name and fields.
    """

    batch_limit: ClassVar[int] = 256

    def __init__(
        self,
        config: Callable[[int], FetcherConfig],
        capacity: Capacity,
        announce: Callable[[Sequence[StoredKey]], Awaitable[None]],
        monitor: SharedMonitor,
        metrics: Metrics,
        log: Callable[..., object],
    ) -> None:
        self._keeper = BucketProcess(
            "fetcher", COMMAND, config, decode_report, monitor, metrics, log
        )
        self._capacity = capacity
        self._announce = announce
        self._metrics = metrics
        self._log = log
        self._turns = Shares(MAX_FLIGHTS)
        self._places = Shares(MAX_WAITING)
        self._numbers = itertools.count()
        self._flights: dict[Key, _Flight] = {}
        self._asked: dict[int, _Flight] = {}  # those that the process has been asked for
        self._telling: dict[int, Envelope] = {}  # who wait until all nodes are told of cleans
        self._sending = trio.Lock()
        self._process: ActorProcess | None = None

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation: a task for the mailbox, one for the process, one for each flight."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keeper.keep, self._use, self._lose_process)
            await super().run(mailbox, started)
            self._nursery.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Let each message wait for the flight of its key, which is begun if there is none."""
        for envelope in batch:
            match envelope.message:
                case Pull() as message:
                    self._join(envelope, message)
                case TellCleans():
                    self._nursery.start_soon(self._tell, envelope)

    def _join(self, envelope: Envelope, message: Pull) -> None:
        if self._process is None or self._keeper.is_quiet():
            envelope.reply(Outcome.UNKNOWN)
            return
        flight = self._flights.get(message.key)
        if flight is None:
            place = Holding(self._places, (message.key.project,))
            with suppress(trio.WouldBlock):
                place.take_nowait(1)
            if not place.amount:
                envelope.reply(Outcome.UNKNOWN)
                return
            flight = self._flights[message.key] = _Flight(message.key, next(self._numbers), place)
            self._nursery.start_soon(self._fly, flight)
        if flight.is_coming and not message.complete:
            envelope.reply(Outcome.COMING)
        else:
            flight.waiting.append(envelope)

    async def _fly(self, flight: _Flight) -> None:
        """Wait for a flight's turn, and have its file pulled, unless nobody waits for it then."""
        turn = Holding(self._turns, (flight.key.project,))
        try:
            with trio.move_on_after(ARTIFACT_SECONDS):
                await turn.take(1)
            is_wanted = not all(envelope.abandoned for envelope in flight.waiting)
            if not (turn.amount and is_wanted and await self._ask(flight)):
                self._land(flight, Outcome.UNKNOWN)
            await flight.landed.wait()
        finally:
            turn.give_back()

    async def _ask(self, flight: _Flight) -> bool:
        """Ask the process for a flight's file, and return whether it lives."""
        with self._capacity.reserve_elsewhere(0) as others:
            request = PullRequest(flight.number, flight.key.place, sum(others))
        self._asked[flight.number] = flight
        is_sent = await self._send(request)
        if not is_sent:
            self._asked.pop(flight.number, None)
        return is_sent

    async def _tell(self, envelope: Envelope) -> None:
        """Ask the process to tell all nodes of cleans."""
        number = next(self._numbers)
        self._telling[number] = envelope
        if not await self._send(TellRequest(number)):
            self._told(number, "the process that pulls has ended")

    def _told(self, number: int, failure: str | None) -> None:
        """Answer who waits until all nodes are told of cleans."""
        if (envelope := self._telling.pop(number, None)) is None:
            return
        if failure is None:
            envelope.reply()
        else:
            envelope.fail(CleanUntold(failure))

    async def _send(self, request: PullRequest | TellRequest) -> bool:
        """Send the process a request, and return whether it lives."""
        async with self._sending:
            if self._process is None:
                return False
            try:
                await self._process.send(request)
            except ProcessDied:
                return False
        return True

    async def _use(self, process: ActorProcess) -> None:
        """Talk to a process until it dies."""
        self._process = process
        try:
            while True:
                await self._take(await self._keeper.next_report(process))
        finally:
            self._process = None

    def _lose_process(self) -> None:
        """Answer all who wait for a process that has ended."""
        asked, self._asked = self._asked, {}
        for flight in asked.values():
            self._land(flight, Outcome.UNKNOWN)
        for number in list(self._telling):
            self._told(number, "the process that pulls has ended")

    async def _take(self, report: PullReport) -> None:
        """Take in what the process reports."""
        self._keeper.note(report.bucket)
        for noticed in report.noticed:
            self._metrics.pull_noticed(noticed.what)
            self._log(f"pull_{noticed.what}", file=noticed.place, reason=noticed.reason)
        found = [(key_at(PurePath(each.place).parts), each.size) for each in report.stored]
        if stored := [StoredKey(key, size) for key, size in found if key is not None]:
            await self._announce(stored)
        for number, failure in report.told:
            self._told(number, failure)
        for clean in report.followed:
            self._note_followed(clean)
        for line in report.troubles:
            self._log("clean_failed", reason=line)
        for number, outcome in report.outcomes:
            flight = self._asked.get(number)
            if flight is not None and outcome is Outcome.COMING:
                self._come(flight)
            elif flight is not None:
                del self._asked[number]
                self._land(flight, outcome)

    def _note_followed(self, clean: FollowedClean) -> None:
        """Note what has been removed here of a project that another node has cleaned."""
        self._metrics.cleaned_projects.inc()
        self._metrics.cleaned(clean.files, clean.bytes)
        self._capacity.forget_scan()
        project = str(Project(clean.account, clean.name))
        self._log("clean_followed", project=project, files=clean.files, bytes=clean.bytes)

    def _come(self, flight: _Flight) -> None:
        """Tell those who want to know no more that an entry has been found."""
        flight.is_coming = True
        waiting, flight.waiting = flight.waiting, []
        for envelope in waiting:
            if isinstance(envelope.message, Pull) and envelope.message.complete:
                flight.waiting.append(envelope)
            else:
                envelope.reply(Outcome.COMING)

    def _land(self, flight: _Flight, outcome: Outcome) -> None:
        """End a flight, and answer those who wait for it."""
        if flight.landed.is_set():
            return
        del self._flights[flight.key]
        flight.place.give_back()
        for envelope in flight.waiting:
            envelope.reply(outcome)
        flight.landed.set()
