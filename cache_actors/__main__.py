"""The command line: `cache-actors serve`, `dev`, `nginx-config`, `scrub`, `check` and more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .check import run_check
from .dev.embedded import run_dev
from .healthcheck import Unhealthy, check_health
from .http.endpoint import CannotListen
from .nginx.binary import NoNginx, find_nginx, nginx_version
from .nginx.config import BadNginxOption, NginxOptions
from .nginx.config import nginx_config as render
from .nginx.process import NginxFailed
from .process import CannotStart, run_process
from .scrub import CannotScrub, run_scrub
from .settings import BadSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = click.Path(file_okay=False, resolve_path=True, path_type=Path)
_FILE = click.Path(dir_okay=False, exists=True, resolve_path=True, path_type=Path)

EXIT_UNHEALTHY = 1
"""Exit status: the service is not up."""

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
    """Run nginx, the service and a stand-in Tuist server, on loopback, to try it out."""
    _exit_with(run_dev)


@main.command()
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Address and port.")
@click.option(
    "--upstream",
    default="127.0.0.1:4000",
    show_default=True,
    help="The service: unix:/path/to/socket, or address:port.",
)
@click.option("--storage", type=_FOLDER, required=True, help="The storage folder.")
@click.option(
    "--runtime",
    type=_FOLDER,
    required=True,
    help="Folder for pid, logs, temporary files and decisions. These hold tokens: put it on tmpfs.",
)
@click.option(
    "--server-name",
    default="_",
    envvar=["PUBLIC_HOST", "PHX_HOST"],
    help="The host name that clients use, from PUBLIC_HOST if that is set.",
)
@click.option(
    "--max-upload-bytes",
    type=click.IntRange(1, 2**40),
    default=26_214_400,
    show_default=True,
    envvar="MAX_UPLOAD_BYTES",
    help="The largest upload; the service's MAX_UPLOAD_BYTES.",
)
@click.option("--worker-processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM), for TLS and HTTP/2.")
@click.option("--tls-key", type=_FILE, help="Its key (PEM).")
@click.option(
    "--answers-log",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    envvar="NGINX_LOG",
    help="Log of what nginx answers alone, for the service's metrics: its NGINX_LOG.",
)
@click.option("--user", help="What workers run as if root starts nginx: USER or 'USER GROUP'.")
@click.option(
    "--nginx", type=_FILE, help="The nginx that it is for, if not the one that would be found."
)
def nginx_config(nginx: Path | None, **options: Any) -> None:
    """Print a complete configuration for nginx in front of the service."""
    try:
        version = nginx_version(nginx or find_nginx())
        click.echo(render(NginxOptions(**options, nginx_version=version)), nl=False)
    except (BadNginxOption, NoNginx) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BAD_START)


@main.command()
@click.option(
    "--storage",
    type=_FOLDER,
    default="/cas",
    show_default=True,
    envvar="CAS_STORAGE_DIR",
    help="The storage folder.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="MiB to read in a second at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def scrub(storage: Path, rate: float, as_json: bool) -> None:
    """Read everything that is stored, and move what is broken to <storage>/.quarantine.

    Run it as the service's user. Exit status: 0, all is well; 1, something was found; 2, it cannot
    run; 130, it was interrupted.
    """
    _exit_with(lambda: run_scrub(storage, rate, as_json=as_json))


@main.command()
def healthcheck() -> None:
    """Exit 0 if the service with the same environment is up, 1 if not: for containers."""
    _exit_with(lambda: _print(check_health(load_settings())))


@main.command()
@click.option("--nginx-config", type=_FILE, help="nginx's configuration, to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(nginx_config: Path | None, as_json: bool) -> None:
    """Look at everything that the service needs, in the same environment as the service.

    Exit status: 0, nothing is broken; 1, something is.
    """
    sys.exit(run_check(nginx_config, as_json=as_json))


def _print(text: str) -> int:
    click.echo(text)
    return 0


def _exit_with(action: Callable[[], int]) -> None:
    """Run `action` and exit with the status that it returns; say clearly if it cannot start."""
    try:
        status = action()
    except (
        BadNginxOption,
        BadSettings,
        CannotListen,
        CannotScrub,
        CannotStart,
        NginxFailed,
    ) as error:
        click.echo(str(error), err=True)
        status = EXIT_BAD_START
    except Unhealthy as error:
        click.echo(str(error), err=True)
        status = EXIT_UNHEALTHY
    sys.exit(status)


if __name__ == "__main__":
    main()
