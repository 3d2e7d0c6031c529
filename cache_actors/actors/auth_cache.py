"""The auth cache: which token may do what in which project, as Tuist says, remembered.

Whom it asks, and in which order, is in `access/tuist.py`. The life of an answer, per token (the
times are settings; the contract's are given here):

* What Tuist allows is a yes for 600 s; anything else is a no for 3 s. Neither outlives the token.
* What a token says of itself, signed by Tuist, is asked of nobody. It is read again after 600 s.
  Once the server has refused the token it counts for nothing.
* Questions about one token that come while Tuist is being asked about it wait for that answer.
* If Tuist cannot answer, a yes goes on being one until 1,500 s after it was given: stale, so that
  it holds for 3 s at a time. Otherwise the trouble is reported. Either way the next
  attempt comes 3 s later at the earliest. While Tuist is known to be down, a stale yes is given at
  once, and Tuist asked behind it, so that a slow outage does not slow every build.
* A 401 replaces the answer before, so that it ends a yes at once.

Tokens are kept as keyed hashes. What Tuist says of those with access is kept apart from what it
says of others, and they are asked about in a queue of their own, so that a flood of bad tokens
neither pushes out the good ones nor keeps them waiting. In both queues projects have their turns
one after the other, so that one with many new tokens keeps those of others from nothing. Whoever
would wait for too long is told so at once: by a `TooManyQuestions`, or why Tuist cannot answer, if
that is why the queue does not move.
"""

from __future__ import annotations

import hmac
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.access.grants import Access, TuistReply
from cache_actors.access.tokens import NO_WORD, TokenMemory, TokenState
from cache_actors.access.tuist import CONNECTIONS
from cache_actors.supervision import (
    Actor,
    ActorStopped,
    Address,
    Call,
    Cast,
    Envelope,
    Holding,
    Shares,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cache_actors.access.grants import Action
    from cache_actors.access.tuist import TuistApi
    from cache_actors.metrics.registry import Metrics
    from cache_actors.storage.layout import Project
    from cache_actors.supervision import Mailbox, Started

ATTEMPT_INTERVAL = 3.0
"""Seconds between two attempts to ask about a token while Tuist cannot answer."""

STALE_LIFETIME = 3.0
"""Seconds that a stale yes may be remembered: it is the time to the next attempt."""

MAX_QUESTIONS = 2_000
"""Largest number of tokens that wait for Tuist's answer: of tokens that had access, and of others.
A project has half of what others leave."""

MAX_WAIT_SECONDS = 5.0
"""Longest time that a question may wait for its turn, in seconds. It may then take 10 s
(`access.tuist.TIMEOUT`), and nginx waits for 20."""

FIRST_PACE = 0.5
"""Time that an answer is expected to take before there was any, in seconds."""

UNVERIFIABLE = (
    "a cache token cannot be verified: set TUIST_TOKEN_SECRET to the Tuist server's token secret, "
    "or TUIST_CLIENT_ID and TUIST_CLIENT_SECRET to a credential for introspection"
)
"""What the operator is told of the first token that is refused for that."""


class TooManyQuestions(Exception):
    """Too many other tokens are being asked about for one more."""

    def __init__(self) -> None:
        super().__init__("Too many tokens are being asked about")


class AccessUnknown(Exception):
    """Tuist cannot answer, and there is no yes to go on with; ask again in `retry_after` s."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a token may do something, and for how many seconds from now that holds.

    `message` is Tuist's words for people, if it has given any.
    """

    access: Access
    lifetime: float
    message: str = ""


class AuthCacheClient:
    """Asks whether a token may do something in a project. `secret` is the key of the tokens'
    hashes."""

    def __init__(self, cache: Address, secret: bytes) -> None:
        self._cache = cache
        self._secret = secret

    async def decide(
        self, authorization: str, project: Project, action: Action, request_id: str
    ) -> Decision:
        """Whether the token in the header `authorization` may do that in `project`.

        Raises:
            AccessUnknown: nobody knows at the moment.
            TooManyQuestions: Tuist cannot be asked in time.
            ActorError: the cache is overloaded, or did not answer.
        """
        token = hmac.digest(self._secret, authorization.encode("latin-1"), "sha256")
        return await self._cache.call(
            Decide(token, str(project), action, authorization, request_id)
        )


@dataclass(frozen=True, slots=True)
class Decide(Call[Decision]):
    """Decide whether `token`, a keyed hash of `authorization`, may do that in `project`."""

    token: bytes
    project: str
    action: Action
    authorization: str = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True)
