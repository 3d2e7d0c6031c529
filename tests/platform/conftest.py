"""The hosts, evaluated once for each module of tests."""

from typing import Any

import pytest

from .nix import evaluate_hosts

HOSTS = ("production", "staging")


@pytest.fixture(scope="module")
def hosts() -> Any:
    """What `evaluate_hosts` finds."""
    return evaluate_hosts()


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, hosts: Any) -> Any:
    """The configuration of a host."""
    return hosts[request.param]["config"]
