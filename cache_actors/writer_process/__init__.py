"""A process that writes to the disk for an actor.

The actor's end is `client.py`, the other `__main__.py`, and what they say to each other is in
`protocol.py`.
"""
