"""Reads through nginx: do they move access times, by which eviction knows what is in use?

They do not on every host where the service's own reads do: nginx may see the storage through a
mount of its own, read-only, or with other options. So an artifact is stored and read through it.
Then the largest upload is announced for it: nginx, which has its own limit, refuses it, or says
that it exists.
"""

from __future__ import annotations

import secrets
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING

import httpx

from cache_actors.http.routes.artifacts import DIGEST_HEADER
from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key
from cache_actors.storage.needs import is_readable_by

from .access_times import AtimePolicy, atime_policy_of
from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.settings import Settings
    from cache_actors.storage.layout import Project

SUBJECT = "reads through nginx"
UPLOADS = "uploads through nginx"
MEANWHILE = (
    "Until then eviction goes by what was stored last; no entry loses its artifacts by that."
)


def check_reads(
    settings: Settings, url: str, project: Project, token: str
) -> Iterator[CheckResult]:
    """Store an artifact at `url`, read it there, and look at its file; it is removed at once.

    Args:
        settings: those of the service.
        url: nginx's.
        project: one that the token may see.
        token: what clients send as their bearer token.
    """
    key = Key(project, Kind.CAS, secrets.token_hex(32).upper())
    path = key.path(settings.cas_storage_dir)
    handles = {"account_handle": project.account, "project_handle": project.name}
    with httpx.Client(
        base_url=url,
        params=handles,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
        trust_env=False,
    ) as client:
        try:
            route = f"/api/cache/cas/{key.id}"
            yield _look(client, route, path, settings.cas_storage_dir)
            yield from _announce(client.build_request("POST", route), settings.max_upload_bytes)
        except httpx.HTTPError as error:
            yield _broken(f"{url} gives no answer: {error}", "Look at the URL, and at nginx.")
        except OSError as error:
            advice = "Is CAS_STORAGE_DIR the folder that this nginx serves from?"
            yield _broken(f"{path} was stored and is not there: {error.strerror}", advice)
        finally:
            with suppress(OSError):
                path.unlink()


def _look(client: httpx.Client, route: str, path: Path, storage: Path) -> CheckResult:
    for answer in (client.post(route, content=b"check"), client.get(route)):
        is_missed = answer.status_code == httpx.codes.NOT_FOUND and path.exists()
        if is_missed or DIGEST_HEADER in answer.headers:  # which the service sends, and not nginx
            return _broken(*_not_found(path, storage))
        if not answer.is_success:
            text = (
                f"{answer.request.method} there answers {answer.status_code}: {answer.text[:200]}"
            )
            return _broken(text, "Look at the project, and at CACHE_TOKEN.")
    match atime_policy_of(path, lambda: client.get(route)):
        case AtimePolicy.ALWAYS:
            return CheckResult(SUBJECT, Verdict.OK, "every one counts")
        case AtimePolicy.ONCE_A_DAY:
            advice = f"Mount the storage with strictatime,lazytime. {MEANWHILE}"
            return CheckResult(SUBJECT, Verdict.WARNING, "they count once a day (relatime)", advice)
        case AtimePolicy.NEVER:
            advice = (
                "Mount the storage with strictatime,lazytime, and let nginx's unit write to it "
                f"(ReadWritePaths=). {MEANWHILE}"
            )
            text = "they do not count (noatime, read-only)"
            return CheckResult(SUBJECT, Verdict.WARNING, text, advice)


def _announce(request: httpx.Request, largest: int) -> Iterator[CheckResult]:
    """Whether an upload of `largest` bytes is taken, of which nothing is sent."""
    url = request.url
    connect = HTTPSConnection if url.scheme == "https" else HTTPConnection
    try:
        with closing(connect(url.host, url.port, timeout=10)) as connection:
            connection.putrequest(request.method, url.raw_path.decode())
            connection.putheader("Authorization", request.headers["Authorization"])
            connection.putheader("Content-Length", str(largest))
            connection.endheaders()
            status = connection.getresponse().status
    except (OSError, HTTPException):
        return  # whether nginx answers at all is told of its reads
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        text = f"nginx refuses {largest:,} bytes as too large, which the service takes"
        advice = f"`client_max_body_size {largest};` for nginx, or another MAX_UPLOAD_BYTES."
        yield CheckResult(UPLOADS, Verdict.BROKEN, text, advice)
    elif status == httpx.codes.NO_CONTENT:
        yield CheckResult(UPLOADS, Verdict.OK, f"up to {largest:,} bytes are taken")


def _not_found(path: Path, storage: Path) -> tuple[str, str]:
    """Why nginx may not find the file at `path`, and what to do about it."""
    group = storage.stat().st_gid
    above = [*reversed(path.relative_to(storage).parents)]
    for each in (*(storage / folder for folder in above), path):
        if not is_readable_by(group, each):
            advice = f"Give it to group {group}, with modes 2750 and 640, and see `check`."
            return f"nginx does not find what is stored: {each} is not its group's to read", advice
    advice = (
        f"Make nginx's user a member of group {group} and restart nginx (a reload does not do), "
        f"and let that user through all that is above {storage}."
    )
    return f"nginx does not find what is stored in {storage}", advice


def _broken(text: str, advice: str) -> CheckResult:
    return CheckResult(SUBJECT, Verdict.BROKEN, text, advice)
