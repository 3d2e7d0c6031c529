"""`cache-actors dev`: the service beside a stand-in Tuist server, with storage in this folder."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache_actors.process import run_process
from cache_actors.settings import BadSettings, load_settings

from .tuist import StandInTuist

if TYPE_CHECKING:
    from cache_actors.settings import Settings

TOKEN = "dev-token"  # noqa: S105
ACCOUNT, PROJECT = "acme", "app"
STORAGE = Path(".dev/cas")
"""Where the artifacts go, below the folder in which the command is started."""


def run_dev() -> int:
    """Run it until a signal stops it, and return the exit status.

    `BIND`, `PORT`, the limits and the log settings are those in the environment.

    Raises:
        BadSettings: the environment is bad, or `BIND` is not loopback.
        CannotListen: the port is taken.
        CannotStart: the storage folder cannot be made.
    """
    with StandInTuist({TOKEN: [f"{ACCOUNT}/{PROJECT}"]}) as tuist:
        settings = _settings(tuist.url)
        return run_process(settings, announce=lambda: click.echo(_introduction(settings)))


def _settings(server_url: str) -> Settings:
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ |= {"SERVER_URL": server_url, "CAS_STORAGE_DIR": str(STORAGE.absolute())}
    os.environ |= {"SOCKET_PATH": "", "TMP_DIR": ""}
    settings = load_settings()
    if not _is_loopback(settings.bind):
        raise BadSettings(
            f"BIND is {settings.bind!r}; allowed: a loopback address, as anybody may know the token"
        )
    return settings


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _introduction(settings: Settings) -> str:
    """What to try, as lines that can be pasted into a shell."""
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    url = f"http://{host}:{settings.port}"
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
    return f"""
The service listens on {url} and stores in {settings.cas_storage_dir}; Ctrl-C stops it.
The token {TOKEN!r} may see the project {ACCOUNT}/{PROJECT}. Paste these lines, in this order:

Store an artifact, and read it back:
{curl} -X POST --data-binary '{artifact}' '{url}/api/cache/cas/{artifact_id}?{query}'
{curl} '{url}/api/cache/cas/{artifact_id}?{query}'

Store a key-value entry, and retrieve it:
{curl} -X PUT --data '{entry}' '{url}/api/cache/keyvalue?{query}'
{curl} -X PUT '{url}/api/cache/keyvalue/{cas_id}?{query}'

Look at the supervision tree:
curl -s -w '\\n' '{url}/up'
"""
