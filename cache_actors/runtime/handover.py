"""Handover: `current.sock` is pointed to this instance once it is up, and kept at a live one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .listen_socket import CannotListen

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from .listen_socket import ListenSocket

CHECK_LINK_SECONDS = 1.0
"""Pause between two checks of the link, in seconds; the instance it points to may have died."""


class LinkKeeper:
    """Announces this instance at `sock`, and repairs the link when another instance has died.

    Attributes:
        failure: the error of the announcement, if it failed.
    """

    def __init__(self, sock: ListenSocket, log: FilteringBoundLogger) -> None:
        self._sock = sock
        self._log = log
        self._announced = trio.Event()
        self.failure: CannotListen | None = None

    def announce(self) -> bool:
        """Direct new connections to this instance, and return whether that worked."""
        try:
            self._sock.announce()
        except CannotListen as error:
            self.failure = error
        self._announced.set()
        return self.failure is None

    async def run(self, stop: trio.Event, _cancel_scope: trio.CancelScope) -> None:
        """Repair the link regularly until `stop` is set; set `stop` if the announcement failed."""
        await self._announced.wait()
        if self.failure is not None:
            stop.set()
        known = None
        while not stop.is_set():
            trouble = self._repair()
            if trouble not in (None, known):
                self._log.error("link_not_repaired", reason=trouble)
            known = trouble
            with trio.move_on_after(CHECK_LINK_SECONDS):
                await stop.wait()

    def _repair(self) -> str | None:
        try:
            if (repaired := self._sock.repair()) is not None:
                self._log.warning("link_repaired", socket=repaired)
        except OSError as error:
            return str(error)
        return None
