"""What is stored and asked for: ids by number, bodies, and where things lie. Pure functions.

Python stores things and wrk asks for them, so both have to count in the same way: `load.lua` makes
the same names. An id begins with what its folder is called by, spread as with real ids: 256 folders
for artifacts, whose ids are hexadecimal, and 4,096 for entries, whose ids are base64.
"""

import base64
import hashlib
import json

from cache_actors.storage.layout import Project

PROJECT = Project("acme", "app")
QUERY = f"account_handle={PROJECT.account}&project_handle={PROJECT.name}"
TOKEN = "bench-token"

STORED = "0" * 16
"""The tag of what is there from the start. Whatever is new has another."""

KIBIBYTE = 1024
SMALL = 10 * KIBIBYTE

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def artifact_id(tag: str, number: int) -> str:
    """The artifact of that number: 64 hexadecimal characters. `tag` has 16 of them."""
    return f"00{number % 256:02X}{tag}{number:044X}"


def entry_id(tag: str, number: int) -> str:
    """The entry of that number: `0~` and 88 characters of base64. `tag` has 16 characters."""
    low, high = number % 64, number // 64 % 64
    return f"0~{_ALPHABET[low]}{_ALPHABET[high]}{tag}{number:070X}"


def value_of(artifact: str) -> str:
    """An entry's value that refers to an artifact, as Tuist's clients make it."""
    return base64.b64encode(b"\x12\x40" + artifact.encode()).decode()


def stored_entry(artifact: str) -> bytes:
    """The body that retrieves an entry which refers to `artifact`."""
    return json.dumps({"entries": [{"value": value_of(artifact)}]}, separators=(",", ":")).encode()


def new_entry(entry: str, artifact: str) -> bytes:
    """The body that stores such an entry."""
    body = {"cas_id": entry, "entries": [{"value": value_of(artifact)}]}
    return json.dumps(body, separators=(",", ":")).encode()


def payload(size: int) -> bytes:
    """`size` bytes that do not compress, the same ones each time."""
    return hashlib.shake_256(b"cache-actors").digest(size)
