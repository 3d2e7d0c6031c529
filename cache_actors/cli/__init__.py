"""The command line: `cache-actors`, one module or package for each command."""
