"""The HTTP server: connections and requests.

Nothing else knows Hypercorn and h11, but for the types of ASGI.
"""
