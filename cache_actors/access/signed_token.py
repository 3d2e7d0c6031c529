"""JSON web tokens: their claims, verified with Tuist's secret or unverified.

Only HS512, which Tuist uses, is accepted, and not the algorithm that a token's header names: that
would be a forger's choice.
"""

from __future__ import annotations

import warnings
from typing import Any

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from .grants import LEEWAY

ALGORITHM, ISSUER = "HS512", "tuist"

# The length of the secret is up to the Tuist server.
warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)

_NOTHING: dict[str, Any] = {}


def verified_claims(authorization: str, secret: bytes) -> dict[str, Any] | None:
    """The claims of the token in an `Authorization` header, if Tuist signed them with `secret`.

    None for any other token, and for one that is not valid yet (`nbf`). The caller checks `exp`.
    """
    token = _token(authorization)
    if token is None:
        return None
    options: Any = {f"verify_{claim}": False for claim in ("exp", "iat", "aud", "sub", "jti")}
    try:
        return jwt.decode(token, secret, [ALGORITHM], options, issuer=ISSUER, leeway=LEEWAY)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return None  # PyJWT raises the last ones on malformed claims


def unverified_claims(authorization: str) -> dict[str, Any]:
    """The claims of the token in an `Authorization` header, which may be forged; {} without any."""
    token = _token(authorization)
    if token is None:
        return _NOTHING
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return _NOTHING
    return claims


def _token(authorization: str) -> str | None:
    """The bearer token in an `Authorization` header if it has the three parts of a JWT, or None."""
    scheme, _, token = authorization.partition(" ")
    is_jwt = scheme.lower() == "bearer" and token.count(".") == 2 and token.isascii()
    return token if is_jwt else None
