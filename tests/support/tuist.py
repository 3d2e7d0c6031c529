"""A stand-in Tuist server whose answers tests can delay or replace by an outage."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from cache_actors.cli.dev.tuist import StandInTuist

LONGEST = 60.0
"""Longest time for which an answer is held, in seconds."""


class HeldTuist(StandInTuist):
    """A Tuist server on loopback, as its base class; see there for its attributes."""

    def __init__(self, tokens: dict[str, list[str]] | None = None) -> None:
        super().__init__({} if tokens is None else tokens)
        self._may_answer = Event()
        self._may_answer.set()

    def answer(self, authorization: str | None) -> tuple[int, object]:
        """The status and body of an answer, once answers are not held."""
        self._may_answer.wait(LONGEST)
        return super().answer(authorization)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold all answers until the context ends."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse new connections, and answer 500 on open ones, until the context ends."""
        self.status = 500
        self.stop()
        try:
            yield
        finally:
            self.status = None
            self.start()
