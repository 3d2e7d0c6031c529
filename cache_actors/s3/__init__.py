"""The bucket: stored files in S3, where they survive this machine's disk."""
