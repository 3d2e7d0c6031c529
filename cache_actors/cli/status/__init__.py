"""`cache-actors status`: how the service is, in a terminal."""
