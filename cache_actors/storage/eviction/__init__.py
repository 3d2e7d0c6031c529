"""Eviction: removal of the least recently used files before the storage fills up."""
