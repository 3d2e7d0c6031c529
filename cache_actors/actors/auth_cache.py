"""The auth cache: which token may see which project, as the Tuist server says, remembered.

The life of an answer, per token (the times are settings; the contract's are given here):

* A project that is in Tuist's list is a yes for 600 s; anything else is a no for 3 s.
* Questions about one token that come while Tuist is being asked about it wait for that answer.
* If Tuist cannot answer, a yes goes on being one until 1,500 s after it was given: stale, so that
  it holds for 3 s at a time. Otherwise the trouble is reported. Either way the next
  attempt comes 3 s later at the earliest. While Tuist is known to be down, a stale yes is given at
  once, and Tuist asked behind it, so that a slow outage does not slow every build.
* A 401 replaces the answer before, so that it ends a yes at once.

Tokens are kept as keyed hashes. What Tuist says of those with access is kept apart from what it
says of others, and they are asked about in a queue of their own, so that a flood of bad tokens
neither pushes out the good ones nor keeps them waiting.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import trio

from cache_actors.supervision import (
    Actor,
    ActorStopped,
    Address,
    Call,
    Cast,
    Envelope,
)

from .tuist_api import CONNECTIONS, Access, Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_actors.storage.layout import Project
    from cache_actors.supervision import Mailbox, Started

    from .tuist_api import TuistApi

ATTEMPT_INTERVAL = 3.0
"""Seconds between two attempts to ask about a token while Tuist cannot answer."""

STALE_LIFETIME = 3.0
"""Seconds that a stale yes may be remembered: it is the time to the next attempt."""

MOST_TOKENS = 10_000
"""Tokens remembered, of those with access and of those without."""

MOST_NAMES = 500_000
"""Project names remembered, over all tokens."""

MOST_QUESTIONS = 1_000
"""Tokens that Tuist is being asked about at once, or about to be; of known ones, and of others."""


class AccessUnknown(Exception):
    """Tuist cannot answer, and there is no yes to go on with; ask again in `retry_after` s."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a token may see a project, and for how many seconds from now that holds."""

    access: Access
    lifetime: float


class AuthCacheClient:
    """Asks whether a token may see a project. `secret` is the key of the tokens' hashes."""

    def __init__(self, cache: Address, secret: bytes) -> None:
        self._cache = cache
        self._secret = secret

    async def decide(self, authorization: str, project: Project, request_id: str) -> Decision:
        """Whether the token in the header `authorization` may see `project`.

        Raises:
            AccessUnknown: nobody knows at the moment.
            ActorError: the cache is overloaded, or did not answer.
        """
        token = hmac.digest(self._secret, authorization.encode("latin-1"), "sha256")
        return await self._cache.call(Decide(token, str(project), authorization, request_id))


@dataclass(frozen=True, slots=True)
class Decide(Call[Decision]):
    """Decide whether `token`, a keyed hash of `authorization`, may see `project`."""

    token: bytes
    project: str
    authorization: str = field(repr=False)
    request_id: str


@dataclass(frozen=True, slots=True)
class Answered(Cast):
    """Tuist has answered about `token`, or has failed to: then `answer` says how. None: nobody
    waited for the answer any more, so it was not asked.

    The cache sends this to itself.
    """

    token: bytes
    answer: Answer | str | None


@dataclass(slots=True)
class _Queue:
    """Questions that are being asked, a few at once, or wait for their turn."""

    at_once: trio.CapacityLimiter
    length: int = 0


NOTHING_KNOWN = Answer(Access.UNAUTHORIZED)


@dataclass(slots=True)
class _Token:
    """What is known of a token: Tuist's last answer, and its last failure to answer after that."""

    answer: Answer = NOTHING_KNOWN
    answered_at: float = float("-inf")
    failure: str = ""
    failed_at: float = float("-inf")
    names: int = 0  # project names, as counted when it was remembered

    def is_in_outage(self) -> bool:
        return self.failed_at > self.answered_at


