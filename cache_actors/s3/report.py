"""What a process that asks the bucket reports of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .errors import BucketError, Misconfigured, Unreachable

if TYPE_CHECKING:
    from .bucket import Bucket


class CountedRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request to the bucket: its operation, its outcome, and the seconds that it took."""

    operation: str
    outcome: str
    seconds: float


class BucketReport(msgspec.Struct, frozen=True, array_like=True):
    """How the bucket is, for one process that asks it, and what it was asked since the last report.

    Attributes:
        state: one of `status.STATES`.
        reason: why it is not `ok`.
        is_stuck: whether a request does not end, so that the process has to be replaced.
        requests: the requests.
    """

    state: str
    reason: str | None = None
    is_stuck: bool = False
    requests: list[CountedRequest] = msgspec.field(default_factory=list)


def failed_disk(error: OSError) -> Unreachable:
    """What a process says that cannot use the bucket, since this node's disk fails it."""
    why = error.strerror or type(error).__name__
    return Unreachable(f"it is not used, as the disk of this node fails: {why}")


def bucket_report(
    bucket: Bucket | None,
    failure: BucketError | None,
    requests: list[CountedRequest],
    *,
    is_started: bool,
) -> BucketReport:
    """The report of a process on `bucket`, which is None if it could not be opened.

    Args:
        bucket: the bucket.
        failure: why it cannot be used, as far as that is known without its breaker.
        requests: the requests since the last report.
        is_started: whether the bucket has ever been of use.
    """
    is_stuck = bucket is not None and bucket.is_stuck()
    error = failure
    if error is None and bucket is not None:
        error = bucket.breaker.error
    if error is None:
        return BucketReport("ok" if is_started else "starting", None, is_stuck, requests)
    kind = "misconfigured" if isinstance(error, Misconfigured) else "unreachable"
    return BucketReport(kind, str(error), is_stuck, requests)
