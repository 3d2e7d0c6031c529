"""The command line: what each command costs to start."""

import subprocess
import sys

import pytest

HEAVY = {"httpx", "hypercorn", "msgspec", "pydantic", "quart", "rich", "structlog", "trio"}

NO_STORAGE = {"SERVER_URL": "http://127.0.0.1:1", "CAS_STORAGE_DIR": "/dev/null/cas"}


def loaded_by(*arguments: str, **environment: str) -> set[str]:
    """The packages that a command has imported by the time it ends; a service finds no storage."""
    program = (
        "import sys\n"
        "from cache_actors.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
    )
    ending = "import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-c", ending + program, *arguments],
        env={"PORT": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return {module.partition(".")[0] for module in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize("arguments", [["--help"], ["healthcheck"]])
def test_what_is_asked_often_costs_little(arguments: list[str]) -> None:
    assert loaded_by(*arguments) & HEAVY == set()


def test_packages_are_seen_when_they_are_imported() -> None:
    """The test above is worth nothing if this is not so."""
    assert loaded_by("status") & HEAVY == {"msgspec", "rich"}
    assert loaded_by("serve", **NO_STORAGE) >= HEAVY


def test_parent_of_workers_does_without_what_only_they_need() -> None:
    assert loaded_by("serve", WORKERS="2", **NO_STORAGE) & HEAVY == HEAVY - {"hypercorn", "quart"}
