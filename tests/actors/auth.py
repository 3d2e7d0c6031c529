"""A Tuist server that does what the test says, and a running auth cache that asks it."""

from collections.abc import Callable
from typing import Self

import trio
import trio.testing

from cache_actors.access.grants import Access, Action, TuistReply
from cache_actors.access.tuist import TuistApi
from cache_actors.actors.auth_cache import AuthCache, AuthCacheClient, Decision
from cache_actors.storage.layout import Project
from cache_actors.supervision import Mailbox, actor_child
from tests.supervision.small_actors import Root, Task
from tests.support.metrics import new_metrics

from .helpers import PROJECT, Log, Tasks

SECRET = b"secret key base"
SUCCESS_TTL, FAILURE_TTL, STALE_TTL = 600.0, 3.0, 1500.0
DOWN = "The Tuist server cannot be reached: ConnectError"
UNAUTHORIZED = TuistReply(Access.UNAUTHORIZED)
FORBIDDEN = TuistReply(Access.FORBIDDEN)


def granting(*names: str) -> TuistReply:
    """Tuist's answer about a token that sees these projects."""
    return TuistReply(Access.GRANTED, frozenset(names))


class FakeTuist(TuistApi):
    """A Tuist server, and the connection to it of whichever incarnation of the cache there is.

    Attributes:
        answers: by the `Authorization` header; without one, a token is unknown.
        words: what tokens say of themselves, by the same header.
        trouble: if set, the answer to everything; an exception is a bug of the API's.
        gate: questions are answered once it is set.
        delay: seconds that an answer takes.
        questions: the headers `Authorization` and `X-Request-ID` of all questions so far.
    """

    def __init__(self) -> None:
        self.answers: dict[str, TuistReply] = {}
        self.words: dict[str, TuistReply] = {}
        self.trouble: str | Exception | None = None
        self.gate = trio.Event()
        self.gate.set()
        self.delay = 0.0
        self.questions: list[tuple[str, str]] = []
        self.under_way = self.most_under_way = self.open_connections = 0

    def asked(self, authorization: str) -> int:
        """How often it has been asked about a token."""
        return sum(1 for asked, _ in self.questions if asked == authorization)

    async def __aenter__(self) -> Self:
        self.open_connections += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open_connections -= 1

    def grants_in_token(self, authorization: str) -> TuistReply | None:
        return self.words.get(authorization)

    async def ask(self, authorization: str, request_id: str) -> TuistReply | str:
        assert self.open_connections == 1
        self.questions.append((authorization, request_id))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.delay)
            await self.gate.wait()
            if isinstance(self.trouble, Exception):
                raise self.trouble
            return self.trouble or self.answers.get(authorization, UNAUTHORIZED)
        finally:
            self.under_way -= 1


class Auth(Tasks):
    """A running auth cache, and what it is asked with."""

    new_api: Callable[[], TuistApi]
    root: Root

    def __init__(self, nursery: trio.Nursery, tuist: FakeTuist) -> None:
        super().__init__(nursery)
        self.tuist = tuist
        self.new_api = lambda: tuist
        self.mailbox = Mailbox("auth_cache", capacity=20_000)
        self.client = AuthCacheClient(self.mailbox.address, SECRET)
        self.incarnations: list[AuthCache] = []
        self.metrics = new_metrics()
        self.log = Log()
        self.child = actor_child(self.mailbox, self._new, shutdown=1)

    def _new(self) -> AuthCache:
        cache = AuthCache(
            self.new_api,
            self.metrics,
            self.log,
            success_ttl=SUCCESS_TTL,
            failure_ttl=FAILURE_TTL,
            stale_ttl=STALE_TTL,
        )
        self.incarnations.append(cache)
        return cache

    @property
    def cache(self) -> AuthCache:
        """The current incarnation."""
        return self.incarnations[-1]

    async def decide(
        self,
        authorization: str,
        project: Project = PROJECT,
        action: Action = Action.READ,
        request_id: str = "r",
    ) -> Decision:
        return await self.client.decide(authorization, project, action, request_id)

    async def access(
        self, authorization: str, project: Project = PROJECT, action: Action = Action.READ
    ) -> Access:
        return (await self.decide(authorization, project, action)).access

    async def ask(self, authorization: str, project: Project = PROJECT) -> Task[Decision]:
        """Ask in a task of its own, and return when everything is at rest."""
        return await self.begin(self.decide(authorization, project))

    def remembered(self) -> int:
        """How many tokens the cache remembers."""
        tokens = self.cache._tokens
        return len(tokens._with_access) + len(tokens._without)
