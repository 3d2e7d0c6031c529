"""`make run`, used as a person does: an artifact is stored and read through nginx, then Ctrl-C.

Only Python itself is needed: what `make run` installs is not this program's to use.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from http.client import HTTPResponse
from urllib.error import URLError
from urllib.request import Request, urlopen

START_SECONDS = 900
"""To install what is pinned, on a slow network too."""

STOP_SECONDS = 90
"""A stop takes 45 s at most."""

ARTIFACT = os.urandom(1 << 20)
ID = hashlib.sha256(ARTIFACT).hexdigest().upper()
PATH = f"/api/cache/cas/{ID}?account_handle=acme&project_handle=app"


def main() -> int:
    """Return 0 if all went well; what did not is said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(
            ["make", "run"],  # noqa: S607
            env=os.environ | {"PORT": str(port), "LOG_FORMAT": "json"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            problem = _await_up(run, url) or _round_trip(url) or _stop(run)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        output.seek(0)
        said = output.read()
    if problem is None and '"exit_status":0' not in said.replace(" ", ""):
        problem = "the service did not stop in order"
    print(said, problem or "Stored, read through nginx, and stopped in order.", flush=True)
    return 0 if problem is None else 1


def _await_up(run: subprocess.Popen[bytes], url: str) -> str | None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if run.poll() is not None:
            return f"`make run` ended by itself: {run.returncode}"
        try:
            with _ask(f"{url}/up") as answer:
                return None if answer.status == 200 else f"/up says {answer.status}"
        except URLError:
            time.sleep(0.1)
    return "`make run` does not answer"


def _round_trip(url: str) -> str | None:
    with _ask(url + PATH, method="POST", data=ARTIFACT) as answer:
        if answer.status != 204:
            return f"an upload got {answer.status}"
    with _ask(url + PATH) as answer:
        if answer.read() != ARTIFACT:
            return "what was read is not what was stored"
        if "nginx" not in answer.headers.get("Server", ""):
            return f"a read was not answered by nginx: {answer.headers}"
    return None


def _ask(url: str, method: str = "GET", data: bytes | None = None) -> HTTPResponse:
    request = Request(url, data, {"Authorization": "Bearer dev-token"}, method=method)
    answer: HTTPResponse = urlopen(request, timeout=60)
    return answer


def _stop(run: subprocess.Popen[bytes]) -> str | None:
    os.killpg(run.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    run.wait(STOP_SECONDS)
    try:
        os.killpg(run.pid, 0)
    except ProcessLookupError:
        return None
    return "something that `make run` started is still there"


if __name__ == "__main__":
    sys.exit(main())
