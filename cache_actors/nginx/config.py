"""A complete nginx configuration around the snippets in `platform/nginx`.

The snippets define how requests are answered, and are used unchanged in every deployment. The
configuration adds what differs between deployments: addresses, folders and limits.
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
"""First version of nginx with a directive `http2`; for older ones it is a parameter of `listen`."""

GRPC_SINCE = (1, 27, 2)
"""First version of nginx that passes the trailers of an HTTP/1.1 answer on, as gRPC needs."""

OPEN_FILES = 32_768
"""Number of files that an nginx worker may need open: 17,000 (`open_file_cache` in server.conf),
and two sockets for each of its connections. With fewer, the service has to send what nginx cannot
open."""

# Values that need no escaping within quotes; other characters could end the value.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+~,=*\[\]-]+")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_-]+)+")


class BadNginxOption(CommandError):
    """An option cannot be written into a configuration; the message says which and why."""


@dataclass(frozen=True, slots=True)
class NginxOptions:
    """The options of an nginx configuration.

    Attributes:
        listen: the addresses to listen on, each `address:port`, separated by commas.
        upstream: the address of the service: `unix:/path` or `address:port`.
        storage: the storage folder.
        runtime: the folder for the pid, logs, temporary files and decisions; decisions hold tokens
            in their keys, so the folder should be on tmpfs.
        server_name: the host name that clients use.
        path_prefix: a prefix such as `/cache`, removed from clients' paths that have it.
        max_upload_bytes: the largest upload, in bytes; the same as the service's.
        worker_processes: the number of nginx's workers.
        tls_cert, tls_key: PEM files for TLS; without them, nginx speaks plain HTTP, and HTTP/2 only
            to clients that begin with it, from `GRPC_SINCE` on.
        access_log: the log of all requests, which is not rotated; None for none.
        answers_log: the log of nginx's own answers, the service's `NGINX_LOG`; None for none.
        metrics_port: the port on 127.0.0.1 with the service's metrics, for Prometheus; None for
            none.
        bucket: whether the service has a bucket (`S3_BUCKET`).
        user: the `user` or `user group` that workers run as, when root starts nginx.
        open_files: the number of files that a worker may have open; None for `OPEN_FILES`, or this
            host's limit if that is lower.
        nginx_version: the version of nginx that the configuration is for.
        ktls: whether nginx's OpenSSL has the option `KTLS`; for an older one it is an error.
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
    bucket: bool = False
    user: str | None = None
    open_files: int | None = None
    nginx_version: tuple[int, ...] = (1, 30, 0)
    ktls: bool = True


def nginx_config(options: NginxOptions) -> str:
    """The text of an nginx configuration.

    Raises:
        BadNginxOption: an option has a character that is not allowed, or only one of the TLS files
            is given.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise BadNginxOption("--tls-cert and --tls-key go together")
    runtime = _plain("--runtime", options.runtime)
    return f"""\
# Made by `cache-actors nginx-config` for nginx {".".join(map(str, options.nginx_version))}:
# what differs from place to place, around the snippets.
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
{_misses(options, runtime)}
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

{_grpc(options)}
{_bucket(options)}    }}
{_metrics_server(options)}}}
"""


def _misses(options: NginxOptions, runtime: str) -> str:
    if not options.bucket:
        return ""
    return f"""\
    proxy_cache_path {runtime}/misses levels=1:2 keys_zone=cache_misses:8m
                     max_size=64m min_free=1m inactive=1m use_temp_path=off;
"""


def _bucket(options: NginxOptions) -> str:
    return f"\n{_indented('bucket.conf', 8)}\n" if options.bucket else ""


def _rewrite(options: NginxOptions) -> str:
    if not options.path_prefix:
        return ""
    prefix = options.path_prefix.removesuffix("/")
    if _PREFIX.fullmatch(prefix) is None:
        raise BadNginxOption(
            f"--path-prefix is {options.path_prefix!r}; allowed: a path of letters, digits, _ and -"
        )
    return f'        rewrite "(?s)^{prefix}(/.*)\\z" $1;\n'


def _grpc(options: NginxOptions) -> str:
    """The locations of gRPC, or a comment on why they are left out."""
    if options.nginx_version >= GRPC_SINCE:
        return _indented("grpc.conf", 8)
    since = ".".join(map(str, GRPC_SINCE))
    return (
        f"        # No gRPC, for Bazel and Tuist 4.209 or newer: that needs nginx {since} or newer."
    )


def _open_files() -> int:
    """`OPEN_FILES`, or this host's limit if that is lower: beyond it, nginx logs an alert."""
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
    has_tls = options.tls_cert is not None
    has_http2 = has_tls or options.nginx_version >= GRPC_SINCE
    words = ["ssl"] if has_tls else []
    if has_http2 and options.nginx_version < HTTP2_DIRECTIVE_SINCE:
        words.append("http2")
    lines = [" ".join(["listen", address, *words, "backlog=4096;"]) for address in addresses]
    if has_http2:
        lines += [] if "http2" in words else ["http2 on;"]
        lines.append("http2_max_concurrent_streams 512;")
    if has_tls:
        lines += [
            f"ssl_certificate {_plain('--tls-cert', options.tls_cert)};",
            f"ssl_certificate_key {_plain('--tls-key', options.tls_key)};",
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_session_cache shared:cache_tls:10m;",
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
