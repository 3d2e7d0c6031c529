"""The command line of the benchmarks."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from .bucket import measure_bucket
from .comparison import compare
from .contestants import scratch_folder
from .document import rewrite
from .failure import BenchmarkFailed, NotHere
from .mixed import measure_mixed
from .plan import LONGEST, QUICK, SHORTEST, Plan, plan_for
from .plots import write_plots
from .recovery import measure_recovery
from .remote_execution import measure_remote
from .results import Results, load, save
from .scale import measure_scale
from .tables import bounds_of, tables_of
from .targets import targets
from .versions import BEFORE, compare_versions

PROJECT = Path(__file__).parents[2]
DOCUMENT = PROJECT / "docs/performance.md"
PUBLISHED = PROJECT / "docs/performance"
TRIED = PROJECT / "build/bench/results"
INSTALLED = PROJECT / "build/bench/turborepo"
BUILDGRID = PROJECT / "build/bench/buildgrid"
CHECKOUTS = PROJECT / "build/bench/before"

INTERRUPTED = 130
WIDE = 160
"""Columns of what is not a terminal, such as a log."""

PARTS = ("comparison", "versions", "mixed", "scale", "recovery", "remote", "bucket")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="About seven minutes, to see whether all of it works.")
@click.option(
    "--minutes",
    type=click.FloatRange(SHORTEST, LONGEST),
    default=30.0,
    show_default=True,
    help="How long all parts together take.",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure this part only; can be repeated.",
)
@click.option(
    "--before",
    "commit",
    metavar="COMMIT",
    default=BEFORE,
    show_default=True,
    help="The version that the part `versions` measures beside this one.",
)
@click.option(
    "--publish/--no-publish",
    default=None,
    help="Whether to write to docs/; a quick run writes to build/bench unless it is told to.",
)
def main(
    quick: bool, minutes: float, parts: tuple[str, ...], commit: str, publish: bool | None
) -> None:
    """Measure the service, print tables, and write JSON and plots.

    Parts that are not measured keep the figures that they have.
    """
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    published = not quick if publish is None else publish
    folder = PUBLISHED if published else TRIED
    plan = QUICK if quick else plan_for(minutes)
    began = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/dim]  {what}", highlight=False)

    results = load(folder / "results.json")
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is missing: apt-get install wrk")
    missing: set[str] = set()
    try:
        with scratch_folder():  # removed when all is measured
            for part in parts or PARTS:
                try:
                    measure(part, plan, commit, results, say)
                except NotHere as error:
                    missing.add(str(error))
                save(results, folder / "results.json")
    except BenchmarkFailed as problem:
        console.print(str(problem), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted: the part that was being measured is not written.")
        sys.exit(INTERRUPTED)
    plots = write_plots(results, folder)
    if published:
        rewrite(DOCUMENT, results)
    for table in tables_of(results):
        console.print(table.rich(), "")
    for bound in bounds_of(targets(results)):
        console.print(f"missed: {bound}", markup=False, highlight=False)
    for reason in sorted(missing | _skipped(results)):
        console.print(f"[bold yellow]SKIPPED[/bold yellow] {reason}")
    written = [*plots, folder / "results.json"]
    say(f"written: {', '.join(str(path.relative_to(PROJECT)) for path in written)}")


def measure(
    part: str, plan: Plan, commit: str, results: Results, say: Callable[[str], None]
) -> None:
    """Measure one of the parts, and put what came of it among the results.

    Raises:
        BenchmarkFailed: what was measured is not what was meant.
        NotHere: none of the part can be measured on this machine.
    """
    if part == "comparison":
        results.comparison = compare(plan, INSTALLED, say)
    elif part == "versions":
        results.versions = compare_versions(plan, commit, CHECKOUTS, say)
    elif part == "mixed":
        results.mixed = measure_mixed(plan, say)
    elif part == "scale":
        results.scale = measure_scale(plan, say)
    elif part == "recovery":
        results.recovery = measure_recovery(plan, say)
    elif part == "remote":
        results.remote = measure_remote(plan, BUILDGRID, say)
    else:
        results.shared = measure_bucket(plan, say)


def _skipped(results: Results) -> set[str]:
    """Why something has been left out, if it has."""
    parts = (results.comparison, results.versions, results.mixed, results.remote)
    return {reason for part in parts if part is not None for reason in part.skipped}


if __name__ == "__main__":
    main()
