"""What a pass of eviction costs, by itself and to those who read through nginx meanwhile.

    .venv/bin/python -m tests.bench.eviction --files 100000 --files 1000000

Needs Debian's nginx and wrk, about 6 KiB of disk for each file, and minutes. What the numbers mean
is in docs/performance.md.

A machine with other work on it is fast now and slow then. So while reads are measured the pass is
stopped (SIGSTOP) every other second, and each second is compared with the one before.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, running_service

from .nginx_reads import ACME_APP, QUERY, TOKEN, find, find_programs, run

ARTIFACT = b"artifact" * 32
OLDEST = 30 * 86_400_000_000_000
"""Nanoseconds over which uses are spread."""

KEPT_PERCENT = 85
HOT = 200
CONNECTIONS, DELAY_MS = 8, 2
"""How reads are asked for: each connection waits so long after an answer."""

TURN_SECONDS = 1
EVICT = (sys.executable, "-m", "cache_actors", "evict", "--json")
USAGE = (sys.executable, "-m", "cache_actors", "usage", "--json")

PACES = {"calm": "100", "in a hurry": str(KEPT_PERCENT)}
"""The high watermark, in percent of what there is, by pace."""


@dataclass(frozen=True)
class Run:
    """What a process has cost."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    said: dict[str, float]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--files", type=click.IntRange(1000), multiple=True, default=(100_000,))
def main(files: tuple[int, ...]) -> None:
    """Measure, and print tables; --files is how many artifacts there are, with half as many
    entries."""
    programs = find_programs()
    for number in files:
        with StandInTuist({TOKEN: [str(ACME_APP)]}) as tuist, shared_storage() as storage:
            began = time.monotonic()
            fill(storage, number)
            click.echo(f"{number:,} artifacts made in {time.monotonic() - began:.0f} s", err=True)
            costs(storage, number)
            environment = {"DISK_HIGH_WATERMARK_PERCENT": "100"}
            with (
                running_service(Service(storage, tuist.url, environment)) as service,
                nginx_before(f"127.0.0.1:{service.port}", storage, "debian") as nginx,
                reads(programs["wrk"], nginx.url, number) as wrk,
            ):
                for pace, high in PACES.items():
                    fill(storage, number)
                    beside(wrk, storage, pace, high)


# --- A store -------------------------------------------------------------------------------------


def artifact(number: int) -> Key:
    """An artifact; the lower its number, the longer ago it was used."""
    name = hashlib.sha256(b"%d" % number).hexdigest().upper()
    return Key(ACME_APP, Kind.CAS, name)


def fill(storage: Path, files: int) -> None:
    """Make what is missing of `files` artifacts, and of an entry for every two of them."""
    now = time.time_ns()
    for number in range(files):
        used = now - OLDEST * (files - number) // files
        make(storage, artifact(number), ARTIFACT, used)
        if number % 2:
            values = [{"value": artifact(each).id} for each in (number - 1, number)]
            key = Key(ACME_APP, Kind.KEYVALUE, f"0~{artifact(number).id.lower()}")
            make(storage, key, json.dumps({"entries": values}).encode(), used)


def make(storage: Path, key: Key, data: bytes, used: int) -> None:
    """Make a file that was used last at `used`."""
    path = key.path(storage)
    try:
        os.utime(path, ns=(used, used))
    except FileNotFoundError:
        pass
    else:
        return
    try:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o640)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o640)
    os.write(fd, data)
    os.utime(fd, ns=(used, used))
    os.close(fd)


# --- What a pass costs ---------------------------------------------------------------------------


