"""Versions of this project: the one that is being worked on, and others, fetched from git.

Theory of operation
-------------------
The environment that benchmarks run in has this project installed in place, so that `import
cache_actors` finds the working tree. Another version is a folder with its files. It runs with
`PYTHONPATH`, which comes before what is installed, and with `PYTHONSAFEPATH`, without which
`python -m` looks into the current folder, the working tree, first of all. Its workers inherit both.
Since the wrong code would be measured without anybody noticing, processes are asked, and looked at.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .failure import BenchmarkFailed, NotHere
from .processes import family

TREE = Path(__file__).parents[2]
"""The project's folder."""

REQUIREMENTS = "requirements-runtime.lock"
INSTALL_SECONDS = 300.0

_WHERE = "import cache_actors, cache_actors.http as h; print(cache_actors.__file__, h.__file__)"
_SETTINGS = "from cache_actors.settings import Settings; print(*Settings.model_fields)"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the service that can be run.

    Attributes:
        name: its commit, in words.
        folder: the one that has `cache_actors` in it.
        python: the interpreter that has what it requires.
    """

    name: str
    folder: Path
    python: Path

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the service."""
        return str(self.python), "-m", "cache_actors", "serve"

    @property
    def environment(self) -> dict[str, str]:
        """What makes it this version that runs."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}

    def check(self) -> None:
        """Have a process say what it runs, in the folder in which it is most likely to be wrong.

        Raises:
            BenchmarkFailed: it runs something else.
        """
        said = self._asked(_WHERE)
        if not all(Path(file).is_relative_to(self.folder) for file in said):
            raise BenchmarkFailed(f"{self.name} is in {self.folder}, but what runs is {said}")

    def knows_workers(self) -> bool:
        """Whether it has the setting `WORKERS`."""
        return "workers" in self._asked(_SETTINGS)

    def check_process(self, pid: int) -> None:
        """Look whether a process of the service, and all that it has started, are this version.

        Raises:
            BenchmarkFailed: one is not.
        """
        wanted = {f"{name}={value}".encode() for name, value in self.environment.items()}
        for member in family(pid):
            has = set(Path(f"/proc/{member}/environ").read_bytes().split(b"\0"))
            if not wanted <= has:
                raise BenchmarkFailed(f"Process {member} of {self.name} may be another version")

    def _asked(self, program: str) -> list[str]:
        ended = subprocess.run(
            [self.python, "-c", program],
            cwd=TREE,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise BenchmarkFailed(f"{self.name} does not run: {ended.stderr.strip()}")
        return ended.stdout.split()


def working_tree(tree: Path = TREE) -> Version:
    """What is being worked on."""
    try:
        name = _git(tree, "rev-parse", "--short", "HEAD")
        changed = _git(tree, "status", "--porcelain", "--", "cache_actors")
    except NotHere:
        return Version("this version", tree, Path(sys.executable))
    name = f"{name} with changes" if changed else name
    return Version(name, tree, Path(sys.executable))


def version_of(commit: str, folder: Path, tree: Path = TREE) -> Version:
    """The version of a commit, checked out into a folder of its own below `folder`.

    If it requires other packages than the working tree, these are installed there too.

    Raises:
        NotHere: git does not have it, or its packages cannot be had.
    """
    try:
        name = _git(tree, "rev-parse", "--verify", "--short", f"{commit}^{{commit}}")
    except NotHere as error:
        raise NotHere(
            f"There is nothing to compare this version with: no commit {commit} here"
            " (git fetch --unshallow gets all of them)"
        ) from error
    there = folder / name
    if not there.exists():
        _check_out(tree, name, there)
    python = Path(sys.executable)
    if _requirements(there) != _requirements(tree):
        python = _environment_of(there)
    return Version(name, there, python)


def _check_out(tree: Path, name: str, there: Path) -> None:
    """All or nothing: it has its name once it is complete."""
    partial = there.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    archive = partial / "archive.tar"
    _git(tree, "archive", f"--output={archive}", name)
    _run(partial, "tar", "-xf", str(archive))
    archive.unlink()
    partial.rename(there)


def _requirements(folder: Path) -> str:
    """What a version requires, with hashes; nothing if it does not say so, which never matches."""
    file = folder / REQUIREMENTS
    return file.read_text() if file.exists() else ""


def _environment_of(there: Path) -> Path:
    """An interpreter with the packages that the version `there` requires."""
    environment = there / ".venv"
    python, done = environment / "bin/python", environment / "ready"
    if not done.exists():
        if not _requirements(there):
            raise NotHere(f"{there.name} does not say what it requires: no {REQUIREMENTS}")
        pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
        wheels = environment / "wheels"
        ours, its = str(sys.executable), str(python)
        _run(there, ours, "-m", "venv", "--clear", str(environment))
        _run(there, its, *pip, "install", "--require-hashes", "-r", REQUIREMENTS)
        # Itself, for the number of its version; what runs comes from the checkout all the same.
        _run(
            there, ours, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."
        )
        _run(there, its, *pip, "install", "--no-deps", *map(str, wheels.glob("*.whl")))
        done.touch()
    return python


def _git(tree: Path, *arguments: str) -> str:
    return _run(tree, "git", *arguments).strip()


def _run(folder: Path, *command: str) -> str:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            check=True,
            timeout=INSTALL_SECONDS,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"{command[0]} does not run: {error}") from error
    except subprocess.CalledProcessError as error:
        last = str(error.stderr).strip().splitlines()[-1:]
        raise NotHere(f"{' '.join(command[:3])} failed: {' '.join(last)}") from error
