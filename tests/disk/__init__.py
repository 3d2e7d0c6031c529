"""The process that commits batches for an actor, by itself."""