class AuthCache(Actor):
    """Remembers Tuist's answers, and asks for those that it lacks.

    Args:
        new_api: opens the connection to Tuist, once per incarnation.
        success_ttl, failure_ttl, stale_ttl: life of a yes, of a no, and of a yes when Tuist cannot
            answer, in seconds from when it was given.
    """

    batch_limit: ClassVar[int] = 64

    def __init__(
        self,
        new_api: Callable[[], TuistApi],
        *,
        success_ttl: float,
        failure_ttl: float,
        stale_ttl: float,
    ) -> None:
        self._new_api = new_api
        self._success_ttl = success_ttl
        self._failure_ttl = failure_ttl
        self._stale_ttl = stale_ttl
        self._tokens = _Tokens()
        self._waiting: dict[bytes, list[Envelope]] = {}
        # Those who had access before do not queue behind those who may never have any.
        self._queues = {
            known: _Queue(trio.CapacityLimiter(CONNECTIONS // 2)) for known in (True, False)
        }

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
                case Answered(token, answer):
                    self._learn(token, answer)

    def _decide(self, envelope: Envelope, question: Decide) -> None:
        """Answer `question` from memory, or let it wait for what Tuist says of its token."""
        token = self._tokens.get(question.token)
        now = trio.current_time()
        decision = self._by_answer(token, question.project, now)
        if decision.lifetime > 0:
            envelope.reply(decision)
        elif not token.is_in_outage():
            self._ask(question, token, envelope, now)
        else:
            stale = self._stale(token, question.project, now)
            next_attempt = token.failed_at + ATTEMPT_INTERVAL
            if stale is not None:
                envelope.reply(stale)
            elif now < next_attempt:
                envelope.fail(AccessUnknown(token.failure, ceil(next_attempt - now)))
            if now >= next_attempt:
                self._ask(question, token, envelope, now)

    def _by_answer(self, token: _Token, project: str, now: float) -> Decision:
        """What Tuist's last answer means for `project`; its lifetime may be over."""
        if project in token.answer.projects:
            return Decision(Access.GRANTED, token.answered_at + self._success_ttl - now)
        refusal = token.answer.access
        if refusal is Access.GRANTED:
            refusal = Access.FORBIDDEN
        return Decision(refusal, token.answered_at + self._failure_ttl - now)

    def _stale(self, token: _Token, project: str, now: float) -> Decision | None:
        """The yes to go on with while Tuist cannot answer, if there is one."""
        left = token.answered_at + self._stale_ttl - now
        if project not in token.answer.projects or left <= 0:
            return None
        return Decision(Access.GRANTED, min(left, STALE_LIFETIME))

    def _ask(self, question: Decide, token: _Token, envelope: Envelope, now: float) -> None:
        """Have Tuist asked about a token, if that is not under way, and `envelope` wait for it."""
        waiting = self._waiting.get(question.token)
        if waiting is None:
            queue = self._queues[bool(token.answer.projects)]
            if queue.length >= MOST_QUESTIONS:
                if (stale := self._stale(token, question.project, now)) is not None:
                    envelope.reply(stale)
                else:
                    envelope.fail(AccessUnknown("Too many tokens are being asked about", 1))
                return
            waiting = self._waiting[question.token] = []
            queue.length += 1
            self._questions.start_soon(self._question, question, waiting, queue)
        waiting.append(envelope)

    async def _question(self, question: Decide, waiting: list[Envelope], queue: _Queue) -> None:
        """One question to Tuist; the answer comes back as a message."""
        async with queue.at_once:
            answer: Answer | str | None = None
            if not all(envelope.abandoned for envelope in waiting):
                answer = await self._api.ask(question.authorization, question.request_id)
        queue.length -= 1
        with suppress(ActorStopped):
            await self._self.cast(Answered(question.token, answer))

    def _learn(self, key: bytes, answer: Answer | str | None) -> None:
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
        if isinstance(answer, Answer):
            token.answer, token.answered_at = answer, now
        else:
            token.failure, token.failed_at = answer, now
        self._tokens.put(key, token)
        for envelope in self._waiting.pop(key, ()):
            question = envelope.message
            assert isinstance(question, Decide)  # noqa: S101
            decision: Decision | None = (
                self._stale(token, question.project, now)
                if token.is_in_outage()
                else self._by_answer(token, question.project, now)
            )
            if decision is not None:
                envelope.reply(decision)
            else:
                envelope.fail(AccessUnknown(token.failure, ceil(ATTEMPT_INTERVAL)))


class _Tokens:
    """The tokens used last: as many as fit, of those with access and of those without."""

    def __init__(self) -> None:
        self._with_access: OrderedDict[bytes, _Token] = OrderedDict()
        self._without: OrderedDict[bytes, _Token] = OrderedDict()
        self._names = 0

    def get(self, key: bytes) -> _Token:
        """What is known of a token, which may be nothing."""
        if key in self._with_access:
            self._with_access.move_to_end(key)
            return self._with_access[key]
        return self._without.get(key) or _Token()

    def put(self, key: bytes, token: _Token) -> None:
        """Remember `token`, and forget others if there are too many."""
        self._without.pop(key, None)
        self._forget_with_access(key)
        if not token.answer.projects:
            self._without[key] = token
            if len(self._without) > MOST_TOKENS:
                self._without.popitem(last=False)
            return
        self._with_access[key] = token
        token.names = len(token.answer.projects)
        self._names += token.names
        while len(self._with_access) > MOST_TOKENS or self._names > MOST_NAMES:
            self._forget_with_access(next(iter(self._with_access)))

    def _forget_with_access(self, key: bytes) -> None:
        if token := self._with_access.pop(key, None):
            self._names -= token.names
