"""The kinds of things that clients store, in one table. Whatever treats kinds differently reads it.

To storage, eviction, scrub and metrics a new kind is a row here; HTTP and nginx need more
(docs/architecture.md). Everything that walks over what is stored loops over `Kind`.
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


@dataclass(frozen=True, slots=True)
class IdGrammar:
    """The ids of a kind. An id is its file's name up to the ending, and two characters a folder's.

    So what matches holds no slash and no NUL, has no dot at the start nor as its third character,
    and is at most 246 bytes with the ending (the quarantine adds nine). Its third and fourth
    character should vary. What clients name in other characters or in several parts becomes such an
    id where a request is read.

    Attributes:
        pattern: matches each id whole, and nothing else; nginx has the same expression.
        meaning: the same in words, for error messages.
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
        folder: the folder below a project's in which its files lie; in URLs too.
        ending: how the names of its files end.
        label: its name in nginx's log, from which metrics are counted.
        read_methods: the HTTP methods that nginx answers with its files, at a URL with an id;
            none if the service answers, and names the file for nginx to send.
        store_methods: those that store one there; nginx answers them if it exists already.
        ids: what its ids look like.
        limit: the largest body of a request to store one, or a part of one: bytes, or the name of
            the setting that says how many.
        refers: whether its files refer to artifacts (`Kind.CAS`), and so are evicted before them.
            Files of other kinds are evicted by their own last use.
        has_form: whether content is of its form, for files whose checksum is not recorded; None if
            any content is.
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
