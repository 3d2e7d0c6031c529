"""What a check finds: a subject, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was looked at, how it is, and what to do about it, if anything."""

    subject: str
    verdict: Verdict
    text: str
    advice: str | None = None
