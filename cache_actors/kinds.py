"""The kinds of things that clients store, in one table. Whatever treats kinds differently reads it.

To storage, eviction and scrub a new kind is a line here; HTTP, metrics and nginx need more
(docs/architecture.md). Everything that walks over what is stored loops over `Kind`.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


class Kind(Enum):
    """A kind of thing that clients store.

    Attributes:
        folder: the folder below a project's in which its files lie; in URLs too.
        ending: how the names of its files end.
        label: its name in nginx's log, from which metrics are counted.
        read_methods: the HTTP methods that nginx answers with its files, at a URL with an id.
        store_methods: those that store one there; nginx answers them if it exists already.
        refers: whether its files refer to artifacts (`Kind.CAS`), and so are evicted before them.
            Files of other kinds are evicted by their own last use.
        has_form: whether content is of its form, for files whose checksum is not recorded; None if
            any content is.
    """

    CAS = ("cas", "", "artifact", ("GET", "HEAD"), ("POST",), False, None)
    KEYVALUE = ("keyvalue", ".json", "entry", ("GET", "HEAD", "PUT"), (), True, _is_json_object)

    def __init__(
        self,
        folder: str,
        ending: str,
        label: str,
        read_methods: tuple[str, ...],
        store_methods: tuple[str, ...],
        refers: bool,
        has_form: Callable[[bytes], bool] | None,
    ) -> None:
        self.folder = folder
        self.ending = ending
        self.label = label
        self.read_methods = read_methods
        self.store_methods = store_methods
        self.refers = refers
        self.has_form = has_form
