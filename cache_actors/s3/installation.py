"""The claim of an installation on a prefix of a bucket, without which nothing is done there.

Projects are told apart by their names alone, which two Tuist servers may both have. So an object
says which server a prefix is for, and nobody puts or looks for anything beside the objects of
another one. All of the service and its commands have only a `ClaimedBucket`, which sees to that.

The claim is looked at again and again, since of two installations that claim a prefix at once the
later one has it. And it is renewed, or the rule that removes old objects would remove it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .bucket import SMALL_SECONDS, Bucket, Listed, Object
from .errors import Misconfigured
from .names import top

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from obstore.store import ObjectStore

    from .breaker import Breaker
    from .config import BucketConfig

MAX_BYTES = 4096
"""Largest size in bytes of what an installation writes into the object."""

RENEW_SECONDS = 86_400.0
"""Age in seconds from which a claim is put again."""


class ForeignPrefix(Misconfigured):
    """The prefix is another installation's."""


def claim_name(prefix: str) -> str:
    """The name of the object that says which installation a prefix is for."""
    return f"{top(prefix)}/.installation"


class ClaimedBucket(Bucket):
    """A bucket of which the prefix is this installation's; until `claim`, every request fails.

    Args:
        config: which one.
        server_url: URL of the installation's Tuist server.
        more: as of `Bucket`.

    Raises:
        Misconfigured: as `Bucket`.
    """

    def __init__(
        self,
        config: BucketConfig,
        server_url: str,
        breaker: Breaker | None = None,
        count: Callable[[str, str, float], None] | None = None,
        connect: Callable[[BucketConfig, float], ObjectStore] | None = None,
    ) -> None:
        more = {} if count is None else {"count": count}
        super().__init__(config, breaker, connect=connect, **more)
        self._claim = server_url.encode()
        self._refusal: Misconfigured | None = Misconfigured("the prefix has not been claimed")

    def claim(self) -> None:
        """Claim the prefix, if nobody has, and renew a claim that is old; may be called again.

        Raises:
            ForeignPrefix: another installation has claimed it; every request fails from now on.
            BucketError: the bucket could not be asked.
        """
        name = claim_name(self.config.prefix)
        found = super().get(name)
        if found is not None and (said := _said(found)) != self._claim:
            who = ascii(said.decode(errors="replace"))
            self._refusal = ForeignPrefix(
                f"the prefix is for the Tuist server {who}; delete {name} to change it"
            )
            raise self._refusal
        if found is None or time.time() - found.last_modified > RENEW_SECONDS:
            super().put(name, self._claim, {})
        self._refusal = None

    def put(self, name: str, data: Any, metadata: Mapping[str, str]) -> None:
        """Store `data`: see `Bucket.put`."""
        self._require_claim()
        super().put(name, data, metadata)

    def get(self, name: str, seconds: float = SMALL_SECONDS) -> Object | None:
        """The object `name`: see `Bucket.get`."""
        self._require_claim()
        return super().get(name, seconds)

    def delete(self, name: str) -> None:
        """Delete the object `name`: see `Bucket.delete`."""
        self._require_claim()
        super().delete(name)

    def list(self, folder: str) -> Iterator[Listed]:
        """The objects in `folder`: see `Bucket.list`."""
        self._require_claim()
        return super().list(folder)

    def _require_claim(self) -> None:
        if self._refusal is not None:
            raise self._refusal


def _said(found: Object) -> bytes:
    return b"" if found.size > MAX_BYTES else b"".join(found.chunks())
