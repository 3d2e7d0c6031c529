"""nginx in front of the service: the configuration, from the snippets that production uses."""
