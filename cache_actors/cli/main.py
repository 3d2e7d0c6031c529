"""The commands of `cache-actors`: their options, help texts and exit statuses.

Each command imports its modules when it runs. Importing all of them takes most of a second, too
long for `healthcheck`, which every container runs every few seconds.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache_actors.errors import CommandError
from cache_actors.log_writer import open_standard_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_actors.s3.config import BucketConfig
    from cache_actors.storage.layout import Project

_FOLDER = click.Path(file_okay=False, resolve_path=True, path_type=Path)
_FILE = click.Path(dir_okay=False, exists=True, resolve_path=True, path_type=Path)

_PERCENT = click.FloatRange(0, 100)
_STORAGE = click.option(
    "--storage",
    type=_FOLDER,
    default="/cas",
    show_default=True,
    envvar="CAS_STORAGE_DIR",
    help="The storage folder.",
)

EXIT_UNHEALTHY = 1
"""Exit status: the service is not up."""

EXIT_BAD_START = 2
"""Exit status: the command cannot run, as with a bad setting or a folder that cannot be used."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cache-actors")
def main() -> None:
    """A build cache for Tuist."""
    open_standard_descriptors()


@main.command()
def serve() -> None:
    """Run the service, with the settings in the environment."""
    from cache_actors.settings import load_settings

    from .serve import run_process

    _exit_with(lambda: run_process(load_settings()))


@main.command()
@click.option(
    "--nodes",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help="How many nodes, at ports from PORT on; if there are several, they share a bucket in S3.",
)
def dev(nodes: int) -> None:
    """Run nginx, the service and a stand-in Tuist server, on loopback, to try it out."""

    from .dev.embedded import run_dev
    from .dev.nodes import run_nodes

    _exit_with(lambda: run_nodes(nodes) if nodes > 1 else run_dev())


@main.command()
@click.option(
    "--listen",
    multiple=True,
    default=["127.0.0.1:8080"],
    show_default=True,
    help="Address and port; more than once for several, as 0.0.0.0:443 and [::]:443.",
)
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
    "--path-prefix",
    default="",
    envvar="PATH_PREFIX",
    help="What clients' paths begin with, as /cache; the service's PATH_PREFIX. None by default.",
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
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM), for TLS.")
@click.option("--tls-key", type=_FILE, help="Its key (PEM).")
@click.option(
    "--access-log",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    help="Log of all requests, some 350 bytes each, which somebody has to rotate; none by default.",
)
@click.option(
    "--answers-log",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    envvar="NGINX_LOG",
    help="Log of what nginx answers alone, for the service's metrics: its NGINX_LOG.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Port on 127.0.0.1 at which Prometheus gets the service's metrics; none by default.",
)
@click.option(
    "--bucket",
    is_flag=True,
    default=lambda: bool(os.environ.get("S3_BUCKET")),
    help="Ask the service for what is missing, since it has a bucket; if S3_BUCKET is set, anyway.",
)
@click.option("--user", help="What workers run as if root starts nginx: USER or 'USER GROUP'.")
@click.option(
    "--nginx", type=_FILE, help="The nginx that it is for, if not the one installed on this host."
)
def nginx_config(nginx: Path | None, listen: tuple[str, ...], **options: Any) -> None:
    """Print a complete configuration for nginx in front of the service."""
    from cache_actors.nginx.binary import find_nginx, installed_nginx, knows_ktls, nginx_version
    from cache_actors.nginx.config import NginxOptions
    from cache_actors.nginx.config import nginx_config as render

    def print_it() -> int:
        binary = nginx or installed_nginx() or find_nginx()
        options.update(nginx_version=nginx_version(binary), ktls=knows_ktls(binary))
        click.echo(render(NginxOptions(",".join(listen), **options)), nl=False)
        return 0

    _exit_with(print_it)


@main.command()
@_STORAGE
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="MiB to read in a second at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def scrub(storage: Path, rate: float, as_json: bool) -> None:
    """Read all stored files, and move broken ones to <storage>/.quarantine.

    Run it as the service's user. Exit status: 0, no file is broken; 1, broken files were found; 2,
    the scrub cannot run; 130, it was interrupted.
    """
    from .scrub import run_scrub

    _exit_with(lambda: run_scrub(storage, rate, as_json=as_json))


