"""`python -m cache_actors`: the command line."""

from .cli.main import main

if __name__ == "__main__":
    main()
