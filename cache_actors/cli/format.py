"""Figures in words, and words that are safe to print. What is not known is a dash."""

from __future__ import annotations

UNKNOWN = "-"

_UNITS_OF_TIME = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_UNITS_OF_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def format_number(number: float | None) -> str:
    """A number, with as many digits as say something."""
    if number is None:
        return UNKNOWN
    if number == int(number) or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2g}" if abs(number) < 10 else f"{number:.3g}"


def format_percent(share: float | None) -> str:
    """A share of one, in percent."""
    return UNKNOWN if share is None else f"{format_number(round(share * 100, 1))} %"


def format_bytes(number: float | None) -> str:
    """Bytes, with the unit that suits them."""
    if number is None:
        return UNKNOWN
    for unit in _UNITS_OF_BYTES[:-1]:
        if number < 1000:
            return f"{format_number(number)} {unit}"
        number /= 1000
    return f"{format_number(number)} {_UNITS_OF_BYTES[-1]}"


def format_seconds(seconds: float | None) -> str:
    """Seconds, in one unit or two: `40 ms`, `4 s`, `3 min 20 s`, `2 d 5 h`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    first = next(index for index, (size, _) in enumerate(_UNITS_OF_TIME) if seconds >= size)
    parts = []
    for size, unit in _UNITS_OF_TIME[first : first + 2]:
        whole, seconds = divmod(seconds, size)
        parts += [f"{whole:.0f} {unit}"] if whole else []
    return " ".join(parts)


def printable(text: str) -> str:
    """Somebody else's text, without what could tell a terminal to do something."""
    return "".join(character for character in text if character.isprintable())
