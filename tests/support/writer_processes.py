"""The writer processes of a service, for tests."""

from contextlib import suppress

import msgspec

from cache_actors.writer_process.protocol import WriterConfig

from .strace import family, last_argument


def disk_processes(pid: int) -> list[int]:
    """The ids of the writer processes of the service with process `pid`, and of its workers."""
    return sorted(each for each in family(pid)[1:] if _is_one(each))


def _is_one(pid: int) -> bool:
    with suppress(msgspec.DecodeError):  # just forked, or another program
        msgspec.json.decode(last_argument(pid), type=WriterConfig)
        return True
    return False
