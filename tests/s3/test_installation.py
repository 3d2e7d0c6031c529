"""The claim on a prefix: nobody does anything in another installation's, whatever they forget."""

from collections.abc import Callable
from typing import Any

import pytest
from obstore.store import MemoryStore

from cache_actors.s3 import installation
from cache_actors.s3.errors import Misconfigured, Unreachable
from cache_actors.s3.installation import ClaimedBucket, ForeignPrefix

from .pushes import CONFIG, SERVER

NAME = "cache/1/.installation"

Open = Callable[..., ClaimedBucket]


@pytest.fixture
def opened() -> Open:
    """Opens one bucket, for a server."""
    store = MemoryStore()
    return lambda server=SERVER: ClaimedBucket(CONFIG, server, connect=lambda *_: store)


REQUESTS: dict[str, Callable[[ClaimedBucket], Any]] = {
    "put": lambda bucket: bucket.put("a", b"bytes", {}),
    "get": lambda bucket: bucket.get("a"),
    "delete": lambda bucket: bucket.delete("a"),
    "list": lambda bucket: list(bucket.list("")),
}


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_nothing_is_done_before_the_prefix_is_claimed_or_once_it_is_anothers(
    opened: Open, request_of: Callable[[ClaimedBucket], Any]
) -> None:
    bucket = opened()
    with pytest.raises(Misconfigured, match="claimed"):
        request_of(bucket)
    bucket.claim()
    request_of(bucket)
    theirs = opened("https://other.example")
    with pytest.raises(ForeignPrefix, match=SERVER):
        theirs.claim()
    with pytest.raises(ForeignPrefix, match=f"delete {NAME}"):
        request_of(theirs)


def test_the_later_of_two_that_claim_at_once_has_it_and_the_other_finds_out(opened: Open) -> None:
    first, second = opened(), opened("https://other.example")
    first.claim()
    super(ClaimedBucket, second).delete(NAME)  # as if the first had not been there yet
    second.claim()
    second.claim()
    with pytest.raises(ForeignPrefix, match="other"):
        first.claim()
    with pytest.raises(ForeignPrefix):
        first.put("a", b"bytes", {})


def test_claim_is_renewed_when_it_is_old_and_not_before(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = opened()
    counted: list[str] = []
    bucket._count = lambda operation, *_: counted.append(operation)
    for _ in range(2):
        bucket.claim()
    assert counted == ["get", "put", "get"]
    monkeypatch.setattr(installation, "RENEW_SECONDS", -60.0)
    bucket.claim()
    assert counted[3:] == ["get", "put"]


def test_claim_that_has_expired_is_made_again(opened: Open) -> None:
    bucket = opened()
    bucket.claim()
    bucket.delete(NAME)
    bucket.claim()
    with pytest.raises(ForeignPrefix):
        opened("https://other.example").claim()


def test_outage_does_not_take_a_claim_away(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = opened()
    bucket.claim()
    get = bucket._obstore.get

    def fail(*_: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(bucket._obstore, "get", fail)
    with pytest.raises(Unreachable):
        bucket.claim()
    monkeypatch.setattr(bucket._obstore, "get", get)
    bucket.put("a", b"bytes", {})


@pytest.mark.parametrize("said", [b"", b"x" * 5000, b"\xff\n"])
def test_object_with_anything_else_in_it_is_another_ones(opened: Open, said: bytes) -> None:
    bucket = opened()
    bucket.claim()
    bucket.put(NAME, said, {})
    with pytest.raises(ForeignPrefix) as caught:
        bucket.claim()
    assert str(caught.value).isprintable()
