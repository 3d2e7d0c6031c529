"""Handover: new connections come here once the service is up, and always to a living instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .listen_socket import CannotListen

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from .listen_socket import ListenSocket

LOOK_SECONDS = 1.0
"""Pause between two checks of where new connections go, in seconds; another instance may have
died."""


class LinkKeeper:
    """Announces the service at `sock`, and sees to it that clients find one.

    Attributes:
        failure: why it could not be announced, if so.
    """

    def __init__(self, sock: ListenSocket, log: FilteringBoundLogger) -> None:
        self._sock = sock
        self._log = log
        self._announced = trio.Event()
        self.failure: CannotListen | None = None

    def announce(self) -> bool:
        """Have new connections come here, and return whether they do."""
        try:
            self._sock.announce()
        except CannotListen as error:
            self.failure = error
        self._announced.set()
        return self.failure is None

    async def run(self, stop: trio.Event, _cancel_scope: trio.CancelScope) -> None:
        """Look after it until `stop` is set; set it if the service could not be announced."""
        await self._announced.wait()
        if self.failure is not None:
            stop.set()
        known = None
        while not stop.is_set():
            trouble = self._repair()
            if trouble not in (None, known):
                self._log.error("link_not_repaired", reason=trouble)
            known = trouble
            with trio.move_on_after(LOOK_SECONDS):
                await stop.wait()

    def _repair(self) -> str | None:
        try:
            if (repaired := self._sock.repair()) is not None:
                self._log.warning("link_repaired", socket=repaired)
        except OSError as error:
            return str(error)
        return None
