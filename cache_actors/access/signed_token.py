"""Tokens that are JWTs: what is in them, verified with Tuist's own secret or not.

Only what is signed with HS512, as Tuist does it, is verified, whatever a token's header says: it is
the token's own, and whoever forges one would choose what suits him.
"""

from __future__ import annotations

import warnings
from typing import Any

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from .grants import LEEWAY

ALGORITHM, ISSUER = "HS512", "tuist"

# The secret is the Tuist server's, and as long as that has it.
warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)

_NOTHING: dict[str, Any] = {}


def verified_claims(authorization: str, secret: bytes) -> dict[str, Any] | None:
    """The claims of the token in a header `Authorization`, if `secret` has signed them as Tuist
    does.

    None if it is no such token, or not in force yet. When it ends is the caller's to look at.
    """
    token = _token(authorization)
    if token is None:
        return None
    options: Any = {f"verify_{claim}": False for claim in ("exp", "iat", "aud", "sub", "jti")}
    try:
        return jwt.decode(token, secret, [ALGORITHM], options, issuer=ISSUER, leeway=LEEWAY)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return None  # of a claim `nbf`, PyJWT expects that it is a number


def unverified_claims(authorization: str) -> dict[str, Any]:
    """The claims of the token in a header `Authorization`, which anybody may have written; empty if
    it has none."""
    token = _token(authorization)
    if token is None:
        return _NOTHING
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return _NOTHING
    return claims


def _token(authorization: str) -> str | None:
    """The token in a header, if it looks like a JWT: three parts with dots between them."""
    scheme, _, token = authorization.partition(" ")
    is_jwt = scheme.lower() == "bearer" and token.count(".") == 2 and token.isascii()
    return token if is_jwt else None
