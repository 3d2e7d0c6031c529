"""`cache-actors check`: checks of everything around the service, for a first start or a fault.

Each result is one line: a verdict, a subject, a finding and, if something is to be done, advice.
Files that a check stores as a trial are removed at once; nothing else is changed, but that a prefix
of a bucket which nobody has claimed is claimed for this installation.
"""

from __future__ import annotations

import resource
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
import msgspec

from cache_actors.settings import BadSettings, load_settings

from .bucket import check_bucket
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
"""Smallest limit on open files that passes: each connection takes one, and each upload another."""


@dataclass(frozen=True, slots=True)
class NginxProbe:
    """The parameters of a trial through nginx: URL, project, and a token that may write to it."""

    url: str
    project: Project
    token: str


def run_check(nginx_config: Path | None, through: NginxProbe | None, *, as_json: bool) -> int:
    """Run `check`, print the results as JSON or text, and return the exit status."""
    results = list(check(nginx_config, through))
    if as_json:
        plain = [asdict(result) | {"verdict": result.verdict.value} for result in results]
        click.echo(msgspec.json.encode(plain))
    else:
        for result in results:
            advice = f" {result.advice}" if result.advice else ""
            click.echo(f"{result.verdict.value:8} {result.subject}: {result.text}.{advice}")
    return EXIT_BROKEN if any(each.verdict is Verdict.BROKEN for each in results) else 0


def check(nginx_config: Path | None, through: NginxProbe | None) -> Iterator[CheckResult]:
    """Run all checks, one after another. If the settings are bad, those that need them are skipped.

    Args:
        nginx_config: the file with nginx's configuration, to check it too; `-` is standard input.
        through: the parameters of a trial through nginx, to check reads there too.
    """
    max_upload_bytes = has_bucket = None
    try:
        settings = load_settings()
    except BadSettings as error:
        for line in str(error).splitlines():
            yield CheckResult("settings", Verdict.BROKEN, line, "Set it in the environment.")
    else:
        max_upload_bytes = settings.max_upload_bytes
        has_bucket = settings.s3_bucket is not None
        yield CheckResult("settings", Verdict.OK, "all values are allowed")
        yield from check_storage(settings)
        yield from check_bucket(settings)
        yield from check_sockets(settings)
        yield from check_nginx_log(settings)
        yield from check_tuist(settings)
        if through is not None:
            yield from check_reads(settings, through.url, through.project, through.token)
    yield _file_limit()
    if nginx_config is not None:
        yield from check_nginx_and_host(nginx_config, max_upload_bytes, has_bucket=has_bucket)


def _file_limit() -> CheckResult:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        advice = f"Raise it to {MIN_FILES}, with LimitNOFILE= or --ulimit nofile=."
        return CheckResult("open files", Verdict.WARNING, f"at most {hard}", advice)
    return CheckResult("open files", Verdict.OK, "enough of them are allowed")
