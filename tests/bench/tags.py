"""Tags of ids that have not been used before."""

import secrets


def new_tag() -> str:
    """A tag that no id has had before; see names.py."""
    return secrets.token_hex(8).upper()
