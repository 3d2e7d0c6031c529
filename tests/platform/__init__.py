"""platform/ and config/: the hosts, the image and how it gets there."""
