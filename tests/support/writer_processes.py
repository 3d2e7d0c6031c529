"""The processes that write to the disk for a service, as tests see them."""

from contextlib import suppress

import msgspec

from cache_actors.writer_process.protocol import WriterConfig

from .strace import family, last_argument


def disk_processes(pid: int) -> list[int]:
    """Those of the service's process `pid`, or of all its workers."""
    return sorted(each for each in family(pid)[1:] if _is_one(each))


def _is_one(pid: int) -> bool:
    with suppress(msgspec.DecodeError):  # it has only just been forked, or is something else
        msgspec.json.decode(last_argument(pid), type=WriterConfig)
        return True
    return False
