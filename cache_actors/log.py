"""The log: one structured line per event, on standard output.

Repeated warnings and errors are logged a few times and then only counted, so that a fault at every
request of a build cannot fill a disk.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
import structlog

from .log_writer import STANDARD_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, Processor

    from .log_writer import LogWriter
    from .settings import Settings

MAX_REPEATED = 10
"""Largest number of warnings and errors of one event that are logged in `REPEAT_SECONDS`."""

REPEAT_SECONDS = 10.0

ALWAYS_LOGGED = {"child_crashed"}
"""Events that are always logged. Each may be another child's, and restart intensity limits them."""


def new_log(settings: Settings, output: LogWriter = STANDARD_OUTPUT) -> FilteringBoundLogger:
    """Make a log that writes JSON lines, or text for a terminal.

    Args:
        settings: the settings, for `LOG_LEVEL` and `LOG_FORMAT`.
        output: the destination of the lines.
    """
    if settings.log_format == "json":
        rendering: list[Processor] = [structlog.processors.format_exc_info, _json_line]
    else:
        # Not rich's tracebacks, which show variables (tokens among them) and take seconds to make.
        plain = structlog.dev.plain_traceback
        colors = os.isatty(output.fd)
        rendering = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _plain_values,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        ]
    # Bound here, once, and not by each line.
    log: FilteringBoundLogger = structlog.wrap_logger(
        _Lines(output, lambda times: log.warning("log_lines_dropped", times=times)),
        processors=[
            Repetitions(lambda event, **fields: log.warning(event, **fields)),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
    ).bind()
    return log


@dataclass(slots=True)
class _Window:
    """A window of time from `began` on, and the number of an event's lines in it."""

    began: float
    times: int = 0


class Repetitions:
    """A structlog processor that drops repeated warnings and errors, and logs their number later.

    The number is logged before the first line, of any event, after the window has ended.

    Args:
        log_warning: logs a warning, by the event's name and fields.
        clock: the time in seconds.
    """

    def __init__(
        self, log_warning: Callable[..., object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log_warning = log_warning
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Return the event, or raise `structlog.DropEvent` if it is repeated too often."""
        now = self._clock()
        if self._windows:
            self._close_windows(now)
        if method not in ("warning", "error") or event["event"] in ALWAYS_LOGGED:
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
                self._log_warning("suppressed", of=name, times=times, seconds=round(REPEAT_SECONDS))


class _Lines:
    """The sink of structlog's lines, which reports lost lines once a later one is written.

    Args:
        output: the destination of the lines.
        log_lost: logs a number of lost lines.
    """

    def __init__(self, output: LogWriter, log_lost: Callable[[int], object]) -> None:
        self._output = output
        self._log_lost = log_lost
        self._reported = output.dropped

    def msg(self, message: str) -> None:
        """Write one line, and report lines lost before it."""
        if self._output.write(message) and (lost := self._output.dropped - self._reported):
            self._reported += lost
            self._log_lost(lost)

    debug = info = warning = error = critical = msg


def _plain_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor that has values shown as in JSON: members of enumerations by theirs,
    and what a terminal would obey, or cannot show, escaped."""
    return {name: _plain(each) for name, each in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and not value.isprintable():
        return "".join(
            each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in value
        )
    return value


def _json_line(_logger: object, method: str, event: EventDict) -> str:
    """A structlog processor that adds level and time, and makes the line."""
    event["level"] = method
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        return json.dumps(event, default=repr)
