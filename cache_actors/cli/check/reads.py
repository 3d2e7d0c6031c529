"""Reads through nginx: whether they update access times, and whether large uploads pass.

nginx may see the storage through a mount of its own, read-only or with other options than the
service's. So the check stores an artifact through nginx and reads it back. Then it sends only the
headers of another upload of it, of the largest size: nginx answers that it is too large, or that
the artifact exists.
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
    """Store an artifact through nginx, read it back, check its file, and remove it.

    Args:
        settings: the service's settings.
        url: the URL of nginx.
        project: a project that the token may write to.
        token: the bearer token of a client.
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
        if is_missed or DIGEST_HEADER in answer.headers:  # only the service sends this header
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
    """Check that an upload of `largest` bytes is accepted, by sending its headers alone."""
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
        return  # the check of reads reports an nginx that does not answer
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        text = f"nginx refuses {largest:,} bytes as too large, which the service takes"
        advice = f"`client_max_body_size {largest};` for nginx, or another MAX_UPLOAD_BYTES."
        yield CheckResult(UPLOADS, Verdict.BROKEN, text, advice)
    elif status == httpx.codes.NO_CONTENT:
        yield CheckResult(UPLOADS, Verdict.OK, f"up to {largest:,} bytes are taken")


def _not_found(path: Path, storage: Path) -> tuple[str, str]:
    """The likely reason why nginx does not find the file at `path`, and advice."""
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
