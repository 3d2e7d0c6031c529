"""The Tuist server: does it answer as one, and is its clock like ours."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import httpx

from cache_actors.settings import without_credentials

from .finding import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MOST_CLOCK_SECONDS = 30.0


def check_tuist(settings: Settings) -> Iterator[Finding]:
    """Ask without a token: what speaks the API refuses that with 401."""
    url = urljoin(str(settings.server_url), "/api/projects")
    shown = without_credentials(url)
    try:
        answer = httpx.get(url, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        advice = "Look at SERVER_URL, at DNS, and at the firewall."
        yield Finding("Tuist", Verdict.BROKEN, f"{shown} gives no answer: {error}", advice)
        return
    if answer.status_code in (httpx.codes.OK, httpx.codes.UNAUTHORIZED):
        yield Finding("Tuist", Verdict.OK, f"{shown} answers {answer.status_code}, as it should")
    else:
        text = f"{shown} answers {answer.status_code}, not 401"
        yield Finding("Tuist", Verdict.BROKEN, text, "Is SERVER_URL that of a Tuist server?")
    with suppress(KeyError, ValueError):
        off = abs(time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp())
        if off > MOST_CLOCK_SECONDS:
            text = f"it is {off:.0f} s off the Tuist server's"
            yield Finding("clock", Verdict.WARNING, text, "Synchronise it (NTP).")
        else:
            yield Finding("clock", Verdict.OK, "it agrees with the Tuist server's")
