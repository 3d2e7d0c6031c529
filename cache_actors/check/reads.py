"""Reads through nginx: do they move access times, by which eviction knows what is in use?

They do not on every host where the service's own reads do: nginx may see the storage through a
mount of its own, read-only, or with other options. So an artifact is stored and read through it.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx

from cache_actors.storage.layout import Entry, Kind

from .finding import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.settings import Settings
    from cache_actors.storage.layout import Project

SUBJECT = "reads through nginx"
DAY_NS = 86_400_000_000_000
MEANWHILE = (
    "Until then eviction goes by what was stored last; no entry loses its artifacts by that."
)


def check_reads(settings: Settings, url: str, project: Project, token: str) -> Iterator[Finding]:
    """Store an artifact at `url`, read it there, and look at its file; it is removed at once.

    Args:
        settings: those of the service.
        url: nginx's.
        project: one that the token may see.
        token: what clients send as their bearer token.
    """
    entry = Entry(project, Kind.CAS, secrets.token_hex(32).upper())
    path = entry.path(settings.cas_storage_dir)
    handles = {"account_handle": project.account, "project_handle": project.name}
    with httpx.Client(
        base_url=url,
        params=handles,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
        trust_env=False,
    ) as client:
        try:
            yield _look(client, f"/api/cache/cas/{entry.id}", path)
        except httpx.HTTPError as error:
            yield _broken(f"{url} gives no answer: {error}", "Look at the URL, and at nginx.")
        except OSError as error:
            advice = "Is CAS_STORAGE_DIR the folder that this nginx serves from?"
            yield _broken(f"{path} was stored and is not there: {error.strerror}", advice)
        finally:
            with suppress(OSError):
                path.unlink()


def _look(client: httpx.Client, route: str, path: Path) -> Finding:
    for answer in (client.post(route, content=b"check"), client.get(route)):
        if not answer.is_success:
            text = (
                f"{answer.request.method} there answers {answer.status_code}: {answer.text[:200]}"
            )
            return _broken(text, "Look at the project, and at CACHE_TOKEN.")
    if _is_seen(client, route, path, time.time_ns() + DAY_NS):
        return Finding(SUBJECT, Verdict.OK, "every one counts")
    if _is_seen(client, route, path, time.time_ns() - 2 * DAY_NS):
        advice = f"Mount the storage with strictatime,lazytime. {MEANWHILE}"
        return Finding(SUBJECT, Verdict.WARNING, "they count once a day (relatime)", advice)
    advice = (
        "Mount the storage with strictatime,lazytime, and let nginx's unit write to it "
        f"(ReadWritePaths=). {MEANWHILE}"
    )
    return Finding(SUBJECT, Verdict.WARNING, "they do not count (noatime, read-only)", advice)


def _is_seen(client: httpx.Client, route: str, path: Path, accessed: int) -> bool:
    """Whether a read of a file that was `accessed` then moves that."""
    os.utime(path, ns=(accessed, path.stat().st_mtime_ns))
    before = path.stat().st_atime_ns
    client.get(route)
    return path.stat().st_atime_ns != before


def _broken(text: str, advice: str) -> Finding:
    return Finding(SUBJECT, Verdict.BROKEN, text, advice)
