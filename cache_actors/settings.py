"""Settings: the environment, checked and frozen before anything starts."""

from __future__ import annotations

import ipaddress
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.request import getproxies

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from cache_actors.errors import CommandError

if TYPE_CHECKING:
    from cache_actors.kinds import Kind


class BadSettings(CommandError):
    """The environment has invalid values; the message has one line for each of them."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or path.parent == path or not str(path).isprintable():
        raise ValueError("not an absolute path of a folder below /")
    return path


def _address(value: str) -> str:
    address = ipaddress.ip_address(value)
    if address.version == 6 and address.is_link_local and address.scope_id is None:
        raise ValueError("an address of a link, but of which?")
    return str(address)


def _bare(url: HttpUrl) -> HttpUrl:
    """Refuse a URL with parts that would change the request about a client's token."""
    if url.username or url.password or url.query is not None or url.fragment is not None:
        raise ValueError("more than an address and a path")
    return url


def _prefix(value: str) -> str:
    if re.fullmatch(r"((?:/[A-Za-z0-9_-]+)+/?)?", value) is None:
        raise ValueError("not a path that URLs can begin with")
    return value.removesuffix("/")


def _bare_if_any(url: HttpUrl | None) -> HttpUrl | None:
    return url if url is None else _bare(url)


def _object_prefix(value: str) -> str:
    names = value.strip("/")
    if (
        len(names) > 200
        or re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]*(/(?!$)|$))*", names) is None
    ):
        raise ValueError("not what names of objects can begin with")
    return names


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _random_secret() -> SecretStr:
    return SecretStr(secrets.token_hex(32))


# Each description says which values are allowed, for readers and for error messages.
ABSOLUTE = "an absolute path other than /, without control characters"
Folder = Annotated[Path, AfterValidator(_absolute), Field(description=ABSOLUTE)]
HANDLE = "an account's handle: 1 to 100 characters of A-Z a-z 0-9 _ -"
PREFIX = "a path of letters, digits, _ and -, such as /cache"
BYTES = "bytes, a whole number from 1"
Bytes = Annotated[int, Field(ge=1, le=2**40, description=BYTES)]
Percent = Annotated[float, Field(ge=1, le=100, description="a percentage, from 1 to 100")]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, description="seconds, from 0 to a year")]


