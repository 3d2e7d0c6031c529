"""The actor's end: it starts the process, talks to it, watches it, and ends it.

The process has a socket, whose descriptor is in its configuration, and ends when that does; it
inherits nothing else. It is in a process group of its own, where a terminal's Ctrl-C does not come.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from .framing import LENGTH, framed, is_connected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHANNEL_BYTES = 1 << 20
"""Size of the kernel's buffer for a message on its way, in bytes."""

Message = TypeVar("Message")

END_SECONDS = 5.0
"""Longest time that the process may take to end, in seconds: when it is asked to, and again when it
is killed."""


class ProcessDied(Exception):
    """The process has ended, or has said something that cannot be understood."""


class ActorProcess:
    """One process, from `start` to `end`."""

    def __init__(self) -> None:
        self._stream: trio.SocketStream
        self._process: trio.Process

    async def start(self, command: Sequence[str], config: Callable[[int], Any]) -> None:
        """Start it.

        Args:
            command: what runs it; its configuration is one more argument, in JSON.
            config: makes that of the descriptor of its socket.

        Raises:
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
            self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            self._process = await trio.lowlevel.open_process(
                [*command, msgspec.json.encode(config(theirs.fileno())).decode()],
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )

    async def end(self, *, kill: bool) -> None:
        """Have it end: at once if it is to be killed, and within seconds in any case."""
        with trio.CancelScope(shield=True):
            if not kill:
                await self._stream.aclose()
            # One that crashes closes its end of the socket first, and then prints why.
            if not kill or not is_connected(self._stream.socket.fileno()):
                with trio.move_on_after(END_SECONDS):
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                with trio.move_on_after(END_SECONDS):  # a dead disk may hold it
                    await self._process.wait()
            await trio.aclose_forcefully(self._stream)

    async def watch(self) -> None:
        """Never return.

        Raises:
            ProcessDied: the process has ended.
        """
        raise ProcessDied(f"the process has ended: {await self._process.wait()}")

    async def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            ProcessDied: the process is gone.
        """
        try:
            await self._stream.send_all(framed(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ProcessDied(str(error)) from error

    async def receive(self, decode: Callable[[bytes], Message]) -> Message:
        """The next message, decoded by `decode`.

        Raises:
            ProcessDied: the process is gone, or talks nonsense.
        """
        (size,) = LENGTH.unpack(await self._receive_exactly(LENGTH.size))
        message = await self._receive_exactly(size)
        try:
            return decode(message)
        except msgspec.MsgspecError as error:
            raise ProcessDied(str(error)) from error

    async def _receive_exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            try:
                piece = await self._stream.receive_some(size - len(received))
            except trio.BrokenResourceError as error:
                raise ProcessDied("the process has ended") from error
            if not piece:
                raise ProcessDied("the process has ended")
            received += piece
        return bytes(received)
