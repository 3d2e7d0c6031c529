"""A site: nginx, the service behind it, and the Tuist server behind that."""

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.contract.examples import bearer, cas_path, handles, new_cas_id
from tests.support.nginx import NOBODY, Nginx, nginx_before, shared_storage
from tests.support.service import COMMAND, Service, client_at, client_of, running_service
from tests.support.tuist import HeldTuist

TOKEN = "token"
PROJECT, OTHER_PROJECT = "acme/app", "acme/other"


@dataclass(frozen=True)
class Site:
    """nginx, the service behind it on a Unix socket, and the Tuist server behind that.

    `token` sees `PROJECT`, and is what requests show unless they are told otherwise.

    Attributes:
        client: of nginx.
        direct: a client of the service itself.
    """

    tuist: HeldTuist
    service: Service
    nginx: Nginx
    client: httpx.Client
    direct: httpx.Client
    token: str = TOKEN

    @property
    def authorization(self) -> str:
        """The header that shows the token."""
        return f"Authorization: Bearer {self.token}"

    @property
    def access_log(self) -> Path:
        """nginx's."""
        return self.nginx.options.runtime / "access.log"

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

    def file(self, cas_id: str, project: str = PROJECT) -> Path:
        """Where an artifact lies on disk."""
        return self.service.storage / project / "cas" / cas_id[2:4] / cas_id

    def requests(self, path: str, method: str | None = None) -> list[dict[str, Any]]:
        """What the service has logged so far of the requests for `path` that have been answered."""
        marker = new_cas_id()
        self.ask("GET", "/up", headers={"X-Request-ID": marker})
        self.service.wait_for_log(marker)
        return [
            line
            for line in self.service.logged("request")
            if line["path"] == path and method in (None, line["method"])
        ]

    def questions(self, token: str) -> int:
        """How often the Tuist server has been asked about `token`."""
        header = f"Bearer {token}"
        return sum(question.authorization == header for question in self.tuist.questions)

    def start_again(self) -> None:
        """Start the service that has ended, and return when it takes requests."""
        starts = len(self.service.logged("started"))
        self.service.start(wait=False)
        self.service.wait_for_log('"started"', starts + 1)

    @contextmanager
    def service_killed(self) -> Iterator[None]:
        """The service is killed, and started again in the end."""
        self.service.stop(signal.SIGKILL)
        try:
            yield
        finally:
            self.start_again()


@contextmanager
def running_site(
    which: str,
    tuist: HeldTuist,
    settings: dict[str, str] | None = None,
    *,
    command: tuple[str, ...] = COMMAND,
    crashes: bool = False,
    complaints: bool = False,
    **options: Any,
) -> Iterator[Site]:
    """A running site, whose service and nginx have hit no bug in the end.

    Args:
        which: the kind of nginx.
        tuist: the Tuist server.
        settings: of the service.
        command: runs the service.
        crashes: whether it is one that is meant to crash.
        complaints: whether nginx is meant to have something to complain of.
        options: of nginx, as for `nginx_before`.
    """
    with shared_storage() as storage, socket_folder() as folder:
        socket_path = folder / "cache.sock"
        environment = {"SOCKET_PATH": str(socket_path), **(settings or {})}
        with running_service(
            Service(storage, tuist.url, environment, command), wait=False
        ) as service:
            service.wait_for_log('"started"')
            with (
                nginx_before(f"unix:{socket_path}", storage, which, **options) as nginx,
                client_of(nginx.url, headers={}, params={}) as client,
                client_at(socket_path) as direct,
            ):
                yield Site(tuist, service, nginx, client, direct)
                assert crashes or "Traceback" not in service.log.read_text()
                complained = nginx.error_log()
                levels = ("[emerg]",) if complaints else ("[crit]", "[alert]", "[emerg]")
                assert not any(level in complained for level in levels)


@contextmanager
def socket_folder(mode: int = 0o2750) -> Iterator[Path]:
    """A folder for sockets, of nginx's group: what is made in it belongs to that group too.

    Args:
        mode: of the folder; nginx may at least look into it.
    """
    with tempfile.TemporaryDirectory(prefix="cache-actors-socket-", dir="/dev/shm") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, 0, NOBODY)
        folder.chmod(mode)
        yield folder
