"""Authorisation of requests, for the other handlers and, through `/_auth_cas`, for nginx."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from cache_actors.access.grants import UNPAID, Access, Action
from cache_actors.http.errors import HttpError, error_body, translate
from cache_actors.http.parameters import action_in, project_in
from cache_actors.http.responses import NO_STORE, Response, empty_response
from cache_actors.metrics.request_event import Route

if TYPE_CHECKING:
    from cache_actors.actors.auth_cache import Decision
    from cache_actors.http.request import Request
    from cache_actors.storage.layout import Project

PROJECT_HEADER = "X-Cache-Project"
"""Header with the project's canonical name, from which nginx builds paths."""

MAX_TOKEN_BYTES = 16 * 1024
"""Largest token, in bytes; nginx has the same limit, `$cache_token_is_long` in
platform/nginx/http.conf."""

ERROR_HEADER = "X-Cache-Error"
"""Header with the JSON body that nginx answers its client with."""

_REFUSALS = {
    Access.UNAUTHORIZED: (HTTPStatus.UNAUTHORIZED, "Unauthorized"),
    Access.UNVERIFIABLE: (HTTPStatus.UNAUTHORIZED, "Unauthorized"),
    Access.PAYMENT_REQUIRED: (HTTPStatus.PAYMENT_REQUIRED, UNPAID),
    Access.FORBIDDEN: (HTTPStatus.FORBIDDEN, "You don't have access to this project"),
}


def refuse_long_token(request: Request) -> None:
    """Refuse a token longer than `MAX_TOKEN_BYTES`.

    Raises:
        HttpError: 431.
    """
    if len(request.headers.get("Authorization", "")) > len("Bearer ") + MAX_TOKEN_BYTES:
        message = f"The token is longer than {MAX_TOKEN_BYTES} bytes"
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise HttpError(status, message, {"Connection": "close"})


async def authorized_project(request: Request) -> Project:
    """The request's project, once its token is authorised for its action there.

    Raises:
        InvalidParameter, InvalidIdentifier: the project's handles are missing or invalid.
        HttpError: 400, 401, 402 or 403.
        AccessUnknown, TooManyQuestions, ActorError: as `AuthCacheClient.decide`.
    """
    project = project_in(request.query_string)
    request.project = project
    authorization = _authorization(request)
    _allow(await _decide(request, authorization, project, _action(request)))
    request.owner = (project, hash(authorization))
    return project


async def decide(request: Request) -> Response:
    """`GET /_auth_cas`: the decision, with the time for which nginx may cache it."""
    project, action = project_in(request.query_string), action_in(request.query_string)
    request.project = project
    lifetime = 0.0
    try:
        decision = await _decide(request, _authorization(request), project, action)
        lifetime = decision.lifetime
        _allow(decision)
    except Exception as error:
        answer = translate(error)
        if answer is None:
            raise
        response = empty_response(answer.status, answer.headers)
        response.headers[ERROR_HEADER] = error_body(answer.message).decode("ascii")
    else:
        response = empty_response()
        response.headers[PROJECT_HEADER] = str(project)
    response.headers["Cache-Control"] = _cache_control(lifetime)
    return response


def _action(request: Request) -> Action:
    """The action of a request: GET, HEAD and the PUT that retrieves an entry are reads."""
    reads = request.method in {"GET", "HEAD"} or request.route is Route.ENTRY_READ
    return Action.READ if reads else Action.WRITE


async def _decide(
    request: Request, authorization: str, project: Project, action: Action
) -> Decision:
    return await request.services.auth.decide(authorization, project, action, request.id)


def _authorization(request: Request) -> str:
    """The request's `Authorization`, with one space before the token, as RFC 9110 allows several.

    Raises:
        HttpError: 400, it is given more than once; 401, it is missing.
    """
    tokens = request.headers.getlist("Authorization")
    if len(tokens) > 1:
        raise HttpError(HTTPStatus.BAD_REQUEST, "Authorization header is given more than once")
    if not tokens or not tokens[0]:
        raise HttpError(HTTPStatus.UNAUTHORIZED, "Missing Authorization header")
    scheme, space, token = tokens[0].partition(" ")
    return f"{scheme}{space}{token.lstrip(' ')}"


def _allow(decision: Decision) -> None:
    refusal = _REFUSALS.get(decision.access)
    if refusal is not None:
        status, message = refusal
        raise HttpError(status, decision.message or message)


def _cache_control(lifetime: float) -> str:
    """The `Cache-Control` of a decision, one second short, since nginx rounds up."""
    seconds = int(lifetime) - 1
    return f"max-age={seconds}" if seconds > 0 else NO_STORE["Cache-Control"]
