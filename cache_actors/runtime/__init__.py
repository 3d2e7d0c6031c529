"""A process and its sockets: how it starts, listens and ends.

It knows nothing of caches.
"""
