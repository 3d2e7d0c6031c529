"""What came of a soak: counted while it runs, printed in the end."""

import threading
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from .world import Fault, Violation

MOST_SHOWN = 30

OUTCOMES = ("acknowledged", "answered", "refused", "no answer")

FAULTS = {
    "kills": "times the service was killed (SIGKILL)",
    "hands": "times a process that writes was killed",
    "crashes": "actors crashed",
    "full": "times the disk was filled up",
    "injected": "calls made to fail in the service",
    "traced": "times calls were made to fail by strace",
    "outages": "outages of the Tuist server",
}

CHECKS = {
    "rounds": "rounds",
    "calm": "of them without a fault",
    "files": "files compared byte for byte",
    "present": "acknowledged writes looked for on disk",
    "reads": "acknowledged writes read through nginx",
    "answers": "answers judged",
    "retired": "verified writes removed by the soak",
    "connections": "connections that nginx closed after an upload was refused",
    "weak": "acknowledgements that were not promised (see docs/reliability.md)",
}


class Tally:
    """Counts and violations. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations: Counter[tuple[str, str]] = Counter()
        self.statuses: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []

    def operation(self, kind: str, outcome: str) -> None:
        """An operation of a client is over."""
        with self._lock:
            self.operations[kind, outcome] += 1

    def status(self, status: int) -> None:
        """An answer has come."""
        with self._lock:
            self.statuses[status] += 1

    def add(self, what: str, number: int = 1) -> None:
        """Count one of `FAULTS` or `CHECKS`."""
        with self._lock:
            self.counts[what] += number

    def violate(self, violation: Violation | None) -> None:
        """Take in a violation, if there is one."""
        if violation is not None:
            with self._lock:
                self.violations.append(violation)

    def number_of(self, *faults: Fault) -> int:
        """How many things have violations of these kinds, however often they were met."""
        return len({each.what for each in self.violations if each.fault in faults})

    def as_json(self, seed: int, seconds: float) -> dict[str, Any]:
        """Everything, for programs."""
        operations: dict[str, dict[str, int]] = {}
        for (kind, outcome), number in sorted(self.operations.items()):
            operations.setdefault(kind, {})[outcome] = number
        return {
            "seed": seed,
            "seconds": round(seconds, 1),
            "operations": operations,
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
            "faults": {name: self.counts[name] for name in FAULTS},
            "checks": {name: self.counts[name] for name in CHECKS},
            "losses": self.number_of(Fault.LOST),
            "leftovers": self.number_of(Fault.LEFTOVER),
            "violations": [
                {"fault": each.fault.name.lower(), "what": each.what, "detail": each.detail}
                for each in self.violations
            ],
        }

    def print(self, console: Console, seed: int, seconds: float) -> None:
        """Tables, for people."""
        console.print(self._operations())
        console.print(self._summary(seed, seconds))
        for violation in self.violations[:MOST_SHOWN]:
            console.print(f"VIOLATION {violation}", style="bold red", markup=False, soft_wrap=True)
        if len(self.violations) > MOST_SHOWN:
            console.print(f"... and {len(self.violations) - MOST_SHOWN} more")

    def _operations(self) -> Table:
        table = Table(title="Operations", title_justify="left")
        table.add_column("kind")
        for outcome in OUTCOMES:
            table.add_column(outcome, justify="right")
        for kind in sorted({kind for kind, _ in self.operations}):
            numbers = (self.operations[kind, outcome] for outcome in OUTCOMES)
            table.add_row(kind, *(f"{number:,}" for number in numbers))
        table.add_section()
        sums = (sum(n for (_, o), n in self.operations.items() if o == each) for each in OUTCOMES)
        table.add_row("all", *(f"{number:,}" for number in sums))
        return table

    def _summary(self, seed: int, seconds: float) -> Table:
        table = Table(title=f"Soak of {seconds:.0f} s with seed {seed}", title_justify="left")
        table.add_column("what")
        table.add_column("number", justify="right")
        for names in (FAULTS, CHECKS):
            for name, meaning in names.items():
                table.add_row(meaning, f"{self.counts[name]:,}")
            table.add_section()
        for status, number in sorted(self.statuses.items()):
            table.add_row(f"answers with status {status}", f"{number:,}")
        table.add_section()
        for meaning, number in (
            ("acknowledged writes lost", self.number_of(Fault.LOST)),
            ("leftover temporary files", self.number_of(Fault.LEFTOVER)),
            ("violations in all", len(self.violations)),
        ):
            table.add_row(meaning, str(number), style="bold red" if number else "bold green")
        return table