class Settings(BaseSettings):
    """The service's settings, each read from the environment variable of its name in capitals.

    An empty variable counts as unset. The meaning of each is in docs/reference/settings.md.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    server_url: Annotated[
        HttpUrl,
        AfterValidator(_bare),
        Field(description="an http or https URL without credentials, query and fragment"),
    ]
    port: int = Field(4000, ge=1, le=65_535, description="a whole number from 1 to 65535")
    bind: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1", description="an IP address; a link-local one has its zone (fe80::1%eth0)"
    )
    socket_path: Folder | None = None
    socket_dir: Folder | None = None
    cas_storage_dir: Folder = Path("/cas")
    tmp_dir: Folder | None = None
    path_prefix: Annotated[str, AfterValidator(_prefix)] = Field("", description=PREFIX)
    secret_key_base: SecretStr = Field(default_factory=_random_secret, description="a text")
    tuist_token_secret: SecretStr | None = Field(None, description="a text")
    tuist_client_id: str | None = Field(
        None, pattern=r"^[\x21-\x7e]{1,200}$", description="a text without spaces"
    )
    tuist_client_secret: SecretStr | None = Field(None, description="a text")
    public_host: str = Field(
        "localhost",
        validation_alias=AliasChoices("PUBLIC_HOST", "PHX_HOST"),
        pattern=r"^[A-Za-z0-9.*_-]{1,253}$",
        description="a host name",
    )
    max_upload_bytes: Bytes = 26_214_400
    max_keyvalue_bytes: Bytes = 1_048_576
    max_gradle_bytes: Bytes = 104_857_600
    max_blob_bytes: Bytes = 2_147_483_648
    grpc_max_cas_bytes: Bytes = 67_108_864
    grpc_max_ac_bytes: Bytes = 16_777_216
    grpc_account: Annotated[str, AfterValidator(str.lower)] | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]{1,100}$", description=HANDLE
    )
    grpc_account_from_host: Annotated[bool, Field(description="on or off")] = False
    body_timeout: float = Field(
        30.0, gt=0, le=3600, description="seconds, more than 0 and up to an hour"
    )
    min_body_rate: int = Field(
        256, ge=0, le=2**30, description="bytes a second, a whole number from 0"
    )
    auth_success_ttl: Seconds = 600.0
    auth_failure_ttl: Seconds = 3.0
    auth_stale_ttl: Seconds = 1500.0
    tuist_connections: int = Field(16, ge=2, le=1024, description="a whole number from 2 to 1024")
    durability: Literal["fsync", "relaxed"] = Field("fsync", description="fsync or relaxed")
    disk_high_watermark_percent: Percent = 85.0
    disk_target_percent: Percent = 70.0
    storage_max_bytes: int | None = Field(None, ge=1, description=BYTES)
    kv_require_artifacts: Annotated[bool, Field(description="on or off")] = True
    scrub_interval: Seconds = 0.0
    scrub_rate: Bytes = 20_971_520
    nginx_log: Folder | None = None
    s3_bucket: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,62}$", description="the name of a bucket"
    )
    s3_endpoint: Annotated[
        HttpUrl | None,
        AfterValidator(_bare_if_any),
        Field(description="an http or https URL without credentials, query and fragment"),
    ] = None
    s3_region: str | None = Field(
        None, pattern=r"^[A-Za-z0-9-]{1,64}$", description="a region, such as eu-central-1"
    )
    s3_prefix: Annotated[str, AfterValidator(_object_prefix)] = Field(
        "", description="names of letters, digits, _, - and ., with / between them"
    )
    s3_path_style: Annotated[bool | None, Field(description="on or off")] = None
    s3_ca_file: Folder | None = None
    s3_wait: float = Field(0.0, ge=0, le=60, description="seconds, from 0 to 60")
    s3_entries: Annotated[bool, Field(description="on or off")] = True
    s3_entry_days: float = Field(14.0, ge=1, le=3650, description="days, from 1 to 3650")
    s3_lookup_budget: float = Field(0.25, ge=0.01, le=10, description="seconds, from 0.01 to 10")
    s3_concurrency: int = Field(16, ge=1, le=256, description="a whole number from 1 to 256")
    workers: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        1, description="a whole number from 1 to 64, or auto"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        Field("info", description="debug, info, warning or error")
    )
    log_format: Literal["json", "text"] = Field("json", description="json or text")

    def largest(self, kind: Kind) -> int:
        """The largest body of a request to store one of `kind`, or a part of one, in bytes."""
        return kind.limit if isinstance(kind.limit, int) else int(getattr(self, kind.limit))


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        BadSettings: some values are invalid. The message names each one, with its value (unless it
            is a secret) and the values that are allowed.
    """
    try:
        settings = Settings()
    except ValidationError as errors:
        lines = [
            _sentence(str(error["loc"][0]).lower(), error["type"], error["input"])
            for error in errors.errors(include_url=False)
        ]
        raise BadSettings("\n".join(dict.fromkeys(lines))) from None
    for name, proxy in getproxies().items():
        if name in ("http", "https", "all") and not _is_proxy(proxy):
            raise BadSettings(
                f"{name.upper()}_PROXY is {without_credentials(proxy)!r}; "
                "allowed: an http or https URL"
            )
    if (settings.tuist_client_id is None) != (settings.tuist_client_secret is None):
        halves = ["TUIST_CLIENT_ID", "TUIST_CLIENT_SECRET"]
        given, missing = halves if settings.tuist_client_id is not None else reversed(halves)
        raise BadSettings(f"{given} is set and {missing} is not; allowed: both or neither")
    if settings.socket_path and settings.socket_dir:
        raise BadSettings("SOCKET_PATH and SOCKET_DIR are both set; allowed: one of them")
    if settings.disk_target_percent > settings.disk_high_watermark_percent:
        raise BadSettings(
            f"DISK_TARGET_PERCENT is {settings.disk_target_percent:g}; allowed: at most "
            f"DISK_HIGH_WATERMARK_PERCENT, {settings.disk_high_watermark_percent:g}"
        )
    return settings


def _is_proxy(url: str) -> bool:
    """Whether `url` is an http or https URL, as of a proxy; the scheme may be missing."""
    try:
        HttpUrl(url if "://" in url else f"http://{url}")
    except ValidationError:
        return False
    return True


def _sentence(name: str, problem: str, given: object) -> str:
    if name == "phx_host":
        name = "public_host"
    field = Settings.model_fields[name]
    allowed = field.description or ABSOLUTE
    if problem == "missing":
        return f"{name.upper()} is not set; allowed: {allowed}"
    return f"{name.upper()} is {without_credentials(str(given))!r}; allowed: {allowed}"


def without_credentials(url: str) -> str:
    """`url` without user, password and query, for messages."""
    shown = re.sub(r"\?.*", "?...", url)
    return re.sub(r"^([A-Za-z0-9+.-]*:(?=[/\\]))?([/\\]*).*@", r"\1\2...@", shown)
