"""How fast nginx answers for the service, compared with a bare static file.

    .venv/bin/python -m tests.bench.nginx_reads

Takes about two minutes and prints tables. Needs Debian's nginx, wrk, h2load and openssl. What
the numbers mean is in docs/performance.md.

A machine with other work on it is fast now and slow then. So the cases take short turns, in several
rounds, and each turn is compared with the bare file of the same round.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Protocol

import httpx

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.kinds import Kind
from cache_actors.nginx.binary import installed_nginx, nginx_version
from cache_actors.nginx.config import HTTP2_DIRECTIVE_SINCE
from cache_actors.storage.layout import Key, Project
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, free_port, running_service

from .failure import BenchmarkFailed
from .plain_nginx import debian_nginx, plain_nginx

ROUNDS = 12
BURST_SECONDS = 1
CONNECTIONS = 32
ARTIFACT_BYTES = 10 * 1024
READS = 10_000
CPUS = sorted(os.sched_getaffinity(0))

TOKEN, OTHER_TOKEN = "bench-token", "other-bench-token"
ACME_APP = Project("acme", "app")
QUERY = f"account_handle={ACME_APP.account}&project_handle={ACME_APP.name}"
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl"}
"""The programs that are needed besides nginx, and Debian's packages with them."""


@dataclass(frozen=True)
class Case:
    """A request to send as often as possible.

    Attributes:
        name: what it is called in the table.
        url: what is asked for; POST if there is a body, else GET.
        runtime: the runtime folder of the nginx that answers.
        status: what every answer has to have.
        target, aim: the required and the desired rate, as a part of the bare file's.
    """

    name: str
    url: str
    runtime: Path
    status: HTTPStatus = HTTPStatus.OK
    body: bytes | None = None
    target: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Burst:
    """What one turn of a case came to.

    Attributes:
        rate: answers per second.
        cpu_microseconds: CPU time of the nginx worker for one of them.
    """

    rate: float
    cpu_microseconds: float = 0.0


class Loader(Protocol):
    """A load generator."""

    def burst(self, case: Case) -> tuple[int, float]:
        """Send the case's request for a while; return how many answers came, and their rate.

        Raises:
            BenchmarkFailed: one had another status than it should.
        """


@dataclass(frozen=True)
class Table:
    """Cases that are compared with each other; the first is the bare file."""

    title: str
    loader: Loader
    cases: list[Case]


def main() -> int:
    """Measure, print, and return the exit status."""
    try:
        programs = find_programs()
        with running_bench(programs) as bench:
            tables = tables_of(bench)
            for table, bursts in zip(tables, measure(tables), strict=True):
                print_table(table, bursts)
            count_questions(bench)
    except BenchmarkFailed as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


# --- What runs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """An nginx: where it listens, and the folder with its pid file."""

    url: str
    runtime: Path


@dataclass(frozen=True)
class Bench:
    """All that runs, and what there is to ask for."""

    programs: dict[str, str]
    folder: Path
    service: Service
    plain: Server
    tls: Server
    bare: Server
    bare_tls: Server
    stored: "Stored"


def find_programs() -> dict[str, str]:
    """The paths of the programs that are needed.

    Raises:
        BenchmarkFailed: one is missing.
    """
    missing = [package for name, package in PACKAGES.items() if shutil.which(name) is None]
    if installed_nginx() is None:
        missing.insert(0, "nginx-light")
    if missing:
        raise BenchmarkFailed(f"Programs are missing: apt-get install {' '.join(missing)}")
    return {name: str(shutil.which(name)) for name in PACKAGES}


