"""Transfers of bytes between clients and the disk."""
