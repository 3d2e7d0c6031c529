"""`cache-actors dev`: the service, nginx and a stand-in Tuist server, on one machine."""
