"""The configuration around the snippets, and what a checker of configurations says of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache_actors.nginx.config import BadNginxOption, NginxOptions, nginx_config

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
    printed = nginx_config(replace(OPTIONS, metrics_port=9464))
    config = [line.strip() for line in printed.splitlines()]
    for snippet in "http.conf", "server.conf", "metrics.conf":
        lines = [line.strip() for line in (SNIPPETS / snippet).read_text().splitlines()]
        start = config.index(lines[0])
        assert config[start : start + len(lines)] == lines


def test_old_nginx_takes_http2_with_listen_and_new_nginx_by_itself() -> None:
    old = nginx_config(replace(OPTIONS, **TLS, nginx_version=(1, 22, 1)))
    new = nginx_config(replace(OPTIONS, **TLS, nginx_version=(1, 25, 1)))
    assert "listen 127.0.0.1:8080 ssl http2 " in old
    assert "http2 on;" not in old
    assert "listen 127.0.0.1:8080 ssl backlog" in new
    assert "http2 on;" in new


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
    "options",
    [
        {"listen": "127.0.0.1:80; include /etc/passwd"},
        {"upstream": "unix:/a b"},
        {"storage": Path('/cas"; alias "/')},
        {"storage": Path("/cas\n")},
        {"runtime": Path("/run/$uid")},
        {"runtime": Path("/run/{}")},
        {"access_log": Path("/run/a log")},
        {"answers_log": Path("/run/a log")},
        {"server_name": "a;b"},
        {"server_name": ""},
        {"user": "nobody; daemon off"},
        {"tls_cert": Path("/a")},
        {"tls_key": Path("/a")},
    ],
    ids=str,
)
def test_value_that_could_end_its_directive_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadNginxOption, match=r"allowed|go together"):
        nginx_config(replace(OPTIONS, **options))


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
    config.write_text(nginx_config(replace(OPTIONS, metrics_port=9464)))
    gixy = Path(sys.executable).with_name("gixy")
    run = subprocess.run(
        [gixy, "-f", "json", config], capture_output=True, text=True, check=False, timeout=60
    )
    found = {issue["plugin"] for issue in json.loads(run.stdout)}
    assert found == EXPLAINED.keys()
