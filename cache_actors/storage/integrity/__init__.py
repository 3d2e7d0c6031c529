"""Integrity: checksums of stored files, validation, scrubbing, and the quarantine."""
