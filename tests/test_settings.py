"""Settings: what the environment may say, and what is said when it says something else."""

import os
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import HttpUrl, ValidationError

from cache_actors.settings import BadSettings, Settings, load_settings

SERVER_URL = "http://tuist.example"

GOOD: dict[str, tuple[object, list[tuple[str, object]]]] = {
    "PORT": (4000, [("1", 1), ("65535", 65535)]),
    "BIND": (
        "127.0.0.1",
        [("::1", "::1"), ("fe80::1%eth0", "fe80::1%eth0"), ("169.254.0.1", "169.254.0.1")],
    ),
    "SOCKET_PATH": (None, [("/run/cache.sock", Path("/run/cache.sock"))]),
    "SOCKET_DIR": (None, [("/run/cache", Path("/run/cache"))]),
    "CAS_STORAGE_DIR": (Path("/cas"), [("/srv/cas", Path("/srv/cas"))]),
    "TMP_DIR": (None, [("/srv/tmp", Path("/srv/tmp"))]),
    "NGINX_LOG": (None, [("/run/answers.log", Path("/run/answers.log"))]),
    "S3_BUCKET": (None, [("builds", "builds"), ("b.u-1", "b.u-1")]),
    "S3_ENDPOINT": (None, [("http://s3.example:8333", HttpUrl("http://s3.example:8333"))]),
    "S3_REGION": (None, [("eu-central-1", "eu-central-1")]),
    "S3_PREFIX": ("", [("cache", "cache"), ("/a/b.c_D-1/", "a/b.c_D-1")]),
    "S3_PATH_STYLE": (None, [("on", True), ("off", False)]),
    "S3_CA_FILE": (None, [("/etc/ca.pem", Path("/etc/ca.pem"))]),
    "S3_WAIT": (0, [("2", 2), ("0.5", 0.5), ("60", 60)]),
    "S3_ENTRIES": (True, [("off", False)]),
    "S3_ENTRY_DAYS": (14, [("1", 1), ("30.5", 30.5)]),
    "S3_LOOKUP_BUDGET": (0.25, [("0.01", 0.01), ("1", 1), ("10", 10)]),
    "S3_CONCURRENCY": (16, [("1", 1), ("256", 256)]),
    "PATH_PREFIX": ("", [("/cache", "/cache"), ("/a/b_C-1/", "/a/b_C-1")]),
    "PUBLIC_HOST": ("localhost", [("*.example.com", "*.example.com"), ("_", "_")]),
    "MAX_UPLOAD_BYTES": (26_214_400, [("1", 1)]),
    "MAX_KEYVALUE_BYTES": (1_048_576, [("1", 1)]),
    "MAX_GRADLE_BYTES": (104_857_600, [("1", 1)]),
    "MAX_BLOB_BYTES": (2_147_483_648, [("1", 1)]),
    "GRPC_MAX_CAS_BYTES": (67_108_864, [("1", 1)]),
    "GRPC_MAX_AC_BYTES": (16_777_216, [("1", 1)]),
    "GRPC_ACCOUNT": (None, [("Acme", "acme"), ("a_b-1", "a_b-1")]),
    "GRPC_ACCOUNT_FROM_HOST": (False, [("on", True), ("off", False)]),
    "BODY_TIMEOUT": (30, [("0.5", 0.5), ("3600", 3600)]),
    "MIN_BODY_RATE": (256, [("0", 0), ("4096", 4096)]),
    "TUIST_CONNECTIONS": (16, [("2", 2)]),
    "AUTH_SUCCESS_TTL": (600, [("0", 0)]),
    "AUTH_FAILURE_TTL": (3, [("0.5", 0.5)]),
    "AUTH_STALE_TTL": (1500, [("31536000", 31536000)]),
    "DURABILITY": ("fsync", [("relaxed", "relaxed")]),
    "DISK_HIGH_WATERMARK_PERCENT": (85, [("100", 100), ("70", 70)]),
    "DISK_TARGET_PERCENT": (70, [("85", 85), ("1", 1)]),
    "STORAGE_MAX_BYTES": (None, [(str(2**44), 2**44)]),
    "KV_REQUIRE_ARTIFACTS": (True, [("off", False), ("on", True)]),
    "SCRUB_INTERVAL": (0, [("604800", 604800)]),
    "SCRUB_RATE": (20_971_520, [("1048576", 1048576)]),
    "WORKERS": (1, [("64", 64), ("auto", "auto")]),
    "LOG_LEVEL": ("info", [("debug", "debug"), ("WARNING", "warning")]),
    "LOG_FORMAT": ("json", [("text", "text")]),
}
"""Of each setting, its default, what may be given, and what comes of it."""

SECRETS = {"SECRET_KEY_BASE", "TUIST_TOKEN_SECRET", "TUIST_CLIENT_ID", "TUIST_CLIENT_SECRET"}
"""Any text is allowed. The last two go together."""

