"""Fixtures of the system tests: real processes, talked to from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cache_actors.dev.tuist import StandInTuist

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tuist() -> Iterator[StandInTuist]:
    """A stand-in Tuist server at which `token` sees `acme/app`."""
    with StandInTuist({"token": ["acme/app"]}) as server:
        yield server
