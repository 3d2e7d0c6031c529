"""A storage folder with artifacts and entries of any age, for tests of eviction."""

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cache_actors.kinds import Kind
from cache_actors.storage.files.last_use import last_use
from cache_actors.storage.layout import Key, Project

from .folders import files_below

APP = Project("acme", "app")
LIB = Project("acme", "lib")
SECOND = 1_000_000_000
HOUR, DAY = 3600.0, 86_400.0
BLOCK_BYTES = 4096
"""Size of an artifact in bytes: one block on disk, so that tests can count blocks."""


def artifact_id(number: int) -> str:
    """The id of the CAS artifact `number`; all ids together use four shards."""
    digest = hashlib.sha256(number.to_bytes(8, "big")).hexdigest().upper()
    return f"{digest[:2]}{number % 4:02X}{digest[4:]}"


def value_of(*artifact_ids: str) -> str:
    """A value as clients store it, base64 of a protobuf, that refers to these artifacts."""
    fields = b"".join(b"\x0a\x42\x12\x40" + each.encode() for each in artifact_ids)
    return base64.b64encode(b"\x08\x01" + fields).decode()


def body_of(*values: str) -> bytes:
    """The stored body of an entry with these values."""
    entries = [{"value": value} for value in values]
    return json.dumps({"entries": entries}, separators=(",", ":")).encode()


@dataclass
class Stored:
    """The storage folder `root`; ages are in seconds before this object was made."""

    root: Path
    now: int = field(default_factory=time.time_ns)

    def artifact(self, name: int | str, age: float = 0.0, project: Project = APP) -> Path:
        """Store a CAS artifact of one block, by number or id, last used at `age`."""
        entry_id = artifact_id(name) if isinstance(name, int) else name
        return self._file(Key(project, Kind.CAS, entry_id), os.urandom(BLOCK_BYTES), age)

    def entry(
        self, name: str, *artifacts: int | str, age: float = 0.0, project: Project = APP
    ) -> Path:
        """Store an entry, last used at `age`, that refers to artifacts by number or id."""
        ids = [artifact_id(each) if isinstance(each, int) else each for each in artifacts]
        return self.raw_entry(name, body_of(value_of(*ids)), age=age, project=project)

    def raw_entry(self, name: str, body: bytes, age: float = 0.0, project: Project = APP) -> Path:
        """Store an entry with any body, last used at `age`."""
        return self._file(Key(project, Kind.KEYVALUE, f"0~{name}"), body, age)

    def at(self, age: float) -> int:
        """The time of an age, in nanoseconds since the epoch."""
        return self.now - int(age * SECOND)

    def age(self, path: Path) -> float:
        """The age of a file's last use, in seconds."""
        return (self.now - last_use(path.stat())) / SECOND

    def names(self) -> set[str]:
        """The names of all stored files."""
        found = files_below(self.root)
        return {path.name for path in found if len(path.relative_to(self.root).parts) == 5}

    def _file(self, key: Key, content: bytes, age: float) -> Path:
        path = key.path(self.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        set_age(path, self.at(age))
        return path


def set_age(path: Path, used: int) -> None:
    """Set a file's modification and access time to `used`, in nanoseconds since the epoch."""
    os.utime(path, ns=(used, used))


def times_below(root: Path) -> dict[str, tuple[int, int, int, int]]:
    """The times, size and inode number of each file and folder below `root`."""
    return {
        str(path): (status.st_atime_ns, status.st_mtime_ns, status.st_size, status.st_ino)
        for path in sorted(root.rglob("*"))
        for status in [path.lstat()]
    }
