"""`cache-actors check`: what an operator runs first, and when something is odd.

It looks at everything around the service that has to be right for it, says of each in one line how
it is and what to do about it, and changes nothing: what it stores to see whether that works is
removed at once.
"""

from __future__ import annotations

import resource
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
import msgspec

from cache_actors.settings import BadSettings, load_settings

from .nginx import check_nginx_and_host, check_nginx_log
from .reads import check_reads
from .result import CheckResult, Verdict
from .sockets import check_sockets
from .storage import check_storage
from .tuist import check_tuist

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.storage.layout import Project

EXIT_BROKEN = 1
"""Exit status: something is broken."""

MIN_FILES = 65_536
"""Smallest limit on open files that passes the check: each connection is one, and each upload
another."""


@dataclass(frozen=True, slots=True)
class NginxProbe:
    """A reader through nginx: nginx's URL, a project, and a token that may see it."""

    url: str
    project: Project
    token: str


def run_check(nginx_config: Path | None, through: NginxProbe | None, *, as_json: bool) -> int:
    """Look at everything, print it, and return the exit status."""
    findings = list(check(nginx_config, through))
    if as_json:
        plain = [asdict(finding) | {"verdict": finding.verdict.value} for finding in findings]
        click.echo(msgspec.json.encode(plain))
    else:
        for finding in findings:
            advice = f" {finding.advice}" if finding.advice else ""
            click.echo(f"{finding.verdict.value:8} {finding.subject}: {finding.text}.{advice}")
    return EXIT_BROKEN if any(f.verdict is Verdict.BROKEN for f in findings) else 0


def check(nginx_config: Path | None, through: NginxProbe | None) -> Iterator[CheckResult]:
    """Everything, one after the other.

    Args:
        nginx_config: nginx's configuration, if it is to be looked at; `-` is standard input.
        through: how to read through nginx, if that is to be tried.
    """
    max_upload_bytes = None
    try:
        settings = load_settings()
    except BadSettings as error:
        for line in str(error).splitlines():
            yield CheckResult("settings", Verdict.BROKEN, line, "Set it in the environment.")
    else:
        max_upload_bytes = settings.max_upload_bytes
        yield CheckResult("settings", Verdict.OK, "all values are allowed")
        yield from check_storage(settings)
        yield from check_sockets(settings)
        yield from check_nginx_log(settings)
        yield from check_tuist(settings)
        if through is not None:
            yield from check_reads(settings, through.url, through.project, through.token)
    yield _file_limit()
    if nginx_config is not None:
        yield from check_nginx_and_host(nginx_config, max_upload_bytes)


def _file_limit() -> CheckResult:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        advice = f"Raise it to {MIN_FILES}, with LimitNOFILE= or --ulimit nofile=."
        return CheckResult("open files", Verdict.WARNING, f"at most {hard}", advice)
    return CheckResult("open files", Verdict.OK, "enough of them are allowed")
