"""Configuration of all tests: pytest-xdist groups, clocks, signals, and Hypothesis profiles."""

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest
import trio
from hypothesis import settings

from tests.support.s3 import FaultProxy, S3Bucket, S3Server, running_s3

SLOW_FOLDERS = ("system", "contract", "platform")
"""Folders of tests that wait for processes; they run first, so that no long test is left alone."""

SHARED_PARAMS = ("front", "which", "running")
"""Parameters of fixtures that start processes for a whole module; each value makes a group."""

CLOCKS = {"autojump_clock", "mock_clock"}
"""Fixtures that provide a clock to trio."""

settings.register_profile("quick", max_examples=25, stateful_step_count=30, deadline=None)
settings.register_profile("nightly", max_examples=500, stateful_step_count=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure() -> None:
    """Restore the default handlers of SIGINT and SIGHUP.

    A shell ignores SIGINT for background jobs, and `nohup` SIGHUP; processes under test would
    inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests, and give groups to those that share a fixture, and clocks to async ones.

    pytest-xdist runs a group in one process: tests of a module that share a fixture, one group for
    each value of a parametrized one. Other tests run in any process. The contract suite has groups
    of its own. Tests with an S3 server are one group, so that one server is started for all.

    A test runs on the clock that any of its fixtures uses; pytest-trio itself only finds a clock
    among the arguments of the test.
    """
    items.sort(key=_rank)
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            for name in CLOCKS.intersection(item.fixturenames):
                item.add_marker(pytest.mark.trio(run=partial(_run_on, item, name)), append=False)
        if (
            isinstance(item, pytest.Function)
            and not item.nodeid.startswith("tests/contract/")
            and _shares(item)
        ):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _run_on(
    item: pytest.Function, name: str, test: Callable[[], Awaitable[None]], **how: Any
) -> None:
    trio.run(test, **how | {"clock": item.funcargs[name]})


def _rank(item: pytest.Item) -> int:
    folder = item.nodeid.split("/")[1]
    return SLOW_FOLDERS.index(folder) if folder in SLOW_FOLDERS else len(SLOW_FOLDERS)


def _shares(item: pytest.Function) -> bool:
    """Whether a test uses a fixture of wider scope that these tests, and no plugin, define."""
    found = item._fixtureinfo.name2fixturedefs.values()
    return any(each.scope != "function" and each.baseid for every in found for each in every)


def _group(item: pytest.Function) -> str:
    if "s3_server" in item.fixturenames:
        return "s3"
    module, _, _ = item.nodeid.partition("::")
    callspec = getattr(item, "callspec", None)
    params = {} if callspec is None else callspec.params
    return "-".join([module, *(str(params[name]) for name in SHARED_PARAMS if name in params)])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server, for all tests of this process."""
    with running_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    """A bucket of the test's own."""
    with s3_server.new_bucket() as bucket:
        yield bucket


@pytest.fixture
def s3_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the S3 server, which breaks what the test wants broken."""
    with FaultProxy(s3_server) as proxy:
        yield proxy
