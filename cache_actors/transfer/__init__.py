"""Bytes on their way between a client and the disk."""
