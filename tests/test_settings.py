"""Settings: what the environment may say, and what is said when it says something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import ValidationError

from cache_actors.settings import BadSettings, Settings, load_settings

SERVER_URL = "http://tuist.example"

DEFAULTS = {
    "port": 4000,
    "bind": "127.0.0.1",
    "socket_path": None,
    "socket_dir": None,
    "cas_storage_dir": Path("/cas"),
    "tmp_dir": None,
    "nginx_log": None,
    "public_host": "localhost",
    "max_upload_bytes": 26_214_400,
    "max_keyvalue_bytes": 1_048_576,
    "body_timeout": 30,
    "body_least_rate": 256,
    "auth_success_ttl": 600,
    "auth_failure_ttl": 3,
    "auth_stale_ttl": 1500,
    "tuist_connections": 16,
    "durability": "fsync",
    "disk_high_watermark_percent": 85,
    "disk_target_percent": 70,
    "storage_max_bytes": None,
    "kv_require_artifacts": True,
    "scrub_interval": 0,
    "scrub_rate": 20_971_520,
    "workers": 1,
    "log_level": "info",
    "log_format": "json",
}

GOOD = [
    ("SERVER_URL", "https://tuist.example/path", "https://tuist.example/path"),
    ("PORT", "1", 1),
    ("PORT", "65535", 65_535),
    ("BIND", "::1", "::1"),
    ("SOCKET_PATH", "/run/cache.sock", Path("/run/cache.sock")),
    ("SOCKET_DIR", "/run/cache", Path("/run/cache")),
    ("CAS_STORAGE_DIR", "/srv/cas", Path("/srv/cas")),
    ("TMP_DIR", "/srv/tmp", Path("/srv/tmp")),
    ("NGINX_LOG", "/run/answers.log", Path("/run/answers.log")),
    ("PUBLIC_HOST", "*.example.com", "*.example.com"),
    ("PUBLIC_HOST", "_", "_"),
    ("MAX_UPLOAD_BYTES", "1", 1),
    ("MAX_KEYVALUE_BYTES", "1", 1),
    ("BODY_TIMEOUT", "0.5", 0.5),
    ("BODY_TIMEOUT", "3600", 3600),
    ("BODY_LEAST_RATE", "0", 0),
    ("BODY_LEAST_RATE", "4096", 4096),
    ("TUIST_CONNECTIONS", "2", 2),
    ("AUTH_SUCCESS_TTL", "0", 0),
    ("AUTH_FAILURE_TTL", "0.5", 0.5),
    ("AUTH_STALE_TTL", "31536000", 31_536_000),
    ("DURABILITY", "relaxed", "relaxed"),
    ("DISK_HIGH_WATERMARK_PERCENT", "100", 100),
    ("DISK_HIGH_WATERMARK_PERCENT", "70", 70),
    ("DISK_TARGET_PERCENT", "85", 85),
    ("DISK_TARGET_PERCENT", "1", 1),
    ("STORAGE_MAX_BYTES", str(2**44), 2**44),
    ("KV_REQUIRE_ARTIFACTS", "off", False),
    ("KV_REQUIRE_ARTIFACTS", "on", True),
    ("SCRUB_INTERVAL", "604800", 604_800),
    ("SCRUB_RATE", "1048576", 1_048_576),
    ("WORKERS", "64", 64),
    ("WORKERS", "auto", "auto"),
    ("LOG_LEVEL", "debug", "debug"),
    ("LOG_LEVEL", "WARNING", "warning"),
    ("LOG_FORMAT", "text", "text"),
]

URL = "an http or https URL without credentials, query and fragment"
PATH = "an absolute path"
PORTS = "a whole number from 1 to 65535"
BYTES = "bytes, a whole number from 1"
TTL = "seconds, from 0 to a year"
TIMEOUT = "seconds, more than 0 and up to an hour"
HOST = "a host name"
PERCENT = "a percentage, from 1 to 100"
WORKERS = "a whole number from 1 to 64, or auto"

BAD = [
    ("SERVER_URL", "ftp://tuist.example", URL),
    ("SERVER_URL", "tuist.example", URL),
    ("SERVER_URL", "http://", URL),
    ("SERVER_URL", "http://tuist.example/#f", URL),
    ("CAS_STORAGE_DIR", "/cas\r", "an absolute path without control characters"),
    ("PORT", "0", PORTS),
    ("PORT", "65536", PORTS),
    ("PORT", "http", PORTS),
    ("PORT", "80.5", PORTS),
    ("BIND", "nonsense", "an IP address"),
    ("BIND", "127.0.0.1:80", "an IP address"),
    ("SOCKET_PATH", "cache.sock", PATH),
    ("SOCKET_DIR", "cache", PATH),
    ("CAS_STORAGE_DIR", "cas", PATH),
    ("CAS_STORAGE_DIR", "./cas", PATH),
    ("TMP_DIR", "tmp", PATH),
    ("NGINX_LOG", "answers.log", PATH),
    ("PUBLIC_HOST", "a b", HOST),
    ("PUBLIC_HOST", "host;", HOST),
    ("PUBLIC_HOST", "host\n", HOST),
    ("PUBLIC_HOST", "h" * 254, HOST),
    ("MAX_UPLOAD_BYTES", "0", BYTES),
    ("MAX_UPLOAD_BYTES", "25 MiB", BYTES),
    ("MAX_UPLOAD_BYTES", str(2**40 + 1), BYTES),
    ("MAX_KEYVALUE_BYTES", "-1", BYTES),
    ("BODY_TIMEOUT", "0", TIMEOUT),
    ("BODY_TIMEOUT", "3601", TIMEOUT),
    ("BODY_TIMEOUT", "nan", TIMEOUT),
    ("BODY_LEAST_RATE", "-1", "bytes a second, a whole number from 0"),
    ("BODY_LEAST_RATE", "1.5", "bytes a second, a whole number from 0"),
    ("TUIST_CONNECTIONS", "1", "a whole number from 2 to 1024"),
    ("TUIST_CONNECTIONS", "1025", "a whole number from 2 to 1024"),
    ("AUTH_SUCCESS_TTL", "-1", TTL),
    ("AUTH_SUCCESS_TTL", "nan", TTL),
    ("AUTH_FAILURE_TTL", "soon", TTL),
    ("AUTH_STALE_TTL", "inf", TTL),
    ("AUTH_STALE_TTL", "31536001", TTL),
    ("DURABILITY", "none", "fsync or relaxed"),
    ("DISK_HIGH_WATERMARK_PERCENT", "101", PERCENT),
    ("DISK_HIGH_WATERMARK_PERCENT", "85%", PERCENT),
    ("DISK_TARGET_PERCENT", "0", PERCENT),
    ("DISK_TARGET_PERCENT", "nan", PERCENT),
    ("STORAGE_MAX_BYTES", "0", BYTES),
    ("STORAGE_MAX_BYTES", "1 TB", BYTES),
    ("KV_REQUIRE_ARTIFACTS", "sometimes", "on or off"),
    ("SCRUB_INTERVAL", "weekly", TTL),
    ("SCRUB_RATE", "0", BYTES),
    ("WORKERS", "0", WORKERS),
    ("WORKERS", "65", WORKERS),
    ("WORKERS", "1.5", WORKERS),
    ("WORKERS", "all", WORKERS),
    ("LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("LOG_FORMAT", "JSON", "json or text"),
]


class Load(Protocol):
    """Load the settings from an environment that holds nothing but these variables."""

    def __call__(self, **variables: str) -> Settings: ...


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    def load(**variables: str) -> Settings:
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return load


def complaints(load: Load, **variables: str) -> list[str]:
    """The lines in which bad settings are reported."""
    with pytest.raises(BadSettings) as refused:
        load(**variables)
    return str(refused.value).splitlines()


# Values.


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_default_is_the_contracts(load: Load, name: str, default: object) -> None:
    assert getattr(load(SERVER_URL=SERVER_URL), name) == default


def test_every_setting_has_a_default_here_or_none_at_all() -> None:
    assert set(Settings.model_fields) == {*DEFAULTS, "server_url", "secret_key_base"}


@pytest.mark.parametrize(("name", "given", "value"), GOOD)
def test_setting_is_read_from_the_environment(
    load: Load, name: str, given: str, value: object
) -> None:
    settings = load(**{"SERVER_URL": SERVER_URL, name: given})
    setting = getattr(settings, name.lower())
    assert (str(setting) if name == "SERVER_URL" else setting) == value


def test_every_setting_has_good_and_bad_examples_here() -> None:
    everything = {name.upper() for name in Settings.model_fields} - {"SECRET_KEY_BASE"}
    assert {name for name, *_ in GOOD} == everything
    assert {name for name, *_ in BAD} == everything


@pytest.mark.parametrize("name", [*DEFAULTS, "secret_key_base"])
def test_empty_variable_counts_as_unset(load: Load, name: str) -> None:
    settings = load(**{"SERVER_URL": SERVER_URL, name.upper(): ""})
    if name == "secret_key_base":
        assert settings.secret_key_base.get_secret_value()
    else:
        assert getattr(settings, name) == DEFAULTS[name]


def test_public_host_has_a_second_name(load: Load) -> None:
    assert load(SERVER_URL=SERVER_URL, PHX_HOST="cache.example").public_host == "cache.example"
    both = load(SERVER_URL=SERVER_URL, PHX_HOST="other.example", PUBLIC_HOST="cache.example")
    assert both.public_host == "cache.example"


def test_empty_public_host_gives_way_to_its_second_name(load: Load) -> None:
    settings = load(SERVER_URL=SERVER_URL, PHX_HOST="cache.example", PUBLIC_HOST="")
    assert settings.public_host == "cache.example"


def test_unknown_variables_are_none_of_our_business(load: Load) -> None:
    load(SERVER_URL=SERVER_URL, PATH="/bin", SERVER="x")


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(SERVER_URL=SERVER_URL).port = 1  # type: ignore[misc]


# Bad values.


@pytest.mark.parametrize(("name", "given", "allowed"), BAD)
def test_bad_value_is_one_line_that_names_it_and_what_is_allowed(
    load: Load, name: str, given: str, allowed: str
) -> None:
    (line,) = complaints(load, **{"SERVER_URL": SERVER_URL, name: given})
    assert line.startswith(f"{name} is {given!r}; allowed: {allowed}")


@pytest.mark.parametrize("variables", [{}, {"SERVER_URL": ""}], ids=["unset", "empty"])
def test_missing_setting_is_one_line_that_names_it(load: Load, variables: dict[str, str]) -> None:
    assert complaints(load, **variables) == [f"SERVER_URL is not set; allowed: {URL}"]


def test_bad_second_name_is_reported_too(load: Load) -> None:
    (line,) = complaints(load, SERVER_URL=SERVER_URL, PHX_HOST="a b")
    assert line == "PUBLIC_HOST is 'a b'; allowed: a host name"


def test_all_bad_values_are_reported_at_once(load: Load) -> None:
    values = {"PORT": "x", "WORKERS": "0", "TMP_DIR": "tmp", "DURABILITY": "no", "PHX_HOST": "!"}
    lines = complaints(load, **values)
    assert [line.split()[0] for line in lines] == sorted(
        ["SERVER_URL", "PORT", "WORKERS", "TMP_DIR", "DURABILITY", "PUBLIC_HOST"],
        key=[name.upper() for name in Settings.model_fields].index,
    )


# The secret.


def test_secret_is_what_was_given(load: Load) -> None:
    settings = load(SERVER_URL=SERVER_URL, SECRET_KEY_BASE="hush")
    assert settings.secret_key_base.get_secret_value() == "hush"


def test_secret_is_never_printed(load: Load) -> None:
    settings = load(SERVER_URL=SERVER_URL, SECRET_KEY_BASE="hush")
    assert "hush" not in f"{settings} {settings!r} {settings.model_dump()} {vars(settings)}"
    lines = complaints(load, SECRET_KEY_BASE="hush", PORT="x")
    assert "hush" not in "".join(lines)


def test_secret_that_was_not_given_is_long_and_new_each_time(load: Load) -> None:
    secrets = {load(SERVER_URL=SERVER_URL).secret_key_base.get_secret_value() for _ in range(3)}
    assert len(secrets) == 3
    assert all(len(secret) >= 64 for secret in secrets)


def test_target_is_not_above_the_high_watermark(load: Load) -> None:
    assert complaints(
        load, SERVER_URL=SERVER_URL, DISK_TARGET_PERCENT="90", DISK_HIGH_WATERMARK_PERCENT="80"
    ) == ["DISK_TARGET_PERCENT is 90; allowed: at most DISK_HIGH_WATERMARK_PERCENT, 80"]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hush@tuist.example",
        "http://:hush@tuist.example",
        "http://hush@tuist.example",
        "http://user:hu/sh@tuist.example",
        "http:/user:hush@tuist.example",
        "http:user:hush@tuist.example",
        "user:hush@tuist.example",
        "https://tuist.example/?token=hush",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_printed(load: Load, url: str) -> None:
    (line,) = complaints(load, SERVER_URL=url)
    assert line.startswith("SERVER_URL is ")
    assert line.endswith(f"; allowed: {URL}")
    assert "hush" not in line
    assert "hu/sh" not in line


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("socks5://user:hush@proxy.example", "socks5://...@proxy.example"),
        ("http://user:hush@127.0.0.1:nope", "http://...@127.0.0.1:nope"),
        ("http://", "http://"),
        (":3128", ":3128"),
    ],
)
def test_proxy_that_cannot_be_used_is_refused(load: Load, proxy: str, shown: str) -> None:
    (line,) = complaints(load, SERVER_URL=SERVER_URL, ALL_PROXY=proxy)
    assert line == f"ALL_PROXY is {shown!r}; allowed: an http or https URL"


@pytest.mark.parametrize(
    "proxy", ["http://proxy.example:3128", "proxy.example:3128", "http://[::1]"]
)
def test_proxy_that_can_be_used_is_not_refused(load: Load, proxy: str) -> None:
    load(SERVER_URL=SERVER_URL, HTTPS_PROXY=proxy, NO_PROXY="localhost")
