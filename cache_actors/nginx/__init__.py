"""nginx in front of the service: its configuration, its binary, and a child process for `dev`."""
