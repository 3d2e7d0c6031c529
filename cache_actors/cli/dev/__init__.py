"""For development: the service with all that it needs around it, on one machine."""
