"""A stand-in Tuist server that can be held: it is asked, and does not answer for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from cache_actors.dev.tuist import StandInTuist

LONGEST = 60.0
"""Seconds for which a question is held if nobody lets it go."""


class HeldTuist(StandInTuist):
    """A Tuist server on loopback, as its base class; see there for its attributes."""

    def __init__(self, tokens: dict[str, list[str]] | None = None) -> None:
        super().__init__({} if tokens is None else tokens)
        self._may_answer = Event()
        self._may_answer.set()

    def answer(self, authorization: str | None) -> tuple[int, object]:
        """Status and body of the answer to a question, once it may be answered."""
        self._may_answer.wait(LONGEST)
        return super().answer(authorization)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is answered inside; whoever waits for an answer gets it afterwards."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Connections are refused inside, and those that are open get errors."""
        self.status = 500
        self.stop()
        try:
            yield
        finally:
            self.status = None
            self.start()
