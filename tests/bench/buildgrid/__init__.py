"""BuildGrid's cache, another server of the Remote Execution API, as PyPI has it.

It is installed into a virtual environment of its own, in the versions and with the hashes that are
written down beside this file. It keeps blobs in files, and checks no tokens.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.failure import BenchmarkFailed, NotHere
from tests.bench.names import PROJECT
from tests.support.grpc_client import GrpcError
from tests.support.remote_cache import remote_cache
from tests.support.service import free_port

LOCK = Path(__file__).with_name("requirements.txt")
INSTALL_SECONDS = 300.0
START_SECONDS = 30.0

CONFIGURATION = """\
server:
  - !channel {{address: "127.0.0.1:{port}", insecure-mode: true}}
description: a cache
authorization: {{method: none}}
thread-pool-size: 64
storages:
  - !disk-storage &blobs {{path: "{storage}"}}
caches:
  - !lru-action-cache &actions {{storage: *blobs, max-cached-refs: 100000, allow-updates: true}}
instances:
  - name: "{instance}"
    description: a cache
    services:
      - !action-cache {{cache: *actions}}
      - !cas {{storage: *blobs}}
      - !bytestream {{storage: *blobs}}
"""


def install(folder: Path) -> None:
    """Have BuildGrid in `folder`, if it is not there yet.

    Raises:
        NotHere: it cannot be had.
    """
    done = folder / "installed"
    if done.exists() and done.read_text() == LOCK.read_text():
        return
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "--require-hashes", "-r", str(LOCK)],
    ):
        try:
            subprocess.run(
                command, check=True, timeout=INSTALL_SECONDS, capture_output=True, text=True
            )
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:]
            raise NotHere(f"BuildGrid cannot be installed: {' '.join(last)}") from error
        except subprocess.TimeoutExpired as error:
            raise NotHere(f"BuildGrid cannot be installed: {error}") from error
    done.write_text(LOCK.read_text())


@contextmanager
def running_buildgrid(folder: Path, scratch: Path) -> Iterator[tuple[int, int]]:
    """The server, as installed in `folder`, with its blobs below `scratch`: its port and pid."""
    port, configuration = free_port(), scratch / "buildgrid.yml"
    configuration.write_text(
        CONFIGURATION.format(port=port, storage=scratch / "buildgrid", instance=PROJECT)
    )
    with (
        (scratch / "buildgrid.log").open("wb") as log,
        subprocess.Popen(
            [folder / "bin/bgd", "server", "start", configuration], stdout=log, stderr=log
        ) as process,
    ):
        try:
            _wait_for(port, process)
            yield port, process.pid
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with remote_cache(port) as cache:
            try:
                cache.capabilities()
            except GrpcError:
                time.sleep(0.2)
            else:
                return
    raise BenchmarkFailed("BuildGrid does not start")