@contextmanager
def running_bench(programs: dict[str, str]) -> Iterator[Bench]:
    """The service, nginx before it without and with TLS, and a bare nginx.

    All nginx share the first CPU, of which one works at a time; the rest is on the last one.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cache-bench-")))
        cert, key = make_certificate(programs["openssl"], folder)
        tokens = {TOKEN: [str(ACME_APP)], OTHER_TOKEN: [str(ACME_APP)]}
        tuist = stack.enter_context(StandInTuist(tokens))
        stack.enter_context(on_cpu(-1))
        storage = stack.enter_context(shared_storage())
        service = stack.enter_context(running_service(Service(storage, tuist.url)))
        upstream = f"127.0.0.1:{service.port}"
        with on_cpu(0):
            plain = stack.enter_context(nginx_before(upstream, storage, "debian"))
            tls = stack.enter_context(
                nginx_before(upstream, storage, "debian", tls_cert=cert, tls_key=key)
            )
            bare, bare_tls = stack.enter_context(bare_nginx(storage, cert, key))
        yield Bench(
            programs,
            folder,
            service,
            Server(plain.url, plain.options.runtime),
            Server(tls.url, tls.options.runtime),
            bare,
            bare_tls,
            store(plain.url),
        )


@contextmanager
def on_cpu(which: int) -> Iterator[None]:
    """Keep what is started meanwhile on the first (0) or the last (-1) CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPUS[which]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def make_certificate(openssl: str, folder: Path) -> tuple[Path, Path]:
    """A new certificate and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        f" -subj /CN=localhost -out {cert} -keyout {key}".split(),
        check=True,
        capture_output=True,
    )
    return cert, key


@contextmanager
def bare_nginx(storage: Path, cert: Path, key: Path) -> Iterator[tuple[Server, Server]]:
    """An nginx with the worker and the TLS of production that serves files, and nothing else."""
    http2 = " http2" if nginx_version(debian_nginx()) < HTTP2_DIRECTIVE_SINCE else "; http2 on"
    tls = f"127.0.0.1:{free_port()}"
    servers = f"""\
    root {storage};
    server {{
        listen {{listen}} backlog=4096;
    }}
    server {{
        listen {tls} ssl{http2};
        ssl_certificate     {cert};
        ssl_certificate_key {key};
        ssl_protocols       TLSv1.2 TLSv1.3;
        ssl_session_cache   shared:bare_tls:10m;
        ssl_conf_command    Options KTLS;
    }}"""
    with plain_nginx(servers) as nginx:
        worker_of(nginx.runtime)
        yield Server(nginx.url, nginx.runtime), Server(f"https://{tls}", nginx.runtime)


def worker_of(runtime: Path) -> int:
    """The process id of the worker of the nginx with this runtime folder, once there is one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid_file = runtime / "nginx.pid"
        master = pid_file.read_text().strip() if pid_file.exists() else ""
        children = Path(f"/proc/{master}/task/{master}/children")
        for child in children.read_text().split() if master else ():
            if b"worker process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.01)
    raise BenchmarkFailed(f"nginx has no worker; see {runtime}")


# --- What is asked for ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """What is in the cache, and what is not; the paths are without their queries."""

    artifact: str
    body: bytes
    file: str
    entry: str
    no_entry: str


