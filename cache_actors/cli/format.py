"""Formatting of figures and of untrusted text for a terminal. An unknown figure is a dash."""

from __future__ import annotations

UNKNOWN = "-"

_UNITS_OF_TIME = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_UNITS_OF_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def format_number(number: float | None) -> str:
    """A number with two or three significant digits; whole, or from 100 on, without decimals."""
    if number is None:
        return UNKNOWN
    if number == int(number) or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2g}" if abs(number) < 10 else f"{number:.3g}"


def format_percent(share: float | None) -> str:
    """A share from 0 to 1, in percent."""
    return UNKNOWN if share is None else f"{format_number(round(share * 100, 1))} %"


def format_bytes(number: float | None) -> str:
    """A number of bytes, with a decimal unit: `26 MB` is 26,000,000."""
    if number is None:
        return UNKNOWN
    for unit in _UNITS_OF_BYTES[:-1]:
        if number < 1000:
            return f"{format_number(number)} {unit}"
        number /= 1000
    return f"{format_number(number)} {_UNITS_OF_BYTES[-1]}"


def format_seconds(seconds: float | None) -> str:
    """A duration in seconds, with one or two units: `40 ms`, `4 s`, `3 min 20 s`, `2 d 5 h`."""
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
    """Untrusted text without its unprintable characters, such as a terminal's control codes."""
    return "".join(character for character in text if character.isprintable())
