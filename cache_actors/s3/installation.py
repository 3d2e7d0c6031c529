"""The claim of an installation on a prefix of a bucket.

Projects are told apart by their names alone, which two Tuist servers may both have. So an object
says which server a prefix is for, and nothing is put beside the objects of another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Misconfigured
from .names import top

if TYPE_CHECKING:
    from .bucket import Bucket

MAX_BYTES = 4096
"""Largest size in bytes of what an installation writes into the object."""


def claim_name(prefix: str) -> str:
    """The name of the object that says which installation a prefix is for."""
    return f"{top(prefix)}/.installation"


def claim(bucket: Bucket, server_url: str) -> None:
    """Claim the prefix for the installation of the Tuist server at `server_url`, if nobody has.

    Raises:
        Misconfigured: another installation has claimed it.
        BucketError: the bucket could not be asked.
    """
    name = claim_name(bucket.config.prefix)
    found = bucket.get(name)
    if found is None:
        bucket.put(name, server_url.encode(), {})
        return
    said = b"" if found.size > MAX_BYTES else b"".join(found.chunks())
    if said != server_url.encode():
        who = ascii(said.decode(errors="replace"))
        raise Misconfigured(f"the prefix is for the Tuist server {who}; delete {name} to change it")