class ReplyReceived(Cast):
    """Tuist has answered about `token`, or has failed to: then `answer` says how. None: nobody
    waited for the answer any more, so it was not asked. An exception: there was no time for it.

    The cache sends this to itself.
    """

    token: bytes
    answer: TuistReply | str | Exception | None


@dataclass(slots=True)
class _Place:
    """A question's place in the queue, and its turn when that has come."""

    place: Holding
    turn: Holding

    def leave(self) -> None:
        """Leave them to others."""
        self.turn.give_back()
        self.place.give_back()


class _Queue:
    """Questions that are being asked, `connections` at once, or wait for their turn."""

    def __init__(self, connections: int) -> None:
        self._places = Shares(MAX_QUESTIONS)
        self._turns = Shares(connections, leave_room=False)
        self.failure = ""  # of the last question, if it had no answer
        self._waiting: Counter[str] = Counter()  # by project
        self._asked: dict[object, float] = {}  # since when
        self._pace = FIRST_PACE

    def enter(self, project: str) -> _Place | None:
        """A place in the queue, to be left in the end; None if its turn would come too late."""
        place = _Place(Holding(self._places, (project,)), Holding(self._turns, (project,)))
        if self._expected_wait(project) >= MAX_WAIT_SECONDS:
            return None
        try:
            place.place.take_nowait(1)
        except trio.WouldBlock:
            return None
        try:
            place.turn.take_nowait(1)
        except trio.WouldBlock:
            self._waiting[project] += 1
        return place

    async def wait_for_turn(self, project: str, place: _Place) -> bool:
        """Wait for the turn of a question, and return whether it has come in time."""
        if not place.turn.amount:
            with trio.move_on_after(MAX_WAIT_SECONDS):
                await place.turn.take(1)
            self._waiting -= Counter([project])
        return place.turn.amount > 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take in how long a question takes."""
        key, began = object(), trio.current_time()
        self._asked[key] = began
        try:
            yield
        finally:
            del self._asked[key]
        self._pace += (trio.current_time() - began - self._pace) / 4

    def _expected_wait(self, project: str) -> float:
        """Seconds that one more question from `project` would wait for its turn."""
        if self._turns.taken < self._turns.limit:
            return 0.0
        mine = self._waiting[project] + 1
        ahead = mine + sum(
            min(mine, number) for other, number in self._waiting.items() if other != project
        )
        oldest = next(iter(self._asked.values()), trio.current_time())
        pace = max(self._pace, trio.current_time() - oldest)
        return pace * ceil(ahead / self._turns.limit)


class AuthCache(Actor):
    """Remembers Tuist's answers, and asks for those that it lacks.

    Args:
        new_api: opens the connection to Tuist, once per incarnation.
        metrics: where decisions and questions are counted.
        log: told when Tuist cannot answer, with the event's name and fields.
        connections: how many questions may be under way at once.
        success_ttl, failure_ttl, stale_ttl: life of a yes, of a no, and of a yes when Tuist cannot
            answer, in seconds from when it was given.
    """

    batch_limit: ClassVar[int] = 64

    def __init__(
        self,
        new_api: Callable[[], TuistApi],
        metrics: Metrics,
        log: Callable[..., object],
        *,
        success_ttl: float,
        failure_ttl: float,
        stale_ttl: float,
        connections: int = CONNECTIONS,
    ) -> None:
        self._new_api = new_api
        self._metrics = metrics
        self._log = log
        self._success_ttl = success_ttl
        self._failure_ttl = failure_ttl
        self._stale_ttl = stale_ttl
        self._tokens = TokenMemory()
        self._oddity = ""  # of Tuist's answers that was logged last
        self._has_told_of_cache_tokens = False
        self._waiting: dict[bytes, list[Envelope]] = {}
        # Those who had access before do not queue behind those who may never have any.
        self._queues = {known: _Queue(connections // 2) for known in (True, False)}

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Live one life, with a nursery for the questions that are under way."""
        self._self = mailbox.address
        async with self._new_api() as self._api, trio.open_nursery() as self._questions:
            await super().run(mailbox, started)
            self._questions.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Decide what can be decided; keep the rest until Tuist has been asked."""
        for envelope in batch:
            match envelope.message:
                case Decide() as question:
                    self._decide(envelope, question)
                case ReplyReceived(token, answer):
                    self._record_reply(token, answer)

    def _decide(self, envelope: Envelope, question: Decide) -> None:
        """Answer `question` from memory or from its token, or let it wait for what Tuist says."""
        token = self._tokens.get(question.token)
        now = trio.current_time()
        decision = self._known(token, question, now)
        if decision.lifetime > 0:
            self._reply(envelope, decision, "memory")
        elif own := self._read_word(token, question, now):
            self._reply(envelope, own, "token")
        elif not token.is_in_outage():
            self._ask(question, token, envelope, now)
        else:
            stale = self._stale(token, question, now)
            next_attempt = token.failed_at + ATTEMPT_INTERVAL
            if stale is not None:
                self._reply(envelope, stale, "stale")
            elif now < next_attempt:
                self._fail(envelope, token.failure, ceil(next_attempt - now), "memory")
            if now >= next_attempt:
                self._ask(question, token, envelope, now)

    def _known(self, token: TokenState, question: Decide, now: float) -> Decision:
        """The decision by Tuist's last word on `token`; its lifetime may be over."""
        if now < token.word_ends and (own := self._by_word(token, question, now)):
            return own
        answer = token.answer
        access = answer.verdict(question.project, question.action)
        ttl = self._success_ttl if access is Access.GRANTED else self._failure_ttl
        message = answer.message if access is Access.PAYMENT_REQUIRED else ""
        return Decision(access, token.answered_at + min(ttl, answer.lifetime) - now, message)

    def _read_word(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The decision by what the token itself says, if Tuist has signed it, and if it says
        that."""
        if token.is_refused():
            return None
        word = self._api.word_in(question.authorization)
        if word is None:
            return None
        token.word, token.word_ends = word, now + min(self._success_ttl, word.lifetime)
        self._tokens.put(question.token, token)
        return self._by_word(token, question, now)

    def _by_word(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The decision by what `token` was last read to say; None if the server has to be asked."""
        access = token.word.verdict(question.project, question.action)
        left = token.word_ends - now
        if access is Access.GRANTED:
            return Decision(access, left)
        return Decision(access, min(self._failure_ttl, left)) if token.word.is_whole else None

    def _stale(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The yes to go on with while Tuist cannot answer, if there is one."""
        answer = token.answer
        left = token.answered_at + min(self._stale_ttl, answer.lifetime) - now
        if answer.verdict(question.project, question.action) is not Access.GRANTED or left <= 0:
            return None
        return Decision(Access.GRANTED, min(left, STALE_LIFETIME))

    def _ask(self, question: Decide, token: TokenState, envelope: Envelope, now: float) -> None:
        """Have Tuist asked about a token, if that is not under way, and `envelope` wait for it."""
        waiting = self._waiting.get(question.token)
        if waiting is None:
            queue = self._queues[token.names > 0]
            place = queue.enter(question.project)
            if place is None:
                self._refuse(envelope, token, queue.failure)
                return
            waiting = self._waiting[question.token] = []
            self._questions.start_soon(self._fetch, question, waiting, queue, place)
        waiting.append(envelope)

    async def _fetch(
        self, question: Decide, waiting: list[Envelope], queue: _Queue, place: _Place
    ) -> None:
        """One question to Tuist; the answer comes back as a message."""
        answer: TuistReply | str | Exception | None = None
        in_time = await queue.wait_for_turn(question.project, place)
        if not all(envelope.abandoned for envelope in waiting):
            if in_time:
                with queue.timed():
                    answer = await self._ask_tuist(question)
                queue.failure = answer if isinstance(answer, str) else ""
            else:
                answer = _refusal(queue.failure)
        place.leave()
        with suppress(ActorStopped):
            await self._self.cast(ReplyReceived(question.token, answer))

    def _refuse(self, envelope: Envelope, token: TokenState, failure: str) -> None:
        """Answer a question for which Tuist cannot be asked in time."""
        question = envelope.message
        assert isinstance(question, Decide)  # noqa: S101
        stale = self._stale(token, question, trio.current_time())
        if stale is not None:
            self._reply(envelope, stale, "stale")
            return
        refusal = _refusal(failure)
        is_overload = isinstance(refusal, TooManyQuestions)
        self._metrics.decided("overloaded" if is_overload else "unknown", "memory")
        envelope.fail(refusal)

    async def _ask_tuist(self, question: Decide) -> TuistReply | str:
        began = trio.current_time()
        answer = await self._api.ask(question.authorization, question.request_id)
        outcome = answer.access.value if isinstance(answer, TuistReply) else "failed"
        self._metrics.tuist_asked(outcome, trio.current_time() - began)
        if not isinstance(answer, TuistReply):
            self._log("tuist_failed", request_id=question.request_id, reason=answer)
        elif answer.access is Access.UNVERIFIABLE and not self._has_told_of_cache_tokens:
            self._has_told_of_cache_tokens = True
            self._log("cache_token_unverified", request_id=question.request_id, reason=UNVERIFIABLE)
        elif answer.oddity and answer.oddity != self._oddity:
            self._oddity = answer.oddity
            self._log("tuist_answer_odd", request_id=question.request_id, reason=answer.oddity)
        return answer

    def _reply(self, envelope: Envelope, decision: Decision, source: str) -> None:
        self._metrics.decided(decision.access.value, source)
        envelope.reply(decision)

    def _fail(self, envelope: Envelope, reason: str, retry_after: int, source: str) -> None:
        self._metrics.decided("unknown", source)
        envelope.fail(AccessUnknown(reason, retry_after))

    def _record_reply(self, key: bytes, answer: TuistReply | str | Exception | None) -> None:
        """Take in Tuist's answer about a token, or its failure, and tell those who wait for it."""
        if answer is None:  # somebody may have come after all
            for envelope in self._waiting.pop(key, ()):
                if envelope.abandoned:
                    envelope.reply()  # to nobody: it lets go of the message, and of the token in it
                elif isinstance(envelope.message, Decide):
                    self._decide(envelope, envelope.message)
            return
        now = trio.current_time()
        token = self._tokens.get(key)
        if isinstance(answer, Exception):  # nothing is known of the token that was not before
            failure = "" if isinstance(answer, TooManyQuestions) else str(answer)
            for envelope in self._waiting.pop(key, ()):
                self._refuse(envelope, token, failure)
            return
        if isinstance(answer, TuistReply):
            token.answer, token.answered_at = answer, now
            if token.is_refused():
                token.word, token.word_ends = NO_WORD, now
        else:
            token.failure, token.failed_at = answer, now
        self._tokens.put(key, token)
        for envelope in self._waiting.pop(key, ()):
            question = envelope.message
            assert isinstance(question, Decide)  # noqa: S101
            decision: Decision | None = (
                self._stale(token, question, now)
                if token.is_in_outage()
                else self._known(token, question, now)
            )
            if decision is not None:
                self._reply(envelope, decision, "stale" if token.is_in_outage() else "tuist")
            else:
                self._fail(envelope, token.failure, ceil(ATTEMPT_INTERVAL), "tuist")


def _refusal(failure: str) -> AccessUnknown | TooManyQuestions:
    """Why Tuist is not asked: it fails, which holds up the queue, or too many want to be."""
    return AccessUnknown(failure, ceil(ATTEMPT_INTERVAL)) if failure else TooManyQuestions()
