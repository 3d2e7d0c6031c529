"""The fetcher's process, which pulls from the bucket, so that no byte crosses the event loop."""
