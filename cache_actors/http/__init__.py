"""HTTP: handlers that translate requests into messages to actors, and the server beneath them."""
