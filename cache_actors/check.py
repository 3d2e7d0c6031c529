"""`cache-actors check`: what an operator runs first, and when something is odd.

It looks at everything around the service that has to be right for it, says of each in one line how
it is and what to do about it, and changes nothing: a file of its own in the storage folder
is removed at once.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import click
import httpx
import msgspec

from .settings import BadSettings, load_settings
from .storage.record import Record, read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .settings import Settings

EXIT_BROKEN = 1
"""Exit status: something is broken."""

LEAST_FREE = 0.05
"""Of bytes and inodes; with less, uploads may be refused before long."""

LEAST_FILES = 65_536
"""Each connection is an open file, and each upload another."""

MOST_CLOCK_SECONDS = 30.0
DAY = 86_400


class Verdict(Enum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it, if anything."""

    subject: str
    verdict: Verdict
    text: str
    advice: str | None = None


def run_check(nginx_config: Path | None, *, as_json: bool) -> int:
    """Look at everything, print it, and return the exit status."""
    findings = list(check(nginx_config))
    if as_json:
        plain = [asdict(finding) | {"verdict": finding.verdict.value} for finding in findings]
        click.echo(msgspec.json.encode(plain))
    else:
        for finding in findings:
            advice = f" {finding.advice}" if finding.advice else ""
            click.echo(f"{finding.verdict.value:8} {finding.subject}: {finding.text}.{advice}")
    return EXIT_BROKEN if any(f.verdict is Verdict.BROKEN for f in findings) else 0


def check(nginx_config: Path | None) -> Iterator[Finding]:
    """Everything, one after the other.

    Args:
        nginx_config: nginx's configuration, if it is to be looked at.
    """
    try:
        settings = load_settings()
    except BadSettings as error:
        for line in str(error).splitlines():
            yield Finding("settings", Verdict.BROKEN, line, "Set it in the environment.")
        return
    yield Finding("settings", Verdict.OK, "all values are allowed")
    yield from _storage(settings)
    if settings.socket_dir or settings.socket_path:
        yield _sockets(settings)
    yield from _tuist(settings)
    yield _file_limit()
    if nginx_config is not None:
        yield _nginx(nginx_config)


def _storage(settings: Settings) -> Iterator[Finding]:
    storage = settings.cas_storage_dir
    try:
        with NamedTemporaryFile(prefix=".check-", dir=storage) as file:
            file.write(b"check")
            file.flush()
            os.fsync(file.fileno())
            yield Finding("storage", Verdict.OK, f"{storage} can be written to")
            yield from _features(Path(file.name), storage)
    except OSError as error:
        yield Finding(
            "storage",
            Verdict.BROKEN,
            f"{storage} cannot be written to: {error.strerror}",
            f"Make it, with `install -d -m 2750 -o {os.geteuid()} -g <nginx's group> {storage}`.",
        )
        return
    yield from _room(storage)
    if settings.tmp_dir is not None:
        yield _temporary_device(settings.tmp_dir, storage)


def _features(file: Path, storage: Path) -> Iterator[Finding]:
    """What the file system can do, tried on a file of our own."""
    with file.open("rb") as opened:
        write_record(opened.fileno(), Record(bytes(32), 5))
    if read_record(file) is None:
        yield Finding(
            "extended attributes",
            Verdict.WARNING,
            "the file system has none",
            "Digests are not recorded, and a scrub finds less. Use ext4 or xfs.",
        )
    else:
        yield Finding("extended attributes", Verdict.OK, "digests are recorded")
    if _read_moves_access_time(file, time.time() + DAY):
        yield Finding("access times", Verdict.OK, "every read counts")
    elif _read_moves_access_time(file, time.time() - 2 * DAY):
        yield Finding(
            "access times",
            Verdict.WARNING,
            "they move once a day (relatime)",
            f"Mount {storage} with strictatime,lazytime to see what is in use.",
        )
    else:
        yield Finding(
            "access times",
            Verdict.WARNING,
            "reads do not move them (noatime)",
            f"Mount {storage} with strictatime,lazytime to see what is in use.",
        )


def _read_moves_access_time(file: Path, accessed: float) -> bool:
    """Whether reading a file that was `accessed` then is seen; relatime believes in the future."""
    os.utime(file, (accessed, file.stat().st_mtime))
    before = file.stat().st_atime_ns
    file.read_bytes()
    return file.stat().st_atime_ns != before


