"""The oracle: what was sent, what was acknowledged, and so which answers are right. No I/O.

Every content names its project, kind, id and writer in its first line and goes on with bytes that
only this writer would send, so that any answer can be told apart from any other. Times are
seconds of one clock; an upload takes effect at some moment between its beginning and its end, if at
all, and the oracle accepts every answer that some order of these moments explains.

Two things that docs/reliability.md does not promise are accepted, and nothing else:

* nginx may say 204 for an artifact that another client is just storing, which is gone again if the
  sync of its folder fails. Such an acknowledgement counts only if no failed upload of the same
  artifact overlapped with it while syncs could fail (`Upload.is_firm`).
* nginx may serve an artifact that was removed again in that way for two seconds more.
"""

import base64
import hashlib
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key

NGINX_REMEMBERS = 2.5
"""Seconds that nginx may serve a removed artifact for, by its `open_file_cache_valid` of 2 s, which
it counts in whole seconds of its own clock."""


class Fault(Enum):
    """What can be wrong with an answer or with what is stored."""

    LOST = "acknowledged, but not there"
    TORN = "a part of what was sent"
    STALE = "older than what was acknowledged or seen"
    CHANGED = "an artifact that has changed"
    FOREIGN = "sent for another id or project"
    UNSENT = "bytes that nobody sent"
    FORBIDDEN = "what must not be stored: cut short, or not as declared"
    STATUS = "a status that should not be"
    BODY = "an error without the JSON it should have"
    FILE = "a file that should not be there"
    LEFTOVER = "a temporary file left behind"
    QUARANTINED = "put in quarantine, though nothing damages files"
    UNAVAILABLE = "not up again after the faults"
    LOG = "an unexpected error in the service's or nginx's log"
    STOP = "a stop that was not in order"
    SCRUB = "a scrub that found something"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that should not be."""

    fault: Fault
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.fault.value}" + (f" ({self.detail})" if self.detail else "")


class Result(Enum):
    """What a client has heard of an upload."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Content:
    """What `writer` sends for `key`. Each writer number is used for one content only."""

    entry: Key
    writer: int
    size: int

    def data(self) -> bytes:
        """The bytes of the file: an artifact, or the response that retrieves an entry."""
        head = f"{name_of(self.entry)} {self.writer} {self.size} "
        filler = random.Random(head).randbytes
        if not self.entry.kind.refers:
            return (head.encode() + filler(self.size))[: max(self.size, len(head))]
        return b'{"entries":[{"value":"%b"}]}' % self.value().encode()

    def value(self) -> str:
        """The value of a key-value entry."""
        head = f"{name_of(self.entry)} {self.writer} {self.size} "
        return head + base64.b64encode(random.Random(head).randbytes(self.size)).decode()


@dataclass(slots=True, eq=False)
class Upload:
    """One try to store a content.

    Attributes:
        content: what is sent.
        digest: its SHA-256.
        began, ended: when; `ended` is None while it is under way.
        may_be_stored: False if it is cut short, or not as declared.
        may_be_undone: whether a sync could fail meanwhile, so that a refused upload may have been
            visible for a moment.
        by_nginx: whether nginx has answered for itself that the artifact exists.
        beside: uploads of the same entry that were under way at the same time.
    """

    content: Content
    digest: bytes
    began: float
    may_be_stored: bool = True
    may_be_undone: bool = False
    by_nginx: bool = False
    ended: float | None = None
    result: Result | None = None
    beside: "list[Upload]" = field(default_factory=list)

    def ended_before(self, moment: float) -> bool:
        """Whether it was over at `moment`."""
        return self.ended is not None and self.ended < moment

    def is_firm(self) -> bool:
        """Whether it is acknowledged, and that has to hold."""
        if self.result is not Result.ACKNOWLEDGED:
            return False
        return not self.by_nginx or not any(
            other.ended is None or (other.result is not Result.ACKNOWLEDGED and other.may_be_undone)
            for other in self.beside
        )

    def is_weak(self) -> bool:
        """Whether it is acknowledged, but nobody promised that this holds."""
        return self.result is Result.ACKNOWLEDGED and not self.is_firm()


