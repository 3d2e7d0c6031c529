"""Parts and versions of artifacts: ranges and conditions, as RFC 9110 and nginx have them.

Which there are, and what each selects, is in `tests/http/test_conditional.py`. Here nginx, which
answers by itself, is held to the same, and both to the headers of each answer.
"""

import os

import httpx
import pytest

from tests.http.test_conditional import (
    BAD_DATES,
    CONDITIONS,
    EARLIER,
    MTIME,
    OTHER_UNITS,
    PARTS,
    SAME,
    SEVERAL,
    SIZE,
    TAG,
    UNMET,
)
from tests.support.service import Service

from .examples import (
    artifact_file,
    behind_nginx,
    cas_path,
    every_front,
    expect_error,
    new_body,
    new_cas_id,
    uploaded,
)

pytestmark = every_front

BODY = new_body(SIZE)


@pytest.fixture(scope="module")
def path(client: httpx.Client, service: Service) -> str:
    """Where there is an artifact with the entity tag `TAG`, and of the date `SAME`."""
    cas_id = uploaded(client, BODY)
    os.utime(artifact_file(service.storage, cas_id), (MTIME, MTIME))
    assert client.head(cas_path(cas_id)).headers["ETag"] == TAG
    return cas_path(cas_id)


# Ranges.


def test_range_gets_its_part_and_several_get_the_whole(client: httpx.Client, path: str) -> None:
    for wanted, start, end in PARTS:
        response = client.get(path, headers={"Range": wanted.strip()})  # as HTTP has it
        assert (response.status_code, response.content) == (206, BODY[start:end]), wanted
        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert response.headers["Content-Length"] == str(end - start)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["ETag"] == TAG
        assert response.headers["Last-Modified"] == SAME
    for wanted in SEVERAL + OTHER_UNITS:
        response = client.get(path, headers={"Range": wanted})
        assert (response.status_code, response.content) == (200, BODY), wanted
        assert "Content-Range" not in response.headers


@pytest.mark.parametrize(
    "wanted", [w for w in UNMET if w.isascii() and len(w) < 1000], ids=lambda w: str(w)[:30]
)
def test_range_that_cannot_be_met_is_refused(
    client: httpx.Client, path: str, front: str, wanted: str
) -> None:
    response = client.get(path, headers={"Range": wanted})
    if behind_nginx(front):
        if wanted == "bytes=":  # no range at all to nginx: it wants at least 7 characters
            assert (response.status_code, response.content) == (200, BODY)
            return
        # It has added the artifact's own line before it finds out, and cannot take it back.
        own, stronger = response.headers.get_list("Cache-Control")
        assert own == client.head(path).headers["Cache-Control"]
        assert own.startswith("private")
        response.headers["Cache-Control"] = stronger
    expect_error(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


# Conditions.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_condition(client: httpx.Client, path: str, front: str, method: str) -> None:
    wrong = []
    for headers, status in conditions_for(front):
        if method == "HEAD" and "Range" in headers:
            continue
        response = client.request(method, path, headers=headers)
        if response.status_code != status:
            wrong.append((headers, status, response.status_code))
        elif response.status_code == 304:
            expect_not_modified(response)
        elif response.status_code == 412:
            expect_error(response, 412)
        elif response.status_code != 416 and method == "GET":
            assert response.content == (BODY[:10] if status == 206 else BODY)
    assert not wrong, "\n".join(map(str, wrong))


NGINX_TAKES_OTHERWISE = [
    # It wants the date to agree as well, which is on the safe side.
    ({"If-None-Match": TAG, "If-Modified-Since": EARLIER}, 200),
    ({"If-Match": TAG, "If-Unmodified-Since": EARLIER}, 412),
    # A date that it cannot read is never late enough.
    *(({"If-Unmodified-Since": date}, 412) for date in BAD_DATES),
]


def conditions_for(front: str) -> list[tuple[dict[str, str], int]]:
    """All conditions, and the status of the answer to each."""
    if not behind_nginx(front):
        return CONDITIONS
    otherwise = [headers for headers, _ in NGINX_TAKES_OTHERWISE]
    kept = [(headers, status) for headers, status in CONDITIONS if headers not in otherwise]
    # It takes every zone for GMT, which dates of HTTP are in: those with another are left out.
    return [
        (headers, status)
        for headers, status in kept + NGINX_TAKES_OTHERWISE
        if not any("+9999" in value for value in headers.values())
    ]


def expect_not_modified(response: httpx.Response) -> None:
    """Check that `response` carries what RFC 9110 (15.4.5) wants of a 304, and no body."""
    assert response.content == b""
    assert response.headers["ETag"] == TAG
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers.get("Content-Length") in {None, str(SIZE)}


@pytest.mark.parametrize(
    "headers", [{"If-None-Match": "*"}, {"If-Match": "*"}, {"Range": "bytes=0-0"}], ids=str
)
def test_missing_artifact_is_404_whatever_the_condition(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    response = client.get(cas_path(new_cas_id()), headers=headers)
    expect_error(response, 404, "Artifact does not exist")
