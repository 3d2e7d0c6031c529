"""What was measured beside the service is named with its version."""

import pytest

from .machine import first_number


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("h2load nghttp2/1.52.0", "1.52.0"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012", "4.1.0"),
        ("nothing", "?"),
    ],
)
def test_version_is_the_first_number_that_is_not_within_a_name(said: str, version: str) -> None:
    assert first_number(["echo", said]) == version
