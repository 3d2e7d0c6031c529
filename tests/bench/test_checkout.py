"""Another version is what runs when another version is to be measured."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .checkout import REQUIREMENTS, TREE, Version, version_of, working_tree
from .failure import BenchmarkFailed, NotHere

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")

SLEEP = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def _no_other_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of git that runs tests has these set."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return said.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two commits: the second one knows workers."""
    folder = tmp_path / "project"
    write(folder, settings=["port"])
    git(folder.parent, "init", "-q", str(folder))
    for settings in (["port"], ["port", "workers"]):
        write(folder, settings)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", f"knows {settings}")
    return folder


def write(folder: Path, settings: Sequence[str]) -> None:
    package = folder / "cache_actors"
    (package / "http").mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "http/__init__.py").touch()
    fields = dict.fromkeys(settings)
    (package / "settings.py").write_text(f"class Settings:\n    model_fields = {fields}\n")
    (folder / REQUIREMENTS).write_text("trio\n")


def test_an_earlier_commit_runs_although_another_version_is_installed(
    project: Path, tmp_path: Path
) -> None:
    first, last = (version_of(commit, tmp_path, project) for commit in ("HEAD~1", "HEAD"))
    assert first.name == git(project, "rev-parse", "--short", "HEAD~1")
    assert first.folder != last.folder
    for version in (first, last, working_tree(project), working_tree()):
        version.check()
    knows = [version.knows_workers() for version in (first, last, working_tree(project))]
    assert knows == [False, True, True]
    assert first.python == Path(sys.executable), "it requires the same"


def test_it_is_checked_out_once(project: Path, tmp_path: Path) -> None:
    (version_of("HEAD", tmp_path, project).folder / "mark").touch()
    assert (version_of("HEAD", tmp_path, project).folder / "mark").exists()


def test_changes_that_are_not_committed_are_told(project: Path) -> None:
    assert working_tree(project).name == git(project, "rev-parse", "--short", "HEAD")
    write(project, settings=["other"])
    assert working_tree(project).name.endswith(" with changes")


def test_without_the_commit_it_is_said_what_is_missing(project: Path, tmp_path: Path) -> None:
    with pytest.raises(NotHere, match=r"no commit 1234567 here .*--unshallow"):
        version_of("1234567", tmp_path, project)


def test_a_folder_without_the_service_is_not_taken_for_a_version(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkFailed, match="what runs is"):
        Version("empty", tmp_path, Path(sys.executable)).check()


def test_processes_with_another_environment_are_noticed() -> None:
    version = working_tree()
    for environment, right in ((version.environment, True), ({"PYTHONPATH": "/"}, False)):
        with subprocess.Popen(
            [sys.executable, "-c", SLEEP],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if right:
                version.check_process(process.pid)
            else:
                with pytest.raises(BenchmarkFailed, match="may be another version"):
                    version.check_process(process.pid)
            process.communicate()
    assert version.folder == TREE
