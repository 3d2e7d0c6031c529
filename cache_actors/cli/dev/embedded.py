"""The command `dev`: runs nginx, the service and a stand-in Tuist server."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from cache_actors.cli.serve import run_process
from cache_actors.nginx.binary import NoNginx, find_nginx, nginx_version
from cache_actors.nginx.config import GRPC_SINCE, NginxOptions
from cache_actors.nginx.process import running_nginx
from cache_actors.settings import BadSettings, load_settings

from .tuist import StandInTuist

if TYPE_CHECKING:
    from cache_actors.settings import Settings

TOKEN = "dev-token"  # noqa: S105
ACCOUNT, PROJECT = "acme", "app"
STORAGE = Path(".dev/cas")
"""Storage folder of `cache-actors dev`, relative to the current folder."""

STORAGE_MAX_BYTES = 4 << 30
"""Default of `STORAGE_MAX_BYTES`, in bytes; limited, as the folder is on a developer's own disk."""


def run_dev() -> int:
    """Run nginx, the service and a stand-in Tuist server until a signal; return the exit status.

    nginx listens on `BIND` and `PORT`, with the service on a Unix socket behind it. Without an
    nginx on this machine, the service listens there itself. Limits and log settings come from the
    environment.

    Raises:
        BadSettings: a setting is bad, or `BIND` is not loopback.
        CannotListen, NginxFailed: the port is taken, or nginx failed.
        CannotStart: the storage folder cannot be used.
    """
    with (
        StandInTuist({TOKEN: [f"{ACCOUNT}/{PROJECT}"]}) as tuist,
        TemporaryDirectory(prefix="cache-actors-", dir=memory_folder()) as runtime,
    ):
        settings = local_settings(tuist.url)
        try:
            nginx = find_nginx()
        except NoNginx as problem:
            click.echo(f"{problem}. Going on without.", err=True)
            return run_process(settings, announce=lambda: _introduce(settings))
        behind = settings.model_copy(
            update={
                "socket_path": Path(runtime) / "cache.sock",
                "nginx_log": Path(runtime) / "answers.log",
            }
        )
        options = nginx_options(nginx, behind)
        with running_nginx(nginx, options, ended=_stop):
            return run_process(behind, announce=lambda: _introduce(behind, options))


def local_settings(server_url: str) -> Settings:
    """The settings of the environment, for the Tuist server at `server_url` and on loopback.

    The environment is changed, so that processes that are started get the same.

    Raises:
        BadSettings: a setting is bad, or `BIND` is not loopback.
    """
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ |= {"SERVER_URL": server_url, "CAS_STORAGE_DIR": str(STORAGE.absolute())}
    os.environ.setdefault("STORAGE_MAX_BYTES", str(STORAGE_MAX_BYTES))
    os.environ |= {"SOCKET_PATH": "", "SOCKET_DIR": "", "TMP_DIR": "", "NGINX_LOG": ""}
    os.environ |= {"TUIST_CLIENT_ID": "", "TUIST_CLIENT_SECRET": ""}
    settings = load_settings()
    if not _is_loopback(settings.bind):
        raise BadSettings(
            f"BIND is {settings.bind!r}; allowed: a loopback address, as anybody may know the token"
        )
    return settings


def _stop() -> None:
    """Stop the service in order, when nginx has ended: no client could reach it."""
    os.kill(os.getpid(), signal.SIGTERM)


def nginx_options(nginx: Path, settings: Settings) -> NginxOptions:
    """The options of the binary `nginx` before a service with `settings`, on a Unix socket."""
    assert settings.socket_path is not None, "nginx needs the service behind it"  # noqa: S101
    return NginxOptions(
        listen=address(settings),
        upstream=f"unix:{settings.socket_path}",
        storage=settings.cas_storage_dir,
        runtime=settings.socket_path.parent,
        path_prefix=settings.path_prefix,
        max_upload_bytes=settings.max_upload_bytes,
        answers_log=settings.nginx_log,
        bucket=settings.s3_bucket is not None,
        # nginx's workers have to read files that this process writes.
        user="root root" if os.geteuid() == 0 else None,
        nginx_version=nginx_version(nginx),
    )


def address(settings: Settings) -> str:
    """The address that clients use, with the port."""
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    return f"{host}:{settings.port}"


def memory_folder() -> str | None:
    """The system's folder in memory, for nginx's decisions, which hold tokens; None without one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _introduce(settings: Settings, nginx: NginxOptions | None = None) -> None:
    """Print example commands to paste into a shell, for the service behind `nginx` or without."""
    url = f"http://{address(settings)}{settings.path_prefix}"
    who = "nginx listens" if settings.socket_path else "The service listens"
    query = f"account_handle={ACCOUNT}&project_handle={PROJECT}"
    artifact = "the bytes of an artifact"
    artifact_id = hashlib.sha256(artifact.encode()).hexdigest().upper()
    cas_id = (
        "0~"
        + "QmFzZTY0IG9mIHRoZSBrZXkgb2YgYSBjb21waWxlIGpvYiwgNjQgYnl0ZXMgbG9uZywgVVJMLXNhZmU"
        + "=="
    )
    entry = json.dumps({"cas_id": cas_id, "entries": [{"value": "dGhlIHJlc3VsdA=="}]})
    curl = f"curl -i -w '\\n' -H 'Authorization: Bearer {TOKEN}'"
    click.echo(f"""
{who} on {url}; artifacts go to {settings.cas_storage_dir}. Ctrl-C stops it.
The token {TOKEN!r} may see the project {ACCOUNT}/{PROJECT}. Paste these lines, in this order:

Store an artifact, and read it back:
{curl} -X POST --data-binary '{artifact}' '{url}/api/cache/cas/{artifact_id}?{query}'
{curl} '{url}/api/cache/cas/{artifact_id}?{query}'

Store a key-value entry, and retrieve it:
{curl} -X PUT --data '{entry}' '{url}/api/cache/keyvalue?{query}'
{curl} -X PUT '{url}/api/cache/keyvalue/{cas_id}?{query}'

{_introduce_grpc(address(settings), nginx)}

Look at the supervision tree, here or in a browser:
curl -s -w '\\n' '{url}/up'
""")


def _introduce_grpc(address: str, nginx: NginxOptions | None) -> str:
    """How to point Bazel here, or why it cannot be."""
    if nginx is None:
        return "There is no gRPC, as for Bazel, without nginx."
    if nginx.nginx_version < GRPC_SINCE:
        version, since = (".".join(map(str, each)) for each in (nginx.nginx_version, GRPC_SINCE))
        return f"There is no gRPC, as for Bazel: nginx is {version}, and {since} is needed."
    options = f"--remote_cache=grpc://{address} --remote_instance_name={ACCOUNT}/{PROJECT}"
    options += f" --remote_header=authorization='Bearer {TOKEN}' --remote_local_fallback"
    return f"Have Bazel use this cache, in a workspace of yours:\nbazel build //... {options}"
