"""Eviction: how the storage is kept from filling up."""
