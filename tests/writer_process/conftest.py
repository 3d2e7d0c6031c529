"""Fixtures: the store of the actors' tests."""

from tests.actors.conftest import storage, store, temporary

__all__ = ["storage", "store", "temporary"]
