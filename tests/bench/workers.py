"""How evenly workers share the requests that nginx passes on, and what a request costs with them.

    .venv/bin/python -m tests.bench.workers

Takes about a minute and prints a table. Needs Debian's nginx and wrk. Every request stores a
key-value entry of its own, on tmpfs and without syncing, through connections that nginx keeps. What
the numbers mean is in docs/performance.md.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from cache_actors.dev.tuist import StandInTuist
from tests.support.nginx import NOBODY, nginx_before
from tests.support.service import Service

ROUNDS = 3
BURST_SECONDS = 4
CONNECTIONS = (8, 32, 64)

PUT = """
local count, wave = 0, "%s"
request = function()
  count = count + 1
  local body = '{"cas_id": "0~' .. wave .. count .. '", "entries": [{"value": "dg=="}]}'
  local path = "/api/cache/keyvalue?account_handle=acme&project_handle=app"
  return wrk.format("PUT", path, {["Authorization"] = "Bearer token"}, body)
end
"""


class BenchmarkFailed(Exception):
    """What was measured is not what was meant."""


@dataclass(frozen=True)
class Turn:
    """What one turn came to.

    Attributes:
        rate: requests per second.
        cpu_microseconds: CPU time of all processes of the service for one request.
        shares: each worker's part of the requests.
    """

    rate: float
    cpu_microseconds: float
    shares: list[float]


def main() -> int:
    """Measure, print, and return the exit status."""
    print("socket  workers  connections  requests/s  CPU us  shares  turn by turn")
    for on_unix_socket in (True, False):
        for workers in (1, 2):
            with TemporaryDirectory(prefix="cache-actors-bench-", dir="/dev/shm") as folder:
                for connections, turns in measured(Path(folder), workers, on_unix_socket):
                    each = [turn.shares for turn in turns]
                    overall = [sum(shares) / len(turns) for shares in zip(*each, strict=True)]
                    shares = "  ".join(
                        "/".join(f"{share:.0%}" for share in shares) for shares in (overall, *each)
                    )
                    print(
                        f"{'unix' if on_unix_socket else 'tcp':6}  {workers:7}  {connections:11}"
                        f"  {median(turn.rate for turn in turns):10,.0f}"
                        f"  {median(turn.cpu_microseconds for turn in turns):6.0f}  {shares}",
                        flush=True,
                    )
    return 0


def measured(folder: Path, workers: int, on_unix_socket: bool) -> list[tuple[int, list[Turn]]]:
    """The turns of a service with so many workers, for each number of connections."""
    for path, mode in ((folder, 0o755), (folder / "cas", 0o2750), (folder / "sockets", 0o2770)):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, 0, NOBODY)
        path.chmod(mode)
    environment = {"WORKERS": str(workers), "DURABILITY": "relaxed"}
    with StandInTuist({"token": ["acme/app"]}) as tuist:
        service = Service(folder / "cas", tuist.url, environment)
        upstream = f"127.0.0.1:{service.port}"
        if on_unix_socket:
            environment["SOCKET_DIR"] = str(folder / "sockets")
            upstream = f"unix:{folder}/sockets/current.sock"
        try:
            service.start(wait=False)
            with nginx_before(upstream, service.storage, "debian") as nginx:
                wait_until_up(nginx.url)
                return [
                    (connections, [turn(service, nginx.url, connections) for _ in range(ROUNDS)])
                    for connections in CONNECTIONS
                ]
        finally:
            service.stop()


def wait_until_up(url: str) -> None:
    """Return once all of the service runs, as `/up` says."""
    for _ in range(200):
        if httpx.get(url + "/up", trust_env=False).status_code == httpx.codes.OK:
            return
        time.sleep(0.1)
    raise BenchmarkFailed("the service is not up")


def turn(service: Service, url: str, connections: int) -> Turn:
    """Store entries as fast as it goes, for a while."""
    script = service.storage.with_name("put.lua")
    script.write_text(PUT % time.monotonic_ns())
    start, cpu = service.log.stat().st_size, cpu_seconds(service)
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{BURST_SECONDS}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
        url,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = cpu_seconds(service) - cpu
    if "Non-2xx" in said or "Socket errors" in said:
        raise BenchmarkFailed(said)
    with service.log.open("rb") as log:
        log.seek(start)
        lines = [json.loads(line) for line in log]
    requests = Counter(line.get("worker", "") for line in lines if line["event"] == "request")
    rate = re.search(r"Requests/sec:\s+(\S+)", said)
    if rate is None:
        raise BenchmarkFailed(said)
    shares = [requests[worker] / requests.total() for worker in sorted(requests)]
    return Turn(float(rate[1]), cpu / requests.total() * 1_000_000, shares)


def cpu_seconds(service: Service) -> float:
    """The CPU time of the service's process and its workers."""
    assert service.process is not None
    parent = service.process.pid
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    ticks = 0
    for pid in (parent, *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
