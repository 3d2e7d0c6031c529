"""The handlers: each answers the requests of a route, mostly by messages to actors."""