IP = "an IP address; a link-local one has its zone (fe80::1%eth0)"
URL = "an http or https URL without credentials, query and fragment"
PATH = "an absolute path other than /, without control characters"
PREFIX = "a path of letters, digits, _ and -, such as /cache"
OBJECT_PREFIX = "names of letters, digits, _, - and ., with / between them"
HANDLE = "an account's handle: 1 to 100 characters of A-Z a-z 0-9 _ -"
BYTES = "bytes, a whole number from 1"
TTL = "seconds, from 0 to a year"
PERCENT = "a percentage, from 1 to 100"

BAD = {
    "SERVER_URL": (
        URL,
        ["ftp://tuist.example", "tuist.example", "http://", "http://tuist.example/#f"],
    ),
    "CAS_STORAGE_DIR": (PATH, ["/cas\r", "cas", "./cas", "/", "//"]),
    "PORT": ("a whole number from 1 to 65535", ["0", "65536", "http", "80.5"]),
    "BIND": (IP, ["nonsense", "127.0.0.1:80", "fe80::1"]),
    "SOCKET_PATH": (PATH, ["cache.sock"]),
    "SOCKET_DIR": (PATH, ["cache"]),
    "TMP_DIR": (PATH, ["tmp"]),
    "NGINX_LOG": (PATH, ["answers.log"]),
    "S3_BUCKET": ("the name of a bucket", ["b", "a/b", "s3://bucket", "b" * 64]),
    "S3_ENDPOINT": (URL, ["s3.example", "s3://builds", "http://s3.example/#a"]),
    "S3_REGION": ("a region, such as eu-central-1", ["eu central", "eu/1"]),
    "S3_PREFIX": (OBJECT_PREFIX, ["a//b", "a b", "../a", "a/./b", ".a", "ü", "a\n", "a" * 201]),
    "S3_PATH_STYLE": ("on or off", ["auto"]),
    "S3_CA_FILE": (PATH, ["ca.pem"]),
    "S3_WAIT": ("seconds, from 0 to 60", ["-1", "61", "nan", "2s"]),
    "S3_ENTRIES": ("on or off", ["some"]),
    "S3_ENTRY_DAYS": ("days, from 1 to 3650", ["0", "3651", "inf"]),
    "S3_LOOKUP_BUDGET": ("seconds, from 0.01 to 10", ["0", "11", "250ms"]),
    "S3_CONCURRENCY": ("a whole number from 1 to 256", ["0", "257", "4.5"]),
    "PATH_PREFIX": (PREFIX, ["cache", "/", "//cache", "/a b", "/%2e", "/.", "/a\n"]),
    "PUBLIC_HOST": ("a host name", ["a b", "host;", "host\n", "h" * 254]),
    "MAX_UPLOAD_BYTES": (BYTES, ["0", "25 MiB", str(2**40 + 1)]),
    "MAX_KEYVALUE_BYTES": (BYTES, ["-1"]),
    "MAX_GRADLE_BYTES": (BYTES, ["0"]),
    "MAX_BLOB_BYTES": (BYTES, ["0"]),
    "GRPC_MAX_CAS_BYTES": (BYTES, ["32 MiB"]),
    "GRPC_MAX_AC_BYTES": (BYTES, ["-1"]),
    "GRPC_ACCOUNT": (HANDLE, ["acme/app", "..", "a" * 101, "b\u00fcro", "acme\n"]),
    "GRPC_ACCOUNT_FROM_HOST": ("on or off", ["cache.example"]),
    "BODY_TIMEOUT": ("seconds, more than 0 and up to an hour", ["0", "3601", "nan"]),
    "MIN_BODY_RATE": ("bytes a second, a whole number from 0", ["-1", "1.5"]),
    "TUIST_CONNECTIONS": ("a whole number from 2 to 1024", ["1", "1025"]),
    "AUTH_SUCCESS_TTL": (TTL, ["-1", "nan"]),
    "AUTH_FAILURE_TTL": (TTL, ["soon"]),
    "AUTH_STALE_TTL": (TTL, ["inf", "31536001"]),
    "DURABILITY": ("fsync or relaxed", ["none"]),
    "DISK_HIGH_WATERMARK_PERCENT": (PERCENT, ["101", "85%"]),
    "DISK_TARGET_PERCENT": (PERCENT, ["0", "nan"]),
    "STORAGE_MAX_BYTES": (BYTES, ["0", "1 TB"]),
    "KV_REQUIRE_ARTIFACTS": ("on or off", ["sometimes"]),
    "SCRUB_INTERVAL": (TTL, ["weekly"]),
    "SCRUB_RATE": (BYTES, ["0"]),
    "WORKERS": ("a whole number from 1 to 64, or auto", ["0", "65", "1.5", "all"]),
    "LOG_LEVEL": ("debug, info, warning or error", ["loud"]),
    "LOG_FORMAT": ("json or text", ["JSON"]),
}
"""Of each setting, what is allowed, and what may not be given."""


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


