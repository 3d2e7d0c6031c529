"""The command `dev --nodes`: several nodes that share a bucket, each with nginx before it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import httpx

from cache_actors.errors import CommandError
from cache_actors.nginx.binary import find_nginx
from cache_actors.nginx.process import guarded, running_nginx
from cache_actors.settings import BadSettings

from .embedded import ACCOUNT, PROJECT, TOKEN, address, local_settings, memory_folder, nginx_options
from .seaweed import ACCESS_KEY, SECRET_KEY, SeaweedFs, running_seaweed
from .tuist import StandInTuist

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

BUCKET = "builds"

FOLDER = Path(".dev")
"""Where all that the nodes and the bucket keep is in a folder that is removed in the end."""

MAX_PORT = 65_535

START_SECONDS = 60.0
"""Longest time in seconds until a node is up and has asked the bucket."""

STOP_SECONDS = 40.0
"""Longest time in seconds for a node to stop in order."""


class NodeFailed(CommandError):
    """A node has not started; the message has its last words."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A node: its settings, with the service behind nginx, its process, and its log."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{address(self.settings)}{self.settings.path_prefix}"


def run_nodes(count: int) -> int:
    """Run nodes, their bucket and a stand-in Tuist server until a signal; return the exit status.

    nginx listens on `BIND`, for each node at a port of its own, from `PORT` on.

    Raises:
        BadSettings: a setting is bad, `BIND` is not loopback, or there are not so many ports.
        NoNginx, NginxFailed: there is no nginx, a port is taken, or an nginx has ended.
        NoS3Server, NodeFailed: the S3 server, or a node, did not start.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        tuist = stack.enter_context(StandInTuist({TOKEN: [f"{ACCOUNT}/{PROJECT}"]}))
        settings = local_settings(tuist.url)
        if settings.port + count - 1 > MAX_PORT:
            raise BadSettings(f"PORT is {settings.port}; allowed: {count} ports from there on")
        FOLDER.mkdir(exist_ok=True)
        for left in FOLDER.glob("nodes-*"):
            with suppress(OSError):  # ENOTEMPTY: it is in use; one that was killed leaves it empty
                left.rmdir()
        folder = TemporaryDirectory(prefix="nodes-", dir=FOLDER.absolute())
        bucket = stack.enter_context(
            running_seaweed(Path(stack.enter_context(folder)) / "s3", buckets=8)
        )
        bucket.make_bucket(BUCKET)
        nodes = [
            stack.enter_context(_running_node(number, settings, bucket, Path(folder.name), stop))
            for number in range(count)
        ]
        if all(_is_up(node, stop) for node in nodes):
            _introduce(nodes, bucket)
        stop.wait()
    return 0


@contextmanager
def _running_node(
    number: int, settings: Settings, bucket: SeaweedFs, folder: Path, stop: threading.Event
) -> Iterator[_Node]:
    """Run a node for as long as the context lasts; `stop` is set if its nginx ends before."""
    own = folder / f"node-{number + 1}"
    own.mkdir()
    with TemporaryDirectory(prefix="cache-actors-", dir=memory_folder()) as runtime:
        behind = settings.model_copy(
            update={
                "port": settings.port + number,
                "cas_storage_dir": own / "cas",
                "socket_path": Path(runtime) / "cache.sock",
                "nginx_log": Path(runtime) / "answers.log",
                "s3_bucket": BUCKET,
            }
        )
        (own / "cas").mkdir()
        with (
            running_nginx(find_nginx(), nginx_options(find_nginx(), behind), ended=stop.set),
            _running_service(behind, bucket, own) as node,
        ):
            yield node


@contextmanager
def _running_service(settings: Settings, bucket: SeaweedFs, folder: Path) -> Iterator[_Node]:
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "cache_actors", "serve"],
            env=_environment(settings, bucket),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C does not end it before nginx
        ) as process,
        guarded(process.pid, folder),
    ):
        try:
            yield _Node(settings, process, folder / "log")
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # somebody may have stopped it
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment(settings: Settings, bucket: SeaweedFs) -> dict[str, str]:
    """This process's environment, which has most of the settings, for a node."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("S3_", "AWS_"))
    }
    return inherited | {
        "CAS_STORAGE_DIR": str(settings.cas_storage_dir),
        "SOCKET_PATH": str(settings.socket_path),
        "NGINX_LOG": str(settings.nginx_log),
        "S3_BUCKET": BUCKET,
        "S3_ENDPOINT": bucket.url,
        "S3_WAIT": "5",  # what is stored at one node is at once at the others
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }


def _is_up(node: _Node, stop: threading.Event) -> bool:
    """Wait until a node is up and can use the bucket; False if it is to stop before.

    Raises:
        NodeFailed: it has ended, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while not stop.wait(0.05):
        if node.process.poll() is not None or time.monotonic() > deadline:
            said = node.log.read_text(errors="replace").strip().splitlines()
            raise NodeFailed(f"A node does not start: {said[-1] if said else 'it says nothing'}")
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{node.url}/up", trust_env=False)
            if answer.is_success and answer.json()["shared"]["state"] == "ok":
                return True
    return False


def _introduce(nodes: list[_Node], bucket: SeaweedFs) -> None:
    """Print example commands to paste into a shell."""
    first, second = nodes[0], nodes[-1]
    urls = ", ".join(node.url for node in nodes)
    logs = " ".join(str(node.log) for node in nodes)
    disk, s3 = first.settings.cas_storage_dir / ACCOUNT, bucket.process.pid
    query = f"account_handle={ACCOUNT}&project_handle={PROJECT}"
    artifact = "the bytes of an artifact"
    artifact_id = hashlib.sha256(artifact.encode()).hexdigest().upper()
    entry = json.dumps({"cas_id": "0~a2V5", "entries": [{"value": artifact_id}]})
    curl = f"curl -i -w '\\n' -H 'Authorization: Bearer {TOKEN}'"
    paths = f"/api/cache/cas/{artifact_id}?{query}", f"/api/cache/keyvalue/0~a2V5?{query}"
    click.echo(f"""
{len(nodes)} nodes share a bucket, each with nginx before it: {urls}.
All that they keep is in {first.log.parent.parent}, and gone in the end. Ctrl-C stops them.
The token {TOKEN!r} may see the project {ACCOUNT}/{PROJECT}. Paste these lines, in this order:

Store an artifact, and an entry that refers to it, at one node:
{curl} -X POST --data-binary '{artifact}' '{first.url}{paths[0]}'
{curl} -X PUT --data '{entry}' '{first.url}/api/cache/keyvalue?{query}'

Retrieve both at another:
{curl} '{second.url}{paths[1]}'
{curl} '{second.url}{paths[0]}'

Break something, and store and retrieve again:
rm -r {disk}   # the first node's disk is lost: what was there comes from the bucket
kill -STOP {s3}   # S3 hangs: what is stored stays on the node, and is sent after kill -CONT {s3}
kill -9 {first.process.pid}   # the first node is lost: the others have what it had

Look at what a node says of itself and of the bucket, and at the logs:
{sys.executable} -m cache_actors status --url {second.url}
tail -n 5 {logs}
""")
