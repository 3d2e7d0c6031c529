"""A long load at full speed on a small disk, with figures of how eviction keeps up.

    .venv/bin/python -m tests.soak.growth --seconds 300

Passes and the service are killed now and then. Exit status 1 if something was not as promised.
"""

import os
import random
import sys
import time
from statistics import median

import click

from cache_actors.dev.tuist import StandInTuist
from tests.support.cache_workers import incomplete_entries

from .growth_load import Load
from .growth_site import Site, running_site

SAY_EVERY = 10.0
"""Seconds."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.FloatRange(10), default=300.0, show_default=True)
@click.option("--mib", type=click.IntRange(64), default=2048, show_default=True, help="The disk.")
@click.option("--builders", type=click.IntRange(1), default=6, show_default=True)
@click.option("--readers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--kill-every", type=click.FloatRange(1), default=30.0, show_default=True)
def main(seconds: float, mib: int, builders: int, readers: int, kill_every: float) -> None:
    """Fill a small disk as fast as it goes; exit with 1 if a promise was broken."""
    with (
        StandInTuist({"token": ["acme/app"]}) as tuist,
        running_site(tuist, f"size={mib}m") as site,
        Load(site.nginx.port, site.storage, builders=builders, readers=readers) as load,
    ):
        kills = run(site, load, seconds, kill_every)
        load.stop()
        incomplete = incomplete_entries(site.storage)
        print_figures(site, load, seconds, kills)
    for problem in [*load.report.problems, *incomplete]:
        click.echo(f"VIOLATION {problem}")
    sys.exit(1 if load.report.problems or incomplete else 0)


def run(site: Site, load: Load, seconds: float, kill_every: float) -> int:
    """Let time go by, and kill something now and then; return how often."""
    began = said = killed = time.monotonic()
    kills = 0
    while (now := time.monotonic()) < began + seconds:
        if now > killed + kill_every and site.passes():
            time.sleep(random.uniform(0, 2))
            if site.passes():
                random.choice([site.kill_a_pass, site.kill_the_service])()
                killed = now
                kills += 1
        if now > said + SAY_EVERY:
            room = os.statvfs(site.storage)
            used = 1 - room.f_bavail / room.f_blocks
            counts = load.report.counts
            click.echo(f"{now - began:5.0f} s, {used:4.0%} used, {counts['put 204']:,} builds")
            said = now
        time.sleep(0.05)
    return kills


def print_figures(site: Site, load: Load, seconds: float, kills: int) -> None:
    """What it came to."""
    counts, passes = load.report.counts, site.evictions()
    took = [each["seconds"] for each in passes]
    ages = [each["youngest_evicted_seconds"] for each in passes]
    stored = sum(count for what, count in counts.items() if what == "upload 204")
    rows = {
        "seconds; kills of passes and of the service": f"{seconds:.0f}; {kills}",
        "uploads, puts": f"{stored:,}, {counts['put 204']:,}",
        "MiB uploaded": f"{load.report.uploaded >> 20:,}",
        "refused: 507, 409, 503": ", ".join(
            f"{counts[f'upload {status}'] + counts[f'put {status}']:,}"
            for status in (507, 409, 503)
        ),
        "longest time of nothing but 507, in seconds": f"{load.report.longest_refusal:.1f}",
        "passes; seconds of one, median and longest": f"{len(passes)}; "
        + (f"{median(took):.1f}, {max(took):.1f}" if took else ""),
        "evicted artifacts, entries, MiB": ", ".join(
            f"{sum(each[what] for each in passes) >> shift:,}"
            for what, shift in (("artifacts", 0), ("entries", 0), ("bytes", 20))
        ),
        "age of the youngest evicted, in seconds": (
            f"{min(ages):.1f} to {max(ages):.1f}" if ages else ""
        ),
        "least room, in KiB": f"{load.report.least[0] >> 10:,}",
        "builds retrieved whole, or gone": f"{counts['retrieved: complete']:,}, "
        f"{counts['retrieved: gone']:,}",
        "hot builds retrieved whole, or gone": f"{counts['hot: complete']:,}, "
        f"{counts['hot: gone']:,}",
        "violations": f"{len(load.report.problems)}",
    }
    for what, figure in rows.items():
        click.echo(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
