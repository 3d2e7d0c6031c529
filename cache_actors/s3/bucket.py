"""The bucket: put, get, delete and list, over `obstore`, with limited waits and a breaker.

Nothing is tried twice here: who asks decides that. All calls block, and may be made by threads.
The library is imported when a bucket is opened, since most installations have none.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import certifi

from .breaker import Breaker
from .errors import BucketError, Misconfigured, Unreachable, error_of, is_missing_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from obstore.store import ObjectStore

    from .config import BucketConfig

CONNECT_SECONDS = 0.5
SMALL_SECONDS = 2.0
"""Longest time of a request with up to `SMALL_BYTES`, in seconds, from its begin to its end."""

SMALL_BYTES = 1 << 20

LARGE_SECONDS = 30.0
"""Longest time of a larger request, in seconds, or of each `LARGE_BYTES` of it."""

LARGE_BYTES = 32 << 20

STUCK_SECONDS = 60.0
"""Time in seconds beyond its longest from which a request counts as stuck."""

CHUNK_BYTES = 1 << 17
"""Least size of the pieces in which an object comes, in bytes, but for the last."""


def _tell_nobody(_operation: str, _outcome: str, _seconds: float) -> None:
    """Count no requests."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a list: its name, its size in bytes, and its `Object.last_modified`."""

    name: str
    size: int
    last_modified: float


