"""Logs: one structured line per event, on standard output.

Trouble that repeats itself is told a few times, and then how often it was: what goes wrong with
each request of a build must not fill a disk.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog

from .log_output import STANDARD_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, Processor

    from .log_output import LogOutput
    from .settings import Settings

MAX_REPEATED = 10
"""Largest number of warnings, or errors, of one event that are logged in `REPEAT_SECONDS`."""

REPEAT_SECONDS = 10.0

ALWAYS_TOLD = {"child_crashed"}
"""Events that are always logged: a supervisor gives up before they are too many, and each may be
another child's."""


def new_log(settings: Settings, output: LogOutput = STANDARD_OUTPUT) -> FilteringBoundLogger:
    """The log that the settings ask for: JSON lines, or text to be read on a terminal.

    Args:
        settings: its level and its form.
        output: where its lines go.
    """
    if settings.log_format == "json":
        rendering: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        # Not rich's tracebacks: they show variables, tokens among them, and take seconds to make.
        plain = structlog.dev.plain_traceback
        colors = os.isatty(output.fd)
        rendering = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    log: FilteringBoundLogger = structlog.wrap_logger(
        _Lines(output, lambda times: log.warning("log_lines_dropped", times=times)),
        processors=[
            Repetitions(lambda event, **fields: log.warning(event, **fields)),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
    )
    return log


@dataclass(slots=True)
class _Window:
    """A window of time, and how often an event has come since it `began`."""

    began: float
    times: int = 0


class Repetitions:
    """Drops warnings and errors that come too often, and says afterwards how many it dropped.

    It says so with the first line that is logged after the time is over, of whatever event.

    Args:
        say: logs a warning, given the event's name and fields.
        clock: in seconds.
    """

    def __init__(
        self, say: Callable[..., object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Return the event, or drop it."""
        now = self._clock()
        if self._windows:
            self._close_windows(now)
        if method not in ("warning", "error") or event["event"] in ALWAYS_TOLD:
            return event
        window = self._windows.setdefault(event["event"], _Window(now))
        window.times += 1
        if window.times > MAX_REPEATED:
            raise structlog.DropEvent
        return event

    def _close_windows(self, now: float) -> None:
        over = [name for name, each in self._windows.items() if now - each.began >= REPEAT_SECONDS]
        dropped = {name: self._windows.pop(name).times - MAX_REPEATED for name in over}
        for name, times in dropped.items():
            if times > 0:
                self._say("suppressed", of=name, times=times, seconds=round(REPEAT_SECONDS))


class _Lines:
    """The sink of structlog's lines. Lines that were lost are reported once others go through.

    Args:
        output: where the lines go.
        say: logs how many were lost.
    """

    def __init__(self, output: LogOutput, say: Callable[[int], object]) -> None:
        self._output = output
        self._say = say
        self._told = output.dropped

    def msg(self, message: str) -> None:
        """Write one line."""
        if self._output.write(message) and (lost := self._output.dropped - self._told):
            self._told += lost
            self._say(lost)

    debug = info = warning = error = critical = msg


def _to_json(event: object, **_: object) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 does not have
        return json.dumps(event, default=repr)
