"""The Tuist server: whether it answers the service's requests, and whether its clock agrees."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx

from cache_actors.access.grants import read_introspection, read_projects
from cache_actors.access.tuist import (
    ACCESS,
    INTROSPECTION,
    PROJECTS,
    client_options,
    credential,
    described,
    url_at,
)

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MAX_CLOCK_SKEW_SECONDS = 30.0
"""Largest difference between the two clocks, in seconds, that is no warning."""

UNKNOWN_TOKEN = "cache-actors-check"  # noqa: S105
"""Token for the trial introspection, which Tuist cannot know."""


def check_tuist(settings: Settings) -> Iterator[CheckResult]:
    """Ask the Tuist server's endpoints in the service's order, until one is not a 404; without a
    valid token, so that the answer of a working server is a refusal."""
    yield _cache_tokens(settings)
    client_credential = credential(settings)
    paths = [ACCESS, PROJECTS] if client_credential is None else [INTROSPECTION, ACCESS, PROJECTS]
    url = ""
    try:
        with httpx.Client(**client_options()) as client:
            for path in paths:
                url = url_at(str(settings.server_url), path)
                if client_credential is not None and path == INTROSPECTION:
                    answer = client.post(url, json=client_credential.question(UNKNOWN_TOKEN))
                else:
                    answer = client.get(url)
                if answer.status_code != httpx.codes.NOT_FOUND:
                    break
    except Exception as error:  # the environment's proxies may be anything
        advice = (
            "Look at SERVER_URL, DNS, the firewall, HTTPS_PROXY and, for a CA of your own, "
            "SSL_CERT_FILE."
        )
        yield CheckResult("Tuist", Verdict.BROKEN, f"{url} gives no answer: {error}", advice)
        return
    if path == INTROSPECTION:
        yield _of_introspection(url, answer)
    else:
        yield _of_projects(url, answer)
        if client_credential is not None:
            text = (
                f"the Tuist server has no {INTROSPECTION}; {path} is asked, as without a credential"
            )
            advice = "Update the Tuist server, or unset TUIST_CLIENT_ID and TUIST_CLIENT_SECRET."
            yield CheckResult("introspection", Verdict.WARNING, text, advice)
    with suppress(KeyError, ValueError):
        skew = abs(time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp())
        if skew > MAX_CLOCK_SKEW_SECONDS:
            text = f"this machine's is {skew:.0f} s off the Tuist server's"
            yield CheckResult("clock", Verdict.WARNING, text, "Synchronise it (NTP).")
        else:
            yield CheckResult("clock", Verdict.OK, "this machine's agrees with the Tuist server's")


def _cache_tokens(settings: Settings) -> CheckResult:
    """Check that cache tokens, which today's clients send, can be verified."""
    if settings.tuist_token_secret is not None:
        text = "the service verifies them, and other JWTs, with TUIST_TOKEN_SECRET"
    elif settings.tuist_client_id is not None:
        text = "they are introspected by the Tuist server"
    else:
        text = "they cannot be verified: clients that send them get 401"
        advice = (
            "If there are such clients, set TUIST_TOKEN_SECRET, or TUIST_CLIENT_ID and "
            "TUIST_CLIENT_SECRET."
        )
        return CheckResult("cache tokens", Verdict.WARNING, text, advice)
    return CheckResult("cache tokens", Verdict.OK, text)


def _of_introspection(url: str, answer: httpx.Response) -> CheckResult:
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        text = f"{url} answers {answer.status_code}: it refuses the cache's own credential"
        advice = "Look at TUIST_CLIENT_ID and TUIST_CLIENT_SECRET; until then nobody is let in."
        return CheckResult("Tuist", Verdict.BROKEN, text, advice)
    if answer.status_code == httpx.codes.OK and read_introspection(answer.content, time.time()):
        text = f"{url} introspects tokens, as it should; the service asks it"
        return CheckResult("Tuist", Verdict.OK, text)
    problem = "200 without saying active or not" if answer.is_success else described(answer)
    text = f"{url} answers {problem}"
    return CheckResult("Tuist", Verdict.BROKEN, text, "Is SERVER_URL that of a Tuist server?")


def _of_projects(url: str, answer: httpx.Response) -> CheckResult:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return CheckResult(
            "Tuist", Verdict.OK, f"{url} answers 401, as it should; the service asks it"
        )
    if answer.status_code == httpx.codes.OK and read_projects(answer.content) is not None:
        return CheckResult(
            "Tuist", Verdict.OK, f"{url} lists projects, as it should; the service asks it"
        )
    problem = "200 without a list of projects" if answer.is_success else described(answer)
    text = f"{url} answers {problem}, not 401"
    return CheckResult("Tuist", Verdict.BROKEN, text, "Is SERVER_URL that of a Tuist server?")
