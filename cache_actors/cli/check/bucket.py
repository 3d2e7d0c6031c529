"""The bucket: what the service may do there, what comes back, and what removes old objects."""

from __future__ import annotations

import re
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx

from cache_actors.s3.bucket import Bucket, Object
from cache_actors.s3.config import bucket_config
from cache_actors.s3.errors import BucketError, Misconfigured, Unreachable
from cache_actors.s3.installation import ClaimedBucket, ForeignPrefix
from cache_actors.s3.names import SHA256, STORED, top
from cache_actors.s3.push import REFRESH_SECONDS
from cache_actors.storage.integrity.checksum import has_checksums

from .result import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.settings import Settings

SPARE_DAYS = 2.0
"""Days that objects should stay beyond what is needed: rules are carried out once a day."""

MAX_CLOCK_SECONDS = 300.0
"""Largest difference of clocks that passes, in seconds; S3 refuses requests from 900 on."""

DAY = 86_400.0

_EXPIRY = re.compile(r'expiry-date="([^"]+)"')
_METADATA = {SHA256: "ab" * 32, STORED: "1"}


def check_bucket(settings: Settings) -> Iterator[CheckResult]:
    """Check the bucket, if there is one."""
    config = bucket_config(settings)
    if config is None:
        return
    try:
        if not has_checksums(settings.cas_storage_dir):
            text = "the storage has none, so that nothing is put into the bucket"
            advice = "Use a file system with them: ext4, xfs or btrfs."
            yield CheckResult("bucket and attributes", Verdict.BROKEN, text, advice)
    except OSError:
        pass  # told by the check of the storage
    try:
        yield _missing(Bucket(config), f"{top(config.prefix)}/.check/{uuid4().hex}")
        bucket = ClaimedBucket(config, str(settings.server_url))
        bucket.claim()
        yield from _check(bucket, settings)
    except ForeignPrefix as error:
        advice = "Set another S3_PREFIX, or delete that object if the server has got another URL."
        yield CheckResult("bucket and others", Verdict.BROKEN, str(error), advice)
    except BucketError as error:
        yield CheckResult("bucket", Verdict.BROKEN, str(error), _advice(error))


def _advice(error: BucketError) -> str:
    if isinstance(error, Misconfigured):
        return "See docs/how-to/s3.md for what the service must be allowed to do."
    if isinstance(error, Unreachable):
        return "Look whether S3_ENDPOINT is right, and can be reached from here."
    return "Ask the server's log why it has refused this."


def _check(bucket: ClaimedBucket, settings: Settings) -> Iterator[CheckResult]:
    """Check a bucket with a trial object, which is deleted.

    Raises:
        BucketError: it does not do what is needed.
    """
    name = f"{top(bucket.config.prefix)}/.check/{uuid4().hex}"
    bucket.put(name, b"first", {})
    began = time.time()
    bucket.put(name, b"second", _METADATA)
    try:
        found = bucket.get(name)
        if found is None or b"".join(found.chunks()) != b"second":
            text = "an object that was just put cannot be read back"
            advice = "Nodes would not find what others have stored: use another server."
            yield CheckResult("bucket", Verdict.BROKEN, text, advice)
            return
        text = f"{bucket.config.bucket} can be written to and read"
        yield CheckResult("bucket", Verdict.OK, text)
        yield _metadata(found)
        yield _clock(found.last_modified - began)
        yield _expiry(_expiry_header(bucket, name), found.last_modified, settings.s3_entry_days)
    finally:
        bucket.delete(name)
    if bucket.get(name) is not None:
        text, advice = "an object that was deleted is still there", "Allow s3:DeleteObject."
        yield CheckResult("bucket and deletes", Verdict.BROKEN, text, advice)


def _missing(bucket: Bucket, name: str) -> CheckResult:
    """Check that an object which does not exist is answered with 404.

    Raises:
        BucketError: for another reason than that.
    """
    subject = "missing objects"
    try:
        if bucket.get(name) is None:
            return CheckResult(subject, Verdict.OK, "they are told from forbidden ones")
    except Misconfigured as error:
        if "403" not in str(error) or "AccessDenied" not in str(error):
            raise
        text = "they are answered with 403: each would count as an error"
        return CheckResult(subject, Verdict.BROKEN, text, "Allow s3:ListBucket for the bucket.")
    return CheckResult(subject, Verdict.BROKEN, f"there is an object at {name}", "Delete it.")


def _metadata(found: Object) -> CheckResult:
    if _METADATA.items() <= dict(found.metadata).items():
        return CheckResult("object metadata", Verdict.OK, "they come back as they were put")
    text = "they do not come back as they were put"
    advice = "Other nodes cannot check what they read: use another server."
    return CheckResult("object metadata", Verdict.BROKEN, text, advice)


def _clock(ahead: float) -> CheckResult:
    if abs(ahead) <= MAX_CLOCK_SECONDS:
        return CheckResult("bucket's clock", Verdict.OK, "it agrees with this machine's")
    text = f"it differs from this machine's by {abs(ahead):.0f} s"
    return CheckResult("bucket's clock", Verdict.WARNING, text, "Have both follow NTP.")


def _expiry_header(bucket: Bucket, name: str) -> str | None:
    """What the server says of when the object `name` will be removed.

    The answer to any reader says so: the rules themselves need not be read, nor be allowed to be.
    """
    context = ssl.create_default_context()
    if bucket.config.ca_file is not None:
        context.load_verify_locations(bucket.config.ca_file)
    try:
        answer = httpx.get(bucket.signed_url(name), timeout=10, verify=context)
    except httpx.HTTPError:
        return None
    header: str | None = answer.headers.get("x-amz-expiration")
    return header


def _expiry(header: str | None, put: float, entry_days: float) -> CheckResult:
    """Check how long objects stay, by the header of one that was put at the time `put`."""
    subject = "bucket's lifecycle"
    needed = entry_days + REFRESH_SECONDS / DAY + SPARE_DAYS
    advice = f"Have a rule remove objects below the prefix {max(needed, 30):.0f} days after a put."
    found = _EXPIRY.search(header or "")
    if found is None:
        text = "no rule is known that removes old objects: the bucket grows for ever"
        return CheckResult(subject, Verdict.WARNING, text, advice)
    try:
        expires = parsedate_to_datetime(found[1]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return CheckResult(subject, Verdict.WARNING, f"unknown: {found[1][:60]!r}", advice)
    days = (expires - put) / DAY
    if days < needed:
        text = f"objects are removed after {days:.0f} days, and {needed:.0f} are needed"
        return CheckResult(subject, Verdict.BROKEN, text, advice)
    return CheckResult(subject, Verdict.OK, f"objects are removed after {days:.0f} days")
