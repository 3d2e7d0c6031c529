"""What the contract suite sends and expects: ids, bodies, tables of calls, the shape of errors."""

import base64
import json
import os
import random
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import httpx
import pytest

from cache_actors.cli.dev.tuist import Question
from cache_actors.storage.files.unfinished import COMPLETED, UPLOADS
from cache_actors.storage.layout import TEMPORARY, shard
from tests.support.service import Service
from tests.support.strace import family
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .facts import LIMITS, PROJECT
from .raw import RawResponse

Result = TypeVar("Result")

MAX_UPLOAD = int(LIMITS["MAX_UPLOAD_BYTES"])
MAX_KEYVALUE = int(LIMITS["MAX_KEYVALUE_BYTES"])
FAILURE_TTL = float(LIMITS["AUTH_FAILURE_TTL"])

STORE_PATH = "/api/cache/keyvalue"
CLEAN_PATH = "/api/cache/clean"


def new_cas_id() -> str:
    """An id such as current clients give to artifacts."""
    return secrets.token_hex(32).upper()


def new_kv_id() -> str:
    """An id such as clients give to key-value entries."""
    return f"0~{secrets.token_urlsafe(65)[:86]}=="


def new_body(size: int = 1000) -> bytes:
    """Bytes that no other test has."""
    return random.randbytes(size)


def cas_path(cas_id: str) -> str:
    """Where an artifact is."""
    return f"/api/cache/cas/{cas_id}"


def kv_path(kv_id: str) -> str:
    """Where entries are retrieved."""
    return f"/api/cache/keyvalue/{kv_id}"


def gradle_path(key: str) -> str:
    """Where an output of Gradle's is."""
    return f"/api/cache/gradle/{key}"


def bearer(token: str) -> dict[str, str]:
    """The header that shows `token`."""
    return {"Authorization": f"Bearer {token}"}


def handles(project: str) -> dict[str, str]:
    """The query parameters that name `project`."""
    account, _, name = project.partition("/")
    return {"account_handle": account, "project_handle": name}


def entries_of(*values: str) -> list[dict[str, str]]:
    """Entries as they are written in JSON."""
    return [{"value": value} for value in values]


def new_value(size: int = 100) -> str:
    """A value as clients store them: base64 of bytes that no other test has."""
    return base64.b64encode(new_body(size)).decode()


# Fronts.

every_front = pytest.mark.also_on("workers", "debian")
"""For samples of everything: what works, how it is handed over, and who is left behind."""

both_nginx = pytest.mark.also_on("debian")
"""For what nginx does by its own nature, or might have done otherwise when it was older."""


def behind_nginx(front: str) -> bool:
    """Whether clients talk to nginx; what it answers by its own nature may differ."""
    return front in {"wheel", "debian"}


# Calls.

FRAMINGS = ("content-length", "chunked")
"""The two ways to send a body."""


def framed(body: bytes, framing: str) -> bytes | Iterable[bytes]:
    """`body` such that httpx sends it in that framing."""
    if framing == "content-length":
        return body
    return (body[start : start + 50_000] for start in range(0, len(body), 50_000))


def upload(
    client: httpx.Client, cas_id: str, body: bytes, framing: str = "content-length", **how: Any
) -> httpx.Response:
    """Upload an artifact."""
    return client.post(cas_path(cas_id), content=framed(body, framing), **how)


def uploaded(client: httpx.Client, body: bytes, cas_id: str | None = None, **how: Any) -> str:
    """The id of a new artifact with that body."""
    cas_id = cas_id or new_cas_id()
    response = upload(client, cas_id, body, **how)
    assert response.status_code == httpx.codes.NO_CONTENT, response.text
    return cas_id


def store(client: httpx.Client, kv_id: str, *values: str, **how: Any) -> httpx.Response:
    """Store key-value entries."""
    content = {"cas_id": kv_id, "entries": entries_of(*values)}
    return client.put(STORE_PATH, json=content, **how)


def stored(client: httpx.Client, *values: str, **how: Any) -> str:
    """The id of new entries with those values."""
    kv_id = new_kv_id()
    response = store(client, kv_id, *values, **how)
    assert response.status_code == httpx.codes.NO_CONTENT, response.text
    return kv_id


@dataclass(frozen=True, slots=True)
class CacheCall:
    """A call of the cache, such as clients make."""

    name: str
    method: str
    path: str
    content: bytes | None = None
    answer: int = httpx.codes.NOT_FOUND

    def make(self, client: httpx.Client, **how: Any) -> httpx.Response:
        """Make it."""
        return client.request(self.method, self.path, content=self.content, **how)


