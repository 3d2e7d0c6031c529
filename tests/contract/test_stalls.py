"""What takes longer than bodies may: some is refused, and the rest is waited for.

Asked of the hasty service, where half a second without a byte of a body is too long. It is never
measured: that so much time has passed is seen from a body that stalls and is refused.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually

from .examples import (
    MAX_KEYVALUE,
    MAX_UPLOAD,
    STORE_PATH,
    bearer,
    cas_path,
    expect_error,
    expect_no_artifact,
    expect_stored,
    new_body,
    new_cas_id,
    temporary_bytes,
    upload,
    uploaded,
)
from .facts import PROJECT
from .raw import AUTHORIZATION, HANDLES, RawConnection, chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.support.service import Service

    from .held_tuist import HeldTuist

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def connect(hasty_url: str) -> Iterator[Callable[..., RawConnection]]:
    """Opens bare connections to the hasty service, which are closed after the test."""
    with ExitStack() as connections:
        yield lambda **how: connections.enter_context(RawConnection(hasty_url, **how))


def wait_until_a_body_is_late(connect: Callable[[], RawConnection]) -> None:
    """Return once one that has only just stalled is refused for it."""
    raw = connect()
    raw.begin(f"POST {cas_path(new_cas_id())}?{HANDLES}", AUTHORIZATION, "Content-Length: 9")
    expect_error(raw.response(), 408)


def test_body_that_stalls_is_refused(
    connect: Callable[[], RawConnection], hasty_client: httpx.Client, hasty: Service
) -> None:
    """Trap 5: the time-out did not hold for a body in pieces. Cured: it holds for each piece."""
    cas_id = new_cas_id()
    stalled = []
    for method, path, size in (
        ("POST", cas_path(cas_id), MAX_UPLOAD),
        ("PUT", STORE_PATH, MAX_KEYVALUE),
    ):
        length = f"Content-Length: {size}"
        for header, first in (
            (length, b""),
            (length, b"{"),
            (length, new_body(size // 2)),
            (CHUNKED, b""),
            (CHUNKED, chunk(b"{")),
        ):
            raw = connect()
            raw.begin(f"{method} {path}?{HANDLES}", AUTHORIZATION, header)
            raw.send(first)
            stalled.append(raw)
    for raw in stalled:
        expect_error(raw.response(), 408)
    expect_no_artifact(hasty_client, cas_id)
    eventually(lambda: temporary_bytes(hasty) == 0)


def test_slow_reader_gets_all_of_a_large_download(
    connect: Callable[..., RawConnection], hasty_client: httpx.Client
) -> None:
    """Trap 6: downloads of over 60 s were cut. Cured; no test is that long, though: this one is
    longer than the time-out of uploads, and most of the artifact waits for the client."""
    body = new_body(MAX_UPLOAD)
    raw = connect(receive_buffer=65536)
    raw.begin(f"GET {cas_path(uploaded(hasty_client, body))}?{HANDLES}", AUTHORIZATION)
    wait_until_a_body_is_late(connect)
    assert raw.response().content == body
    assert raw.ask("GET /up").status_code == 200


def test_slow_answer_is_waited_for(
    connect: Callable[[], RawConnection],
    hasty_client: httpx.Client,
    changeable_tuist: HeldTuist,
    new_token: Callable[..., str],
) -> None:
    """Trap 7: `read_timeout` cancels slow handlers. Does not apply: it is not set."""
    token, cas_id, body = new_token(PROJECT), new_cas_id(), new_body()
    with ThreadPoolExecutor() as thread, changeable_tuist.held(token):
        answer = thread.submit(upload, hasty_client, cas_id, body, headers=bearer(token))
        changeable_tuist.wait_for_questions(token)
        wait_until_a_body_is_late(connect)
        assert not answer.done()
    assert answer.result().status_code == 204
    expect_stored(hasty_client, cas_id, body)
