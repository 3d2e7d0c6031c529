"""Logs: one line per event, whatever is in it."""

import json
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal

import pytest
import structlog
from pydantic import HttpUrl
from structlog.typing import FilteringBoundLogger

from cache_actors.log import MAX_REPEATED, REPEAT_SECONDS, Repetitions, new_log
from cache_actors.settings import Settings

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


def log_of(
    log_format: Literal["json", "text"] = "json", log_level: Level = "info"
) -> FilteringBoundLogger:
    return new_log(
        Settings(server_url=HttpUrl("http://tuist"), log_format=log_format, log_level=log_level)
    )


def json_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What has been logged, a JSON object a line."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_line_is_json_with_event_level_and_time(capfd: pytest.CaptureFixture[str]) -> None:
    log_of().warning("something_happened", answer=42, path="/a")
    (line,) = json_lines(capfd)
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert at.utcoffset() == timedelta(0)
    assert line == {
        "event": "something_happened",
        "level": "warning",
        "answer": 42,
        "path": "/a",
    }


def test_line_stays_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    log_of().info("event", text="one\ntwo\r\u2028three")
    (line,) = capfd.readouterr().out.split("\n")[:-1]
    assert json.loads(line)["text"] == "one\ntwo\r\u2028three"


def test_traceback_is_part_of_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    log = log_of()
    try:
        int("x")
    except ValueError:
        log.exception("crashed")
    (line,) = json_lines(capfd)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: invalid literal for int() with base 10: 'x'")
    assert "exc_info" not in line


def test_traceback_of_a_group_names_all_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("several", [KeyError("a"), ValueError("b")])
    log_of().error("crashed", exc_info=group)
    (line,) = json_lines(capfd)
    assert "KeyError: 'a'" in line["exception"]
    assert "ValueError: b" in line["exception"]


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (None, None),
        (b"\xff", "/w=="),
        ({"a": Odd()}, {"a": "<odd>"}),
        ([Odd(), b""], ["<odd>", ""]),
        ({Odd(): 1}, {"<odd>": 1}),
        (ValueError("x"), "ValueError('x')"),
        (float("nan"), None),
        (2**70, 2**70),
        (1j, "1j"),
        ("\udcff", "\udcff"),
    ],
    ids=ascii,
)
def test_value_that_is_not_json_is_logged_all_the_same(
    capfd: pytest.CaptureFixture[str], value: object, logged: object
) -> None:
    log_of().info("event", value=value)
    (line,) = json_lines(capfd)
    assert line["value"] == logged


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("level", LEVELS)
def test_events_below_the_level_are_left_out(
    capfd: pytest.CaptureFixture[str], log_format: Literal["json", "text"], level: Level
) -> None:
    log = log_of(log_format, level)
    for name in LEVELS:
        getattr(log, name)(f"{name}_event")
    text = capfd.readouterr().out
    logged = [name for name in LEVELS if f"{name}_event" in text]
    assert logged == list(LEVELS[LEVELS.index(level) :])


def test_text_is_a_line_with_the_event_and_its_values(capfd: pytest.CaptureFixture[str]) -> None:
    log_of("text").info("something_happened", answer=42, status=HTTPStatus.BAD_REQUEST)
    (line,) = capfd.readouterr().out.splitlines()
    assert "info" in line
    assert "something_happened" in line
    assert "answer=42" in line
    assert "status=400" in line
    assert "\x1b" not in line  # nobody looks at it on a terminal


def test_what_a_terminal_would_obey_is_escaped_in_text(capfd: pytest.CaptureFixture[str]) -> None:
    log_of("text").info("request", instance="\x1b[31macme/\0\x9b\udc80é")
    (line,) = capfd.readouterr().out.splitlines()
    assert "\\x1b[31macme/\\x00\\x9b\\udc80é" in line
    assert "\x1b" not in line


# --- Trouble that repeats itself ------------------------------------------------------------------


class Repeated:
    """A processor, with what it lets through and says, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.through: list[str] = []
        self.said: list[dict[str, Any]] = []
        self._limit = Repetitions(self._say, lambda: self.now)

    def _say(self, event: str, **fields: Any) -> None:
        self.said.append({"event": event, **fields})

    def log(self, event: str, times: int = 1, method: str = "error") -> None:
        for _ in range(times):
            with suppress(structlog.DropEvent):
                self.through.append(self._limit(None, method, {"event": event})["event"])


def test_event_that_repeats_itself_is_told_a_few_times_and_then_how_often_it_was() -> None:
    repeated = Repeated()
    repeated.log("storage_failed", times=MAX_REPEATED + 7)
    assert repeated.through == ["storage_failed"] * MAX_REPEATED
    assert repeated.said == []
    repeated.now += REPEAT_SECONDS
    repeated.log("request", method="info")
    assert repeated.said == [
        {"event": "suppressed", "of": "storage_failed", "times": 7, "seconds": 10}
    ]
    repeated.now += REPEAT_SECONDS
    repeated.log("storage_failed")
    assert repeated.through[MAX_REPEATED:] == ["request", "storage_failed"]
    assert len(repeated.said) == 1


def test_other_events_are_told_meanwhile() -> None:
    repeated = Repeated()
    repeated.log("storage_failed", times=100)
    repeated.log("tuist_failed")
    assert repeated.through[-1] == "tuist_failed"


@pytest.mark.parametrize(
    ("event", "method"),
    [("event", "debug"), ("event", "info"), ("event", "critical"), ("child_crashed", "error")],
)
def test_what_is_no_trouble_or_is_bounded_anyway_is_always_told(event: str, method: str) -> None:
    repeated = Repeated()
    repeated.log(event, times=100, method=method)
    assert len(repeated.through) == 100


def test_log_tells_no_more_than_that(capfd: pytest.CaptureFixture[str]) -> None:
    log = log_of()
    for number in range(100):
        log.warning("trouble", number=number)
    assert [line["number"] for line in json_lines(capfd)] == list(range(MAX_REPEATED))


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_traceback_shows_no_variables(
    capfd: pytest.CaptureFixture[str], log_format: Literal["json", "text"]
) -> None:
    def crash(authorization: str) -> None:
        raise ValueError(len(authorization))

    log = log_of(log_format)
    try:
        crash("hush".rjust(11, "-"))
    except ValueError:
        log.exception("crashed")
    said = capfd.readouterr().out
    assert "crashed" in said
    assert "ValueError: 11" in said
    assert "-------hush" not in said
