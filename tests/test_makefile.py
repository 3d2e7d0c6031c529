"""What `make` says where it cannot do what it should, and that nothing half set up is trusted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an environment with these changes."""
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def programs(folder: Path, **scripts: str) -> str:
    """A PATH with what scripts need and with `scripts`, and nothing else."""
    folder.mkdir()
    for name in "sh", "bash", "sed", "xargs", "echo", "grep", "head", "dirname", "cat":
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return str(folder)


# --- Setting up -----------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of one as setting up looks at, in a folder with a space, set up before."""
    folder = tmp_path / "a checkout"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "ready").touch()
    (folder / "requirements.lock").write_text("--no-index\nnothing==1 --hash=sha256:" + "0" * 64)
    shutil.copytree(PROJECT / "scripts", folder / "scripts")
    return folder


def old(folder: Path) -> dict[str, str]:
    (folder / "old").write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; esac\necho 3.9.2\n')
    (folder / "old").chmod(0o755)
    return {"PYTHON": str(folder / "old")}


def without_ensurepip(folder: Path) -> dict[str, str]:
    (folder / "ensurepip.py").write_text("raise ImportError")
    return {"PYTHON": sys.executable, "PYTHONPATH": str(folder)}


def not_to_be_written_to(folder: Path) -> dict[str, str]:
    (folder / "build").touch()  # as root may write to any folder
    return {"PYTHON": sys.executable}


def nowhere(_: Path) -> dict[str, str]:
    return {"PYTHON": "/nowhere/python3"}


def no_python(folder: Path) -> dict[str, str]:
    return {"PYTHON": "", "PATH": programs(folder / "bin")}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (nowhere, "PYTHON=/nowhere/python3 is no Python"),
        (
            no_python,
            "Python 3.11 or newer is needed, and there is none: install it, or set PYTHON=",
        ),
        (old, "old is Python 3.9.2: set PYTHON to one that is 3.11 or newer"),
        (
            without_ensurepip,
            "cannot make virtual environments; on Debian: apt-get install python3-",
        ),
        (not_to_be_written_to, "The checkout cannot be written to: File exists. Free some room"),
    ],
)
def test_what_is_missing_to_set_up_is_said_in_one_line(
    checkout: Path, make: object, complaint: str
) -> None:
    assert callable(make)
    said = run(checkout / "scripts/set-up.sh", **make(checkout))
    assert said.returncode == 1
    [line] = said.stderr.splitlines()
    assert complaint in line
    assert said.stdout == ""


@pytest.mark.nightly  # it makes a real environment
def test_set_up_that_fails_in_the_middle_leaves_nothing_to_trust(checkout: Path) -> None:
    said = run(checkout / "scripts/set-up.sh", PYTHON=sys.executable)
    assert said.returncode == 1
    [line] = said.stderr.splitlines()
    assert line.startswith("Installing what requirements.lock names failed: ERROR: No matching")
    assert line.endswith("(all of it is in build/set-up.log)")
    assert "nothing==1" in (checkout / "build/set-up.log").read_text()
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_s3_server_is_added_to_what_is_set_up_and_a_failure_leaves_that(
    checkout: Path, fails: bool
) -> None:
    pip = checkout / ".venv" / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\n" + ("echo 'ERROR: No matching'; exit 1" if fails else 'echo "$@"'))
    pip.chmod(0o755)
    said = run(checkout / "scripts/set-up.sh", "s3-server", PYTHON=sys.executable)
    assert said.returncode == fails
    assert said.stdout == "Installing SeaweedFS, an S3 server, into .venv ...\n"
    assert ("requirements-s3-server.lock names failed: ERROR: No matching" in said.stderr) == fails
    assert (checkout / ".venv" / "s3-server").exists() == (not fails)
    assert (checkout / ".venv" / "ready").exists()
    if not fails:
        log = (checkout / "build/set-up.log").read_text()
        assert "--require-hashes -r requirements-s3-server.lock" in log


def test_s3_server_is_wanted_by_tests_and_by_several_nodes_only() -> None:
    for goals, is_wanted in [(["run"], False), (["run", "NODES=2"], True), (["test"], True)]:
        would = run("make", "--dry-run", "--always-make", "-C", PROJECT, *goals, MAKEFLAGS="")
        assert would.returncode == 0
        assert ("set-up.sh s3-server" in would.stdout) == is_wanted


# --- Programs that tests need ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ({"id": "echo 1000"}, "only root may install them"),
        ({"id": "echo 0"}, "there is no apt-get to install them with"),
        (
            {"id": "echo 0", "apt_get": "echo E: Unable to locate package; exit 100"},
            "apt-get could not install them: E: Unable to locate package",
        ),
    ],
)
def test_program_that_cannot_be_installed_is_named_and_done_without(
    tmp_path: Path, scripts: dict[str, str], why: str
) -> None:
    path = programs(tmp_path / "bin", **scripts)
    said = run(PROJECT / "scripts/system-packages.sh", "sed=sed", "/usr/no/thing=thing", PATH=path)
    assert said.returncode == 0
    [line] = said.stderr.splitlines()
    assert line.startswith(f"WARNING: missing: thing ({why})")


def test_missing_program_is_installed(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", id="echo 0", apt_get=f'echo "$@" >>{tmp_path}/asked')
    run(PROJECT / "scripts/system-packages.sh", "sed=sed", "one=a", "libno.so.1=b", PATH=path)
    [update, install, *_] = (tmp_path / "asked").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends a b")


def test_nothing_is_asked_when_all_programs_are_there(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", id="echo 0", apt_get=f"touch {tmp_path}/asked")
    # Where Debian has them.
    libraries = [f"{file.name}=x" for file in Path("/usr/lib").glob("*/lib*.so.*")]
    said = run(PROJECT / "scripts/system-packages.sh", "sed=sed", *libraries[:1], PATH=path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert not (tmp_path / "asked").exists()


# --- The rest -------------------------------------------------------------------------------------


def test_bare_machine_is_made_by_root_alone(tmp_path: Path) -> None:
    said = run(PROJECT / "tests/bare/bare.sh", PATH=programs(tmp_path / "bin", id="echo 1000"))
    assert said.returncode == 1
    assert re.fullmatch("make bare: only root can do this, [^\n]*\n", said.stderr)


def test_comment_at_the_head_of_the_makefile_knows_every_command() -> None:
    text = (PROJECT / "Makefile").read_text()
    documented = set(re.findall(r"^# make (\S+) ", text, re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert documented == {*phony.split()} - {"system-packages"}