class Object:
    """An object that the bucket has begun to send.

    Attributes:
        metadata: the metadata that it was put with, and others.
        last_modified: time of the put by the bucket's clock, in seconds since the epoch.
        size: bytes.
    """

    def __init__(
        self,
        result: Any,
        fails: Callable[[BucketError], None],
        timed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        meta = result.meta
        self.metadata: Mapping[str, str] = result.attributes
        self.last_modified: float = meta["last_modified"].timestamp()
        self.size: int = meta["size"]
        self._result = result
        self._fails = fails
        self._timed = timed

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces, as they arrive. May be called once.

        Raises:
            Unreachable: the rest does not come. What has come by then has not all its bytes.
        """
        received = 0
        try:
            pieces = iter(self._result.stream(min_chunk_size=CHUNK_BYTES))
            while (chunk := self._next_of(pieces)) is not None:
                received += len(chunk)
                yield bytes(chunk)
        except Exception as error:  # the library's, and there is nothing else that could be raised
            failure = _failure_of(error)
            self._fails(failure)
            raise failure from None
        if received != self.size:
            raise Unreachable("an object is shorter than the server said")

    def _next_of(self, pieces: Iterator[Any]) -> Any:
        with self._timed():
            return next(pieces, None)


class Bucket:
    """A bucket in S3; safe to use from threads.

    Args:
        config: which one.
        breaker: the breaker that all requests of a process share.
        count: called with each request's operation, outcome and seconds. The outcome is `ok`,
            `missing`, or the error's class in lower case.
        connect: opens the bucket for requests that may take so many seconds.

    Attributes:
        config: which one.
        breaker: the breaker.

    Raises:
        Misconfigured: the library, or the file with certificates, is missing, or the configuration
            is refused.
    """

    def __init__(
        self,
        config: BucketConfig,
        breaker: Breaker | None = None,
        count: Callable[[str, str, float], None] = _tell_nobody,
        connect: Callable[[BucketConfig, float], ObjectStore] | None = None,
    ) -> None:
        try:
            import obstore
        except ImportError as error:
            raise Misconfigured("the Python package obstore is not installed") from error
        self.config = config
        self.breaker = breaker or Breaker()
        self._obstore = obstore
        self._count = count
        self._connect = connect or connect_s3
        self._connecting = threading.Lock()
        self._stores: dict[float, ObjectStore] = {}
        self._limits: dict[object, float] = {}  # of what waits for the library, `time.monotonic()`
        self._store(SMALL_SECONDS)

    def put(self, name: str, data: Any, metadata: Mapping[str, str]) -> None:
        """Store `data`, a buffer, as the object `name`, in place of what there was.

        Raises:
            BucketError: it may be stored nevertheless, unless this is `BreakerOpen`.
        """
        size = len(data)
        seconds = seconds_for(size)
        with self._request("put", seconds):
            self._obstore.put(
                self._store(seconds),
                name,
                data,
                attributes=dict(metadata),
                use_multipart=False,
            )

    def get(self, name: str, seconds: float = SMALL_SECONDS) -> Object | None:
        """The object `name`, or None; all of it has to have come within `seconds`.

        Raises:
            BucketError: nobody knows whether there is one.
        """
        with self._request("get", seconds) as request:
            try:
                result = self._obstore.get(self._store(seconds), name)
            except FileNotFoundError as error:
                if not is_missing_object(str(error)):
                    raise
                request.outcome = "missing"
                return None
            return Object(
                result,
                lambda error: self.breaker.failed(request.period, error),
                lambda: self._timed(seconds),
            )

    def delete(self, name: str) -> None:
        """Delete the object `name`, if it is there.

        Raises:
            BucketError: it may still be there.
        """
        with self._request("delete") as request:
            try:
                self._obstore.delete(self._store(SMALL_SECONDS), name)
            except FileNotFoundError as error:
                if not is_missing_object(str(error)):
                    raise
                request.outcome = "missing"

    def list(self, folder: str) -> Iterator[Listed]:
        """The objects in `folder` and below it, in the order of their names, page by page.

        Raises:
            BucketError: the next ones are not known.
        """
        with self._request("list", LARGE_SECONDS):
            pages = iter(self._obstore.list(self._store(LARGE_SECONDS), folder, chunk_size=1000))
        while True:
            with self._request("list", LARGE_SECONDS):
                page = next(pages, None)
            if page is None:
                return
            for each in page:
                yield Listed(each["path"], each["size"], each["last_modified"].timestamp())

    def signed_url(self, name: str) -> str:
        """A URL that reads the object `name`, for a minute and without credentials.

        Raises:
            BucketError: there are no credentials.
        """
        with self._request("sign"):
            store: Any = self._store(SMALL_SECONDS)
            return str(self._obstore.sign(store, "GET", name, timedelta(minutes=1)))

    def is_stuck(self) -> bool:
        """Whether a request goes on for far longer than it may, so that its thread is lost."""
        now = time.monotonic()
        return any(limit < now for limit in list(self._limits.values()))

    @contextmanager
    def _timed(self, seconds: float) -> Iterator[None]:
        """Wait for the library, which should come back within so many seconds."""
        wait = object()
        self._limits[wait] = time.monotonic() + seconds + STUCK_SECONDS
        try:
            yield
        finally:
            del self._limits[wait]

    def _store(self, seconds: float) -> ObjectStore:
        """The connections for requests that may take so long; the library has one limit for all."""
        with self._connecting:
            if seconds not in self._stores:
                try:
                    self._stores[seconds] = self._connect(self.config, seconds)
                except Exception as error:
                    raise Misconfigured(_first_line(error)) from None
            return self._stores[seconds]

    @contextmanager
    def _request(self, operation: str, seconds: float = SMALL_SECONDS) -> Iterator[_Request]:
        """One request of at most so many seconds: refused by the breaker, or counted, with its
        errors as `BucketError`."""
        request = _Request(self.breaker.enter())
        began = time.monotonic()
        try:
            with self._timed(seconds):
                yield request
        except Exception as error:
            failure = error if isinstance(error, BucketError) else _failure_of(error)
            request.outcome = type(failure).__name__.lower()
            if request.outcome == "rejected":
                self.breaker.succeeded()
            else:
                self.breaker.failed(request.period, failure)
            raise failure from None  # the library's has the whole answer, perhaps with keys
        else:
            self.breaker.succeeded()
        finally:
            self._count(operation, request.outcome, time.monotonic() - began)


@dataclass(slots=True)
class _Request:
    """A request: the breaker's period in which it began, and its outcome."""

    period: int
    outcome: str = "ok"


def seconds_for(size: int) -> float:
    """The longest time for a request with `size` bytes, in seconds. There are few such times."""
    if size <= SMALL_BYTES:
        return SMALL_SECONDS
    return float(LARGE_SECONDS * 2 ** math.ceil(math.log2(max(1.0, size / LARGE_BYTES))))


def connect_s3(config: BucketConfig, seconds: float) -> ObjectStore:
    """Open the bucket `config` for requests that take `seconds` at most; nothing is sent yet.

    It trusts the certificates of the system, of certifi, and of the configuration.
    """
    from obstore.store import S3Store

    options: dict[str, Any] = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "timeout": timedelta(seconds=seconds),
    }
    certificates = [Path(certifi.where())]
    if config.ca_file is not None:
        certificates.append(Path(config.ca_file))
    options["root_certificate"] = b"\n".join(each.read_bytes() for each in certificates)
    named: dict[str, Any] = {
        "virtual_hosted_style_request": not config.path_style,
        "disable_bulk_delete": True,  # which not all servers have, and which answers in its own way
    }
    if config.endpoint is not None:
        named["endpoint"] = config.endpoint if config.path_style else _with_bucket(config)
    if config.region is not None:
        named["region"] = config.region
    return S3Store(
        config.bucket,
        client_options=options,  # type: ignore[arg-type]
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=seconds)},
        **named,
    )


def _with_bucket(config: BucketConfig) -> str:
    """The endpoint with the bucket in its host name, as the library wants it."""
    parts = urlsplit(config.endpoint or "")
    return urlunsplit(parts._replace(netloc=f"{config.bucket}.{parts.netloc}"))


def _failure_of(error: Exception) -> BucketError:
    return error_of(str(error))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