def costs(storage: Path, files: int) -> None:
    """Print what a scan costs, and a pass that is in a hurry."""
    scan = measured([*USAGE, f"--storage={storage}"])
    stored = sum(
        project["artifact_bytes"] + project["entry_bytes"]
        for project in scan.said["projects"]  # type: ignore[attr-defined]
    )
    evicted = measured([*EVICT, f"--storage={storage}", *limits(stored, PACES["in a hurry"])])
    gone = int(evicted.said["artifacts"] + evicted.said["entries"])
    seen = files + files // 2
    click.echo(
        f"\n{files:,} artifacts, {files // 2:,} entries{'seconds':>20}{'CPU s':>9}", nl=False
    )
    click.echo(f"{'files/s':>10}{'max RSS MiB':>13}")
    for what, each, number in (("scan", scan, seen), (f"pass, {gone:,} gone", evicted, seen)):
        click.echo(f"{what:<40}{each.seconds:>14.1f}{each.cpu_seconds:>9.1f}", nl=False)
        click.echo(f"{number / each.seconds:>10,.0f}{each.peak_mib:>13.1f}")


def limits(stored: int, high: str) -> list[str]:
    """Options of a pass that takes what is above `KEPT_PERCENT` of what is stored."""
    return [f"--max-bytes={stored}", f"--high={high}", f"--target={KEPT_PERCENT}"]


def measured(command: list[str]) -> Run:
    """Run a command of ours to its end."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise click.ClickException(f"{command} ended with {process.returncode}")
    return Run(
        time.monotonic() - began,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024,
        json.loads(said),
    )


# --- What it costs others ------------------------------------------------------------------------


@contextmanager
def reads(wrk: str, url: str, files: int) -> Iterator[list[str]]:
    """A command that reads the artifacts used last through nginx, at a moderate rate."""
    with TemporaryDirectory(prefix="cache-bench-") as folder:
        script = f"{folder}/reads.lua"
        names = ",".join(f'"{artifact(files - 1 - each).id}"' for each in range(HOT))
        with open(script, "w") as file:  # noqa: PTH123
            file.write(f"""\
local names = {{{names}}}
function request()
    return wrk.format("GET", "/api/cache/cas/" .. names[math.random(#names)] .. "?{QUERY}")
end
function delay() return {DELAY_MS} end
""")
        head = f"Authorization: Bearer {TOKEN}"
        options = ["-t1", f"-c{CONNECTIONS}", f"-d{TURN_SECONDS}s", "--latency", "-H", head]
        yield [wrk, *options, "-s", script, url]


def beside(wrk: list[str], storage: Path, pace: str, high: str) -> None:
    """Print the latency of reads while a pass runs, and while it is stopped."""
    stored = measured([*USAGE, f"--storage={storage}"]).said["projects"]
    total = sum(each["artifact_bytes"] + each["entry_bytes"] for each in stored)  # type: ignore[attr-defined]
    turns: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    latency(wrk)  # the first has to ask for a decision
    command = [*EVICT, f"--storage={storage}", *limits(int(total), high)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        for goes_on in cycle((False, True)):
            process.send_signal(signal.SIGCONT if goes_on else signal.SIGSTOP)
            said = latency(wrk)
            if process.poll() is not None:
                break
            turns[goes_on].append(said)
    finally:
        process.kill()
        process.wait()
    pairs = list(zip(turns[True], turns[False], strict=False))
    click.echo(f"\nreads beside a pass, {pace}; {len(pairs)} pairs of {TURN_SECONDS} s", nl=False)
    click.echo(f"{'stopped':>12}{'running':>10}{'ratio':>8}{'spread':>16}")
    for place, name in enumerate(("p50 us", "p99 us")):
        ratios = [on[place] / off[place] for on, off in pairs]
        off, on = (median(each[place] for each in turns[key]) for key in (False, True))
        click.echo(f"{name:<46}{off:>12,.0f}{on:>10,.0f}{median(ratios):>8.2f}", nl=False)
        click.echo(f"{f'{min(ratios):.2f}-{max(ratios):.2f}':>16}")


def latency(wrk: list[str]) -> tuple[float, float]:
    """The median and the 99th percentile of reads, in microseconds."""
    said = run(wrk)
    if "Non-2xx" in said or "Socket errors" in said:
        raise click.ClickException(said)
    return in_microseconds(find(r"\n\s+50%\s+(\S+)", said)), in_microseconds(
        find(r"\n\s+99%\s+(\S+)", said)
    )


def in_microseconds(text: str) -> float:
    """A time as wrk prints it."""
    for unit, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(text)


if __name__ == "__main__":
    main()
