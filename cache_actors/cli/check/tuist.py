"""The Tuist server: does it answer as one, and is its clock like ours."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx

from cache_actors.access.tuist import client_options, described, projects_url, read_projects

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

MAX_CLOCK_SECONDS = 30.0


def check_tuist(settings: Settings) -> Iterator[CheckResult]:
    """Ask without a token: what speaks the API refuses that with 401."""
    url = projects_url(str(settings.server_url))
    try:
        with httpx.Client(**client_options()) as client:
            answer = client.get(url)
    except Exception as error:  # the environment's proxies may be anything
        advice = (
            "Look at SERVER_URL, DNS, the firewall, HTTPS_PROXY and, for a CA of your own, "
            "SSL_CERT_FILE."
        )
        yield CheckResult("Tuist", Verdict.BROKEN, f"{url} gives no answer: {error}", advice)
        return
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        yield CheckResult("Tuist", Verdict.OK, f"{url} answers 401, as it should")
    elif answer.status_code == httpx.codes.OK and read_projects(answer.content) is not None:
        yield CheckResult("Tuist", Verdict.OK, f"{url} lists projects, as it should")
    else:
        odd = "200 without a list of projects" if answer.is_success else described(answer)
        text = f"{url} answers {odd}, not 401"
        yield CheckResult("Tuist", Verdict.BROKEN, text, "Is SERVER_URL that of a Tuist server?")
    with suppress(KeyError, ValueError):
        off = abs(time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp())
        if off > MAX_CLOCK_SECONDS:
            text = f"it is {off:.0f} s off the Tuist server's"
            yield CheckResult("clock", Verdict.WARNING, text, "Synchronise it (NTP).")
        else:
            yield CheckResult("clock", Verdict.OK, "it agrees with the Tuist server's")
