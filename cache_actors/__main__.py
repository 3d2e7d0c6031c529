"""The command line: `cache-actors serve` and `cache-actors dev`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .dev.embedded import run_dev
from .http.listener import CannotListen
from .process import CannotStart, run_process
from .settings import BadSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_BAD_START = 2
"""Exit status: the settings are bad, or what they name is not to be had."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cache-actors")
def main() -> None:
    """A build cache for Tuist."""


@main.command()
def serve() -> None:
    """Run the service, with the settings in the environment."""
    _exit_with(lambda: run_process(load_settings()))


@main.command()
def dev() -> None:
    """Run the service with a stand-in Tuist server, on loopback, to try it out."""
    _exit_with(run_dev)


def _exit_with(action: Callable[[], int]) -> None:
    """Run `action` and exit with the status that it returns; say clearly if it cannot start."""
    try:
        status = action()
    except (BadSettings, CannotListen, CannotStart) as error:
        click.echo(str(error), err=True)
        status = EXIT_BAD_START
    sys.exit(status)


if __name__ == "__main__":
    main()
