"""The memory of tokens: Tuist's last answer about each of the most recently used ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .grants import Access, TuistReply

MAX_TOKENS = 10_000
"""Largest number of remembered tokens with access, and likewise of those without."""

MAX_NAMES = 500_000
"""Largest number of remembered project names of all tokens together."""

NOTHING_KNOWN = TuistReply(Access.UNAUTHORIZED)
REFUSALS = {Access.UNAUTHORIZED, Access.UNVERIFIABLE, Access.FORBIDDEN}
NO_CLAIMS = TuistReply(Access.GRANTED, is_whole=False)
"""Claims that settle nothing, so that the server has to be asked."""


@dataclass(slots=True)
class TokenState:
    """The state of a token; all times are in `trio.current_time()`.

    Attributes:
        answer: the server's last answer, at `answered_at`.
        claims: the grants in the token's own claims, which hold until `claims_end`.
        failure: the server's last failure to answer, at `failed_at`.
        names: number of project names, as counted when the token was remembered.
    """

    answer: TuistReply = NOTHING_KNOWN
    answered_at: float = float("-inf")
    claims: TuistReply = NO_CLAIMS
    claims_end: float = float("-inf")
    failure: str = ""
    failed_at: float = float("-inf")
    names: int = 0

    @property
    def has_access(self) -> bool:
        """Whether the token had access to any project when it was remembered."""
        return self.names > 0

    def is_refused(self) -> bool:
        """Whether the server has refused the token itself, so that its claims are ignored."""
        has_answer = self.answered_at > float("-inf")
        return has_answer and self.answer.access in REFUSALS

    def count_names(self) -> int:
        """The number of project names in the answer and the claims."""
        return self.answer.names + self.claims.names

    def projects_named(self, name: str) -> frozenset[str]:
        """The projects with the handle `name` in the answer and the claims, of any account."""
        end = f"/{name}"
        sources = (self.answer, self.claims)
        named = (each for source in sources for each in source.projects | source.read_only)
        return frozenset(each for each in named if each.endswith(end) and each.count("/") == 1)

    def is_in_outage(self) -> bool:
        """Whether Tuist failed to answer about the token after its last answer."""
        return self.failed_at > self.answered_at


class TokenMemory:
    """The most recently used tokens, separately for those with and without access.

    If project names exceed `MAX_NAMES`, the token with the most names is forgotten.
    """

    def __init__(self) -> None:
        self._with_access: OrderedDict[bytes, TokenState] = OrderedDict()
        self._without: OrderedDict[bytes, TokenState] = OrderedDict()
        self._names = 0

    def get(self, key: bytes) -> TokenState:
        """The state of a token; a new one if the token is not remembered."""
        if key in self._with_access:
            self._with_access.move_to_end(key)
            return self._with_access[key]
        return self._without.get(key) or TokenState()

    def put(self, key: bytes, token: TokenState) -> None:
        """Remember `token`, and forget others beyond the limits."""
        self._without.pop(key, None)
        self._forget_with_access(key)
        token.names = token.count_names()
        if not token.has_access:
            self._without[key] = token
            if len(self._without) > MAX_TOKENS:
                self._without.popitem(last=False)
            return
        self._with_access[key] = token
        self._names += token.names
        while len(self._with_access) > MAX_TOKENS:
            self._forget_with_access(next(iter(self._with_access)))
        while self._names > MAX_NAMES:  # the least recent first would let one token evict all
            largest = max(self._with_access, key=lambda each: self._with_access[each].names)
            self._forget_with_access(largest)

    def _forget_with_access(self, key: bytes) -> None:
        if token := self._with_access.pop(key, None):
            self._names -= token.names
