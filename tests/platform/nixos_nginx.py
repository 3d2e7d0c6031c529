"""What NixOS makes of `services.nginx`, and a real nginx that runs it.

The order of the parts, and what NixOS adds to them, is that of nixpkgs'
nixos/modules/services/web-servers/nginx/default.nix; it matters because nginx knows a log format or
a cache only from where it is defined. Loopback stands in for the host's addresses, a self-signed
certificate for ACME's, and a folder for those that nginx writes to.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_actors.nginx.binary import nginx_version
from cache_actors.nginx.config import HTTP2_DIRECTIVE_SINCE
from tests.support.nginx import new_certificate
from tests.support.service import free_port
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Site:
    """Where the virtual host is, once nginx runs.

    Attributes:
        name: its host name.
        http, https: the ports on loopback that stand for the addresses it listens on.
        metrics: the port on loopback at which Prometheus gets the metrics.
        certificate: what it shows, in PEM.
    """

    name: str
    http: tuple[int, ...]
    https: tuple[int, ...]
    metrics: int
    certificate: Path


def render(
    nginx: dict[str, Any], folder: Path, version: tuple[int, ...], user: str | None
) -> tuple[str, Site]:
    """The configuration that NixOS makes of the evaluated `services.nginx`, moved into `folder`.

    It has one virtual host, which redirects to TLS. `user` is who workers are, if root starts it.
    """
    [(name, host)] = nginx["virtualHosts"].items()
    assert host["forceSSL"]
    assert host["enableACME"]
    ports: dict[bool, list[int]] = {False: [], True: []}
    listen: dict[bool, list[str]] = {False: [], True: []}
    http2_with_listen = host["http2"] and version < HTTP2_DIRECTIVE_SINCE
    for where in host["listen"]:
        tls = where["ssl"]
        ports[tls].append(free_port())
        words = ["listen", f"127.0.0.1:{ports[tls][-1]}"]
        words += ["ssl"] * tls + ["http2"] * (tls and http2_with_listen)
        listen[tls].append(" ".join(words + where["extraParameters"]) + ";")
    metrics = free_port()
    servers = nginx["appendHttpConfig"].replace("127.0.0.1:9464", f"127.0.0.1:{metrics}")
    challenges = (
        "location ^~ /.well-known/acme-challenge/ "
        f"{{ root {_moved(host['acmeRoot'], folder)}; auth_basic off; }}"
    )
    tls_settings = (
        "ssl_session_timeout 1d; ssl_session_cache shared:SSL:10m; ssl_session_tickets off;"
        if nginx["recommendedTlsSettings"]
        else ""
    )
    text = f"""\
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
{f"user {user};" if user else ""}
events {{ {nginx["eventsConfig"]} }}
http {{
client_body_temp_path {folder}/client_body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;

types {{ text/html html; }}
types_hash_max_size 4096;
default_type application/octet-stream;
ssl_protocols TLSv1.2 TLSv1.3;
{tls_settings}
map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
client_max_body_size 10m;
server_tokens off;
{_moved(nginx["commonHttpConfig"], folder)}
server {{
{" ".join(listen[False])}
server_name {name};
{challenges}
location / {{ return 301 https://$host$request_uri; }}
}}
server {{
{" ".join(listen[True])}
{"http2 on;" if host["http2"] and not http2_with_listen else ""}
server_name {name};
{challenges}
ssl_certificate {folder}/acme/fullchain.pem;
ssl_certificate_key {folder}/acme/key.pem;
{_moved(host["extraConfig"], folder)}
}}
{servers}
}}
{nginx["appendConfig"]}
"""
    certificate = folder / "acme" / "fullchain.pem"
    return text, Site(name, tuple(ports[False]), tuple(ports[True]), metrics, certificate)


def _moved(text: str, folder: Path) -> str:
    for there, here in {
        "/run/nginx-decisions": "decisions",
        "/run/cache-actors/answers.log": "logs/answers.log",
        "/var/log/nginx/": "logs/",
        "/var/lib/acme/": "acme/",
    }.items():
        text = text.replace(there, f"{folder}/{here}")
    return text


class RunningNginx:
    """nginx with what `render` has made, for as long as the context lasts."""

    def __init__(
        self, binary: Path, services_nginx: dict[str, Any], folder: Path, user: str | None
    ) -> None:
        text, self.site = render(services_nginx, folder, nginx_version(binary), user)
        (folder / "logs").mkdir()
        (folder / "acme").mkdir(exist_ok=True)
        new_certificate(folder / "acme", self.site.name, "fullchain.pem")
        self._folder = folder
        self._config = folder / "nginx.conf"
        self._config.write_text(text)
        self._binary = binary

    def __enter__(self) -> Site:
        errors = self._folder / "error.log"
        self._process = subprocess.Popen([self._binary, "-c", self._config, "-e", errors])
        pid = self._folder / "nginx.pid"
        try:
            eventually(lambda: pid.exists() or self._process.poll() is not None)
            assert pid.exists(), f"nginx did not start: {errors.read_text()}"
        except AssertionError:
            self.__exit__()
            raise
        return self.site

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