@main.command()
@_STORAGE
@click.option(
    "--target",
    type=_PERCENT,
    default=70.0,
    show_default=True,
    envvar="DISK_TARGET_PERCENT",
    help="How full the disk may be in the end, in percent.",
)
@click.option(
    "--high",
    type=_PERCENT,
    default=85.0,
    envvar="DISK_HIGH_WATERMARK_PERCENT",
    help="How full it may be before the pass hurries.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1),
    envvar="STORAGE_MAX_BYTES",
    help="What the storage folder may take, if not the whole disk; the percentages are of that.",
)
@click.option("--project", "handles", metavar="ACCOUNT/PROJECT", help="Evict from this one only.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option(
    "--require-artifacts",
    type=bool,
    default=True,
    show_default=True,
    envvar="KV_REQUIRE_ARTIFACTS",
    help="Off leaves entries ten minutes in which their artifacts may come.",
)
@click.option("--bucket", type=int, hidden=True)
@click.option("--share-entries", type=bool, default=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--parent", type=int, hidden=True)
def evict(
    storage: Path,
    target: float,
    high: float,
    max_bytes: int | None,
    handles: str | None,
    bucket: int | None,
    share_entries: bool,
    parent: int | None,
    **how: bool,
) -> None:
    """Remove the least recently used artifacts and entries, until the disk is down to the target.

    The service does this by itself. Run it as the service's user and, if S3_BUCKET is set, with all
    of the service's environment: what is not in the bucket goes last. Exit status: 0, the pass is
    done; 2, it cannot run; 3, another pass is running; 130, it was interrupted.
    """
    from cache_actors.storage.eviction.run import Limits

    from .evict import run_evict

    if math.isnan(high) or math.isnan(target):
        raise click.BadParameter("percentages are numbers")
    project = None if handles is None else _project(handles)

    def run() -> int:
        where = (bucket, share_entries) if bucket is not None else _bucket()
        limits = Limits(max(high, target) / 100, target / 100, max_bytes, *where)
        return run_evict(storage, limits, project, parent=parent, **how)

    _exit_with(run)


@main.command()
@_STORAGE
@click.option("--project", "handles", metavar="ACCOUNT/PROJECT", required=True, help="Which one.")
def clean(storage: Path, handles: str) -> None:
    """Remove all stored files of a project.

    A running service stops serving them at once; files stored later stay. Run it as the service's
    user. Exit status: 0, the files are removed; 2, the clean cannot run; 130, it was interrupted.
    """
    from .clean import run_clean

    _exit_with(lambda: run_clean(storage, _project(handles), *_bucket_and_server()))


@main.command()
@click.option(
    "--wait", is_flag=True, help="Go on until all is there that can be put, also while S3 is down."
)
@click.option("--again", is_flag=True, help="Put all files, also those that should be there.")
def share(wait: bool, again: bool) -> None:
    """Put all that is stored into the bucket, in the same environment as the service.

    The service does this by itself; this is for a node that is given up (--wait), and for a bucket
    that was emptied (--again). Run it as the service's user. Exit status: 0, all is there; 1, files
    are left; 2, it cannot run; 3, another process does the same; 130, it was interrupted.
    """
    from cache_actors.settings import load_settings

    from .share import run_share

    _exit_with(lambda: run_share(load_settings(), wait=wait, again=again))


@main.command()
@_STORAGE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def usage(storage: Path, as_json: bool) -> None:
    """Show how much each project has stored, and when that was last used."""
    from .usage import run_usage

    _exit_with(lambda: run_usage(storage, as_json=as_json))


@main.command()
def healthcheck() -> None:
    """Exit 0 if the service with the same environment is up, 1 if not: for containers."""

    from .healthcheck import Unhealthy, check_health

    def print_it() -> int:
        try:
            click.echo(check_health(os.environ))
        except Unhealthy as error:
            click.echo(str(error), err=True)
            return EXIT_UNHEALTHY
        return 0

    _exit_with(print_it)


@main.command()
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@click.option("--url", help="Where to ask, if not the service with the same environment.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as it comes.")
def status(watch: bool, url: str | None, as_json: bool) -> None:
    """Show the supervision tree and the main figures of the service.

    The command asks the service with the same SOCKET_DIR, SOCKET_PATH, BIND and PORT in its
    environment, or the one at --url. Exit status: 0, the service is up, or a watch was interrupted;
    1, the service is degraded or draining, or does not answer; 2, its address is not valid.
    """

    from .status.command import run_status

    _exit_with(lambda: run_status(os.environ, url, watch=watch, as_json=as_json))


@main.command()
@click.option(
    "--nginx-config",
    type=click.Path(path_type=Path, allow_dash=True),
    help="nginx's configuration, to compare with; - is standard input.",
)
@click.option("--through", "url", metavar="URL", help="nginx's: see whether reads there count.")
@click.option("--project", "handles", metavar="ACCOUNT/PROJECT", help="As which, for --through.")
@click.option("--token", envvar="CACHE_TOKEN", help="As whom; better in CACHE_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    nginx_config: Path | None,
    url: str | None,
    handles: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Check everything that the service needs, in the same environment as the service.

    With --through, an artifact is stored and read through nginx, and removed.

    Exit status: 0, nothing is broken; 1, something is.
    """
    from .check import NginxProbe, run_check

    if url is not None and not (handles and token):
        raise click.UsageError("--through needs --project and a token, in CACHE_TOKEN")
    through = NginxProbe(url, _project(handles), token) if url and handles and token else None
    sys.exit(run_check(nginx_config, through, as_json=as_json))


def _project(handles: str) -> Project:
    """The project with the handles `ACCOUNT/PROJECT`.

    Raises:
        click.BadParameter: a handle is invalid.
    """
    from cache_actors.storage.layout import InvalidIdentifier, parse_project

    account, _, project = handles.partition("/")
    try:
        return parse_project(account, project)
    except InvalidIdentifier as error:
        raise click.BadParameter(str(error), param_hint="--project") from error


def _bucket_and_server() -> tuple[BucketConfig | None, str]:
    """The environment's bucket, if there is one, and the URL of the Tuist server that it is for.

    Raises:
        BadSettings: there is one, and the environment is not the service's.
    """
    if not os.environ.get("S3_BUCKET"):
        return None, ""
    from cache_actors.s3.config import bucket_config
    from cache_actors.settings import load_settings

    settings = load_settings()
    return bucket_config(settings), str(settings.server_url)


def _bucket() -> tuple[int | None, bool]:
    """The number of the environment's bucket, if there is one, and whether entries go there.

    Raises:
        BadSettings: there is one, and the environment is not the service's.
    """
    if not os.environ.get("S3_BUCKET"):
        return None, True
    from cache_actors.s3.config import bucket_config
    from cache_actors.settings import load_settings

    settings = load_settings()
    config = bucket_config(settings)
    return None if config is None else config.target, settings.s3_entries


def _exit_with(action: Callable[[], int]) -> None:
    """Exit with the status that `action` returns, or print its `CommandError` and exit with 2."""
    try:
        status = action()
    except CommandError as error:
        click.echo(str(error), err=True)
        status = EXIT_BAD_START
    sys.exit(status)
