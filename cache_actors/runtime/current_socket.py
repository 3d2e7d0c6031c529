"""The link `current.sock`, which leads new connections to one of several instances.

An instance takes the link once, when it is up. That alone is not enough: if the new instance is
then stopped or killed, the link still points to its socket, and the previous instance, although
alive, gets no more connections. Hence two more rules.

* An instance that stops first points the link to another live instance.
* Every instance checks the link regularly. If nobody listens where it points, the instance points
  it to the live instance that started last. All instances choose the same one and leave a working
  link alone, so they never compete for it.

An instance listens at `<random>.init` while it starts, and at `<random>.sock` once it takes
requests; only the latter may be chosen. The link is relative, since a container and its host may
see the folder at different paths. It is replaced with `rename()`, so that it always exists.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


CURRENT = "current.sock"
"""Name of the link to the socket of the instance that takes new connections."""


class CurrentLink:
    """The link `current.sock`, read and replaced by one instance.

    Args:
        link: the path of the link.
        own: the path of this instance's socket, in the same folder.
    """

    def __init__(self, link: Path, own: Path) -> None:
        self._link = link
        self._own = own

    def is_ours(self) -> bool:
        """Whether the link points to this instance."""
        with suppress(OSError):
            return self._link.readlink().name == self._own.name
        return False

    def take(self) -> None:
        """Point the link to this instance.

        Raises:
            OSError: the link cannot be made.
        """
        self._point_to(self._own)

    def hand_off(self) -> None:
        """Point the link to another live instance, if there is one and the link points to this one.

        Raises:
            OSError: the link cannot be made.
        """
        if self.is_ours() and (others := self._living_others()):
            self._point_to(others[-1])

    def repair(self) -> str | None:
        """Point the link to the live instance that started last, if nobody listens where it points.

        Returns:
            The name of that instance's socket, or `None` if the link works.

        Raises:
            OSError: the link cannot be made.
        """
        if self.is_ours() or is_listening(self._link):
            return None
        chosen = max([*self._living_others(), self._own], key=_start)
        self._point_to(chosen)
        return chosen.name

    def _living_others(self) -> list[Path]:
        """The sockets of the other instances that take requests, by start time."""
        found = [
            path
            for path in self._link.parent.glob("*.sock")
            if path.name not in (self._link.name, self._own.name) and is_listening(path)
        ]
        return sorted(found, key=_start)

    def _point_to(self, target: Path) -> None:
        unready = self._own.with_suffix(".link")
        unready.symlink_to(target.name)
        try:
            unready.replace(self._link)
        except OSError:
            unready.unlink()
            raise


def is_listening(path: Path) -> bool:
    """Whether a process listens at the Unix socket `path`, or link to one; checked without waiting.

    Any error but "refused" and "not found" counts as listening: the backlog may be full.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _start(socket_path: Path) -> tuple[int, str]:
    """The sort key of an instance: the time at which it bound its socket, in ns, then its name."""
    try:
        return socket_path.lstat().st_mtime_ns, socket_path.name
    except FileNotFoundError:  # the instance has just stopped
        return 0, socket_path.name
