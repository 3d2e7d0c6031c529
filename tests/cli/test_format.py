"""Figures in words."""

from __future__ import annotations

import pytest

from cache_actors.cli import format as words
from tests.support.up_answers import FIGURES

FORMATS = {
    "figures": words.format_number,
    "percent": words.format_percent,
    "bytes": words.format_bytes,
    "time": words.format_seconds,
}


@pytest.mark.parametrize(("kind", "figure", "told"), FIGURES)
def test_figures_in_words(kind: str, figure: float | None, told: str) -> None:
    assert FORMATS[kind](figure) == told


def test_text_cannot_tell_the_terminal_anything() -> None:
    assert words.printable("a\x1b[31m\r\nb") == "a[31mb"