@dataclass(slots=True)
class _State:
    """What is known of an entry.

    `pinned` is what an artifact is for good. `seen` has, for each content of an entry, when the
    first read that returned it was over.
    """

    uploads: dict[bytes, list[Upload]] = field(default_factory=dict)
    open: list[Upload] = field(default_factory=list)
    pinned: bytes | None = None
    pinned_at: float = 0.0
    seen: dict[bytes, float] = field(default_factory=dict)

    def all(self) -> Iterable[Upload]:
        return (upload for uploads in self.uploads.values() for upload in uploads)


class World:
    """All that was sent. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[Key, _State] = {}
        self._retired: set[Key] = set()
        self._writers = 0
        self._weak = 0

    # --- What clients do ------------------------------------------------------------------------

    def new_content(self, key: Key, size: int) -> Content:
        """A content that nobody has sent before."""
        with self._lock:
            self._writers += 1
            return Content(key, self._writers, size)

    def begin(
        self,
        content: Content,
        data: bytes,
        now: float,
        *,
        may_be_stored: bool = True,
        may_be_undone: bool = False,
    ) -> Upload:
        """An upload of `content`, which is `data`, begins."""
        digest = hashlib.sha256(data).digest()
        upload = Upload(content, digest, now, may_be_stored, may_be_undone)
        with self._lock:
            state = self._states.setdefault(content.entry, _State())
            for other in state.open:
                other.beside.append(upload)
                upload.beside.append(other)
            state.open.append(upload)
            state.uploads.setdefault(digest, []).append(upload)
        return upload

    def end(self, upload: Upload, result: Result, now: float, *, by_nginx: bool = False) -> None:
        """An upload is over."""
        with self._lock:
            upload.ended, upload.result, upload.by_nginx = now, result, by_nginx
            self._states[upload.content.entry].open.remove(upload)

    # --- What is answered -----------------------------------------------------------------------

    def check_read(
        self,
        key: Key,
        data: bytes | None,
        began: float,
        ended: float,
        *,
        through_nginx: bool = False,
    ) -> Violation | None:
        """What is wrong with a read that returned `data`, None for a miss; None if it is right."""
        digest = None if data is None else hashlib.sha256(data).digest()
        with self._lock:
            state = self._states.get(key, _State())
            uploads = state.uploads.get(digest) if digest else None
            if data is not None and uploads is None:
                return self._stranger(key, data)
            return self._check(state, key, digest, began, ended, through_nginx)

    def check_digest(
        self, key: Key, digest: bytes | None, began: float, ended: float
    ) -> Violation | None:
        """Like `check_read`, for a file whose digest is known, and is known to have been sent."""
        with self._lock:
            state = self._states.get(key, _State())
            return self._check(state, key, digest, began, ended, through_nginx=False)

    def has_sent(self, key: Key, digest: bytes) -> bool:
        """Whether content with that digest was sent for `key`."""
        with self._lock:
            state = self._states.get(key)
            return state is not None and digest in state.uploads

    def _check(
        self,
        state: _State,
        key: Key,
        digest: bytes | None,
        began: float,
        ended: float,
        through_nginx: bool,
    ) -> Violation | None:
        what = name_of(key)
        if digest is None:
            return self._check_miss(state, what, key, began)
        uploads = state.uploads[digest]
        storable = [upload for upload in uploads if upload.may_be_stored]
        if not storable or min(upload.began for upload in storable) > ended:
            return Violation(Fault.FORBIDDEN, what, writers_of(uploads))
        if key.kind is Kind.KEYVALUE:
            return self._check_entry(state, what, digest, began, ended)
        return self._check_artifact(state, what, digest, began, ended, through_nginx)

    def _check_miss(self, state: _State, what: str, key: Key, began: float) -> Violation | None:
        firm = [upload for upload in state.all() if upload.is_firm() and upload.ended_before(began)]
        if firm:
            return Violation(Fault.LOST, what, writers_of(firm))
        if key.kind is Kind.KEYVALUE and any(seen < began for seen in state.seen.values()):
            return Violation(Fault.LOST, what, "it has been read before")
        return None

    def _check_artifact(
        self,
        state: _State,
        what: str,
        digest: bytes,
        began: float,
        ended: float,
        through_nginx: bool,
    ) -> Violation | None:
        uploads = state.uploads[digest]
        if through_nginx and all(u.result is not Result.ACKNOWLEDGED for u in uploads):
            # It may have been removed again; nginx has then remembered it since before the end.
            undone = [upload for upload in uploads if upload.may_be_undone]
            if any(u.ended is None or began < u.ended + NGINX_REMEMBERS for u in undone):
                return None
        if state.pinned is not None and state.pinned != digest and state.pinned_at < began:
            was = writers_of(state.uploads[state.pinned])
            return Violation(Fault.CHANGED, what, f"from {was} to {writers_of(uploads)}")
        if state.pinned is None and any(
            upload.is_firm() and upload.ended_before(began) for upload in state.all()
        ):
            state.pinned, state.pinned_at = digest, ended
        return None

    def _check_entry(
        self, state: _State, what: str, digest: bytes, began: float, ended: float
    ) -> Violation | None:
        over = max((u.ended if u.ended is not None else ended) for u in state.uploads[digest])
        for newer in state.all():
            if newer.began <= over:
                continue
            if newer.is_firm() and newer.ended_before(began):
                detail = f"{writers_of(state.uploads[digest])}, then {writers_of([newer])} was put"
                return Violation(Fault.STALE, what, detail)
            if state.seen.get(newer.digest, began) < began:
                detail = (
                    f"{writers_of(state.uploads[digest])}, after {writers_of([newer])} was read"
                )
                return Violation(Fault.STALE, what, detail)
        state.seen[digest] = min(ended, state.seen.get(digest, ended))
        return None

    def _stranger(self, key: Key, data: bytes) -> Violation:
        """What to say of bytes that nobody sent for `key`."""
        what = name_of(key)
        begin = data[:60]
        if key in self._retired:
            return Violation(Fault.FILE, what, "it had been removed by the soak")
        for upload in self._states.get(key, _State()).all():
            sent = upload.content.data()
            if hashlib.sha256(sent).digest() == upload.digest and sent.startswith(data):
                return Violation(Fault.TORN, what, f"{len(data)} of {len(sent)} bytes")
        for other, state in self._states.items():
            if hashlib.sha256(data).digest() in state.uploads:
                return Violation(Fault.FOREIGN, what, f"it is {name_of(other)}")
        torn = f"{name_of(key)} ".encode() in data[:600]
        return Violation(Fault.TORN if torn else Fault.UNSENT, what, f"{len(data)} bytes {begin!r}")

    # --- Book-keeping ---------------------------------------------------------------------------

    def firm(self) -> list[Key]:
        """All entries that have to be there now."""
        with self._lock:
            return [
                entry
                for entry, state in self._states.items()
                if any(upload.is_firm() for upload in state.all())
            ]

    def uploads(self) -> list[Upload]:
        """All uploads of what has not been retired."""
        with self._lock:
            return [upload for state in self._states.values() for upload in state.all()]

    def weak(self) -> int:
        """How many acknowledgements there were that nobody promised anything with."""
        with self._lock:
            states = self._states.values()
            return self._weak + sum(up.is_weak() for state in states for up in state.all())

    def retire(self, entries: Iterable[Key]) -> None:
        """Forget entries, whose files the soak removes: nobody will ask for them any more."""
        with self._lock:
            for entry in entries:
                state = self._states.pop(entry, _State())
                self._weak += sum(upload.is_weak() for upload in state.all())
                self._retired.add(entry)


def name_of(key: Key) -> str:
    """What an entry is called in contents and messages."""
    return f"{key.project}/{key.kind.folder}/{key.id}"


def writers_of(uploads: Iterable[Upload]) -> str:
    """Who wrote, for messages."""
    parts = []
    for upload in uploads:
        ended = "open" if upload.ended is None else f"{upload.ended:.3f}"
        result = upload.result.value if upload.result else "open"
        by = " by nginx" if upload.by_nginx else ""
        parts.append(f"writer {upload.content.writer} [{upload.began:.3f}-{ended}] {result}{by}")
    return "; ".join(parts)
