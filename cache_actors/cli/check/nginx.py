"""nginx: its configuration, its log, and its limits on this host.

The configuration has to contain each snippet of this version as one unbroken run of lines.
Indentation, comments and empty lines are ignored; included files are read in place.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from fnmatch import fnmatch
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from cache_actors.nginx.config import GRPC_SINCE, OPEN_FILES
from cache_actors.storage.mounts import file_system_at

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cache_actors.settings import Settings

SNIPPETS = ("http.conf", "server.conf")
BUCKET_SNIPPET = "bucket.conf"
GRPC_SNIPPET = "grpc.conf"
"""Snippet that an older nginx does without."""

STANDARD_INPUT = Path("-")
DEEPEST = 10
"""Deepest nesting of `include` that is followed, as a configuration may include itself."""

_LIMIT = re.compile(r"Max open files +([0-9]+)")
_PARENT = re.compile(r"^PPid:\t([0-9]+)$", re.MULTILINE)

_SIZE = re.compile(r"([0-9]+)([kmg]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

_FILE = re.compile(r"^# configuration file (.+):$", re.MULTILINE)
"""Heading of each file in the output of `nginx -T`."""

_INCLUDE = re.compile(r"""include\s+["']?([^"';]+?)["']?\s*;""")


def check_nginx_and_host(
    config: Path, max_upload_bytes: int | None = None, *, has_bucket: bool | None = None
) -> Iterator[CheckResult]:
    """Check the snippets, gRPC, the limit on uploads, and nginx's files and decisions on this host.

    Args:
        config: the file with nginx's configuration, or `STANDARD_INPUT`.
        max_upload_bytes: the service's own limit, to compare with; None if it is not known.
        has_bucket: whether the service has a bucket; None if it is not known.
    """
    name = "standard input" if config == STANDARD_INPUT else str(config)
    try:
        reader = _Reader(config)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        advice = "Give the path of nginx's configuration, or - and it on standard input."
        yield CheckResult("nginx", Verdict.BROKEN, f"{name} cannot be read: {reason}", advice)
        return
    folder = files("cache_actors.nginx") / "snippets"
    runs = {}
    for snippet in *SNIPPETS, GRPC_SNIPPET:
        wanted = _significant((folder / snippet).read_text())
        length, _ = runs[snippet] = _longest_start(wanted, reader.lines)
        if length < len(wanted) and (length > 0 or snippet != GRPC_SNIPPET):
            text = f"{name} is not that of this version: `{wanted[length]}` of {snippet} is missing"
            advice = _advice(reader.missing if length == 0 else [])
            yield CheckResult("nginx", Verdict.BROKEN, f"{text}, or not in its place", advice)
            return
    yield CheckResult("nginx", Verdict.OK, f"{name} is that of this version")
    yield from _bucket(name, reader.lines, has_bucket)
    yield _grpc(name, reader.lines, has_snippet=runs[GRPC_SNIPPET][0] > 0)
    limit = _body_limit(reader.lines, runs["server.conf"][1])
    if limit is not None and max_upload_bytes is not None:
        yield _largest_upload(limit, max_upload_bytes)
    yield from _host(name, reader.lines)


def _bucket(name: str, lines: Sequence[str], has_bucket: bool | None) -> Iterator[CheckResult]:
    """Check that nginx asks the service for what is missing, if that has a bucket."""
    snippet = (files("cache_actors.nginx") / "snippets" / BUCKET_SNIPPET).read_text()
    wanted = _significant(snippet)
    number, _ = _longest_start(wanted, lines)
    asks = any(line == wanted[0] for line in lines)
    if asks and number < len(wanted):
        text = (
            f"{name} is not that of this version: `{wanted[number]}` of {BUCKET_SNIPPET} is missing"
        )
        yield CheckResult("nginx", Verdict.BROKEN, f"{text}, or not in its place", _advice([]))
    elif has_bucket and not asks:
        text = f"{name} does not ask the service for what is missing: the bucket is not read"
        advice = "Print it with `cache-actors nginx-config --bucket`, or include bucket.conf."
        yield CheckResult("nginx and the bucket", Verdict.WARNING, text, advice)
    elif asks and has_bucket is False:
        text = f"{name} asks the service for what is missing, which has no bucket"
        advice = "Set S3_BUCKET, or leave out bucket.conf: each miss costs a request."
        yield CheckResult("nginx and the bucket", Verdict.WARNING, text, advice)


def _grpc(name: str, lines: Sequence[str], *, has_snippet: bool) -> CheckResult:
    """Check that clients of gRPC are served, which older versions of nginx cannot do."""
    who = "Bazel, and Tuist's CLI from 4.209 on for Xcode's cache, get nothing"
    since = ".".join(map(str, GRPC_SINCE))
    if not has_snippet:
        advice = f"If they are to be served: nginx {since} or newer, and a configuration for it."
        return CheckResult("gRPC", Verdict.WARNING, f"{name} has no {GRPC_SNIPPET}: {who}", advice)
    words = [line.rstrip(";").split() for line in lines]
    if ["http2", "on"] not in words and not any(
        each[0] == "listen" and "http2" in each for each in words
    ):
        advice = "`http2 on;` in the server block."
        return CheckResult("gRPC", Verdict.WARNING, f"{name} has no HTTP/2: {who}", advice)
    return CheckResult("gRPC", Verdict.OK, f"{name} passes it on")


def serves(worker: Path, storage: Path) -> bool:
    """Whether the configuration of a worker's nginx names `storage`; `worker` is its `/proc/<pid>`.

    False also if it cannot be read. Its path is in the title of the master process, unless it is
    the usual one.
    """
    try:
        parent = _PARENT.search((worker / "status").read_text())
        master = worker.with_name(parent[1]) if parent else worker
        title = (master / "cmdline").read_bytes().rstrip(b"\0").decode()
        given = re.search(r" -c (\S+)", title)
        lines = _Reader(Path(given[1] if given else "/etc/nginx/nginx.conf")).lines
    except (OSError, UnicodeDecodeError):
        return False
    return any(str(storage) in re.split(r"""[\s"';]+""", line) for line in lines)


