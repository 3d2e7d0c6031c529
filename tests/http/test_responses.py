"""Responses without a body."""

from http import HTTPStatus

import pytest

from cache_actors.http.responses import empty_response


@pytest.mark.parametrize("status", [HTTPStatus.NO_CONTENT, HTTPStatus.UNAUTHORIZED, 201])
def test_status_of_an_empty_response_is_a_plain_number_in_a_line_of_text(status: int) -> None:
    assert repr(empty_response(status).status_code) == str(int(status))


def test_only_a_204_has_no_length() -> None:
    assert dict(empty_response().headers) == {}
    assert dict(empty_response(HTTPStatus.OK).headers) == {"Content-Length": "0"}
