"""The handlers: each turns a request into messages to actors, and their answers into a response."""