def _room(storage: Path) -> Iterator[Finding]:
    room = os.statvfs(storage)
    amounts = [("bytes", room.f_bavail, room.f_blocks), ("inodes", room.f_favail, room.f_files)]
    for what, free, total in amounts:
        share = free / total if total else 1.0  # some file systems have no fixed number of inodes
        text = f"{share:.0%} are free"
        if share < LEAST_FREE:
            yield Finding(f"free {what}", Verdict.WARNING, text, "Make room, or use a larger disk.")
        else:
            yield Finding(f"free {what}", Verdict.OK, text)


def _temporary_device(folder: Path, storage: Path) -> Finding:
    try:
        same = folder.stat().st_dev == storage.stat().st_dev
    except OSError as error:
        advice = "Make it, or unset TMP_DIR."
        return Finding("TMP_DIR", Verdict.BROKEN, f"{folder}: {error.strerror}", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = f"Give it to user {os.geteuid()}, or unset TMP_DIR."
        return Finding("TMP_DIR", Verdict.BROKEN, f"{folder} cannot be written to", advice)
    if same:
        return Finding("TMP_DIR", Verdict.OK, "it is on the storage's device")
    advice = "Large uploads are copied once more. Unset TMP_DIR to avoid that."
    return Finding("TMP_DIR", Verdict.WARNING, "it is on another device", advice)


def _sockets(settings: Settings) -> Finding:
    folder = settings.socket_dir or (settings.socket_path or settings.cas_storage_dir).parent
    if not os.path.isdir(folder):  # noqa: PTH112 - which is not upset by what it may not see
        advice = "Make it, or mount the volume."
        return Finding("socket folder", Verdict.BROKEN, f"{folder} is no folder", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = f"Give it to user {os.geteuid()}, mode 2770, with a group that nginx is in."
        return Finding("socket folder", Verdict.BROKEN, f"{folder} cannot be written to", advice)
    if folder.stat().st_mode & 0o010 == 0:
        advice = f"`chmod 2770 {folder}`, with a group that nginx is in."
        return Finding("socket folder", Verdict.WARNING, f"{folder} is closed to its group", advice)
    return Finding("socket folder", Verdict.OK, f"{folder} can be written to")


def _tuist(settings: Settings) -> Iterator[Finding]:
    """Ask without a token: what speaks the API refuses that with 401."""
    url = urljoin(str(settings.server_url), "/api/projects")
    try:
        answer = httpx.get(url, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        advice = "Look at SERVER_URL, at DNS, and at the firewall."
        yield Finding("Tuist", Verdict.BROKEN, f"{url} gives no answer: {error}", advice)
        return
    if answer.status_code in (httpx.codes.OK, httpx.codes.UNAUTHORIZED):
        yield Finding("Tuist", Verdict.OK, f"{url} answers {answer.status_code}, as it should")
    else:
        text = f"{url} answers {answer.status_code}, not 401"
        yield Finding("Tuist", Verdict.BROKEN, text, "Is SERVER_URL that of a Tuist server?")
    with suppress(KeyError, ValueError):
        off = abs(time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp())
        if off > MOST_CLOCK_SECONDS:
            text = f"it is {off:.0f} s off the Tuist server's"
            yield Finding("clock", Verdict.WARNING, text, "Synchronise it (NTP).")
        else:
            yield Finding("clock", Verdict.OK, "it agrees with the Tuist server's")


def _file_limit() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        advice = f"Raise it to {LEAST_FILES}, with LimitNOFILE= or --ulimit nofile=."
        return Finding("open files", Verdict.WARNING, f"at most {hard}", advice)
    return Finding("open files", Verdict.OK, "enough of them are allowed")


def _nginx(config: Path) -> Finding:
    """Whether the snippets of this version stand in nginx's configuration, line by line."""
    try:
        lines = {line.strip() for line in config.read_text().splitlines()}
    except (OSError, UnicodeDecodeError) as error:
        return Finding("nginx", Verdict.BROKEN, f"{config} cannot be read: {error}")
    snippets = files("cache_actors.nginx") / "snippets"
    missing = [
        line.strip()
        for name in ("http.conf", "server.conf")
        for line in (snippets / name).read_text().splitlines()
        if line.strip() and not line.strip().startswith("#") and line.strip() not in lines
    ]
    if not missing:
        return Finding("nginx", Verdict.OK, f"{config} is that of this version")
    text = f"{config} lacks {len(missing)} lines of this version, such as `{missing[0]}`"
    advice = "Make it again, with `cache-actors nginx-config` or from platform/nginx.nix."
    return Finding("nginx", Verdict.BROKEN, text, advice)
