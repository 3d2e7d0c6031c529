"""Stores what is read later, through a contestant's own API, so that it lies as it should."""

import json
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from .contestants import (
    COMPLETE_MODULE,
    GRADLE,
    SEND_PART,
    START_MODULE,
    STORE_KEYVALUE,
    Contestant,
)
from .failure import BenchmarkFailed
from .names import SMALL, STORED, TOKEN, artifact_id, entry_id, new_entry, payload

TIMEOUT = 30.0


def store(
    contestant: Contestant, count: int, size_of: Callable[[int], int], *, entries: bool
) -> None:
    """Store so many artifacts and, if `entries`, an entry that refers to each; then look at one.

    Raises:
        BenchmarkFailed: one has been refused, or is not there afterwards.
    """
    with closing(_connected(contestant)) as connection:
        for number in range(count):
            artifact = artifact_id(STORED, number)
            path = _filled(contestant.api.path, artifact)
            _ask(connection, contestant.api.method, path, payload(size_of(number)))
            if entries:
                body = new_entry(entry_id(STORED, number), artifact)
                _ask(connection, "PUT", STORE_KEYVALUE, body)
        if _ask(connection, "GET", path) != payload(size_of(number)):
            raise BenchmarkFailed(f"{contestant.name} answers with other bytes than were stored")


def store_gradle_outputs_and_modules(contestant: Contestant, count: int) -> None:
    """Store so many outputs of Gradle, and so many modules of one part, all small.

    Raises:
        BenchmarkFailed: one has been refused.
    """
    with closing(_connected(contestant)) as connection:
        for number in range(count):
            name = artifact_id(STORED, number)
            _ask(connection, "PUT", _filled(GRADLE, name), payload(SMALL))
            upload = json.loads(_ask(connection, "POST", _filled(START_MODULE, name)))["upload_id"]
            _ask(connection, "POST", SEND_PART + upload, payload(SMALL))
            _ask(connection, "POST", COMPLETE_MODULE + upload, b'{"parts":[1]}')


def _connected(contestant: Contestant) -> HTTPConnection:
    return HTTPConnection(urlsplit(contestant.url).netloc, timeout=TIMEOUT)


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
