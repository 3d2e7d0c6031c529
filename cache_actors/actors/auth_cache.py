"""The auth cache: remembers Tuist's decisions on which token may do what in which project.

The sources of a decision, in order, are in `access/tuist.py`. Its lifetime, per token (the times
are settings; the contract's are given here):

* A yes of Tuist's holds for 600 s, any other answer for 3 s. Neither outlives the token.
* Claims that Tuist has signed need no request to its server. They are verified again after 600 s,
  and ignored once the server has refused the token.
* Requests with a token that Tuist is being asked about wait for that answer.
* While Tuist cannot answer, a yes goes on as a stale one until 1,500 s after it was given, for 3 s
  at a time. Without a yes, the failure is the answer. Either way the next attempt comes 3 s later
  at the earliest. In a known outage, a stale yes is given at once while Tuist is asked in the
  background, so that a slow outage does not slow every build.
* A 401 replaces the answer before it, and so ends a yes at once.

Tokens are kept as keyed hashes. Tokens with access have a memory and a queue of their own, so that
a flood of bad tokens neither evicts nor delays them. In both queues projects take turns, so that
many new tokens in one project do not delay others. A request that would wait for too long fails at
once: with `TooManyQuestions`, or with Tuist's failure, if that is what holds up the queue.
"""

from __future__ import annotations

import hmac
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.access.grants import Access, Action, TuistReply
from cache_actors.access.tokens import NO_CLAIMS, TokenMemory, TokenState
from cache_actors.access.tuist import CONNECTIONS
from cache_actors.storage.layout import Project
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

    from cache_actors.access.tuist import TuistApi
    from cache_actors.metrics.registry import Metrics
    from cache_actors.supervision import Mailbox, Started

ATTEMPT_INTERVAL = 3.0
"""Seconds between two attempts to ask about a token while Tuist cannot answer."""

STALE_LIFETIME = 3.0
"""Lifetime of a stale yes, in seconds: the time to the next attempt."""

MAX_QUESTIONS = 2_000
"""Largest number of questions in each of the two queues. A project may have half of the places that
others leave."""

MAX_WAIT_SECONDS = 5.0
"""Longest time that a question may wait for its turn, in seconds. It may then take 10 s
(`access.tuist.TIMEOUT`), and nginx waits for 20."""

FIRST_PACE = 0.5
"""Duration of a question, in seconds, that is assumed before the first answer."""

UNVERIFIABLE = (
    "a cache token cannot be verified: set TUIST_TOKEN_SECRET to the Tuist server's token secret, "
    "or TUIST_CLIENT_ID and TUIST_CLIENT_SECRET to a credential for introspection"
)
"""Reason that is logged for the first token refused as `Access.UNVERIFIABLE`."""


class TooManyQuestions(Exception):
    """Tuist cannot be asked in time, as too many questions wait already."""

    def __init__(self) -> None:
        super().__init__("Too many tokens are being asked about")


class AccessUnknown(Exception):
    """Tuist cannot answer and there is no stale yes; a retry makes sense in `retry_after` s."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision on a token's access.

    Attributes:
        access: the verdict.
        lifetime: seconds from now for which the verdict holds.
        message: Tuist's message for people, if any.
    """

    access: Access
    lifetime: float
    message: str = ""