def check_nginx_log(settings: Settings) -> Iterator[CheckResult]:
    """Check that the service can read and empty the log of nginx's answers, if one is set."""
    path = settings.nginx_log
    if path is None:
        return
    trouble = None
    if not os.path.lexists(path):
        if not os.access(path.parent, os.W_OK | os.X_OK):
            trouble = "cannot be made"
    elif path.is_symlink() or not path.is_file():
        trouble = "is no file"
    elif not os.access(path, os.R_OK):
        trouble = "cannot be read: what nginx answers alone is not counted"
    elif not os.access(path, os.W_OK):
        trouble = "cannot be emptied: it grows until its file system is full"
    if trouble is None:
        yield CheckResult("nginx's log", Verdict.OK, f"{path} can be counted")
        return
    advice = f"As root: `chown {os.geteuid()} {path}; chmod 660 {path}`, with a group nginx is in."
    yield CheckResult("nginx's log", Verdict.WARNING, f"{path} {trouble}", advice)


def _largest_upload(limit: str, service: int) -> CheckResult:
    """Check that nginx and the service have the same limit on the bytes of an upload."""
    subject = "largest upload"
    found = _SIZE.fullmatch(limit.lower())
    nginx = int(found[1]) * _UNITS[found[2]] if found else 0  # 0 means no limit
    if nginx == service:
        return CheckResult(subject, Verdict.OK, f"{service:,} bytes, of nginx and of the service")
    advice = f"`client_max_body_size {service};` for nginx, or another MAX_UPLOAD_BYTES."
    if 0 < nginx < service:
        text = f"nginx refuses what is larger than {nginx:,} bytes, the service takes {service:,}"
        return CheckResult(subject, Verdict.BROKEN, text, advice)
    theirs = f"{nginx:,} bytes" if nginx else "bodies of any size"
    text = f"nginx takes {theirs}, the service refuses what is larger than {service:,}"
    return CheckResult(subject, Verdict.WARNING, text, advice)


def _body_limit(lines: Sequence[str], position: int) -> str | None:
    """The `client_max_body_size` in force at line `position`; None if that is outside any block."""
    limits = {-1: "1m"}  # by the number of each block's first line; 1m is nginx's default
    blocks = here = [-1]
    for number, line in enumerate(lines):
        if number == position:
            here = blocks
        words = line.rstrip(";").split()
        if words[0] == "client_max_body_size":
            limits[blocks[-1]] = words[1]
        elif line.endswith("{"):
            blocks = [*blocks, number]
        elif line == "}":
            blocks = blocks[:-1] or blocks
    if len(here) == 1:
        return None
    return next(limits[block] for block in reversed(here) if block in limits)


