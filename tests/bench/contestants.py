"""Who is compared: the service, a bare nginx as the physical limit, and another build cache.

They run at the same time, keep what they store on the same disk, and are asked in turns. Every
nginx has one worker process for each core.
"""

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import ValidationError

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.settings import Settings
from tests.support.nginx import NOBODY, nginx_before
from tests.support.service import Service, running_service

from .cases import NGINX, OTHER, OTHER_BEHIND_NGINX, ours
from .failure import NotHere
from .names import PROJECT, QUERY, TOKEN
from .plain_nginx import cores, plain_nginx
from .processes import cpu_seconds, family, memory_bytes
from .turborepo import running_turborepo

Part = Literal["nginx", "service"]


@dataclass(frozen=True, slots=True)
class Api:
    """How artifacts are stored and read, with `{id}` and `{shard}` for an artifact's.

    Attributes:
        method: the method that stores.
        path: the path, and the query, of both.
    """

    method: str
    path: str


PLAIN_FILES = Api("PUT", f"/{PROJECT.account}/{PROJECT.name}/cas/{{shard}}/{{id}}")
TURBOREPO = Api("PUT", f"/v8/artifacts/{{id}}?slug={PROJECT.account}")
CACHE_ACTORS = Api("POST", f"/api/cache/cas/{{id}}?{QUERY}")

KEYVALUE = f"/api/cache/keyvalue/{{id}}?{QUERY}"
STORE_KEYVALUE = f"/api/cache/keyvalue?{QUERY}"
GRADLE = f"/api/cache/gradle/{{id}}?{QUERY}"
MODULE = f"/api/cache/module/{{id}}?{QUERY}&hash={{id}}&name=App.xcframework.zip"
START_MODULE = f"/api/cache/module/start?{QUERY}&hash={{id}}&name=App.xcframework.zip"
SEND_PART = f"/api/cache/module/part?{QUERY}&part_number=1&upload_id="
COMPLETE_MODULE = f"/api/cache/module/complete?{QUERY}&upload_id="


@dataclass(frozen=True)
class Contestant:
    """A cache that runs.

    Attributes:
        name: what it is called in tables.
        api: how it is asked.
        url: where it listens.
        storage: the folder that it keeps things in.
        pids: the first process of each part of it.
        syncs: whether it syncs what it stores.
        has_entries: whether it keeps key-value entries too.
        workers: of the service's processes, so many answer.
        log: the service's own log.
        access_log: nginx's.
    """

    name: str
    api: Api
    url: str
    storage: Path
    pids: dict[Part, int]
    syncs: bool = False
    has_entries: bool = False
    workers: int = 1
    log: Path | None = None
    access_log: Path | None = None

    def address(self) -> tuple[str, int]:
        """The host and the port that it listens on."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def cpu_seconds(self) -> dict[Part, float]:
        """The CPU time of each part so far."""
        return {part: cpu_seconds(family(pid)) for part, pid in self.pids.items()}

    def memory_bytes(self) -> dict[Part, int]:
        """The memory of each part."""
        return {part: memory_bytes(family(pid)) for part, pid in self.pids.items()}

    def log_end(self) -> int:
        """Where the service's log ends."""
        return self.log.stat().st_size if self.log else 0

    def answered_since(self, log_end: int) -> dict[str, int]:
        """How many requests each worker of the service has answered since then."""
        if self.log is None:
            return {}
        with self.log.open("rb") as log:
            log.seek(log_end)
            lines = [msgspec.json.decode(line) for line in log if b'"event":"request"' in line]
        return dict(sorted(Counter(line.get("worker", "") for line in lines).items()))

    def tidy(self) -> None:
        """Empty nginx's log, which fills memory, and have the disk catch up."""
        if self.access_log is not None:
            os.truncate(self.access_log, 0)
        os.sync()


