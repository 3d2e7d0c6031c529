"""A headless Chromium, controlled over a pipe with the Chrome DevTools Protocol.

Messages are JSON, each ended by a zero byte. A response has the number of its command; events come
in between.
"""

import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .programs import find_program

PROGRAM = "chromium-headless-shell"
SECONDS = 60.0
"""Longest wait for a response, or for a condition in the page, in seconds."""

# As root, as tests run in CI, Chromium does without its sandbox; the pages are our own. It reads
# commands from file 3 and answers on file 4.
COMMAND = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh"]
OPTIONS = ["--no-sandbox", "--remote-debugging-pipe", "--no-proxy-server", "--hide-scrollbars"]

WAIT = """new Promise((resolve) => {{
  const look = () => {{ if ({condition}) resolve(true); }};
  new MutationObserver(look).observe(document,
    {{ subtree: true, childList: true, attributes: true, characterData: true }});
  look();
}})"""


class Browser:
    """A running Chromium, with one page open.

    Attributes:
        troubles: errors in the console, with violations of the Content-Security-Policy.
        requests: requested URLs.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._received = b""
        self._session: str | None = None
        self._loaded = False
        self.troubles: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load the page at `url`, in a window of `width` x `height` pixels."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        failure = self._ask("Page.navigate", url=url).get("errorText")
        assert failure is None, failure
        deadline = time.monotonic() + SECONDS
        while not self._loaded:
            self._note(self._receive(deadline, url))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        answer = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The visible text of the first element that matches `selector`."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait_until(self, condition: str) -> None:
        """Return once a JavaScript condition holds, which is checked at each change of the page."""
        self.evaluate(WAIT.format(condition=condition))

    def other_hosts(self, url: str) -> list[str]:
        """The URLs requested from hosts other than that of `url`."""
        ours = urlsplit(url).netloc
        return [
            r for r in self.requests if not r.startswith("data:") and urlsplit(r).netloc != ours
        ]

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\0")
        self._process.stdin.flush()
        deadline = time.monotonic() + SECONDS
        while (message := self._receive(deadline, f"{method} {parameters}")).get("id") != number:
            self._note(message)
        assert "error" not in message, message["error"]
        answer: dict[str, Any] = message["result"]
        return answer

    def _receive(self, deadline: float, waiting_for: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\0" not in self._received:
            patience = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], patience)
            assert ready, f"nothing in {SECONDS:g} s: {waiting_for}"
            piece = os.read(self._process.stdout.fileno(), 65_536)
            assert piece, "the browser has ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _note(self, event: dict[str, Any]) -> None:
        match event:
            case {"method": "Page.loadEventFired"}:
                self._loaded = True
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.requests.append(url)
            case {"method": "Log.entryAdded", "params": {"entry": {"source": "network"}}}:
                pass  # a 503, or no response, is what the page has to show
            case {"method": "Log.entryAdded", "params": {"entry": entry}}:
                self.troubles.append(f"{entry['source']}: {entry['text']}")
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.troubles.append(f"exception: {details}")
            case {"method": "Runtime.consoleAPICalled", "params": call}:
                self.troubles.append(f"console: {call['type']}, {call['args']}")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser; if it is not installed, skip the test, or fail it if CI is set."""
    program = find_program(PROGRAM)
    with tempfile.TemporaryDirectory(
        prefix="cache-actors-browser-", ignore_cleanup_errors=True
    ) as profile:
        process = subprocess.Popen(
            [*COMMAND, program, *OPTIONS, f"--user-data-dir={profile}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            yield Browser(process)
        finally:
            process.kill()
            process.communicate()
