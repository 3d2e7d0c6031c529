"""A process and its sockets: start, listening, and end. Independent of the cache."""