def store(url: str) -> Stored:
    """Store an artifact and an entry."""
    artifact, entry = secrets.token_hex(32), f"0~{secrets.token_hex(32)}"
    stored = Stored(
        artifact=f"/api/cache/cas/{artifact}",
        body=secrets.token_hex(ARTIFACT_BYTES // 2).encode(),
        file=str(Key(ACME_APP, Kind.CAS, artifact).path(Path("/"))),
        entry=f"/api/cache/keyvalue/{entry}",
        no_entry=f"/api/cache/keyvalue/0~{secrets.token_hex(32)}",
    )
    entries = json.dumps({"cas_id": entry, "entries": [{"value": artifact}]}).encode()
    ask("POST", f"{url}{stored.artifact}?{QUERY}", HTTPStatus.NO_CONTENT, stored.body)
    ask("PUT", f"{url}/api/cache/keyvalue?{QUERY}", HTTPStatus.NO_CONTENT, entries)
    return stored


def ask(method: str, url: str, status: HTTPStatus, body: bytes | None = None) -> None:
    """Send one request.

    Raises:
        BenchmarkFailed: the answer has another status.
    """
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with httpx.Client(trust_env=False, verify=False) as client:  # noqa: S501
        answer = client.request(method, url, headers=headers, content=body)
    if answer.status_code != status:
        raise BenchmarkFailed(f"{method} {url}: {answer.status_code} and not {status.value}")


def tables_of(bench: Bench) -> list[Table]:
    """What is measured."""
    wrk = Wrk(bench.programs["wrk"], bench.folder)
    h2load = H2load(bench.programs["h2load"], bench.folder)
    return [
        Table("HTTP/1.1", wrk, cases_of(bench.stored, bench.bare, bench.plain)),
        Table("HTTP/2, TLS", h2load, cases_of(bench.stored, bench.bare_tls, bench.tls)),
    ]


def cases_of(stored: Stored, bare: Server, nginx: Server) -> list[Case]:
    """What is measured over one protocol."""
    artifact = f"{nginx.url}{stored.artifact}?{QUERY}"
    hit = f"{nginx.url}{stored.entry}?{QUERY}"
    miss = f"{nginx.url}{stored.no_entry}?{QUERY}"
    exists = HTTPStatus.NO_CONTENT
    return [
        Case("bare static file", bare.url + stored.file, bare.runtime),
        Case("CAS read", artifact, nginx.runtime, target=0.65, aim=0.8),
        Case("KV hit", hit, nginx.runtime, target=0.5, aim=0.65),
        Case("KV miss", miss, nginx.runtime, HTTPStatus.NOT_FOUND, target=0.65),
        Case("duplicate upload", artifact, nginx.runtime, exists, stored.body, target=0.5),
    ]


# --- Load generators -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrk:
    """`wrk`, for HTTP/1.1."""

    program: str
    folder: Path

    def burst(self, case: Case) -> tuple[int, float]:
        """See `Loader`. wrk tells only whether a status is below 400."""
        command = [self.program, "-t1", f"-c{CONNECTIONS}", f"-d{BURST_SECONDS}s"]
        command += ["-H", f"Authorization: Bearer {TOKEN}", "-H", "X-Request-ID: read"]
        if case.body is not None:
            script = self.folder / "upload.lua"
            script.write_text(f'wrk.method = "POST"\nwrk.body = "{case.body.decode()}"\n')
            command += ["-s", str(script)]
        said = run([*command, case.url])
        answers = int(find(r"(\d+) requests in", said))
        refused = int(find(r"Non-2xx or 3xx responses: (\d+)", said, "0"))
        expected = 0 if case.status < HTTPStatus.BAD_REQUEST else answers
        if refused != expected or "Socket errors" in said:
            raise BenchmarkFailed(f"{case.name}: not {case.status.value} every time:\n{said}")
        return answers, float(find(r"Requests/sec:\s+([\d.]+)", said))


@dataclass(frozen=True)
class H2load:
    """`h2load`, for HTTP/2."""

    program: str
    folder: Path

    def burst(self, case: Case) -> tuple[int, float]:
        """See `Loader`. h2load tells the first digit of a status."""
        command = [self.program, "-t1", f"-c{CONNECTIONS}", f"-D{BURST_SECONDS}"]
        command += ["-H", f"Authorization: Bearer {TOKEN}", "-H", "X-Request-ID: read"]
        if case.body is not None:
            body = self.folder / "body"
            body.write_bytes(case.body)
            command += ["-d", str(body)]
        said = run([*command, case.url])
        kind = f"{case.status // 100}xx"
        counts = {name: int(find(rf"(\d+) {name}", said)) for name in ("2xx", "3xx", "4xx", "5xx")}
        answers = counts.pop(kind)
        if not answers or any(counts.values()) or "Application protocol: h2" not in said:
            raise BenchmarkFailed(f"{case.name}: not {case.status.value} every time:\n{said}")
        return answers, float(find(r"([\d.]+) req/s", said))


def run(command: Sequence[str]) -> str:
    """What a load generator prints."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if ended.returncode != 0:
        raise BenchmarkFailed(f"{command[0]} failed: {ended.stdout}{ended.stderr}")
    return ended.stdout


def find(pattern: str, said: str, otherwise: str | None = None) -> str:
    """The group of `pattern` in what a load generator said."""
    found = re.search(pattern, said)
    if found is not None:
        return found[1]
    if otherwise is None:
        raise BenchmarkFailed(f"There is no {pattern!r} in:\n{said}")
    return otherwise


# --- Measuring -----------------------------------------------------------------------------------


def measure(tables: Sequence[Table], rounds: int = ROUNDS) -> list[list[list[Burst]]]:
    """Give every case a short turn, several times over: per table and case, its turns."""
    for table in tables:
        for case in table.cases:
            look_at(case)
    bursts: list[list[list[Burst]]] = [[[] for _ in table.cases] for table in tables]
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for table, turns in zip(tables, bursts, strict=True):
            for case, of_case in zip(table.cases, turns, strict=True):
                of_case.append(burst(table.loader, case))
    for table in tables:
        for case in table.cases:
            look_at(case)
    return bursts


def look_at(case: Case) -> None:
    """Send the request once, for its exact status, which the load generators do not tell."""
    ask("GET" if case.body is None else "POST", case.url, case.status, case.body)


def burst(loader: Loader, case: Case) -> Burst:
    """One turn of a case."""
    worker = worker_of(case.runtime)
    before = cpu_seconds(worker)
    answers, rate = loader.burst(case)
    used = cpu_seconds(worker) - before
    empty_access_log(case.runtime)
    return Burst(rate, used / answers * 1e6)


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def empty_access_log(runtime: Path) -> None:
    """It would fill a gigabyte of memory."""
    log = runtime / "access.log"
    if log.exists():
        os.truncate(log, 0)


def count_questions(bench: Bench) -> None:
    """Read an artifact often, with a token that is new to nginx, and print what the service saw."""
    url = f"{bench.plain.url}{bench.stored.artifact}?{QUERY}"
    command = [bench.programs["h2load"], "--h1", "-H", f"Authorization: Bearer {OTHER_TOKEN}"]
    asked = []
    for connections, reads in ((1, 1), (CONNECTIONS, READS)):
        before = questions_in(bench.service.log)
        said = run([*command, f"-c{connections}", f"-n{reads}", url])
        if int(find(r"(\d+) 2xx", said)) != reads:
            raise BenchmarkFailed(f"Not all of {reads} reads were answered:\n{said}")
        asked.append(questions_in(bench.service.log) - before)
    print(f"Questions to the service: {asked[0]} for a first read by a new token, ", end="")
    print(f"{asked[1]} for {READS:,} more reads by it (must be 0).")
    if asked != [1, 0]:
        raise BenchmarkFailed("nginx asks the service more often than it should")


def questions_in(log: Path) -> int:
    """How often nginx has asked the service for a decision, says the service's log."""
    return log.read_text().count('"path":"/_auth_cas"')


# --- Printing ------------------------------------------------------------------------------------


def print_table(table: Table, bursts: Sequence[Sequence[Burst]]) -> None:
    """Print medians, and how far the turns lie apart."""
    print(f"{table.title:<20}{'requests/s':>11}{'spread':>18}{'CPU us':>8}", end="")
    print(f"{'of bare':>9}{'spread':>14}{'by CPU':>8}{'target':>8}{'aim':>6}")
    bare = bursts[0]
    for case, turns in zip(table.cases, bursts, strict=True):
        rates = [turn.rate for turn in turns]
        costs = [turn.cpu_microseconds for turn in turns]
        ratios = [turn.rate / of_bare.rate for turn, of_bare in zip(turns, bare, strict=True)]
        by_cpu = median(turn.cpu_microseconds for turn in bare) / median(costs)
        print(
            f"{case.name:<20}{median(rates):>11,.0f}"
            f"{f'{min(rates):,.0f}-{max(rates):,.0f}':>18}{median(costs):>8.1f}"
            f"{median(ratios):>9.2f}{f'{min(ratios):.2f}-{max(ratios):.2f}':>14}{by_cpu:>8.2f}"
            f"{case.target or '':>8}{case.aim or '':>6}{verdict(median(ratios), by_cpu, case)}"
        )
    print(flush=True)


def verdict(by_rate: float, by_cpu: float, case: Case) -> str:
    """How a case compares with its target, and whether both ratios agree on that."""
    if case.target is None:
        return ""
    worse, better = sorted((by_rate, by_cpu))
    if better < case.target:
        return "  missed"
    if worse < case.target:
        return "  unclear"
    return "  met" if case.aim is None or worse >= case.aim else "  met, short of the aim"


if __name__ == "__main__":
    sys.exit(main())
