"""Fixtures: those of the actors, as far as they are needed here."""

from tests.actors.conftest import (
    clock,
    no_threads,
    pytest_collection_modifyitems,
    run_tree,
    storage,
    store,
    temporary,
)

__all__ = [
    "clock",
    "no_threads",
    "pytest_collection_modifyitems",
    "run_tree",
    "storage",
    "store",
    "temporary",
]
