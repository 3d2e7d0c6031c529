"""`cache-actors status`: the health of the service, in a terminal."""
