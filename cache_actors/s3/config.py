"""Which bucket, and how it is reached. Credentials are not part of it: the library finds them."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cache_actors.settings import Settings


class BucketConfig(msgspec.Struct, frozen=True):
    """A bucket and the way to it, as in the settings (docs/reference/settings.md).

    Attributes:
        bucket: the name of the bucket.
        endpoint: URL of the server; None for AWS.
        region: its region; None for what `AWS_REGION` says, or us-east-1.
        prefix: what the names of all objects begin with, without a slash at its ends; may be empty.
        path_style: whether the bucket is in the path of URLs, rather than in their host name.
        ca_file: file with certificates to trust beside the system's.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    prefix: str = ""
    path_style: bool = False
    ca_file: str | None = None

    @property
    def target(self) -> int:
        """A number that tells this bucket and prefix from others, 32 bits, for marks on files."""
        return zlib.crc32("\n".join([self.endpoint or "", self.bucket, self.prefix]).encode())


def bucket_config(settings: Settings) -> BucketConfig | None:
    """The configuration of the bucket; None if there is none."""
    if settings.s3_bucket is None:
        return None
    endpoint = (
        str(settings.s3_endpoint).rstrip("/")
        if settings.s3_endpoint
        else os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    path_style = settings.s3_path_style
    return BucketConfig(
        bucket=settings.s3_bucket,
        endpoint=endpoint,
        region=settings.s3_region,
        prefix=settings.s3_prefix,
        path_style=endpoint is not None if path_style is None else path_style,
        ca_file=None if settings.s3_ca_file is None else str(settings.s3_ca_file),
    )