@pytest.mark.parametrize("unset", [{}, dict.fromkeys([*GOOD, *SECRETS], "")])
def test_what_is_unset_or_empty_has_its_default(load: Load, unset: dict[str, str]) -> None:
    settings = load(SERVER_URL=SERVER_URL, **unset)
    for name, (default, _) in GOOD.items():
        assert getattr(settings, name.lower()) == default, name
    assert settings.secret_key_base.get_secret_value()
    assert (settings.tuist_token_secret, settings.tuist_client_id) == (None, None)
    assert settings.tuist_client_secret is None


@pytest.mark.parametrize(
    ("name", "given", "value"), [(name, *each) for name, (_, some) in GOOD.items() for each in some]
)
def test_setting_is_read_from_the_environment(
    load: Load, name: str, given: str, value: object
) -> None:
    assert getattr(load(**{"SERVER_URL": SERVER_URL, name: given}), name.lower()) == value


def test_url_is_read_from_the_environment(load: Load) -> None:
    assert str(load(SERVER_URL="https://tuist/path").server_url) == "https://tuist/path"


def test_every_setting_has_good_and_bad_examples_here() -> None:
    everything = {name.upper() for name in Settings.model_fields} - SECRETS
    assert {*GOOD, "SERVER_URL"} == BAD.keys() == everything


def test_public_host_has_a_second_name(load: Load) -> None:
    def host(**variables: str) -> str:
        return load(SERVER_URL=SERVER_URL, PHX_HOST="second.example", **variables).public_host

    assert host() == host(PUBLIC_HOST="") == "second.example"
    assert host(PUBLIC_HOST="cache.example") == "cache.example"
    (line,) = complaints(load, SERVER_URL=SERVER_URL, PHX_HOST="a b")
    assert line == "PUBLIC_HOST is 'a b'; allowed: a host name"


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(SERVER_URL=SERVER_URL).port = 1  # type: ignore[misc]


# Bad values.


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [(name, given, allowed) for name, (allowed, some) in BAD.items() for given in some],
)
def test_bad_value_is_one_line_that_names_it_and_what_is_allowed(
    load: Load, name: str, given: str, allowed: str
) -> None:
    (line,) = complaints(load, **{"SERVER_URL": SERVER_URL, name: given})
    assert line == f"{name} is {given!r}; allowed: {allowed}"


@pytest.mark.parametrize("variables", [{}, {"SERVER_URL": ""}], ids=["unset", "empty"])
def test_missing_setting_is_one_line_that_names_it(load: Load, variables: dict[str, str]) -> None:
    assert complaints(load, **variables) == [f"SERVER_URL is not set; allowed: {URL}"]


def test_all_bad_values_are_reported_at_once(load: Load) -> None:
    values = {"PORT": "x", "WORKERS": "0", "TMP_DIR": "tmp", "DURABILITY": "no", "PHX_HOST": "!"}
    lines = complaints(load, **values)
    assert [line.split()[0] for line in lines] == sorted(
        ["SERVER_URL", "PORT", "WORKERS", "TMP_DIR", "DURABILITY", "PUBLIC_HOST"],
        key=[name.upper() for name in Settings.model_fields].index,
    )


# The secret.


HUSH = dict.fromkeys(["SECRET_KEY_BASE", "TUIST_TOKEN_SECRET", "TUIST_CLIENT_SECRET"], "hush")


def test_secrets_are_what_was_given(load: Load) -> None:
    settings = load(SERVER_URL=SERVER_URL, TUIST_CLIENT_ID="cache_1", **HUSH)
    for name in HUSH:
        assert getattr(settings, name.lower()).get_secret_value() == "hush"
    assert settings.tuist_client_id == "cache_1"


def test_secrets_are_never_printed(load: Load) -> None:
    settings = load(SERVER_URL=SERVER_URL, TUIST_CLIENT_ID="cache_1", **HUSH)
    assert "hush" not in f"{settings} {settings!r} {settings.model_dump()} {vars(settings)}"
    for bad in ({"PORT": "x"}, {"TUIST_CLIENT_ID": "a b"}, {"SERVER_URL": SERVER_URL}):
        assert "hush" not in "".join(complaints(load, **HUSH | bad))


@pytest.mark.parametrize("half", ["ID", "SECRET"])
def test_half_a_credential_is_refused(load: Load, half: str) -> None:
    other = {"ID": "SECRET", "SECRET": "ID"}[half]
    assert complaints(load, SERVER_URL=SERVER_URL, **{f"TUIST_CLIENT_{half}": "hush"}) == [
        f"TUIST_CLIENT_{half} is set and TUIST_CLIENT_{other} is not; allowed: both or neither"
    ]


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
