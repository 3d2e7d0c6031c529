"""What goes wrong behind a call has its status."""

import errno

import pytest
import trio

from cache_actors.actors.auth_cache import AccessUnknown, TooManyQuestions
from cache_actors.grpc.status import MAX_MESSAGE, CallFailed, Code, encoded, failure
from cache_actors.http.errors import BodyStalled, ClientDisconnected, overloaded
from cache_actors.storage.entries import MissingArtifact
from cache_actors.storage.errors import storage_error
from cache_actors.supervision import ActorCrashed, ActorStopped, MailboxFull
from cache_actors.transfer.upload import WrongDigest


@pytest.mark.parametrize(
    ("error", "code", "counted_as"),
    [
        (CallFailed(Code.NOT_FOUND, "x"), Code.NOT_FOUND, 404),
        (trio.TooSlowError(), Code.DEADLINE_EXCEEDED, 408),
        (BodyStalled(30), Code.DEADLINE_EXCEEDED, 408),
        (ClientDisconnected(), Code.CANCELLED, 499),
        (AccessUnknown("Tuist is down", 3), Code.UNAVAILABLE, 503),
        (TooManyQuestions(), Code.RESOURCE_EXHAUSTED, 429),
        (MailboxFull("kv_store"), Code.RESOURCE_EXHAUSTED, 429),
        (overloaded("x"), Code.RESOURCE_EXHAUSTED, 429),
        (ActorCrashed("disk_writer"), Code.UNAVAILABLE, 503),
        (ActorStopped("disk_writer"), Code.UNAVAILABLE, 503),
        (WrongDigest("x"), Code.INVALID_ARGUMENT, 422),
        (MissingArtifact("x/1"), Code.FAILED_PRECONDITION, 409),
        (storage_error(OSError(errno.ENOSPC, "full")), Code.RESOURCE_EXHAUSTED, 507),
        (storage_error(OSError(errno.EMFILE, "busy")), Code.RESOURCE_EXHAUSTED, 429),
        (storage_error(OSError(errno.EIO, "broken")), Code.INTERNAL, 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_have_a_status(error: Exception, code: Code, counted_as: int) -> None:
    failed = failure(error)
    assert failed is not None
    assert (failed.code, failed.http_status) == (code, counted_as)


def test_bug_has_none() -> None:
    assert failure(KeyError("x")) is None


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("Plain, with: punctuation/", "Plain, with: punctuation/"),
        ("100 %\r\nX: y", "100 %25%0D%0AX: y"),
        ("B\u00fcro", "B%C3%BCro"),
    ],
)
def test_message_is_encoded_for_trailers(message: str, sent: str) -> None:
    assert encoded(message) == sent
    assert len(encoded("x" * 10_000)) == MAX_MESSAGE
