"""What a method knows of its call: who asks, for which project, and with how much memory."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from cache_actors.access.grants import UNPAID, Access, Action
from cache_actors.storage.layout import InvalidIdentifier, Project, parse_project

from .framing import NAMED_WITHIN, UNHELD_BYTES, CallMemory, MessageMemory, MessageReader
from .status import CallFailed, Code, invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_actors.actors.auth_cache import Decision
    from cache_actors.http.request import Request
    from cache_actors.metrics.registry import Metrics
    from cache_actors.services import Services
    from cache_actors.settings import Settings
    from cache_actors.supervision import Owner

MAX_TOKEN_BYTES = 16 * 1024
"""Largest token, in bytes, as over HTTP."""

ACCOUNT_HEADER = "X-Tuist-Account-Handle"
"""Header with the account, from Tuist's clients, whose instance name is the project alone."""

_TIMEOUT = re.compile("([0-9]{1,8})([HMSmun])", re.ASCII)
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

MAX_TIMEOUT = 86_400.0
"""Longest time that a call may take, in seconds."""


class CallContext:
    """One call.

    Args:
        request: the request it came as.
        action: what it does, for the decision on access.
        most: the largest message, in bytes.
        room: memory that is taken for one, in its own size.
        services: what it may use.
        settings: the service's settings.
        metrics: where blobs of batches are counted.
        instance_in: finds the instance in the name that its messages begin with.

    Attributes:
        resources: what is given back once the answer has been sent.
        deadline: when the client will have stopped waiting, in `trio.current_time()`.
        messages: reads its messages.
        project: the project it is for, once that is known and access to it granted.
        owner: for whom what it takes is held.
    """

    def __init__(
        self,
        request: Request,
        action: Action,
        most: int,
        room: float,
        services: Services,
        settings: Settings,
        metrics: Metrics,
        instance_in: Callable[[str], str],
    ) -> None:
        assert request.call is not None, "it is set before"  # noqa: S101
        self._call = request.call
        self.request = request
        self.services = services
        self.settings = settings
        self.metrics = metrics
        self.resources = request.call.resources
        self.deadline = trio.current_time() + _timeout(request.headers.get("grpc-timeout"))
        self.authorization = _authorization(request)
        self.owner: Owner = (hash(self.authorization),)
        self.project: Project
        self._action = action
        self._instance: str | None = None
        self._instance_in = instance_in
        self._memory: CallMemory | None = None
        self.messages = MessageReader(request.body, most, room, self._authorise_early, self.memory)

    async def authorise(self, instance: str) -> None:
        """Find the project of the instance with that name, and the client's access to it.

        Raises:
            CallFailed: the name is invalid, or the client has no access.
            AccessUnknown, TooManyQuestions, ActorError: as `AuthCacheClient.decide`.
        """
        if self._instance is not None:
            if instance != self._instance:
                raise invalid("The instance's name has to come first, and to stay the same")
            return
        self._call.instance = instance[:200]
        project = await self._project(instance)
        self.request.project = project
        _allow(await self._decide(project))
        self._instance, self.project = instance, project
        self.owner = self.request.owner = (project, hash(self.authorization))

    async def _authorise_early(self, name: str) -> None:
        """Authorise a call by the name at the start of its first message, if that is a large one.

        Raises:
            As `authorise`.
        """
        if self._instance is not None:
            return
        if not name:
            raise invalid(
                f"The start of a large message ({NAMED_WITHIN} bytes) does not name the instance, "
                "account/project, without which access is not known"
            )
        await self.authorise(self._instance_in(name))

    def memory(self) -> MessageMemory:
        """Memory for messages, which is held until the answer has been sent.

        It is of the project's share, as one message may take more than a client's would be.
        """
        if self._memory is None:
            self._memory = CallMemory(self.services.call_memory, self.owner[:1])
            self.resources.callback(self._memory.give_back)
        return MessageMemory(self._memory)

    async def hold(self, amount: int) -> None:
        """Hold `amount` bytes of memory until the answer has been sent, unless that is little.

        Raises:
            As `MessageMemory.reserve`.
        """
        if amount > UNHELD_BYTES:
            await self.memory().reserve(amount)

    async def _decide(self, project: Project) -> Decision:
        return await self.services.auth.decide(
            self.authorization, project, self._action, self.request.id
        )

    async def _project(self, instance: str) -> Project:
        account, slash, name = instance.rpartition("/")
        if slash:
            return _parsed(account, name)
        if not instance:
            raise CallFailed(
                Code.PERMISSION_DENIED,
                "The instance's name is missing: give the client account/project as such, "
                "for Bazel with --remote_instance_name",
            )
        if told := self.request.headers.get(ACCOUNT_HEADER):
            return _parsed(told, instance)
        if self.settings.grpc_account is not None:
            return _parsed(self.settings.grpc_account, instance)
        if self.settings.grpc_account_from_host:
            host = self.request.headers.get("Host") or ""
            return _parsed(host.partition(".")[0].partition(":")[0], instance)
        return await self._project_of_token(_parsed("account", instance).name)

    async def _project_of_token(self, name: str) -> Project:
        """The only project with the handle `name` that the token is for."""
        known = await self.services.auth.projects_named(self.authorization, name, self.request.id)
        if len(known) == 1:
            return _parsed(*min(known).split("/"))
        if not known:
            decision = await self._decide(Project("", name))
            if decision.access in (Access.UNAUTHORIZED, Access.UNVERIFIABLE):
                _allow(decision)
        found = "several projects" if known else "no project"
        raise CallFailed(
            Code.PERMISSION_DENIED,
            f"The token is for {found} with the handle {name}: name the instance "
            "account/project, or set GRPC_ACCOUNT or GRPC_ACCOUNT_FROM_HOST for the service",
        )


def _allow(decision: Decision) -> None:
    match decision.access:
        case Access.UNAUTHORIZED | Access.UNVERIFIABLE:
            raise CallFailed(Code.UNAUTHENTICATED, "Unauthorized")
        case Access.PAYMENT_REQUIRED:
            message = decision.message or UNPAID
            raise CallFailed(Code.PERMISSION_DENIED, message, HTTPStatus.PAYMENT_REQUIRED)
        case Access.FORBIDDEN:
            message = decision.message or "You don't have access to this project"
            raise CallFailed(Code.PERMISSION_DENIED, message)


def _parsed(account: str, name: str) -> Project:
    try:
        return parse_project(account, name)
    except InvalidIdentifier as error:
        raise invalid(str(error)) from None


def _timeout(value: str | None) -> float:
    """The seconds in a header `grpc-timeout`.

    Raises:
        CallFailed: that is no time, or it is over.
    """
    if value is None:
        return MAX_TIMEOUT
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise invalid("grpc-timeout is invalid")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise CallFailed(Code.DEADLINE_EXCEEDED, "The deadline is over")
    return min(seconds, MAX_TIMEOUT)


def _authorization(request: Request) -> str:
    """The header with the token, with one space before that.

    Raises:
        CallFailed: UNAUTHENTICATED, it is missing, too long or there are several.
    """
    given = request.headers.getlist("Authorization")
    if len(given) != 1 or not given[0]:
        raise CallFailed(Code.UNAUTHENTICATED, "Missing Authorization header")
    scheme, space, token = given[0].partition(" ")
    if len(token) > MAX_TOKEN_BYTES:
        raise CallFailed(Code.UNAUTHENTICATED, f"The token is longer than {MAX_TOKEN_BYTES} bytes")
    return f"{scheme}{space}{token.lstrip(' ')}"
