"""The messages between the replicator and its process."""

from __future__ import annotations

import msgspec

from cache_actors.s3.config import BucketConfig  # noqa: TC001  # msgspec looks for it
from cache_actors.s3.report import BucketReport  # noqa: TC001  # msgspec looks for it


class ReplicatorConfig(msgspec.Struct, frozen=True):
    """The configuration of the process; JSON, in its command line.

    Attributes:
        channel: the descriptor of its end of the socket.
        root: the storage folder.
        bucket: the bucket.
        server_url: URL of the Tuist server, which tells installations apart.
        concurrency: number of pushes at once.
        entries: whether entries are pushed too.
    """

    channel: int
    root: str
    bucket: BucketConfig
    server_url: str
    concurrency: int
    entries: bool


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that has been stored: its place (`Key.place`), and its size in bytes on disk."""

    place: str
    size: int


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Files that have been stored; others may have been too if it is not `complete`."""

    files: list[StoredFile]
    complete: bool = True


class FinishedFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that is finished with (`Finished`): its place, whether it is in the bucket, why it is
    left if it is, and the seconds since it was announced."""

    place: str
    is_shared: bool
    reason: str | None = None
    lag: float | None = None


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What has happened since the last report, and how it is now.

    Attributes:
        bucket: how the bucket is.
        files, bytes, oldest: the `Backlog`.
        finished: the files that are finished with.
        troubles: what else has gone wrong, a line each.
    """

    bucket: BucketReport
    files: int
    bytes: int
    oldest: float
    finished: list[FinishedFile]
    troubles: list[str]


decode_announcement = msgspec.msgpack.Decoder(Announcement).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
