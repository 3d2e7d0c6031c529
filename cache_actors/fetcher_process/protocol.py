"""The messages between the fetcher and its process."""

from __future__ import annotations

import msgspec

from cache_actors.s3.config import BucketConfig  # noqa: TC001  # msgspec looks for it
from cache_actors.s3.outcome import Outcome  # noqa: TC001  # msgspec looks for it
from cache_actors.s3.report import BucketReport  # noqa: TC001  # msgspec looks for it

MAX_FLIGHTS = 64
"""Number of files that the process is asked for at once."""


class FetcherConfig(msgspec.Struct, frozen=True):
    """The configuration of the process; JSON, in its command line.

    Attributes:
        channel: the descriptor of its end of the socket.
        root: the storage folder.
        durable: whether to sync before anything is reported done.
        max_bytes: what the storage folder may take, if that is limited.
        bucket: the bucket.
        server_url: URL of the Tuist server, which tells installations apart.
        entry_seconds: age in seconds from which an entry in the bucket counts as gone.
        max_entry_bytes: size of the largest entry or action, in bytes.
    """

    channel: int
    root: str
    durable: bool
    max_bytes: int | None
    bucket: BucketConfig
    server_url: str
    entry_seconds: float
    max_entry_bytes: int


class PullRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Pull the file at `place` (`Key.place`); `number` tells requests apart.

    `taken` is what has been stored and reserved, in bytes, if the storage folder is limited.
    """

    number: int
    place: str
    taken: int


class TellRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tell all nodes of the cleans that this node knows of; `number` tells requests apart."""

    number: int


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that has been stored: its place (`Key.place`), and its size in bytes on disk."""

    place: str
    size: int


class Noticed(msgspec.Struct, frozen=True, array_like=True):
    """Something wrong: `dangling`, `unusable` or `failed`, with which file, and why.

    An entry is dangling of which an artifact is gone. An object that is unusable is not what was
    put. The other is a request that failed.
    """

    what: str
    place: str
    reason: str


class FollowedClean(msgspec.Struct, frozen=True, array_like=True):
    """Files of the project `account/name` that have been removed, as another node has cleaned it:
    their number, and their bytes on disk."""

    account: str
    name: str
    files: int
    bytes: int


class PullReport(msgspec.Struct, frozen=True, array_like=True):
    """What has happened since the last report, and how it is now.

    Attributes:
        bucket: how the bucket is.
        outcomes: by the numbers of requests; `COMING` is followed by another one.
        stored: the files that have been stored.
        noticed: what was wrong.
        told: the requests to tell of cleans, by their numbers, with what went wrong, if anything.
        followed: the cleans of other nodes that have been followed here.
        troubles: what went wrong with such cleans, a line each.
    """

    bucket: BucketReport
    outcomes: list[tuple[int, Outcome]]
    stored: list[StoredFile]
    noticed: list[Noticed]
    told: list[tuple[int, str | None]]
    followed: list[FollowedClean]
    troubles: list[str]


decode_request = msgspec.msgpack.Decoder(PullRequest | TellRequest).decode
decode_report = msgspec.msgpack.Decoder(PullReport).decode
