"""Logs: one line per event, whatever is in it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import HttpUrl

from cache_actors.log import new_log
from cache_actors.settings import Settings

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


def log_of(
    log_format: Literal["json", "text"] = "json", log_level: Level = "info"
) -> FilteringBoundLogger:
    return new_log(
        Settings(server_url=HttpUrl("http://tuist"), log_format=log_format, log_level=log_level)
    )


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What has been logged, a JSON object a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_line_is_json_with_event_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    log_of().warning("something_happened", answer=42, path="/a")
    (line,) = json_lines(capsys)
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert at.utcoffset() == timedelta(0)
    assert line == {
        "event": "something_happened",
        "level": "warning",
        "answer": 42,
        "path": "/a",
    }


def test_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_of().info("event", text="one\ntwo\r\u2028three")
    (line,) = capsys.readouterr().out.split("\n")[:-1]
    assert json.loads(line)["text"] == "one\ntwo\r\u2028three"


def test_traceback_is_part_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of()
    try:
        int("x")
    except ValueError:
        log.exception("crashed")
    (line,) = json_lines(capsys)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: invalid literal for int() with base 10: 'x'")
    assert "exc_info" not in line


def test_traceback_of_a_group_names_all_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("several", [KeyError("a"), ValueError("b")])
    log_of().error("crashed", exc_info=group)
    (line,) = json_lines(capsys)
    assert "KeyError: 'a'" in line["exception"]
    assert "ValueError: b" in line["exception"]


def test_text_has_the_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    log_of("text").error("crashed", exc_info=ZeroDivisionError("by nought"))
    text = capsys.readouterr().out
    assert "crashed" in text
    assert "ZeroDivisionError" in text
    assert "by nought" in text


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
    capsys: pytest.CaptureFixture[str], value: object, logged: object
) -> None:
    log_of().info("event", value=value)
    (line,) = json_lines(capsys)
    assert line["value"] == logged


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("level", LEVELS)
def test_events_below_the_level_are_left_out(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "text"], level: Level
) -> None:
    log = log_of(log_format, level)
    for name in LEVELS:
        getattr(log, name)(f"{name}_event")
    text = capsys.readouterr().out
    logged = [name for name in LEVELS if f"{name}_event" in text]
    assert logged == list(LEVELS[LEVELS.index(level) :])


def test_text_is_a_line_with_the_event_and_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    log_of("text").info("something_happened", answer=42)
    (line,) = capsys.readouterr().out.splitlines()
    assert "info" in line
    assert "something_happened" in line
    assert "answer=42" in line
    assert "\x1b" not in line  # nobody looks at it on a terminal
