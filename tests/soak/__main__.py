"""The command line of the soak."""

import json
import random
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from .report import Tally
from .rounds import Soak
from .site import running_site

INTERRUPTED = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.FloatRange(10), default=300.0, show_default=True)
@click.option("--seed", type=int, help="Repeats the decisions of another run.")
@click.option(
    "--kills",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="How often the service is killed at least, for 300 seconds; fewer in a shorter run.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the report there too.")
@click.option("--verbose", is_flag=True, help="Say what happens in each round.")
def main(
    seconds: float, seed: int | None, kills: int, workers: int, file: Path | None, verbose: bool
) -> None:
    """Break the service at random under load; exit with 1 if a promise was broken."""
    console = Console()
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    repeat = f"--seed {seed} --seconds {seconds:g} --kills {kills} --workers {workers}"
    console.print(f"Soaking for {seconds:.0f} s; to repeat: {repeat}")
    tally = Tally()
    began = time.monotonic()

    def say(what: str) -> None:
        if verbose or "VIOLATION" in what:
            console.print(
                f"{time.monotonic() - began:6.1f} {what}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    wanted = round(kills * min(1.0, seconds / 300)) if kills else 0
    status = 0
    try:
        with running_site(workers) as site:
            if not site.disk_is_small:
                console.print("Not root, or no mount: the disk will not be filled up.")
            Soak(site, tally, seed=seed, seconds=seconds, kills=wanted, say=say).run()
    except KeyboardInterrupt:
        console.print("Interrupted: this is what there was.")
        status = INTERRUPTED
    took = time.monotonic() - began
    tally.print(console, seed, took)
    if file is not None:
        file.write_text(json.dumps(tally.as_json(seed, took), indent=2) + "\n")
    if status == 0 and tally.counts["kills"] < wanted:
        console.print(f"Only {tally.counts['kills']} kills of {wanted}: the machine is too slow.")
        status = 1
    sys.exit(1 if tally.violations else status)


if __name__ == "__main__":
    main()
