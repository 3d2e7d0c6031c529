"""A Tuist server that can be made to keep people waiting, so that tests need not hurry."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.cli.dev.tuist import Question, StandInTuist
from tests.support.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class HeldTuist(StandInTuist):
    """The stand-in, which answers at once, or when it is told to.

    Attributes:
        gates: what the answer about a token waits for.
    """

    gates: dict[str, threading.Event] = field(default_factory=dict)

    def answer(self, authorization: str | None) -> tuple[int, object]:
        """As the stand-in, once it may."""
        gate = self.gates.get((authorization or "").removeprefix("Bearer "))
        if gate is not None:
            gate.wait(LIMIT)
        return StandInTuist.answer(self, authorization)

    def about(self, token: str) -> list[Question]:
        """What has been asked about a token."""
        return [q for q in self.questions if q.authorization == f"Bearer {token}"]

    @contextmanager
    def held(self, *tokens: str) -> Iterator[None]:
        """Answer nothing about these tokens meanwhile."""
        gate = threading.Event()
        self.gates.update(dict.fromkeys(tokens, gate))
        try:
            yield
        finally:
            gate.set()

    def wait_for_questions(self, *tokens: str) -> None:
        """Return once each of `tokens` has been asked about."""
        eventually(lambda: all(self.about(token) for token in tokens))