class AuthCacheClient:
    """Asks for decisions; `secret` is the key of the tokens' hashes."""

    def __init__(self, cache: Address, secret: bytes) -> None:
        self._cache = cache
        self._secret = secret

    async def decide(
        self, authorization: str, project: Project, action: Action, request_id: str
    ) -> Decision:
        """Decide whether the token in the header `authorization` may do `action` in `project`.

        Raises:
            AccessUnknown: Tuist cannot answer, and there is no stale yes.
            TooManyQuestions: Tuist cannot be asked in time.
            ActorError: the auth cache is overloaded, or did not answer.
        """
        token = hmac.digest(self._secret, authorization.encode("latin-1"), "sha256")
        return await self._cache.call(
            Decide(token, str(project), action, authorization, request_id)
        )

    async def projects_named(
        self, authorization: str, name: str, request_id: str
    ) -> frozenset[str]:
        """The projects with the handle `name`, of any account, that Tuist names for a token.

        That says nothing about what the token may do there. It is empty if Tuist does not say which
        projects a token is for.

        Raises:
            As `decide`.
        """
        token = hmac.digest(self._secret, authorization.encode("latin-1"), "sha256")
        known = await self._cache.call(Name(token, name))
        if not known:  # a question about any project has Tuist name them all
            nowhere = Project("", name)
            await self.decide(authorization, nowhere, Action.READ, request_id)
            known = await self._cache.call(Name(token, name))
        return known


@dataclass(frozen=True, slots=True)
class Name(Call[frozenset[str]]):
    """Name the projects with the handle `name` that are known of `token`, a keyed hash."""

    token: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Decide(Call[Decision]):
    """Decide whether `token`, a keyed hash of `authorization`, may do `action` in `project`."""

    token: bytes
    project: str
    action: Action
    authorization: str = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True)
class ReplyReceived(Cast):
    """A question about `token` has ended; the auth cache sends this to itself.

    `answer` is Tuist's reply, or a string with its failure. It is an exception if the question's
    turn came too late, and None if Tuist was not asked since nobody waited any more.
    """

    token: bytes
    answer: TuistReply | str | Exception | None


@dataclass(slots=True)
class _Place:
    """A question's place in the queue, and its turn once it has one."""

    place: Holding
    turn: Holding

    def leave(self) -> None:
        """Give back the place and the turn."""
        self.turn.give_back()
        self.place.give_back()


