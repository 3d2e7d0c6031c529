"""h2load, which sends a call over a few HTTP/2 connections again as soon as one is answered."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .failure import BenchmarkFailed
from .names import TOKEN

CONNECTIONS = 8

SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call of gRPC, repeated.

    Attributes:
        path: `/package.Service/Method`.
        body: the file with its message, as it travels.
        answer_bytes: at least as many bytes every right answer has.
        at_once: so many calls at once on each connection.
    """

    path: str
    body: Path
    answer_bytes: int
    at_once: int = 4


def run_h2load(url: str, call: Call, seconds: float) -> tuple[int, float]:
    """Call for a while: how many calls were answered, and in how many seconds.

    Raises:
        BenchmarkFailed: an answer is missing, or cannot be right.
    """
    command = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{call.at_once}", f"-D{seconds:.0f}"]
    command += ["-d", str(call.body), "-H", f"authorization: Bearer {TOKEN}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", url + call.path]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + SLACK_SECONDS, check=True
    ).stdout
    requests = _numbers(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", said)
    done, succeeded, failed = requests
    [data] = _numbers(r"traffic: .*\((\d+)\) data", said)
    [spent] = re.findall(r"^finished in ([0-9.]+)s", said, re.MULTILINE)
    if failed or done != succeeded or not done or data < done * call.answer_bytes:
        raise BenchmarkFailed(f"{url}{call.path}: wrong answers:\n{said}")
    return done, float(spent)


def _numbers(pattern: str, said: str) -> list[int]:
    found = re.search(pattern, said)
    if found is None:
        raise BenchmarkFailed(f"h2load says {said!r}")
    return [int(number) for number in found.groups()]
