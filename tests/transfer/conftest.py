"""Fixtures: the store of the actors' tests."""

from tests.actors.conftest import no_threads, storage, store, temporary

__all__ = ["no_threads", "storage", "store", "temporary"]
