"""Clients that store all the time, and know what has to be there in the end."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import httpx

from .lanes import let_others_go_first
from .service import client_of
from .waiting import eventually

if TYPE_CHECKING:
    from .service import Service


PAUSE = 0.01
"""Seconds that a thread rests after each pair, so that others on the machine get on too."""


class Writers:
    """Threads that store artifacts and entries until the context is left.

    A connection that breaks is made again: what was under way on it counts as refused by nobody.

    Attributes:
        acknowledged: the content of each artifact, and of each entry, by the path of its URL.
        refused: how often a status other than 204 has come.
        broken: how many requests had no answer.
    """

    def __init__(self, service: Service, threads: int = 4) -> None:
        self._url = service.url
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
        self._over.set()
        for thread in self._threads:
            thread.join()

    def store_some_more(self) -> None:
        """Return once some more have been acknowledged."""
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
                self._send(client, "POST", f"cas/{name}", content, f"cas/{name}", content)
                self._send(client, "PUT", "keyvalue", entry, f"keyvalue/{name}", stored)
                self._over.wait(PAUSE)

    def _send(
        self, client: httpx.Client, method: str, to: str, body: bytes, path: str, stored: bytes
    ) -> None:
        try:
            answer = client.request(method, f"/api/cache/{to}", content=body)
        except httpx.TransportError:
            self.broken += 1
            self._over.wait(PAUSE)  # nobody may be there for a while
            return
        if answer.status_code == httpx.codes.NO_CONTENT:
            self.acknowledged[path] = stored
        else:
            self.refused[answer.status_code] += 1

    def lost(self) -> list[str]:
        """What was acknowledged and is not there, or is something else."""
        with client_of(self._url) as client:
            return [
                path
                for path, content in self.acknowledged.items()
                if client.get(f"/api/cache/{path}").content != content
            ]
