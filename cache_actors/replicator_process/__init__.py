"""A process that pushes what is stored into the bucket, for the replicator.

The actor's end is `actors/replicator.py`, the other `__main__.py`, and what they say to each other
is in `protocol.py`.
"""
