"""A disk whose power is cut: what had been synced by then, and any part of the rest."""

import os
import random
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cache_actors.storage.files import write_ahead_log

_BLOCK = 4096
_MAKES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
_CHANGES = ("writev", "pwritev", "pwrite", "setxattr", "utime", "link", "rename", "replace")
_REMOVALS = ("unlink", "rmdir", "mkdir")


class PowerCut(BaseException):
    """The power is gone: nothing can be done any more."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: bytes, attributes and its modification time; a folder has no bytes."""

    data: bytes = b""
    attributes: dict[str, bytes] = field(default_factory=dict)
    time: int = 0


class Disk:
    """A folder whose changes and syncs are followed, until the power is cut.

    Attributes:
        left: how many changes and syncs are made before the power is cut; none is, if negative.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self._root = root
        self._opened: set[int] = set()  # also by those who were killed
        self._held: dict[int, int] = {}  # descriptors by inode, so that no number is used again
        self._contents: dict[int, Content] = {}  # synced, by inode
        self._names: dict[int, dict[str, int]] = {}  # synced, by the folder's inode
        self._really_open = os.open
        for path in (root, *root.rglob("*")):
            self._hold_at(path)
        patch.setattr(os, "open", self._open)
        for name in _CHANGES + _REMOVALS:
            patch.setattr(os, name, self._changing(name, getattr(os, name)))
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._syncing(getattr(os, name)))
        patch.setattr(write_ahead_log, "_libc", self)
        self._sync_all()

    def close(self) -> None:
        """Close all files."""
        for fd in self._held.values():
            os.close(fd)
        for fd in self._opened:
            with suppress(OSError):
                target = Path(f"/proc/self/fd/{fd}").readlink()
                if self._root in target.parents or target.name == "fd":
                    os.close(fd)

    def syncfs(self, _fd: int) -> int:
        """Sync all there is, as the C library's function does."""
        self._step()
        self._sync_all()
        return 0

    def after_a_cut(self, target: Path, chance: random.Random) -> None:
        """Make `target` what the disk may hold if the power is cut now."""
        self.left = -1
        self._restore_folder(self._root.stat().st_ino, target, chance)

    def _step(self) -> None:
        if self.left == 0:
            raise PowerCut
        self.left -= 1

    def _open(self, path: Any, flags: int, mode: int = 0o777, **how: Any) -> int:
        makes = bool(flags & _MAKES)
        if makes:
            self._step()
        fd = self._really_open(path, flags, mode, **how)
        self._opened.add(fd)
        if makes:
            self._hold(fd)
        return fd

    def _changing(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **how: Any) -> Any:
            self._step()
            result = action(*args, **how)
            if name == "mkdir":
                self._hold_at(Path(args[0]))
            return result

        return change

    def _syncing(self, action: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            self._step()
            self._sync(fd)

        return sync

    def _hold_at(self, path: Path) -> None:
        fd = self._really_open(path, os.O_RDONLY)
        self._hold(fd)
        os.close(fd)

    def _hold(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if inode not in self._held:
            self._held[inode] = os.dup(fd)

    def _sync(self, fd: int) -> None:
        status = os.fstat(fd)
        self._contents[status.st_ino] = _content(fd)
        if _is_folder(fd):
            self._names[status.st_ino] = _listed(fd)

    def _sync_all(self) -> None:
        for fd in self._held.values():
            with suppress(FileNotFoundError):
                self._sync(fd)

    def _restore_folder(self, inode: int, target: Path, chance: random.Random) -> None:
        target.mkdir()
        self._restore_content(inode, target, chance, is_folder=True)
        synced, present = self._names.get(inode, {}), _listed(self._held[inode])
        for name in sorted(synced.keys() | present.keys()):
            found = chance.choice([synced.get(name), present.get(name)])
            if found is None or found not in self._held:
                continue
            if _is_folder(self._held[found]):
                self._restore_folder(found, target / name, chance)
            else:
                (target / name).touch()
                self._restore_content(found, target / name, chance, is_folder=False)

    def _restore_content(
        self, inode: int, target: Path, chance: random.Random, *, is_folder: bool
    ) -> None:
        synced, present = self._contents.get(inode, Content()), _content(self._held[inode])
        attributes = chance.choice([synced, present]).attributes
        for name, value in attributes.items():
            os.setxattr(target, name, value)
        if is_folder:
            target.chmod(os.fstat(self._held[inode]).st_mode & 0o7777)
            return
        target.write_bytes(_some_of(synced.data, present.data, chance))
        when = chance.choice([synced, present]).time
        os.utime(target, ns=(when, when))


def _is_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _content(fd: int) -> Content:
    data = b"" if _is_folder(fd) else os.pread(fd, 1 << 30, 0)
    attributes = {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    return Content(data, attributes, os.fstat(fd).st_mtime_ns)


def _listed(fd: int) -> dict[str, int]:
    with os.scandir(fd) as found:
        return {each.name: each.inode() for each in found}


def _some_of(synced: bytes, present: bytes, chance: random.Random) -> bytes:
    """Each block as it was synced, or as it is, and zeros where it was not there."""
    if synced == present:
        return present
    sizes = sorted([len(synced), len(present)])
    size = chance.choice([*sizes, chance.randint(*sizes)])
    found = bytearray()
    for at in range(0, size, _BLOCK):
        part = slice(at, min(at + _BLOCK, size))
        blocks = [synced[part], present[part]]
        found += chance.choice(blocks).ljust(part.stop - at, b"\0")
    return bytes(found)
