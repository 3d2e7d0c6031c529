"""Parts and versions of artifacts: ranges and conditions, as RFC 9110 and nginx have them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from .examples import (
    behind_nginx,
    cas_path,
    expect_error,
    expect_error_without_body,
    new_body,
    new_cas_id,
    uploaded,
)

if TYPE_CHECKING:
    import httpx

SIZE = 1000


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored artifact, its validators, and dates around its own."""

    path: str
    body: bytes
    tag: str
    date: str

    def date_off_by(self, hours: int) -> str:
        """The HTTP date so many hours after the artifact's."""
        date = parsedate_to_datetime(self.date) + timedelta(hours=hours)
        return format_datetime(date, usegmt=True)

    def fill_in(self, template: str) -> str:
        """`template` with TAG, SAME, LATER and EARLIER replaced by what they stand for."""
        replacements = {
            "TAG": self.tag,
            "SAME": self.date,
            "LATER": self.date_off_by(1),
            "EARLIER": self.date_off_by(-1),
        }
        for name, value in replacements.items():
            template = template.replace(name, value)
        return template


@pytest.fixture(scope="module")
def artifact(client: httpx.Client) -> Artifact:
    """An artifact of `SIZE` bytes."""
    body = new_body(SIZE)
    path = cas_path(uploaded(client, body))
    headers = client.head(path).headers
    return Artifact(path, body, headers["ETag"], headers["Last-Modified"])


# Ranges.


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=100-199", 100, 199),
        ("bytes=999-999", 999, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-100", 900, 999),
        ("bytes=-1000", 0, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=0-", 0, 999),
        ("bytes=500-", 500, 999),
        ("bytes=999-", 999, 999),
        ("bytes=990-5000", 990, 999),
        ("Bytes=0-9", 0, 9),
    ],
)
def test_range_gets_its_part(
    client: httpx.Client, artifact: Artifact, wanted: str, first: int, last: int
) -> None:
    response = client.get(artifact.path, headers={"Range": wanted})
    assert response.status_code == 206
    assert response.content == artifact.body[first : last + 1]
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert response.headers["Content-Length"] == str(last + 1 - first)
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["ETag"] == artifact.tag
    assert response.headers["Last-Modified"] == artifact.date


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=1000-",
        "bytes=1000-1000",
        "bytes=5000-6000",
        "bytes=-0",
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes=--5",
        "bytes=abc",
        "bytes=1",
        "bytes=0x1-5",
        "bytes=1-2-3",
    ],
)
def test_range_that_cannot_be_met_is_refused(
    client: httpx.Client, artifact: Artifact, front: str, wanted: str
) -> None:
    response = client.get(artifact.path, headers={"Range": wanted})
    if behind_nginx(front):
        if wanted == "bytes=":  # no range at all to nginx: it wants at least 7 characters
            assert (response.status_code, response.content) == (200, artifact.body)
            return
        # It has added the artifact's own line before it finds out, and cannot take it back.
        own, stronger = response.headers.get_list("Cache-Control")
        assert own == client.head(artifact.path).headers["Cache-Control"]
        assert own.startswith("private")
        response.headers["Cache-Control"] = stronger
    expect_error(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "wanted", ["items=0-5", "bytes 0-5", "0-5", "", "bytes=0-1,5-6", "bytes=0-1, -1"]
)
def test_several_ranges_and_other_units_get_the_whole(
    client: httpx.Client, artifact: Artifact, wanted: str
) -> None:
    response = client.get(artifact.path, headers={"Range": wanted})
    assert response.status_code == 200
    assert response.content == artifact.body
    assert "Content-Range" not in response.headers


def test_range_of_a_large_artifact(client: httpx.Client) -> None:
    body = new_body(2_500_000)
    path = cas_path(uploaded(client, body))
    response = client.get(path, headers={"Range": "bytes=1000000-2399999"})
    assert response.status_code == 206
    assert response.content == body[1_000_000:2_400_000]


# Conditions.

