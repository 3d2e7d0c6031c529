"""For all tests: which process of pytest-xdist runs which, on which clock; sizes of properties."""

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest
import trio
from hypothesis import settings

SLOW_FOLDERS = ("system", "contract", "platform")
"""Folders of tests that wait for processes: first, so that no long one is left for the end."""

SHARED_PARAMS = ("front", "which", "running")
"""Parameters of fixtures that start processes for a whole module: each value is a group."""

CLOCKS = {"autojump_clock", "mock_clock"}
"""Fixtures that are clocks."""

settings.register_profile("quick", max_examples=25, stateful_step_count=30, deadline=None)
settings.register_profile("nightly", max_examples=500, stateful_step_count=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure() -> None:
    """Let tests of signals work where a shell has started pytest in the background, or `nohup`.

    They have SIGINT or SIGHUP ignored, which all that pytest starts would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share what a fixture starts in one process of pytest-xdist, and no others.

    They are a group: those of a module, or of one value where the fixture is parametrized. All
    others run wherever there is time. The contract suite has groups of its own.

    Tests run on the clock that one of their fixtures has asked for: by itself pytest-trio looks for
    a clock among the arguments of the test alone.
    """
    items.sort(key=_rank)
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            for name in CLOCKS.intersection(item.fixturenames):
                item.add_marker(pytest.mark.trio(run=partial(_run_on, item, name)), append=False)
        if not item.nodeid.startswith("tests/contract/") and _shares(item):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _run_on(
    item: pytest.Function, name: str, test: Callable[[], Awaitable[None]], **how: Any
) -> None:
    trio.run(test, **how | {"clock": item.funcargs[name]})


def _rank(item: pytest.Item) -> int:
    folder = item.nodeid.split("/")[1]
    return SLOW_FOLDERS.index(folder) if folder in SLOW_FOLDERS else len(SLOW_FOLDERS)


def _shares(item: pytest.Item) -> bool:
    """Whether it uses a fixture of these tests, and not of a plugin, that several tests share."""
    assert isinstance(item, pytest.Function)
    found = item._fixtureinfo.name2fixturedefs.values()
    return any(each.scope != "function" and each.baseid for every in found for each in every)


def _group(item: pytest.Item) -> str:
    module, _, _ = item.nodeid.partition("::")
    callspec = getattr(item, "callspec", None)
    params = {} if callspec is None else callspec.params
    return "-".join([module, *(str(params[name]) for name in SHARED_PARAMS if name in params)])
