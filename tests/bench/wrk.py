"""wrk, which sends a request over a few connections again as soon as the last one is answered."""

import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from .failure import BenchmarkFailed
from .names import TOKEN

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("load.lua")
PATIENCE = "30s"
SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A kind of request; `{id}` and `{shard}` in it become those of an artifact or an entry.

    Attributes:
        method: the HTTP method.
        path: the path and query.
        kind: what `{id}` is of.
        tag: of the ids; see names.py.
        count: so many ids to choose from at random; 0 for a new one each time.
        body: a file with the body. Only one that begins with a brace has an `{id}` in it.
        refused: whether the right answer is a status from 400.
        headers: further ones, as in `Name: value`.
    """

    method: str
    path: str
    kind: Literal["cas", "keyvalue"]
    tag: str
    count: int = 0
    body: Path | None = None
    refused: bool = False
    headers: tuple[str, ...] = ()


class Said(msgspec.Struct, frozen=True):
    """What a run of wrk came to.

    Attributes:
        requests: how many were answered.
        seconds: how long it took.
        refused: how many answers had a status from 400.
        broken: how many requests were not answered.
        p50_ms, p99_ms: percentiles of the latency, in milliseconds.
    """

    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float


def run_wrk(url: str, ask: Ask, seconds: float) -> tuple[Said, float]:
    """Ask `url` for a while; what came of it, and which part of a core wrk itself used.

    wrk knows whole seconds only, so `seconds` is rounded up.

    Raises:
        BenchmarkFailed: an answer is missing, or its status is of the wrong kind.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s"]
    command += [option for header in ask.headers for option in ("-H", header)]
    command += ["--timeout", PATIENCE, "-s", str(SCRIPT), url, "--", ask.method, ask.path, TOKEN]
    command += [ask.kind, ask.tag, str(ask.count), *([str(ask.body)] if ask.body else [])]
    before = _cpu_of_children()
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + SLACK_SECONDS, check=False
    )
    used = _cpu_of_children() - before
    if ended.returncode != 0:
        raise BenchmarkFailed(f"wrk failed: {ended.stdout}{ended.stderr}")
    said = msgspec.json.decode(ended.stdout.strip().rpartition("\n")[2], type=Said)
    expected = said.requests if ask.refused else 0
    if said.broken or said.refused != expected or not said.requests:
        raise BenchmarkFailed(f"{ask.method} {url}{ask.path}: wrong answers, {said}")
    return said, used / said.seconds


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