CONDITIONS = [
    ({"If-None-Match": "TAG"}, 304),
    ({"If-None-Match": "W/TAG"}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"a", TAG, "b"'}, 304),
    ({"If-None-Match": '"a",W/TAG'}, 304),
    ({"If-None-Match": '"a"'}, 200),
    ({"If-None-Match": '"a", W/"b"'}, 200),
    ({"If-None-Match": ""}, 200),
    ({"If-None-Match": "nonsense"}, 200),
    ({"If-Modified-Since": "SAME"}, 304),
    ({"If-Modified-Since": "LATER"}, 304),
    ({"If-Modified-Since": "EARLIER"}, 200),
    ({"If-Modified-Since": "nonsense"}, 200),
    ({"If-None-Match": '"a"', "If-Modified-Since": "SAME"}, 200),
    ({"If-None-Match": "TAG", "Range": "bytes=0-9"}, 304),
    ({"If-Match": "TAG"}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": '"a", TAG'}, 200),
    ({"If-Match": '"a"'}, 412),
    ({"If-Match": "W/TAG"}, 412),
    ({"If-Match": '"a"', "Range": "bytes=0-9"}, 412),
    ({"If-Unmodified-Since": "SAME"}, 200),
    ({"If-Unmodified-Since": "LATER"}, 200),
    ({"If-Unmodified-Since": "EARLIER"}, 412),
    ({"If-Unmodified-Since": "nonsense"}, 200),
    ({"Range": "bytes=0-9", "If-Range": "TAG"}, 206),
    ({"Range": "bytes=0-9", "If-Range": '"a"'}, 200),
    ({"Range": "bytes=0-9", "If-Range": "W/TAG"}, 200),
    ({"Range": "bytes=0-9", "If-Range": "SAME"}, 206),
    ({"Range": "bytes=0-9", "If-Range": "EARLIER"}, 200),
    ({"Range": "bytes=5000-", "If-Range": '"a"'}, 200),
]


def in_a_line(headers: dict[str, str]) -> str:
    """`headers` as the name of a test."""
    return ", ".join(f"{name}: {value}" for name, value in headers.items())


@pytest.mark.parametrize(
    ("method", "templates", "status"),
    [
        pytest.param(method, templates, status, id=f"{method} {in_a_line(templates)}")
        for templates, status in CONDITIONS
        for method in (["GET"] if "Range" in templates else ["GET", "HEAD"])
    ],
)
def test_condition(
    client: httpx.Client,
    artifact: Artifact,
    front: str,
    method: str,
    templates: dict[str, str],
    status: int,
) -> None:
    if behind_nginx(front) and templates == {"If-Unmodified-Since": "nonsense"}:
        status = 412  # a date that nginx cannot read is never late enough
    headers = {name: artifact.fill_in(template) for name, template in templates.items()}
    response = client.request(method, artifact.path, headers=headers)
    assert response.status_code == status
    if status == 304:
        expect_not_modified(response, artifact)
    elif status == 412 and method == "HEAD":
        expect_error_without_body(response, 412)
    elif status == 412:
        expect_error(response, 412)
    elif method == "GET":
        assert response.content == (artifact.body[:10] if status == 206 else artifact.body)


def expect_not_modified(response: httpx.Response, artifact: Artifact) -> None:
    """Check that `response` carries what RFC 9110 (15.4.5) wants of a 304, and no body."""
    assert response.content == b""
    assert response.headers["ETag"] == artifact.tag
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers.get("Content-Length") in {None, str(SIZE)}


def test_connection_stays_in_step_after_304_and_416(
    client: httpx.Client, artifact: Artifact
) -> None:
    for headers in ({"If-None-Match": "*"}, {"Range": "bytes=5000-"}) * 3:
        client.get(artifact.path, headers=headers)
        assert client.get(artifact.path).content == artifact.body


@pytest.mark.parametrize(
    "headers", [{"If-None-Match": "*"}, {"If-Match": "*"}, {"Range": "bytes=0-0"}], ids=str
)
def test_missing_artifact_is_404_whatever_the_condition(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    response = client.get(cas_path(new_cas_id()), headers=headers)
    expect_error(response, 404, "Artifact does not exist")
