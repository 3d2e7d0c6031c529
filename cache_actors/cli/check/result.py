"""Results of checks: a subject, a verdict, and advice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The verdict of a check."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `advice` is None if there is nothing to do."""

    subject: str
    verdict: Verdict
    text: str
    advice: str | None = None