def cache_calls() -> list[CacheCall]:
    """Each call of the cache once, about new ids; `answer` is what it gets with access."""
    cas, kv = cas_path(new_cas_id()), kv_path(new_kv_id())
    pair = f'{{"cas_id": "{new_kv_id()}", "entries": [{{"value": "a"}}]}}'.encode()
    return [
        CacheCall("get-artifact", "GET", cas),
        CacheCall("head-artifact", "HEAD", cas),
        CacheCall("upload", "POST", cas_path(new_cas_id()), b"bytes", httpx.codes.NO_CONTENT),
        CacheCall("get-entries", "GET", kv),
        CacheCall("put-to-retrieve", "PUT", kv),
        CacheCall("store", "PUT", STORE_PATH, pair, httpx.codes.NO_CONTENT),
        CacheCall("get-output", "GET", gradle_path(new_cas_id())),
        CacheCall("clean", "DELETE", CLEAN_PATH, answer=httpx.codes.NO_CONTENT),
    ]


def all_at_once(call: Callable[[int], Result], times: int) -> list[Result]:
    """The results of `call(0)`, `call(1)`, ..., which have all been started at one moment."""
    start = Barrier(times)

    def wait_and_call(number: int) -> Result:
        start.wait(timeout=60)
        return call(number)

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(wait_and_call, range(times)))


# What is behind the front.


def artifact_file(storage: Path, cas_id: str, project: str = PROJECT) -> Path:
    """Where an artifact lies, by the layout that nginx reads too."""
    return storage / project.lower() / "cas" / shard(cas_id) / cas_id


def temporary_bytes(service: Service) -> int:
    """The size of all temporary files together; most have no name, but are open.

    Without the parts of modules, which are kept for as long as somebody may continue the upload.
    """
    assert service.process is not None
    folder = str(service.storage / TEMPORARY)
    opened = [
        path
        for pid in family(service.process.pid)
        for path in Path(f"/proc/{pid}/fd").iterdir()
        if _target(path).startswith(folder)
    ]
    below = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    files = [path for path in [*opened, *below] if not {UPLOADS, COMPLETED} & set(path.parts)]
    return sum(map(_file_size, files))


def _target(link: Path) -> str:
    with suppress(FileNotFoundError):  # it has only just been closed
        return str(link.readlink())
    return ""


def _file_size(path: Path) -> int:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    return 0


def questions_about(tuist: HeldTuist, token: str) -> list[Question]:
    """What Tuist has been asked about a token."""
    return [each for each in tuist.questions if each.authorization == f"Bearer {token}"]


def lines_about(service: Service, request_id: str, expected: int) -> list[dict[str, Any]]:
    """The lines of the log with that request id, once there are so many; they come a bit later."""

    def lines() -> list[str]:
        return [line for line in service.log.read_text().splitlines() if request_id in line]

    eventually(lambda: len(lines()) >= expected)
    return [json.loads(line) for line in lines()]


def parts_of(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A part of the tree, as `/up` tells it, and all below it."""
    yield part
    for child in part.get("children", ()):
        yield from parts_of(child)


# Expectations.


def expect_error(
    response: httpx.Response | RawResponse, status: int, message: str | None = None
) -> str:
    """Check that `response` is the error `status` as clients can read it; return its message.

    In answer to HEAD it has no message: that is empty then.
    """
    assert is_sane(response.headers["X-Request-ID"])
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    if response.request.method == "HEAD":
        assert response.content == b""
        return ""
    body = response.json()
    assert list(body) == ["message"]
    assert isinstance(body["message"], str)
    assert body["message"]
    if message is not None:
        assert body["message"] == message
    return str(body["message"])


def expect_error_without_body(response: httpx.Response, status: int) -> None:
    """Check that `response` is the error `status` in answer to HEAD."""
    assert response.request.method == "HEAD"
    expect_error(response, status)


def expect_stored(client: httpx.Client, cas_id: str, body: bytes) -> None:
    """Check that the artifact is there, whole."""
    response = client.get(cas_path(cas_id))
    assert response.status_code == httpx.codes.OK, response.text
    assert response.content == body


def expect_no_artifact(client: httpx.Client, cas_id: str) -> None:
    """Check that nothing is stored by that id."""
    expect_error(client.get(cas_path(cas_id)), 404, "Artifact does not exist")


def expect_entries(client: httpx.Client, kv_id: str, *values: str) -> None:
    """Check that just those values are stored, in that order, for both ways to retrieve them."""
    for method in ("GET", "PUT"):
        response = client.request(method, kv_path(kv_id))
        assert response.status_code == httpx.codes.OK, response.text
        assert response.json() == {"entries": entries_of(*values)}


def expect_no_entries(client: httpx.Client, kv_id: str) -> None:
    """Check that nothing is stored by that id."""
    for method in ("GET", "PUT"):
        response = client.request(method, kv_path(kv_id))
        expect_error(response, 404, f"No entries found for CAS ID {kv_id}.")


def is_sane(request_id: str) -> bool:
    """Whether an `X-Request-ID` is 1 to 200 visible ASCII characters."""
    return 1 <= len(request_id) <= 200 and all("!" <= character <= "~" for character in request_id)
