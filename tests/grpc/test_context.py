"""Which project the name of an instance means."""

from types import SimpleNamespace
from typing import Any

import pytest

from cache_actors.access.grants import Access, Action
from cache_actors.actors.auth_cache import Decision
from cache_actors.grpc.context import CallContext
from cache_actors.grpc.status import CallFailed, Code
from cache_actors.http.request import Call, RequestBody, RequestHeaders
from cache_actors.settings import Settings
from cache_actors.storage.layout import Project

APP = Project("acme", "app")


class Auth:
    """An auth cache that knows one token."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[tuple[Project, Action]] = []

    async def decide(self, _: str, project: Project, action: Action, _id: str) -> Decision:
        self.asked.append((project, action))
        granted = str(project) in self.known
        return Decision(Access.GRANTED if granted else Access.FORBIDDEN, 10.0)

    async def projects_named(self, _: str, name: str, _id: str) -> frozenset[str]:
        return frozenset(each for each in self.known if each.endswith(f"/{name}"))


def context_of(auth: Auth, host: str = "cache.example", **settings: Any) -> CallContext:
    headers = [(b"authorization", b"Bearer token"), (b"host", host.encode())]
    request: Any = SimpleNamespace(
        headers=RequestHeaders(headers), body=RequestBody(None), call=Call(), id="1"
    )
    return CallContext(
        request,
        Action.WRITE,
        100,
        2.0,
        SimpleNamespace(auth=auth),  # type: ignore[arg-type]
        Settings(server_url="http://tuist", **settings),
        None,  # type: ignore[arg-type]
        str,
    )


@pytest.mark.parametrize(
    ("instance", "host", "settings"),
    [
        ("acme/app", "other.example", {"grpc_account": "other"}),
        ("ACME/App", "", {}),
        ("app", "other.example", {"grpc_account": "Acme"}),
        ("App", "other.example", {"grpc_account": "acme", "grpc_account_from_host": True}),
        ("app", "acme.cache.example:443", {"grpc_account_from_host": True}),
        ("app", "Acme:443", {"grpc_account_from_host": True}),
        ("app", "other.example", {}),
    ],
)
async def test_account_comes_from_the_first_that_says_it(
    instance: str, host: str, settings: dict[str, Any]
) -> None:
    auth = Auth("acme/app", "other/lib")
    context = context_of(auth, host, **settings)
    await context.authorise(instance)
    assert context.project == APP
    assert auth.asked == [(APP, Action.WRITE)]


@pytest.mark.parametrize(
    ("instance", "known", "host", "settings", "code"),
    [
        ("app", ["acme/app", "other/app"], "acme.example", {}, Code.PERMISSION_DENIED),
        ("app", ["acme/lib"], "acme.example", {}, Code.PERMISSION_DENIED),
        ("app", ["acme/app"], "", {"grpc_account": "other"}, Code.PERMISSION_DENIED),
        ("app", ["acme/app"], "x.y", {"grpc_account_from_host": True}, Code.PERMISSION_DENIED),
        ("app", ["acme/app"], "", {"grpc_account_from_host": True}, Code.INVALID_ARGUMENT),
        ("app", ["acme/app"], "[::1]:80", {"grpc_account_from_host": True}, Code.INVALID_ARGUMENT),
        ("", ["acme/app"], "acme.example", {"grpc_account": "acme"}, Code.PERMISSION_DENIED),
    ],
)
async def test_no_other_project_is_guessed(
    instance: str, known: list[str], host: str, settings: dict[str, Any], code: Code
) -> None:
    context = context_of(Auth(*known), host, **settings)
    with pytest.raises(CallFailed) as caught:
        await context.authorise(instance)
    assert caught.value.code is code
    assert not hasattr(context, "project")


async def test_instance_stays_the_same_within_a_call() -> None:
    context = context_of(Auth("acme/app", "acme/lib"))
    await context.authorise("acme/app")
    await context.authorise("acme/app")
    with pytest.raises(CallFailed):
        await context.authorise("acme/lib")
