"""`cache-actors dev`: the service with all that it needs around it, on one machine."""
