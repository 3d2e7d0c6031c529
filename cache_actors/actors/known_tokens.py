"""What is known of tokens: Tuist's last answer about each, for as many as are remembered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .tuist_api import Access, Answer

MOST_TOKENS = 10_000
"""Tokens remembered, of those with access and of those without."""

MOST_NAMES = 500_000
"""Project names remembered, over all tokens."""

NOTHING_KNOWN = Answer(Access.UNAUTHORIZED)


@dataclass(slots=True)
class Token:
    """What is known of a token: Tuist's last answer, and its last failure to answer after that."""

    answer: Answer = NOTHING_KNOWN
    answered_at: float = float("-inf")
    failure: str = ""
    failed_at: float = float("-inf")
    names: int = 0  # project names, as counted when it was remembered

    def is_in_outage(self) -> bool:
        """Whether Tuist has failed to answer about it since it last did."""
        return self.failed_at > self.answered_at


class Tokens:
    """The tokens used last: as many as fit, of those with access and of those without. Where names
    are too many, the token with most of them is not remembered."""

    def __init__(self) -> None:
        self._with_access: OrderedDict[bytes, Token] = OrderedDict()
        self._without: OrderedDict[bytes, Token] = OrderedDict()
        self._names = 0

    def get(self, key: bytes) -> Token:
        """What is known of a token, which may be nothing."""
        if key in self._with_access:
            self._with_access.move_to_end(key)
            return self._with_access[key]
        return self._without.get(key) or Token()

    def put(self, key: bytes, token: Token) -> None:
        """Remember `token`, and forget others if there are too many."""
        self._without.pop(key, None)
        self._forget_with_access(key)
        if not token.answer.projects:
            self._without[key] = token
            if len(self._without) > MOST_TOKENS:
                self._without.popitem(last=False)
            return
        self._with_access[key] = token
        token.names = len(token.answer.projects)
        self._names += token.names
        while len(self._with_access) > MOST_TOKENS:
            self._forget_with_access(next(iter(self._with_access)))
        while self._names > MOST_NAMES:  # the largest goes, or it would push out all others
            largest = max(self._with_access, key=lambda each: self._with_access[each].names)
            self._forget_with_access(largest)

    def _forget_with_access(self, key: bytes) -> None:
        if token := self._with_access.pop(key, None):
            self._names -= token.names
