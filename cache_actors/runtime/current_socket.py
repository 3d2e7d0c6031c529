"""The link `current.sock`, which leads new connections to one of several instances.

Normally an instance takes the link once, when it is up. That alone would not do: should a new
instance turn out to be no good, it is stopped or killed with the link still leading to it, and the
one before it, which lives, would never be asked again. Hence two more rules.

* An instance that stops gives the link to another that lives, before it does anything else.
* All instances look now and then whether anybody listens where the link leads. Whoever sees that
  nobody does leads it to the one that started last of those that live. As all choose the same
  one, and leave alone a link that leads to somebody, they never fight over it.

An instance listens at `<random>.init` while it starts, and at `<random>.sock` once it takes
requests: only the latter may be chosen. The link is relative, since a container and its host may
see the folder at different paths, and replaced with `rename()`, so that it is always there.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


CURRENT = "current.sock"
"""The link to the socket of the instance that takes new connections."""


class CurrentLink:
    """The link, as one instance sees it.

    Args:
        link: the link itself.
        own: the socket of this instance, in the same folder.
    """

    def __init__(self, link: Path, own: Path) -> None:
        self._link = link
        self._own = own

    def is_ours(self) -> bool:
        """Whether new connections come to this instance."""
        with suppress(OSError):
            return self._link.readlink().name == self._own.name
        return False

    def take(self) -> None:
        """Have new connections come to this instance.

        Raises:
            OSError: the link cannot be made.
        """
        self._lead_to(self._own)

    def hand_off(self) -> None:
        """Have new connections go to another instance, if they come here and another one lives.

        Raises:
            OSError: the link cannot be made.
        """
        if self.is_ours() and (others := self._living_others()):
            self._lead_to(others[-1])

    def repair(self) -> str | None:
        """If nobody listens where the link leads, lead it to the instance that started last.

        Returns:
            The name of that instance's socket, or `None` if there was nothing to do.

        Raises:
            OSError: the link cannot be made.
        """
        if self.is_ours() or is_listening(self._link):
            return None
        chosen = max([*self._living_others(), self._own], key=_start)
        self._lead_to(chosen)
        return chosen.name

    def _living_others(self) -> list[Path]:
        """The sockets of the other instances that take requests, by their starts."""
        found = [
            path
            for path in self._link.parent.glob("*.sock")
            if path.name not in (self._link.name, self._own.name) and is_listening(path)
        ]
        return sorted(found, key=_start)

    def _lead_to(self, target: Path) -> None:
        unready = self._own.with_suffix(".link")
        unready.symlink_to(target.name)
        try:
            unready.replace(self._link)
        except OSError:
            unready.unlink()
            raise


def is_listening(path: Path) -> bool:
    """Whether somebody listens at the Unix socket, or link to one, at `path`. It never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # such as one that has too many connections waiting
    return True


def _start(socket_path: Path) -> tuple[int, str]:
    """When an instance bound its socket, in nanoseconds; of two at once, the names decide."""
    try:
        return socket_path.lstat().st_mtime_ns, socket_path.name
    except FileNotFoundError:  # it is just going
        return 0, socket_path.name