def _host(name: str, lines: Sequence[str]) -> Iterator[CheckResult]:
    """Check nginx's limit on open files, and where its decisions lie."""
    given = _value("worker_rlimit_nofile", lines)
    limits = [int(given)] if given and given.isdecimal() else []
    is_running = False
    with suppress(OSError, ValueError):  # nginx does not run here, or is another user's
        pid = int(Path(_value("pid", lines) or "").read_text())
        for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            is_running = True
            found = _LIMIT.search(Path(f"/proc/{worker}/limits").read_text())
            limits += [int(found[1])] if found else []
    if not limits or min(limits) < OPEN_FILES:
        has = f"{min(limits):,} open files" if limits else "as many open files as its starter"
        text = f"{name} gives each worker {has}, and {OPEN_FILES:,} may be needed"
        advice = (
            f"`worker_rlimit_nofile {OPEN_FILES};`, and LimitNOFILE= or --ulimit nofile= for it."
        )
        yield CheckResult("nginx's open files", Verdict.WARNING, text, advice)
    else:
        yield CheckResult("nginx's open files", Verdict.OK, "enough of them are allowed")
    decisions = Path(_value("proxy_cache_path", lines) or "/")
    if is_running and not os.path.isdir(decisions):  # noqa: PTH112 - as above
        text = f"{decisions} is gone: the service is asked for each request"
        advice = "Reload nginx, which makes it again."
        yield CheckResult("nginx's decisions", Verdict.WARNING, text, advice)
    elif is_running and file_system_at(decisions) != "tmpfs":
        text = (
            f"{decisions} outlives a power cut: nginx may serve files that have not been recovered"
        )
        advice = "Put `proxy_cache_path` on a tmpfs, as in /run."
        yield CheckResult("nginx's decisions", Verdict.WARNING, text, advice)


def _value(directive: str, lines: Sequence[str]) -> str | None:
    """The first value of the first `directive`, or None if there is none."""
    words = (line.rstrip(";").split() for line in lines)
    return next((each[1] for each in words if each[0] == directive and len(each) > 1), None)


def _advice(missing: Sequence[str]) -> str:
    """Advice for a missing snippet; `missing` are included files that could not be read."""
    if missing:
        everything = "`nginx -T | cache-actors check --nginx-config -`"
        return f"It includes {missing[0]}, which is not to be read here; try {everything}."
    return "Make it again, with `cache-actors nginx-config` or from platform/nginx.nix."


class _Reader:
    """Reads a configuration with the files that it includes.

    Attributes:
        lines: the significant lines, with those of an included file in place of the directive.
        missing: the patterns of included files that could not be read.
    """

    def __init__(self, config: Path) -> None:
        self.missing: list[str] = []
        text = sys.stdin.read() if config == STANDARD_INPUT else config.read_text()
        _, *printed = _FILE.split(text)
        self._printed = dict(zip(printed[::2], printed[1::2], strict=True))
        if printed:
            config, text = Path(printed[0]), printed[1]
        self._read: set[str] = {str(config)}
        self.lines = self._with_includes(text, config.parent, 0)
        for name in self._printed.keys() - self._read:  # their `include` was not recognised
            self.lines += _significant(self._printed[name])

    def _with_includes(self, text: str, folder: Path, depth: int) -> list[str]:
        lines: list[str] = []
        for line in _significant(text):
            included = _INCLUDE.fullmatch(line)
            lines += self._included(included[1], folder, depth) if included else [line]
        return lines

    def _included(self, pattern: str, folder: Path, depth: int) -> list[str]:
        """The lines of the files that match `pattern`, which is relative to `folder`."""
        lines: list[str] = []
        where = folder / pattern
        if self._printed:
            for name, text in self._printed.items() if depth < DEEPEST else ():
                if fnmatch(name, str(where)):
                    self._read.add(name)
                    lines += self._with_includes(text, folder, depth + 1)
            return lines
        try:
            paths = sorted(where.parent.glob(where.name)) if "*" in pattern else [where]
            for path in paths if depth < DEEPEST else []:
                lines += self._with_includes(path.read_text(), folder, depth + 1)
        except (OSError, UnicodeDecodeError):
            self.missing.append(pattern)
        return lines


def _significant(text: str) -> list[str]:
    """The lines of `text` without indentation, comments and empty lines."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _longest_start(wanted: Sequence[str], lines: Sequence[str]) -> tuple[int, int]:
    """The longest run in `lines` that begins like `wanted`: its length, and where it starts."""
    runs = ((start, zip(wanted, lines[start:], strict=False)) for start in range(len(lines)))
    found = ((sum(1 for _ in takewhile(_are_same, run)), start) for start, run in runs)
    return max(found, default=(0, 0))


def _are_same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
