"""Instances of the service that replace each other."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from .service import Service, client_at
from .waiting import eventually


@dataclass
class Instances:
    """Instances of one service, which share a storage folder and a folder of sockets."""

    storage: Path
    sockets: Path
    tuist_url: str
    workers: int = 1
    started: list[Service] = field(default_factory=list)

    def start(self) -> Service:
        """Start another instance, and return it once connections to `current.sock` reach it."""
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
        """The target of the link `current.sock`, or None."""
        try:
            return os.readlink(self.sockets / "current.sock")  # noqa: PTH115
        except FileNotFoundError:
            return None

    def names(self) -> set[str]:
        """The names in the folder of sockets."""
        return {path.name for path in self.sockets.iterdir()}

    def ask_up(self) -> int:
        """The status of `/up` through `current.sock`."""
        with client_at(self.sockets / "current.sock") as client:
            return client.get("/up").status_code

    def kill_all(self) -> None:
        """Kill all running instances."""
        for service in self.started:
            service.kill()
