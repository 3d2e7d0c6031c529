"""Figures in words."""

from __future__ import annotations

import pytest

from cache_actors.status.words import in_bytes, in_figures, in_percent, in_time, printable


@pytest.mark.parametrize(
    ("number", "words"),
    [(None, "-"), (0, "0"), (0.5, "0.5"), (1.66, "1.7"), (68.91, "68.9"), (1234567.8, "1,234,568")],
)
def test_numbers(number: float | None, words: str) -> None:
    assert in_figures(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.0421, "42 ms"),
        (59.9, "59 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (190_000, "2 d 4 h"),
    ],
)
def test_times(seconds: float | None, words: str) -> None:
    assert in_time(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(None, "-"), (999, "999 B"), (8_412_345_678, "8.4 GB"), (5e18, "5,000 PB")],
)
def test_bytes(number: float | None, words: str) -> None:
    assert in_bytes(number) == words


@pytest.mark.parametrize(("share", "words"), [(None, "-"), (0.876, "87.6 %"), (1, "100 %")])
def test_shares(share: float | None, words: str) -> None:
    assert in_percent(share) == words


def test_text_cannot_tell_the_terminal_anything() -> None:
    assert printable("a\x1b[31m\r\nb") == "a[31mb"
