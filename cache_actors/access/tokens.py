"""Memory of tokens: Tuist's last answer about each, for those that were used last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .grants import Access, TuistReply

MAX_TOKENS = 10_000
"""Largest number of tokens remembered, of those with access and again of those without."""

MAX_NAMES = 500_000
"""Largest number of project names remembered, over all tokens."""

NOTHING_KNOWN = TuistReply(Access.UNAUTHORIZED)
REFUSALS = {Access.UNAUTHORIZED, Access.UNVERIFIABLE, Access.FORBIDDEN}
NO_WORD = TuistReply(Access.GRANTED, is_whole=False)


@dataclass(slots=True)
class TokenState:
    """State of a token: Tuist's last word on it, and its last failure to answer after that.

    `word` is what the token says of itself, until `word_ends`; `answer` what the server has said.
    """

    answer: TuistReply = NOTHING_KNOWN
    answered_at: float = float("-inf")
    word: TuistReply = NO_WORD
    word_ends: float = float("-inf")
    failure: str = ""
    failed_at: float = float("-inf")
    names: int = 0  # project names, as counted when it was remembered

    def is_refused(self) -> bool:
        """Whether the server has refused it as such: it says nothing for itself any more."""
        has_answer = self.answered_at > float("-inf")
        return has_answer and self.answer.access in REFUSALS

    def count_names(self) -> int:
        """How many projects Tuist's words on it name."""
        return self.answer.names + self.word.names

    def is_in_outage(self) -> bool:
        """Whether Tuist has failed to answer about it since it last did."""
        return self.failed_at > self.answered_at


class TokenMemory:
    """The tokens used last: as many as fit, of those with access and of those without. Where names
    are too many, the token with most of them is not remembered."""

    def __init__(self) -> None:
        self._with_access: OrderedDict[bytes, TokenState] = OrderedDict()
        self._without: OrderedDict[bytes, TokenState] = OrderedDict()
        self._names = 0

    def get(self, key: bytes) -> TokenState:
        """The state of a token; an empty one if it is not remembered."""
        if key in self._with_access:
            self._with_access.move_to_end(key)
            return self._with_access[key]
        return self._without.get(key) or TokenState()

    def put(self, key: bytes, token: TokenState) -> None:
        """Remember `token`, and forget others if there are too many."""
        self._without.pop(key, None)
        self._forget_with_access(key)
        token.names = token.count_names()
        if not token.names:
            self._without[key] = token
            if len(self._without) > MAX_TOKENS:
                self._without.popitem(last=False)
            return
        self._with_access[key] = token
        self._names += token.names
        while len(self._with_access) > MAX_TOKENS:
            self._forget_with_access(next(iter(self._with_access)))
        while self._names > MAX_NAMES:  # the largest goes, or it would push out all others
            largest = max(self._with_access, key=lambda each: self._with_access[each].names)
            self._forget_with_access(largest)

    def _forget_with_access(self, key: bytes) -> None:
        if token := self._with_access.pop(key, None):
            self._names -= token.names
