"""Clients that store and read all the time, and remember every acknowledged upload."""

import threading
from collections import Counter
from itertools import count
from typing import Self
from uuid import uuid4

import httpx

from .lanes import let_others_go_first
from .service import client_of
from .waiting import eventually

PAUSE = 0.01
"""Seconds that a thread rests after each pair, so that other processes get CPU time."""


class Writers:
    """Threads that store artifacts and entries, and read them, until the context ends.

    A broken connection is replaced; its request counts as broken, and not as refused.

    Args:
        url: URL of the service.
        threads: number of threads.
        asked: paths that the threads request too, and that must succeed.

    Attributes:
        acknowledged: contents of acknowledged artifacts and entries, by the path of their URL.
        refused: numbers of error responses, by status.
        wrong: paths that were read with another content than was stored, and other violations.
        broken: number of requests without a response.
    """

    def __init__(self, url: str, threads: int = 4, asked: tuple[str, ...] = ()) -> None:
        self._url = url
        self._asked = asked
        self.wrong: list[str] = []
        self.acknowledged: dict[str, bytes] = {}
        self.refused: Counter[int] = Counter()
        self.broken = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.store_some_more()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop all threads, and wait for their end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def store_some_more(self) -> None:
        """Return once another 50 uploads have been acknowledged."""
        before = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) > before + 50)

    def _write(self) -> None:
        let_others_go_first()
        with client_of(self._url) as client:
            for number in count():
                if self._over.is_set():
                    return
                name = uuid4().hex
                content = name.encode() * (10_000 if number % 10 == 9 else 1)
                stored = b'{"entries":[{"value":"%b"}]}' % content[:32]
                entry = b'{"cas_id":"%b",%b' % (name.encode(), stored[1:])
                for path, method, to, body, expected in (
                    (f"cas/{name}", "POST", f"cas/{name}", content, content),
                    (f"keyvalue/{name}", "PUT", "keyvalue", entry, stored),
                ):
                    if self._ask(client, method, f"/api/cache/{to}", body) is None:
                        continue
                    self.acknowledged[path] = expected
                    if self._ask(client, "GET", f"/api/cache/{path}") not in (None, expected):
                        self.wrong.append(path)
                for path in self._asked:
                    self._ask(client, "GET", path)
                self._over.wait(PAUSE)

    def _ask(
        self, client: httpx.Client, method: str, path: str, body: bytes | None = None
    ) -> bytes | None:
        """Send a request, and return the body of a successful response; else count it."""
        try:
            answer = client.request(method, path, content=body)
        except httpx.TransportError:
            self.broken += 1
            self._over.wait(PAUSE)  # the service may be restarting
            return None
        if answer.is_success:
            return answer.content
        self.refused[answer.status_code] += 1
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and not int(
            answer.headers.get("Retry-After", 0)
        ):
            self.wrong.append(f"{path} is 503 for nobody knows how long")
        return None

    def lost(self) -> list[str]:
        """The paths of acknowledged uploads that are missing or wrong, and `wrong`."""
        with client_of(self._url) as client:
            return self.wrong + [
                path
                for path, content in self.acknowledged.items()
                if client.get(f"/api/cache/{path}").content != content
            ]
