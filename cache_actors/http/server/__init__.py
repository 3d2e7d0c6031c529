"""The HTTP server: connections and requests. Nothing else knows Hypercorn and h11."""
