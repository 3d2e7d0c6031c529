"""Stores what is read later, through a contestant's own API, so that it lies as it should."""

from collections.abc import Callable
from http.client import HTTPConnection
from urllib.parse import urlsplit

from .contestants import STORE_KEYVALUE, Contestant
from .failure import BenchmarkFailed
from .names import STORED, TOKEN, artifact_id, entry_id, new_entry, payload

TIMEOUT = 30.0


def store(
    contestant: Contestant, count: int, size_of: Callable[[int], int], *, entries: bool
) -> None:
    """Store so many artifacts and, if `entries`, an entry that refers to each; then look at one.

    Raises:
        BenchmarkFailed: one has been refused, or is not there afterwards.
    """
    connection = HTTPConnection(urlsplit(contestant.url).netloc, timeout=TIMEOUT)
    try:
        for number in range(count):
            artifact = artifact_id(STORED, number)
            path = _filled(contestant.api.path, artifact)
            _ask(connection, contestant.api.method, path, payload(size_of(number)))
            if entries:
                body = new_entry(entry_id(STORED, number), artifact)
                _ask(connection, "PUT", STORE_KEYVALUE, body)
        if _ask(connection, "GET", path) != payload(size_of(number)):
            raise BenchmarkFailed(f"{contestant.name} answers with other bytes than were stored")
    finally:
        connection.close()


def _ask(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/octet-stream"}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status not in (200, 201, 204):
        raise BenchmarkFailed(f"{method} {path}: {answer.status} {content[:200]!r}")
    return content


def _filled(template: str, artifact: str) -> str:
    return template.replace("{id}", artifact).replace("{shard}", artifact[2:4])
