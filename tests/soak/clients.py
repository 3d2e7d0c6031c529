"""The clients: they store and read at random, judge every answer, and tell the oracle."""

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_never

import httpx

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key, Project, module_id

from .report import Tally
from .service import MARK
from .site import APP, OTHER, TOKENS, Site
from .world import Content, Fault, Result, Violation, World, name_of

SIZES = ((10 << 10, 256 << 10, 2 << 20), (60, 30, 10))
"""Sizes of artifacts, and how often each of them comes in a hundred."""

PROJECTS = (APP, OTHER)
MODULE_NAME = "App.xcframework.zip"
HASHES: dict[str, str] = {}
"""The hashes of modules, by their ids."""

DIGEST = "tuist-checksum-sha256"
TIMEOUT = 15.0
PAUSE = 0.1
"""Seconds that a client waits after it has been refused."""

CONTENDED, KEYS = 3, 10
"""How many artifacts all clients try to store in a round, and how many entries they replace."""

OPERATIONS = {
    "upload": 26,
    "upload, contended": 8,
    "upload, duplicate": 8,
    "upload, wrong digest": 3,
    "upload, cut short": 6,
    "put": 18,
    "store output": 6,
    "store module": 4,
    "read other": 8,
    "read artifact": 22,
    "read entry": 20,
    "read nothing": 2,
    "read without access": 4,
}


@dataclass(frozen=True)
class Round:
    """A round, and what its clients may be told.

    Attributes:
        has_faults: whether the service may be unable to answer.
        calls_fail: whether the disk may seem to fail.
        is_full: whether it may seem to be full.
        grace_until: until when the service may say that Tuist cannot be asked.
    """

    seed: int
    number: int
    has_faults: bool = False
    calls_fail: bool = False
    is_full: bool = False
    grace_until: float = 0.0

    def may_refuse(self, status: int, asked: float) -> bool:
        """Whether `status` is a refusal that faults explain."""
        match status:
            case 429 | 503:
                return self.has_faults or asked < self.grace_until
            case 507:
                return self.is_full
            case 500:
                return self.calls_fail
            case _:
                return False

    def shared(self, kind: Kind, number: int) -> Key:
        """An entry that all clients use: an artifact of this round, or an entry of a few rounds.

        Every id is used in both projects.
        """
        turn = self.number if kind is Kind.CAS else self.number // 8
        rng = random.Random(f"{self.seed} shared {kind.folder} {turn} {number // 2}")
        return new_entry(rng, PROJECTS[number % 2], kind)


def new_entry(rng: random.Random, project: Project, kind: Kind) -> Key:
    """A key with an id such as clients use."""
    name = rng.randbytes(32).hex()
    match kind:
        case Kind.CAS:
            return Key(project, kind, name.upper())
        case Kind.KEYVALUE:
            return Key(project, kind, f"0~{name.upper()}==")
        case Kind.GRADLE:
            return Key(project, kind, name[:32])
        case Kind.MODULE:
            key = Key(project, kind, module_id("builds", name, MODULE_NAME))
            HASHES[key.id] = name
            return key
        case Kind.BLOB | Kind.ACTION:
            return Key(project, kind, name)
        case _:
            assert_never(kind)


