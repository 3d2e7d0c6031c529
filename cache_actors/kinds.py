"""The kinds of things that clients store, in one table with all their differences.

For storage, eviction, scrub and metrics, which loop over `Kind`, a new kind is one more row. HTTP
and nginx need more (docs/architecture.md).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


ACTION_MARK = b"ACT1"
"""First bytes of an action's file (`storage/actions.py`)."""


def _is_action(content: bytes) -> bool:
    return content.startswith(ACTION_MARK)


@dataclass(frozen=True, slots=True)
class IdGrammar:
    """The grammar of a kind's ids.

    An id is the name of its file without the ending, and its third and fourth characters are the
    name of the folder. So an id must not contain a slash or NUL, nor a dot at its start or as its
    third character, and has at most 246 bytes with the ending (the quarantine adds nine). Its third
    and fourth characters should vary. Names of another form are turned into ids where requests are
    parsed.

    Attributes:
        pattern: an expression that matches exactly the ids; nginx has the same one.
        meaning: the grammar in words, for error messages.
    """

    pattern: re.Pattern[str]
    meaning: str


_PLAIN_IDS = IdGrammar(
    re.compile("[A-Za-z0-9_~=+-]{1,200}"), "1 to 200 characters of A-Z a-z 0-9 _ ~ = + -"
)


_SHA256_IDS = IdGrammar(re.compile("[0-9a-f]{64}"), "a SHA-256, in lower case")

MAX_PART_BYTES = 10 << 20
"""Largest part of a module's upload, in bytes."""


class Kind(Enum):
    """A kind of thing that clients store.

    Attributes:
        folder: the folder of the kind's files, below that of a project; also part of URLs.
        ending: the ending of the names of its files.
        label: its name in nginx's log and in metrics.
        read_methods: the HTTP methods that nginx answers from its files, at a URL with an id; empty
            if the service answers, and names the file for nginx to send.
        store_methods: the HTTP methods that store a file at that URL; nginx answers them if the
            file exists already.
        ids: the grammar of its ids.
        limit: the largest body of a request to store one, or a part of one: bytes, or the name of
            the setting with that number.
        refers: whether its files refer to others (`storage/references.py`): entries to artifacts
            (`Kind.CAS`), actions to blobs. They are evicted before those. Files of other kinds are
            evicted by their own last use.
        has_form: the test whether a content is valid, for files without a recorded checksum; None
            if every content is valid.
    """

    CAS = (
        *("cas", "", "artifact", ("GET", "HEAD"), ("POST",)),
        *(_PLAIN_IDS, "max_upload_bytes", False, None),
    )
    KEYVALUE = (
        *("keyvalue", ".json", "entry", ("GET", "HEAD", "PUT"), ()),
        *(_PLAIN_IDS, "max_keyvalue_bytes", True, _is_json_object),
    )
    GRADLE = (
        *("gradle", "", "gradle", ("GET", "HEAD"), ()),
        *(_PLAIN_IDS, "max_gradle_bytes", False, None),
    )
    MODULE = (
        *("module", "", "module", (), ()),
        *(_SHA256_IDS, MAX_PART_BYTES, False, None),
    )
    BLOB = (
        *("blob", "", "blob", (), ()),
        *(_SHA256_IDS, "max_blob_bytes", False, None),
    )
    ACTION = (
        *("action", "", "action", (), ()),
        *(_SHA256_IDS, "grpc_max_ac_bytes", True, _is_action),
    )

    def __init__(
        self,
        folder: str,
        ending: str,
        label: str,
        read_methods: tuple[str, ...],
        store_methods: tuple[str, ...],
        ids: IdGrammar,
        limit: str | int,
        refers: bool,
        has_form: Callable[[bytes], bool] | None,
    ) -> None:
        self.folder = folder
        self.ending = ending
        self.label = label
        self.read_methods = read_methods
        self.store_methods = store_methods
        self.ids = ids
        self.limit = limit
        self.refers = refers
        self.has_form = has_form
