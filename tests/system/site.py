"""A site: nginx, the service behind it, and the Tuist server behind that."""

from __future__ import annotations

import json
import os
import secrets
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.contract.examples import bearer, cas_path, handles, new_cas_id
from tests.support.nginx import NOBODY, Nginx, nginx_before, shared_storage
from tests.support.service import COMMAND, Service
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_actors.dev.tuist import StandInTuist

TOKEN = "token"
PROJECT, OTHER_PROJECT = "acme/app", "acme/other"
QUERY = "account_handle=acme&project_handle=app"


@dataclass(frozen=True)
class Site:
    """nginx, the service behind it on a Unix socket, and the Tuist server behind that.

    `token` sees `PROJECT`, and is what requests show unless they are told otherwise.
    """

    tuist: StandInTuist
    service: Service
    nginx: Nginx
    client: httpx.Client
    token: str = TOKEN

    @property
    def authorization(self) -> str:
        """The header that shows the token."""
        return f"Authorization: Bearer {self.token}"

    def new_token(self, *projects: str) -> str:
        """A token that nobody has shown before, which sees `projects`."""
        token = f"new-{secrets.token_hex(8)}"
        self.tuist.tokens[token] = list(projects)
        return token

    def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        project: str = PROJECT,
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> httpx.Response:
        """Send a request through nginx."""
        headers = bearer(token or self.token) | (headers or {})
        return self.client.request(method, path, params=handles(project), headers=headers, **how)

    def upload(self, cas_id: str, body: bytes, **how: Any) -> None:
        """Store an artifact."""
        response = self.ask("POST", cas_path(cas_id), content=body, **how)
        assert response.status_code == 204, response.text

    def put(self, kv_id: str, value: str, **how: Any) -> httpx.Response:
        """Store an entry of one value."""
        content = {"cas_id": kv_id, "entries": [{"value": value}]}
        return self.ask("PUT", "/api/cache/keyvalue", json=content, **how)

    def stored(self, body: bytes = b"bytes", **how: Any) -> str:
        """The id of a new artifact."""
        cas_id = new_cas_id()
        self.upload(cas_id, body, **how)
        return cas_id

    def file(self, cas_id: str) -> Path:
        """Where an artifact lies on disk."""
        return self.service.storage / PROJECT / "cas" / cas_id[2:4] / cas_id

    def requests(self, path: str, method: str | None = None) -> list[dict[str, Any]]:
        """What the service has logged so far of the requests for `path` that have been answered."""
        marker = new_cas_id()
        self.ask("GET", "/up", headers={"X-Request-ID": marker})
        wait_for_log(self.service, marker)
        lines = map(json.loads, self.service.log.read_text().splitlines())
        return [
            line
            for line in lines
            if line["event"] == "request"
            and line["path"] == path
            and (method is None or line["method"] == method)
        ]

    def questions(self, token: str) -> int:
        """How often the Tuist server has been asked about `token`."""
        header = f"Bearer {token}"
        return sum(question.authorization == header for question in self.tuist.questions)


@contextmanager
def running_site(
    which: str,
    tuist: StandInTuist,
    settings: dict[str, str],
    *,
    command: tuple[str, ...] = COMMAND,
    crashes: bool = False,
    **options: Any,
) -> Iterator[Site]:
    """A running site, whose service and nginx have hit no bug in the end.

    Args:
        which: the kind of nginx.
        tuist: the Tuist server.
        settings: of the service.
        command: runs the service.
        crashes: whether it is one that is meant to crash.
        options: of nginx.
    """
    with shared_storage() as storage, socket_folder() as folder:
        socket_path = folder / "cache.sock"
        environment = {"SOCKET_PATH": str(socket_path), **settings}
        service = Service(storage, tuist.url, environment, command)
        service.start(wait=False)
        try:
            wait_for_log(service, '"started"')
            with (
                nginx_before(f"unix:{socket_path}", storage, which, **options) as nginx,
                client_of(nginx) as client,
            ):
                yield Site(tuist, service, nginx, client)
                assert crashes or "Traceback" not in service.log.read_text()
                complaints = nginx.error_log()
                assert not any(level in complaints for level in ("[crit]", "[alert]", "[emerg]"))
        finally:
            assert service.process is not None
            if service.process.poll() is None:
                service.stop(signal.SIGKILL)


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder for a socket that nginx's user may connect to: the socket inherits the group."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-socket-", dir="/dev/shm") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, 0, NOBODY)
        folder.chmod(0o2750)
        yield folder


def client_of(nginx: Nginx, **how: Any) -> httpx.Client:
    """A client of `nginx`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(
        base_url=nginx.url,
        trust_env=False,
        timeout=30,
        verify=False,  # noqa: S501
        limits=limits,
        **how,
    )


def wait_for_log(service: Service, text: str, times: int = 1) -> None:
    """Return once the service has logged `text` so many times."""
    eventually(lambda: service.log.exists() and service.log.read_text().count(text) >= times)
