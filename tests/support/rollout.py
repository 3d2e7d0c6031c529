"""Instances of the service that replace each other, and clients that notice if they do it badly."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from .lanes import let_others_go_first
from .service import Service, client_at, client_of
from .waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

MORE = 50
"""So many requests are enough to notice something."""

UPLOAD_BYTES = 500_000

PAUSE = 0.05
"""Seconds that a client rests after each request, so that instances get on with their start."""


@dataclass
class Instances:
    """Instances of one service, which share a storage folder and a folder of sockets."""

    storage: Path
    sockets: Path
    tuist_url: str
    workers: int = 1
    started: list[Service] = field(default_factory=list)

    def start(self) -> Service:
        """Start another one, and return it when connections to `current.sock` reach it."""
        before = self.current()
        environment = {
            "SOCKET_DIR": str(self.sockets),
            "BODY_TIMEOUT": "10",
            "WORKERS": str(self.workers),
        }
        service = Service(self.storage, self.tuist_url, environment)
        service.start(wait=False)
        self.started.append(service)

        def has_taken_over() -> bool:
            assert service.is_running(), service.log_tail()
            return self.current() not in (None, before)

        eventually(has_taken_over)
        return service

    def current(self) -> str | None:
        """What `current.sock` points to."""
        try:
            return os.readlink(self.sockets / "current.sock")  # noqa: PTH115
        except FileNotFoundError:
            return None

    def names(self) -> set[str]:
        """What is in the folder of sockets."""
        return {path.name for path in self.sockets.iterdir()}

    def ask_up(self) -> int:
        """The status that whoever `current.sock` leads to answers `/up` with."""
        with client_at(self.sockets / "current.sock") as client:
            return client.get("/up").status_code

    def kill_all(self) -> None:
        """End those that still run."""
        for service in self.started:
            service.kill()


class Load:
    """Reads, entries, uploads and questions how it goes, until it is enough; failures are kept.

    Args:
        url: where it all goes to.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._enough = threading.Event()
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stored: dict[str, bytes] = {}
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Return once `MORE` further requests have been answered."""
        before = sum(self.done.values())
        eventually(lambda: sum(self.done.values()) > before + MORE)

    def _work(self, number: int) -> None:
        let_others_go_first()
        choose = random.Random(number)
        with client_of(self._url) as client:
            for count in range(1_000_000):
                if self._enough.is_set():
                    return
                self._step(client, choose, f"{number:X}0{count:062X}")
                self._enough.wait(PAUSE)

    def _step(self, client: httpx.Client, choose: random.Random, name: str) -> None:
        what = choose.choice(["upload", "put", "read", "read", "miss", "up"])
        try:
            match what:
                case "upload":
                    body = choose.randbytes(UPLOAD_BYTES)
                    answer = client.post(f"/api/cache/cas/{name}", content=body)
                    expected = 204
                    self.stored[name] = body
                case "put":
                    entry = {"cas_id": f"0~{name}", "entries": [{"value": f"of {name}"}]}
                    answer = client.put("/api/cache/keyvalue", json=entry)
                    expected = 204
                case "up":
                    answer, expected = client.get("/up"), 200
                case "miss":
                    answer, expected = client.get(f"/api/cache/cas/{name}"), 404
                case _:
                    if not self.stored:
                        return
                    known = choose.choice(list(self.stored))
                    answer, expected = client.get(f"/api/cache/cas/{known}"), 200
                    if answer.content != self.stored[known]:
                        self.failures.append(f"{known} is not what was sent")
        except httpx.TransportError as error:
            self.failures.append(f"{what}: {error!r}")
            return
        if answer.status_code != expected:
            self.failures.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        self.done[what] += 1
