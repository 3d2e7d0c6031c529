"""Which JWTs are believed: those that Tuist's secret has signed, in its one way."""

import base64
import json
import math
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.access.signed_token import unverified_claims, verified_claims

from .tokens import SECRET, signed

KEY = SECRET.encode()


def part(content: object) -> str:
    """A part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def verified(token: str) -> dict[str, Any] | None:
    return verified_claims(f"Bearer {token}", KEY)


def test_token_of_tuists_is_believed() -> None:
    claims = verified(signed({"projects": ["acme/app"]}))
    assert claims is not None
    assert claims["projects"] == ["acme/app"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_compared_without_case(scheme: str) -> None:
    assert verified_claims(f"{scheme} {signed()}", KEY) is not None


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "none"])
def test_other_algorithms_are_not_believed(algorithm: str) -> None:
    """Also with the right secret: the header is the token's own."""
    assert (
        verified(signed(secret="" if algorithm == "none" else SECRET, algorithm=algorithm)) is None
    )


@pytest.mark.parametrize("algorithm", ["RS256", "none", "HS256", "hs512", None, ["HS512"], {}])
def test_header_that_names_another_algorithm_than_was_used_is_not_believed(
    algorithm: object,
) -> None:
    """As does one who has a public key and hopes that it is taken for the secret."""
    good = signed()
    _, payload, _ = good.split(".")
    head = part({"alg": algorithm, "typ": "JWT"})
    signer = jwt.get_algorithm_by_name("HS512")
    signature = signer.sign(f"{head}.{payload}".encode(), signer.prepare_key(SECRET))
    raw = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    assert verified(f"{head}.{payload}.{raw}") is None
    assert verified(f"{head}.{payload}.") is None


def test_changed_token_or_other_secret_is_not_believed() -> None:
    head, payload, signature = signed({"projects": ["acme/app"]}).split(".")
    other = part({"iss": "tuist", "exp": 9e9, "projects": ["acme/other"]})
    assert verified(f"{head}.{other}.{signature}") is None
    assert verified(f"{head}.{payload}.") is None
    assert (
        verified(
            signed(
                secret="another secret, which is as long as the one above, or even longer than that"
            )
        )
        is None
    )


@pytest.mark.parametrize("issuer", ["other", "Tuist", "", None, ["tuist"], 1])
def test_other_issuer_is_not_believed(issuer: object) -> None:
    token = jwt.api_jws.encode(json.dumps({"iss": issuer, "exp": 9e9}).encode(), SECRET, "HS512")
    assert verified(token) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"nbf": 9e9},
        {"nbf": "soon"},
        {"nbf": []},
        {"nbf": math.inf},
        {"nbf": 1e999},
    ],
    ids=str,
)
def test_token_that_is_not_in_force_yet_is_not_believed(claims: dict[str, Any]) -> None:
    payload = {"iss": "tuist", "exp": 9e9} | claims
    assert verified(jwt.api_jws.encode(json.dumps(payload).encode(), SECRET, "HS512")) is None


@pytest.mark.parametrize("end", ["soon", None, -1, 0, math.nan, 1e308, [], True], ids=str)
def test_end_is_the_caller_s_to_look_at(end: object) -> None:
    payload = json.dumps({"iss": "tuist", "exp": end}).encode()
    assert verified(jwt.api_jws.encode(payload, SECRET, "HS512")) is not None


DEEP = "[" * 6_000


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'"x"',
        b"1",
        b"null",
        b"{",
        b"\xff",
        DEEP.encode(),
        b'{"iss":"tuist","x":' + DEEP.encode(),
    ],
    ids=lambda payload: payload[:20].decode("latin-1"),
)
def test_signed_payload_that_is_no_object_is_not_believed(payload: bytes) -> None:
    token = jwt.api_jws.encode(payload, SECRET, "HS512")
    assert verified(token) is None
    assert unverified_claims(f"Bearer {token}") == {}


@given(
    st.text(max_size=40)
    | st.lists(st.text("abcXYZ019-_=+/ \n\xe9", max_size=8), max_size=5).map(".".join)
)
def test_whatever_stands_in_the_header_is_read_without_a_fault(token: str) -> None:
    for authorization in (token, f"Bearer {token}"):
        assert verified_claims(authorization, KEY) is None
        assert unverified_claims(authorization) == {}


def test_large_token_is_believed_as_well() -> None:
    token = signed({"projects": [f"acme/project-{number}" for number in range(550)]})
    assert 12 * 1024 < len(token) <= 16 * 1024
    claims = verified(token)
    assert claims is not None
    assert len(claims["projects"]) == 550


def test_anybody_s_claims_can_be_read_unverified() -> None:
    assert unverified_claims(f"Bearer {signed({'typ': 'cache'}, 'x' * 64)}")["typ"] == "cache"
    assert unverified_claims(f"Basic {signed()}") == {}
    assert unverified_claims("Bearer tuist_1_abc") == {}