_scratch: list[Path] = []  # the folders in use, the outermost first


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder on the disk that temporary files go to; nginx's user may look into it.

    Those that are made meanwhile lie in it, and are removed with it: for minutes after many files
    were removed, ext4 takes longer to make others. It is removed by `rm`, as Python would take
    minutes for a million files.
    """
    folder = Path(tempfile.mkdtemp(prefix="cache-bench-", dir=_scratch[0] if _scratch else None))
    _scratch.append(folder)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        _scratch.remove(folder)
        if not _scratch:
            subprocess.run(["/bin/rm", "-rf", folder], check=True)


def storage_in(scratch: Path, name: str) -> Path:
    """A new storage folder, which nginx's user may read."""
    storage = scratch / name
    storage.mkdir()
    if os.geteuid() == 0:
        os.chown(storage, 0, NOBODY)
    storage.chmod(0o2750)
    return storage


@contextmanager
def bare_nginx(scratch: Path) -> Iterator[Contestant]:
    """An nginx that serves files, takes them with PUT, and does nothing else."""
    storage, uploads = storage_in(scratch, "bare"), scratch / "uploads"
    uploads.mkdir()
    if os.geteuid() == 0:
        os.chown(storage, NOBODY, NOBODY)
    server = f"""\
    server {{
        listen {{listen}} backlog=4096;
        root   {storage};
        dav_methods          PUT;
        create_full_put_path on;
        dav_access           group:r;
    }}"""
    with plain_nginx(server, uploads, workers=cores()) as nginx:
        yield Contestant(NGINX, PLAIN_FILES, nginx.url, storage, {"nginx": nginx.pid})


@contextmanager
def turborepo(installed: Path, scratch: Path) -> Iterator[tuple[Contestant, Contestant]]:
    """turborepo-remote-cache, asked directly, and through nginx."""
    storage = scratch / "turborepo"
    storage.mkdir()
    server = """\
    log_format bench '$time_iso8601 $request_id $request_method $uri $status $request_length '
                     '$body_bytes_sent $request_time $upstream_response_time';
    access_log {runtime}/access.log bench buffer=64k flush=1s;
    upstream turborepo {
        server UPSTREAM max_fails=0;
        keepalive 64;
    }
    server {
        listen {listen} backlog=4096;
        location / {
            proxy_pass         http://turborepo;
            proxy_http_version 1.1;
            proxy_set_header   Connection "";
            proxy_set_header   Host $host;
        }
    }"""
    with (
        running_turborepo(installed, storage) as (direct, pid),
        plain_nginx(
            server.replace("UPSTREAM", direct.removeprefix("http://")), workers=cores()
        ) as nginx,
    ):
        both: dict[Part, int] = {"nginx": nginx.pid, "service": pid}
        yield (
            Contestant(OTHER, TURBOREPO, direct, storage, {"service": pid}),
            Contestant(OTHER_BEHIND_NGINX, TURBOREPO, nginx.url, storage, both),
        )


@contextmanager
def cache_actors(
    storage: Path, *, workers: int = 1, relaxed: bool = False
) -> Iterator[tuple[Contestant, Service]]:
    """The service behind nginx, as in production.

    Raises:
        NotHere: it does not know so many workers.
    """
    _require_workers(workers)
    sync = "relaxed" if relaxed else "fsync"
    with tempfile.TemporaryDirectory(prefix="cache-bench-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o777)
        answers = Path(folder) / "answers.log"
        environment = {
            "WORKERS": str(workers),
            "DURABILITY": sync,
            "NGINX_LOG": str(answers),
        }
        with StandInTuist({TOKEN: [str(PROJECT)]}) as tuist:
            service = Service(storage, tuist.url, environment)
            with (
                running_service(service),
                nginx_before(
                    f"127.0.0.1:{service.port}",
                    storage,
                    "debian",
                    answers_log=answers,
                    worker_processes=cores(),
                ) as nginx,
            ):
                assert service.process is not None
                pid = int((nginx.options.runtime / "nginx.pid").read_text())
                yield (
                    Contestant(
                        ours(workers, sync),
                        CACHE_ACTORS,
                        nginx.url,
                        storage,
                        {"nginx": pid, "service": service.process.pid},
                        syncs=not relaxed,
                        has_entries=True,
                        workers=workers,
                        log=service.log,
                        access_log=nginx.options.runtime / "access.log",
                    ),
                    service,
                )


def _require_workers(workers: int) -> None:
    try:
        Settings(server_url="http://127.0.0.1", workers=workers)
    except ValidationError as error:
        raise NotHere(f"This version does not know WORKERS={workers}") from error
