"""Tokens such as Tuist signs them."""

import time
from typing import Any

import jwt

SECRET = "the secret with which a self-hosted Tuist server signs its clients' tokens"


def signed(
    claims: dict[str, Any] | None = None, secret: str = SECRET, algorithm: str = "HS512"
) -> str:
    """A JWT of Tuist's that ends in an hour, with other `claims` beside."""
    usual = {"iss": "tuist", "aud": "tuist", "sub": 1, "exp": int(time.time()) + 3600}
    return jwt.encode(usual | (claims or {}), secret, algorithm)


def cache_token(read: object = (), write: object = (), **claims: Any) -> str:
    """A cache token that grants these projects."""
    of_projects = {
        "read": list(read) if isinstance(read, tuple) else read,
        "write": list(write) if isinstance(write, tuple) else write,
    }
    return signed({"typ": "cache", "cache_grants": {"project": of_projects}} | claims)
