"""The processes that write to the disk for a service, as tests see them."""

from contextlib import suppress
from pathlib import Path

import msgspec

from cache_actors.disk.messages import Terms

from .strace import family


def disk_processes(pid: int) -> list[int]:
    """Those of the service's process `pid`, or of all its workers."""
    with suppress(FileNotFoundError, ProcessLookupError):  # one of them ends just now
        return sorted(each for each in family(pid)[1:] if _is_one(each))
    return []


def _is_one(pid: int) -> bool:
    terms = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2]
    with suppress(msgspec.DecodeError):  # it has only just been forked, or is something else
        msgspec.json.decode(terms, type=Terms)
        return True
    return False
