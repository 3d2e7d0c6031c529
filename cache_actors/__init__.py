"""A build cache for Tuist, as a supervised actor system."""