class Pool:
    """The artifacts that clients have stored or tried to. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: list[Content] = []

    def add(self, content: Content) -> None:
        """Let others read an artifact, and store it again."""
        with self._lock:
            self._contents.append(content)

    def pick(self, rng: random.Random) -> Content | None:
        """Any, rather a new one."""
        with self._lock:
            recent = self._contents[-rng.choice((20, 2000)) :]
            return rng.choice(recent) if recent else None

    def drop(self, entries: set[Key]) -> None:
        """Do not use these any more."""
        with self._lock:
            self._contents = [each for each in self._contents if each.entry not in entries]


class Client:
    """One client, which does one thing after the other."""

    def __init__(self, number: int, site: Site, world: World, tally: Tally, pool: Pool) -> None:
        self._number = number
        self._site = site
        self._world = world
        self._tally = tally
        self._pool = pool
        self._nginx, self._direct = (
            httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT)
            for url in (site.nginx.url, site.service.url)
        )
        self._may_have_lost_connection = False
        self._others: list[Content] = []  # outputs and modules that it has stored

    def close(self) -> None:
        """Close its connections."""
        self._nginx.close()
        self._direct.close()

    def work(self, this: Round, over: threading.Event) -> None:
        """Do things at random until `over`."""
        rng = random.Random(f"{this.seed} {this.number} {self._number}")
        while not over.is_set():
            kind = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            if not self._do(kind, rng, this):
                over.wait(PAUSE)

    def try_everything(self, this: Round) -> None:
        """Store and read in every project, which has to work now."""
        rng = random.Random(f"{this.seed} {this.number} everything")
        for project in PROJECTS:
            entry = new_entry(rng, project, Kind.CAS)
            content = self._world.new_content(entry, 10 << 10)
            self._upload("upload", content, rng, this)
            self.read(entry, this, direct=False)
            entry = new_entry(rng, project, Kind.KEYVALUE)
            self._put(entry, rng, this)
            self.read(entry, this, direct=False)

    def _do(self, kind: str, rng: random.Random, this: Round) -> bool:
        """One operation; whether it was answered as it should be without any faults."""
        project = rng.choice(PROJECTS)
        match kind:
            case "upload":
                key = new_entry(rng, project, Kind.CAS)
                if rng.random() < 0.2 and (others := self._pool.pick(rng)) is not None:
                    key = Key(project, Kind.CAS, others.entry.id)  # perhaps the other project's
                return self._upload(kind, self._new(key, rng), rng, this)
            case "upload, contended":
                key = this.shared(Kind.CAS, rng.randrange(CONTENDED * 2))
                return self._upload(kind, self._new(key, rng), rng, this)
            case "upload, duplicate":
                content = self._pool.pick(rng)
                if content is None:
                    return False
                if rng.random() < 0.5:
                    content = self._new(content.entry, rng)
                return self._upload(kind, content, rng, this)
            case "upload, wrong digest":
                key = new_entry(rng, project, Kind.CAS)
                return self._upload_wrong(kind, self._new(key, rng), rng, this)
            case "upload, cut short":
                key = new_entry(rng, project, Kind.CAS)
                self._cut_short(kind, self._new(key, rng), rng)
                return True
            case "put":
                return self._put(this.shared(Kind.KEYVALUE, rng.randrange(KEYS * 2)), rng, this)
            case "store output":
                content = self._new(new_entry(rng, project, Kind.GRADLE), rng)
                return self._store_output(kind, content, rng, this)
            case "store module":
                content = self._new(new_entry(rng, project, Kind.MODULE), rng)
                return self._store_module(kind, content, rng, this)
            case "read other":
                if not self._others:
                    return False
                return self.read(rng.choice(self._others[-20:]).entry, this, name=kind)
            case "read artifact":
                content = self._pool.pick(rng)
                if content is None:
                    return False
                return self.read(content.entry, this, direct=rng.random() < 0.15)
            case "read entry":
                key = this.shared(Kind.KEYVALUE, rng.randrange(KEYS * 2))
                return self.read(key, this, direct=rng.random() < 0.15, put=rng.random() < 0.5)
            case "read nothing":
                key = new_entry(rng, project, rng.choice(list(Kind)))
                return self.read(key, this, direct=rng.random() < 0.15, name=kind)
            case _:
                return self._trespass(kind, rng, this)

    def _new(self, key: Key, rng: random.Random) -> Content:
        sizes, weights = SIZES
        return self._world.new_content(key, rng.choices(sizes, weights)[0])

    # --- Operations -----------------------------------------------------------------------------

    def _upload(self, kind: str, content: Content, rng: random.Random, this: Round) -> bool:
        data = content.data()
        direct = rng.random() < 0.15
        headers = {DIGEST: hashlib.sha256(data).hexdigest()} if rng.random() < 0.4 else {}
        body = data if rng.random() < 0.5 else pieces_of(data, rng)
        upload = self._world.begin(content, data, time.monotonic(), may_be_undone=this.calls_fail)
        self._pool.add(content)
        answer = self._ask(
            kind, "POST", content.entry, this, {204}, direct=direct, content=body, headers=headers
        )
        by_nginx = answer is not None and not direct and MARK not in answer.headers
        result = result_of(answer)
        self._world.end(upload, result, time.monotonic(), by_nginx=by_nginx)
        return result is Result.ACKNOWLEDGED

    def _store_output(self, kind: str, content: Content, rng: random.Random, this: Round) -> bool:
        data = content.data()
        upload = self._world.begin(content, data, time.monotonic(), may_be_undone=this.calls_fail)
        direct = rng.random() < 0.15
        answer = self._ask(
            kind, "PUT", content.entry, this, {200, 201}, direct=direct, content=data
        )
        result = result_of(answer)
        self._world.end(upload, result, time.monotonic())
        self._others.append(content)
        return result is Result.ACKNOWLEDGED

    def _store_module(self, kind: str, content: Content, rng: random.Random, this: Round) -> bool:
        """Store a module in parts, in any order; a crash in between costs the upload at most."""
        data, key = content.data(), content.entry
        half = rng.randrange(1, len(data))
        parts = [(1, data[:half]), (2, data[half:])]
        rng.shuffle(parts)
        upload = self._world.begin(content, data, time.monotonic(), may_be_undone=this.calls_fail)
        self._others.append(content)
        answer = self._ask(kind, "POST", key, this, {200}, call="start")
        result = Result.REFUSED  # nothing is stored before it is asked to be complete
        if answer is not None and answer.status_code == 200:
            where = f"&upload_id={answer.json()['upload_id']}"
            for number, part in parts:
                more = f"{where}&part_number={number}"
                answer = self._ask(
                    kind, "POST", key, this, {204}, call="part", more=more, content=part
                )
                if answer is None or answer.status_code != 204:
                    break
            else:
                digest = hashlib.sha256(data).hexdigest()
                end = {"parts": [1, 2], "checksum_sha256": digest}
                answer = self._ask(
                    kind, "POST", key, this, {204}, call="complete", more=where, json=end
                )
                result = result_of(answer)
        self._world.end(upload, result, time.monotonic())
        return result is Result.ACKNOWLEDGED

    def _upload_wrong(self, kind: str, content: Content, rng: random.Random, this: Round) -> bool:
        data = content.data()
        upload = self._world.begin(content, data, time.monotonic(), may_be_stored=False)
        body = data if rng.random() < 0.5 else pieces_of(data, rng)
        headers = {DIGEST: rng.randbytes(32).hex()}
        answer = self._ask(kind, "POST", content.entry, this, {422}, content=body, headers=headers)
        self._world.end(upload, result_of(answer), time.monotonic())
        return answer is not None and answer.status_code == 422

    def _cut_short(self, kind: str, content: Content, rng: random.Random) -> None:
        """Begin an upload, and leave; of a chunked one only the last chunk may be missing."""
        data = content.data()
        upload = self._world.begin(content, data, time.monotonic(), may_be_stored=False)
        port = rng.choice((self._site.nginx.port, self._site.nginx.port, self._site.service.port))
        chunked = rng.random() < 0.5
        sent = rng.choice((0, rng.randrange(len(data)), len(data) if chunked else len(data) - 1))
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
        project = content.entry.project
        head = (
            f"POST {path_of(content.entry)}?{query_of(project)} HTTP/1.1\r\nHost: cache\r\n"
            f"Authorization: Bearer {TOKENS[project]}\r\n{framing}\r\n\r\n"
        ).encode()
        body = data[:sent]
        if chunked and sent:
            body = b"%x\r\n%b\r\n" % (sent, body)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
                connection.sendall(head + body)
                time.sleep(rng.choice((0, 0, 0.005, 0.03)))
                if rng.random() < 0.5:  # close with a reset
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass  # the service is being killed, or has refused
        self._world.end(upload, Result.UNKNOWN, time.monotonic())
        self._tally.operation(kind, "no answer")

    def _put(self, key: Key, rng: random.Random, this: Round) -> bool:
        content = self._world.new_content(key, rng.choice((50, 50, 2000, 40_000)))
        wanted = {"cas_id": key.id, "entries": [{"value": content.value()}]}
        upload = self._world.begin(content, content.data(), time.monotonic())
        answer = self._ask(
            "put", "PUT", key, this, {204}, direct=rng.random() < 0.15, json=wanted, store=True
        )
        result = result_of(answer)
        self._world.end(upload, result, time.monotonic())
        return result is Result.ACKNOWLEDGED

    def read(
        self,
        key: Key,
        this: Round,
        *,
        direct: bool = False,
        put: bool = False,
        name: str | None = None,
    ) -> bool:
        """Read an artifact or an entry, and compare it with what was sent."""
        name = name or ("read artifact" if key.kind is Kind.CAS else "read entry")
        began = time.monotonic()
        method = "PUT" if put else "GET"
        answer = self._ask(name, method, key, this, {200, 404}, direct=direct)
        if answer is None or answer.status_code not in {200, 404}:
            return False
        data = answer.content if answer.status_code == 200 else None
        self._tally.violate(
            self._world.check_read(key, data, began, time.monotonic(), through_nginx=not direct)
        )
        digest = answer.headers.get(DIGEST)
        if data is not None and digest not in {None, hashlib.sha256(data).hexdigest()}:
            self._tally.violate(Violation(Fault.CHANGED, name_of(key), f"digest {digest}"))
        return True

    def _trespass(self, kind: str, rng: random.Random, this: Round) -> bool:
        """Ask with a token that sees only the other project, or none."""
        content = self._pool.pick(rng)
        if content is None:
            return False
        entry = content.entry
        other = OTHER if entry.project == APP else APP
        token, status = rng.choice(((TOKENS[other], 403), ("token-of-nobody", 401)))
        method = rng.choice(("GET", "GET", "POST"))
        body = b"trespasser" if method == "POST" else None
        answer = self._ask(
            kind,
            method,
            entry,
            this,
            {status},
            direct=rng.random() < 0.15,
            headers={"Authorization": f"Bearer {token}"},
            content=body,
        )
        return answer is not None and answer.status_code == status

    # --- Asking ---------------------------------------------------------------------------------

    def _ask(
        self,
        kind: str,
        method: str,
        key: Key,
        this: Round,
        expected: set[int],
        *,
        direct: bool = False,
        store: bool = False,
        call: str | None = None,
        more: str = "",
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> httpx.Response | None:
        """Send a request, and judge the answer's status and form; None if none came.

        `call` is one about an upload in parts, and `more` what it has in its query.
        """
        path = "/api/cache/keyvalue" if store else path_of(key)
        path = f"/api/cache/module/{call}" if call else path
        url = f"{path}?{query_of(key.project)}{module_query(key)}{more}"
        what = f"{method} {name_of(key)} " + ("to the service" if direct else "through nginx")
        client = self._direct if direct else self._nginx
        sends_body = store or "content" in how or method == "POST"
        how["headers"] = {"Authorization": f"Bearer {TOKENS[key.project]}"} | (headers or {})
        asked = time.monotonic()
        try:
            try:
                answer = client.request(method, url, **how)
            except httpx.TransportError:
                # An upload that is refused before its body has been read may cost its connection,
                # says docs/how-to/nginx.md: the next request finds out, and is sent again.
                if direct or sends_body or not self._may_have_lost_connection:
                    raise
                self._may_have_lost_connection = False
                self._tally.add("connections")
                answer = client.request(method, url, **how)
        except httpx.TransportError as error:
            self._tally.operation(kind, "no answer")
            if not direct:
                self._may_have_lost_connection = sends_body
            # nginx lives, and answers reads from disk: it always has an answer to them.
            owed = not direct and method == "GET"
            if not this.has_faults or owed or isinstance(error, httpx.TimeoutException):
                seconds = time.monotonic() - asked
                self._tally.violate(
                    Violation(Fault.STATUS, what, f"{error!r} after {seconds:.2f} s")
                )
            return None
        if not direct:
            self._may_have_lost_connection = sends_body and answer.status_code >= 500
        self._tally.status(answer.status_code)
        self._tally.add("answers")
        self._judge(what, answer, this, expected, asked)
        if answer.status_code not in expected:
            self._tally.operation(kind, "refused")
        else:
            stored = answer.status_code == 204
            self._tally.operation(kind, "acknowledged" if stored else "answered")
        return answer

    def _judge(
        self, what: str, answer: httpx.Response, this: Round, expected: set[int], asked: float
    ) -> None:
        status = answer.status_code
        if status not in expected and not this.may_refuse(status, asked):
            self._tally.violate(
                Violation(
                    Fault.STATUS, what, f"{status} {answer.text[:200]} in round {this.number}"
                )
            )
        if status >= 400 and not is_json_error(answer):
            self._tally.violate(
                Violation(Fault.BODY, what, f"{status} {answer.headers} {answer.text[:200]}")
            )
        if status == 204 and answer.content:
            self._tally.violate(Violation(Fault.BODY, what, "204 with a body"))


def result_of(answer: httpx.Response | None) -> Result:
    """What a client knows of its upload."""
    if answer is None:
        return Result.UNKNOWN
    return Result.ACKNOWLEDGED if answer.status_code in {200, 201, 204} else Result.REFUSED


def is_json_error(answer: httpx.Response) -> bool:
    """Whether an error has the body that Tuist's client understands."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return False
    try:
        body = json.loads(answer.content)
    except ValueError:
        return False
    return isinstance(body, dict) and isinstance(body.get("message"), str)


def path_of(key: Key) -> str:
    """The path that reads a key, or stores an artifact or an output."""
    return f"/api/cache/{key.kind.folder}/{HASHES.get(key.id, key.id)}"


def module_query(key: Key) -> str:
    """What the query of a module has beside its project; nothing for others."""
    return f"&hash={HASHES[key.id]}&name={MODULE_NAME}" if key.kind is Kind.MODULE else ""


def query_of(project: Project) -> str:
    """The query that names a project."""
    return f"account_handle={project.account}&project_handle={project.name}"


def pieces_of(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """`data` in pieces, for a body without Content-Length."""
    size = rng.choice((7_000, 60_000, 300_000))
    return (data[start : start + size] for start in range(0, len(data), size))
