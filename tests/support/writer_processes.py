"""The processes of a service that work for its actors, for tests."""

from contextlib import suppress
from typing import Any

import msgspec

from cache_actors.writer_process.protocol import WriterConfig

from .strace import family, last_argument


def disk_processes(pid: int) -> list[int]:
    """The ids of the writer processes of the service with process `pid`, and of its workers."""
    return processes_with(pid, WriterConfig)


def processes_with(pid: int, config: type[msgspec.Struct]) -> list[int]:
    """The ids of those processes whose command line ends with such a configuration.

    A configuration of another kind may have all of its fields, and more.
    """
    fields = {field.name for field in msgspec.structs.fields(config)}
    return sorted(each for each in family(pid)[1:] if _fields_of(each) == fields)


def _fields_of(pid: int) -> set[str]:
    with suppress(msgspec.MsgspecError):  # just forked, or another program
        found: dict[str, Any] = msgspec.json.decode(last_argument(pid), type=dict[str, Any])
        return set(found)
    return set()
