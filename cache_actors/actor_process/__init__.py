"""A process that works for an actor, and what they say to each other.

The actor's end is `client.py`; `framing.py` is for both ends.
"""
