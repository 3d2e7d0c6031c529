"""The deployments: what Kamal itself says of them, and that they fit the image and the service."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache_actors.lifetime import LONGEST_STOP
from cache_actors.settings import Settings
from tests.support.programs import find_script, require_library

PROJECT = Path(__file__).parents[2]
PRODUCTION = PROJECT / "config/deploy.yml"
STAGING = PROJECT / "config/deploy.staging.yml"
both = pytest.mark.parametrize("path", [PRODUCTION, STAGING], ids=["production", "staging"])


def deployment(path: Path) -> dict[str, Any]:
    """The file as it is written, with what Ruby would fill in left as it is."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def kamal(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real Kamal, with values for the secrets in its environment."""
    require_library("libyaml-0.so.2")
    return subprocess.run(
        [find_script("kamal"), *arguments],
        cwd=PROJECT,
        env={**os.environ, "SECRET_KEY_BASE": "of-a-test", "KAMAL_REGISTRY_PASSWORD": "of-a-test"},
        capture_output=True,
        text=True,
        check=False,
    )


@both
def test_kamal_accepts_it(path: Path) -> None:
    run = kamal("config", "--config-file", str(path.relative_to(PROJECT)), "--version", "of-a-test")
    assert run.returncode == 0, run.stdout + run.stderr
    # It prints Ruby's symbols, with a colon before the key.
    config = yaml.safe_load(re.sub(r"^( *):", r"\1", run.stdout, flags=re.MULTILINE))
    assert config["service_with_version"] == "cache-actors-of-a-test"
    assert config["hosts"] == deployment(path)["servers"]["web"]["hosts"]
    assert config["volume_args"][1::2] == ["/cas:/cas", "/run/cache-actors:/run/cache-actors"]
    assert config["builder"]["dockerfile"] == "platform/Dockerfile"
    limits = '--log-driver "local" --log-opt max-size="50m" --log-opt max-file="5"'
    assert config["logging"] == limits.split()


def test_kamal_finds_every_secret_that_is_named() -> None:
    run = kamal("secrets", "print", "--config-file", "config/deploy.yml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert dict(line.split("=", 1) for line in run.stdout.split()) == dict.fromkeys(
        secrets(PRODUCTION), "of-a-test"
    )


def secrets(path: Path) -> list[str]:
    config = deployment(path)
    named: list[str] = [*config["registry"]["password"], *config["env"]["secret"]]
    return named


@both
def test_secrets_are_names(path: Path) -> None:
    assert secrets(path) == ["KAMAL_REGISTRY_PASSWORD", "SECRET_KEY_BASE"]
    assert not set(secrets(path)) & deployment(path)["env"]["clear"].keys()
    for line in (PROJECT / ".kamal/secrets").read_text().splitlines():
        if not line.startswith("#"):
            name, value = line.split("=", 1)
            assert value == f"${name}", "a value, or a command, is in .kamal/secrets"


@both
def test_it_listens_on_a_socket_that_the_hosts_nginx_has_too(path: Path) -> None:
    config = deployment(path)
    environment = config["env"]["clear"]
    assert config["servers"]["web"]["proxy"] is False
    volumes = dict(volume.split(":") for volume in config["volumes"])
    assert volumes == {folder: folder for folder in ("/cas", "/run/cache-actors")}
    assert environment["SOCKET_DIR"] == "/run/cache-actors"
    assert environment["NGINX_LOG"] == "/run/cache-actors/answers.log"
    assert environment["CAS_STORAGE_DIR"] == "/cas"
    assert {"PORT", "BIND", "SOCKET_PATH"}.isdisjoint(environment)
    nix = (PROJECT / "platform/nginx.nix").read_text()
    assert 'default = "unix:/run/cache-actors/current.sock";' in nix
    assert 'shared = "/run/cache-actors";' in nix


@both
def test_service_accepts_its_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = deployment(path)["env"]["clear"]
    known = {name.upper() for name in Settings.model_fields}
    assert environment.keys() <= known
    for name in known:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    settings = Settings()
    assert settings.public_host == deployment(path)["servers"]["web"]["hosts"][0]


@both
def test_kamal_logs_in_as_the_user_that_the_hosts_have(path: Path) -> None:
    user = deployment(path)["ssh"]["user"]
    assert f"users.users.{user} = {{" in (PROJECT / "platform/users.nix").read_text()


@both
def test_a_stop_has_the_time_that_it_may_take(path: Path) -> None:
    config = deployment(path)
    options = config["servers"]["web"]["options"]
    assert config["drain_timeout"] > LONGEST_STOP
    assert options["stop-timeout"] > LONGEST_STOP
    assert options["init"] is True, "a stop in the first second would be lost"


@both
def test_a_new_container_has_time_to_become_healthy(path: Path) -> None:
    check = re.search(
        r"HEALTHCHECK --interval=(\d+)s --timeout=\d+s --start-period=(\d+)s",
        (PROJECT / "platform/Dockerfile").read_text(),
    )
    assert check is not None, "Kamal would go by `running` alone"
    assert deployment(path)["deploy_timeout"] >= int(check[1]) + int(check[2])


@both
def test_container_is_confined(path: Path) -> None:
    options = deployment(path)["servers"]["web"]["options"]
    assert options["read-only"] is True
    assert options["cap-drop"] == "ALL"
    assert options["security-opt"] == "no-new-privileges"
    assert "user" not in options, "the image has its user, and nginx its group"


def test_staging_is_production_but_for_names() -> None:
    staging, production = deployment(STAGING), deployment(PRODUCTION)
    for config in staging, production:
        config["servers"]["web"]["hosts"] = ["a host"]
        config["env"]["clear"] |= {"PUBLIC_HOST": "a host", "SERVER_URL": "a server"}
    assert staging == production


@both
def test_revision_is_the_commit_that_is_built(path: Path) -> None:
    builder = deployment(path)["builder"]
    assert "context" not in builder, "what is not committed would be deployed"
    assert "git rev-parse HEAD" in builder["args"]["REVISION"]
