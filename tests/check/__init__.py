"""`cache-actors check`, part by part."""
