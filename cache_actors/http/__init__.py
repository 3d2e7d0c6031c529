"""HTTP: handlers that translate between requests and messages, and the server beneath them."""
