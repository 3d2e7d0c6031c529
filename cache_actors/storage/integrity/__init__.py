"""Integrity: what a file's bytes should be, and what becomes of broken ones."""
