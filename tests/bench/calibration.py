"""The generator itself: what it can do, and what it sees when there is nothing but a bare nginx."""

import time

from .contestants import PLAIN_FILES, Contestant
from .failure import BenchmarkFailed
from .farm import RATES, Operation, get
from .generator import Generator
from .names import STORED, artifact_id
from .results import Latency
from .summary import latency_of

CONNECTIONS = 32
HEAD_START = 0.1
PATIENCE = 60.0


def generator_limit(bare: Contestant, seconds: float) -> float:
    """Requests per second that one generator makes of a bare nginx when all are due at once.

    Raises:
        BenchmarkFailed: nginx does not answer as it should.
    """
    count = max(2_000, int(10_000 * seconds))
    request = get(_path_of(0))
    due = [Operation(0.0, "file", (request,)) for _ in range(count)]
    generator = Generator(bare.address(), CONNECTIONS, patience=PATIENCE)
    began = time.monotonic()
    outcome = generator.run(due, began)
    if outcome.endings:
        raise BenchmarkFailed(f"A bare nginx does not serve its files: {outcome.endings}")
    return count / (time.monotonic() - began)


def generator_floor(bare: Contestant, artifacts: int, seconds: float) -> Latency:
    """Latencies of a bare nginx at the rate of one farm: what is not the service's."""
    rate = sum(RATES.values())
    count = int(rate * seconds)
    due = [
        Operation(number / rate, "file", (get(_path_of(number % artifacts)),))
        for number in range(count)
    ]
    generator = Generator(bare.address())
    generator.connect(CONNECTIONS)
    outcome = generator.run(due, time.monotonic() + HEAD_START)
    return latency_of(outcome.latencies["file"])


def _path_of(number: int) -> str:
    artifact = artifact_id(STORED, number)
    return PLAIN_FILES.path.replace("{id}", artifact).replace("{shard}", artifact[2:4])