class _Queue:
    """A queue of questions to Tuist, of which `connections` are asked at once."""

    def __init__(self, connections: int) -> None:
        self._places = Shares(MAX_QUESTIONS)
        self._turns = Shares(connections, leave_room=False)
        self.failure = ""  # of the last question; "" if that was answered
        self._waiting: Counter[str] = Counter()  # questions by project
        self._asked: dict[object, float] = {}  # starts of the questions that are being asked
        self._pace = FIRST_PACE  # moving average of their durations, in seconds

    def enter(self, project: str) -> _Place | None:
        """Enter the queue; return the place to leave again, or None if its turn comes too late."""
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
        """Wait for a question's turn, and return whether it came in time."""
        if not place.turn.amount:
            with trio.move_on_after(MAX_WAIT_SECONDS):
                await place.turn.take(1)
            self._waiting -= Counter([project])
        return place.turn.amount > 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the duration of a question, which is asked in the context."""
        key, began = object(), trio.current_time()
        self._asked[key] = began
        try:
            yield
        finally:
            del self._asked[key]
        self._pace += (trio.current_time() - began - self._pace) / 4

    def _expected_wait(self, project: str) -> float:
        """The expected wait, in seconds, of one more question from `project`."""
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
        new_api: makes the client for Tuist, once per incarnation.
        metrics: metrics to count in.
        log: logs Tuist's failures and odd answers, with the event's name and fields.
        success_ttl, failure_ttl, stale_ttl: lifetime, in seconds since Tuist's answer, of a yes, of
            a no, and of a yes while Tuist cannot answer.
        connections: largest number of questions at once.
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
        self._oddity = ""  # the oddity of Tuist's answers that was logged last
        self._has_logged_unverifiable = False
        self._waiting: dict[bytes, list[Envelope]] = {}
        # Tokens that had access before do not queue behind others.
        self._queues = {known: _Queue(connections // 2) for known in (True, False)}

    async def run(self, mailbox: Mailbox, started: Started) -> None:
        """Run one incarnation, with a nursery for the questions to Tuist."""
        self._self = mailbox.address
        async with self._new_api() as self._api, trio.open_nursery() as self._questions:
            await super().run(mailbox, started)
            self._questions.cancel_scope.cancel()

    async def handle(self, batch: list[Envelope]) -> None:
        """Answer what can be decided at once; keep the rest until Tuist has been asked."""
        for envelope in batch:
            match envelope.message:
                case Decide() as question:
                    self._decide(envelope, question)
                case Name() as wanted:
                    envelope.reply(self._tokens.get(wanted.token).projects_named(wanted.name))
                case ReplyReceived(token, answer):
                    self._record_reply(token, answer)

    def _decide(self, envelope: Envelope, question: Decide) -> None:
        """Answer `question` from memory or from its token, or let it wait for Tuist's answer."""
        token = self._tokens.get(question.token)
        now = trio.current_time()
        decision = self._known(token, question, now)
        if decision.lifetime > 0:
            self._reply(envelope, decision, "memory")
        elif own := self._read_claims(token, question, now):
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
        """The remembered decision on `token`, of which the lifetime may be over."""
        if now < token.claims_end and (own := self._by_claims(token, question, now)):
            return own
        answer = token.answer
        access = answer.verdict(question.project, question.action)
        ttl = self._success_ttl if access is Access.GRANTED else self._failure_ttl
        message = answer.message if access is Access.PAYMENT_REQUIRED else ""
        return Decision(access, token.answered_at + min(ttl, answer.lifetime) - now, message)

    def _read_claims(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The decision by the token's own claims, if Tuist has signed them; else None."""
        if token.is_refused():
            return None
        claims = self._api.grants_in_token(question.authorization)
        if claims is None:
            return None
        token.claims, token.claims_end = claims, now + min(self._success_ttl, claims.lifetime)
        self._tokens.put(question.token, token)
        return self._by_claims(token, question, now)

    def _by_claims(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The decision by the remembered claims of `token`; None if those do not settle it."""
        access = token.claims.verdict(question.project, question.action)
        left = token.claims_end - now
        if access is Access.GRANTED:
            return Decision(access, left)
        return Decision(access, min(self._failure_ttl, left)) if token.claims.is_whole else None

    def _stale(self, token: TokenState, question: Decide, now: float) -> Decision | None:
        """The stale yes that holds while Tuist cannot answer, or None."""
        answer = token.answer
        left = token.answered_at + min(self._stale_ttl, answer.lifetime) - now
        if answer.verdict(question.project, question.action) is not Access.GRANTED or left <= 0:
            return None
        return Decision(Access.GRANTED, min(left, STALE_LIFETIME))

    def _ask(self, question: Decide, token: TokenState, envelope: Envelope, now: float) -> None:
        """Let `envelope` wait for Tuist's answer about a token, and ask if nobody has yet."""
        waiting = self._waiting.get(question.token)
        if waiting is None:
            queue = self._queues[token.has_access]
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
        """Ask Tuist one question, and send the answer to this actor as a message."""
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
        elif answer.access is Access.UNVERIFIABLE and not self._has_logged_unverifiable:
            self._has_logged_unverifiable = True
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
        """Record Tuist's answer about a token, or its failure, and answer the waiting requests."""
        if answer is None:  # but another request may wait by now
            for envelope in self._waiting.pop(key, ()):
                if envelope.abandoned:
                    envelope.reply()  # frees the message, with the token in it
                elif isinstance(envelope.message, Decide):
                    self._decide(envelope, envelope.message)
            return
        now = trio.current_time()
        token = self._tokens.get(key)
        if isinstance(answer, Exception):  # Tuist was not asked, so the token's state stays
            failure = "" if isinstance(answer, TooManyQuestions) else str(answer)
            for envelope in self._waiting.pop(key, ()):
                self._refuse(envelope, token, failure)
            return
        if isinstance(answer, TuistReply):
            token.answer, token.answered_at = answer, now
            if token.is_refused():
                token.claims, token.claims_end = NO_CLAIMS, now
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
    """The error of a question that is not asked: Tuist's failure, or else too many questions."""
    return AccessUnknown(failure, ceil(ATTEMPT_INTERVAL)) if failure else TooManyQuestions()
