"""A complete nginx configuration around the snippets in `platform/nginx`.

The snippets say how requests are answered, and are used unchanged everywhere. What is added here is
what differs from place to place: addresses, folders, limits.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from cache_actors.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

HTTP2_DIRECTIVE_SINCE = (1, 25, 1)
"""First version of nginx with a directive `http2`. Older ones take it as a parameter of
`listen`."""

OPEN_FILES = 32_768
"""Number of files that a worker may have open: 17,000 (open_file_cache in server.conf), and two
sockets for each of its connections. Without that many, the service reads what nginx cannot open."""

# What may stand between quotes in a configuration; anything else could end the value.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+~,=*\[\]-]+")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_-]+)+")


class BadNginxOption(CommandError):
    """A value that cannot be written into a configuration; the message says which and why."""


@dataclass(frozen=True, slots=True)
class NginxOptions:
    """The options of an nginx configuration.

    Attributes:
        listen: `address:port` to listen on, or several with commas between them.
        upstream: the service: `unix:/path` or `address:port`.
        storage: the storage folder.
        runtime: for the pid, logs, temporary files and decisions; decisions hold tokens in their
            keys, so it should be on tmpfs.
        server_name: the host name that clients use.
        path_prefix: what clients' paths begin with beside the usual ones, as `/cache`, if anything.
        max_upload_bytes: the largest upload; the service has to have the same limit.
        worker_processes: number of them.
        tls_cert, tls_key: PEM files; with them it speaks TLS and HTTP/2.
        access_log: where nginx writes a line for each request, if anywhere, for others to rotate.
        answers_log: where nginx writes what it answers alone, if anywhere: the service's NGINX_LOG.
        metrics_port: the port on 127.0.0.1 at which Prometheus gets the service's metrics, if any.
        user: what workers run as, `user` or `user group`, when nginx is started by root.
        open_files: how many a worker may have open; by default `OPEN_FILES`, if it may have them.
        nginx_version: for which nginx it is.
        ktls: whether its OpenSSL knows TLS in the kernel; to an older one the option is an error.
    """

    listen: str
    upstream: str
    storage: Path
    runtime: Path
    server_name: str = "_"
    path_prefix: str = ""
    max_upload_bytes: int = 26_214_400
    worker_processes: int = 1
    tls_cert: Path | None = None
    tls_key: Path | None = None
    access_log: Path | None = None
    answers_log: Path | None = None
    metrics_port: int | None = None
    user: str | None = None
    open_files: int | None = None
    nginx_version: tuple[int, ...] = (1, 30, 0)
    ktls: bool = True


def nginx_config(options: NginxOptions) -> str:
    """The configuration, as text.

    Raises:
        BadNginxOption: a value has characters that it cannot have, or half of the TLS is missing.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise BadNginxOption("--tls-cert and --tls-key go together")
    runtime = _plain("--runtime", options.runtime)
    return f"""\
# Made by `cache-actors nginx-config`: what differs from place to place, around the snippets.
{_user(options)}worker_processes {options.worker_processes};
worker_rlimit_nofile {options.open_files or _open_files()};
pcre_jit on;
pid {runtime}/nginx.pid;
error_log {runtime}/error.log warn;

events {{
    worker_connections 4096;
}}

http {{
    client_body_temp_path {runtime}/client_body;
    proxy_temp_path       {runtime}/proxy;
    fastcgi_temp_path     {runtime}/fastcgi;
    uwsgi_temp_path       {runtime}/uwsgi;
    scgi_temp_path        {runtime}/scgi;

    proxy_cache_path {runtime}/decisions levels=1:2 keys_zone=cache_decisions:4m
                     max_size=128m min_free=1m inactive=10m use_temp_path=off;

    upstream cache_actors {{
        server {_plain("--upstream", options.upstream)} max_fails=0;
        keepalive 64;
        keepalive_timeout 15s;
    }}

    map "" $cache_storage {{
        default "{_plain("--storage", options.storage)}";
    }}

{_indented("http.conf", 4)}

{_logs(options)}

    server {{
{_listen(options)}
        server_name {_plain("--server-name", options.server_name)};
        client_max_body_size {options.max_upload_bytes};
{_rewrite(options)}
{_indented("server.conf", 8)}
    }}
{_metrics_server(options)}}}
"""


def _rewrite(options: NginxOptions) -> str:
    if not options.path_prefix:
        return ""
    prefix = options.path_prefix.removesuffix("/")
    if _PREFIX.fullmatch(prefix) is None:
        raise BadNginxOption(
            f"--path-prefix is {options.path_prefix!r}; allowed: a path of letters, digits, _ and -"
        )
    return f'        rewrite "(?s)^{prefix}(/.*)\\z" $1;\n'


def _open_files() -> int:
    """`OPEN_FILES`, or what the host lets us have: to ask for more is an alert in nginx's log."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def _logs(options: NginxOptions) -> str:
    logs = [
        f"    access_log {_plain(option, path)} {form} buffer=64k flush=1s;"
        for option, path, form in (
            ("--access-log", options.access_log, "cache_actors"),
            ("--answers-log", options.answers_log, "cache_answers"),
        )
        if path is not None
    ]
    return "\n".join(logs) or "    access_log off;"


def _metrics_server(options: NginxOptions) -> str:
    if options.metrics_port is None:
        return ""
    return f"""
    upstream cache_metrics {{
        server {_plain("--upstream", options.upstream)};
    }}

    server {{
        listen 127.0.0.1:{options.metrics_port};

{_indented("metrics.conf", 8)}
    }}
"""


def _user(options: NginxOptions) -> str:
    if options.user is None:
        return ""
    words = [_plain("--user", word) for word in options.user.split(" ")]
    if len(words) > 2:
        raise BadNginxOption(f"--user is {options.user!r}; allowed: USER or 'USER GROUP'")
    return f"user {' '.join(words)};\n"


def _listen(options: NginxOptions) -> str:
    addresses = [_plain("--listen", each) for each in options.listen.split(",")]
    if options.tls_cert is None or options.tls_key is None:
        lines = [f"listen {address} backlog=4096;" for address in addresses]
    else:
        if options.nginx_version < HTTP2_DIRECTIVE_SINCE:
            lines = [f"listen {address} ssl http2 backlog=4096;" for address in addresses]
        else:
            lines = [f"listen {address} ssl backlog=4096;" for address in addresses]
            lines.append("http2 on;")
        lines += [
            f"ssl_certificate {_plain('--tls-cert', options.tls_cert)};",
            f"ssl_certificate_key {_plain('--tls-key', options.tls_key)};",
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_session_cache shared:cache_tls:10m;",
            "http2_max_concurrent_streams 512;",
        ]
        lines += ["ssl_conf_command Options KTLS;"] if options.ktls else []
    return "\n".join(" " * 8 + line for line in lines)


def _plain(option: str, value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text) is None:
        raise BadNginxOption(
            f"{option} is {text!r}; allowed: letters, digits and _ . / : @ % + ~ , = * [ ] -"
        )
    return text


def _indented(snippet: str, spaces: int) -> str:
    text = (files(__package__) / "snippets" / snippet).read_text()
    return "\n".join(" " * spaces + line if line else "" for line in text.rstrip().split("\n"))
