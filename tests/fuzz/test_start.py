"""Commands started with settings made at random: they do their work, or say in a line why not.

`serve` answers `/up` and ends in order, or it is refused with exit status 2, a line a reason, and
no traceback. `check`, in the same environment, finds something broken where it is refused.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_actors.cli.dev.tuist import StandInTuist
from cache_actors.cli.healthcheck import Unhealthy, check_health
from cache_actors.cli.main import main
from cache_actors.errors import CommandError
from tests.support.service import free_port
from tests.support.waiting import LIMIT, eventually
from tests.test_settings import BAD, GOOD, SECRETS

from .test_settings import NAMES

EXAMPLES = settings().max_examples // 8
"""Examples, fewer than of other properties, as each starts two processes."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cache_actors.cli.serve", "cache_actors.cli.check"])
"""Starts processes from one that has imported what they need, which is most of a start's work."""

PLACES = {"CAS_STORAGE_DIR", "TMP_DIR", "SOCKET_PATH", "SOCKET_DIR", "NGINX_LOG"}
"""Settings that name files or folders."""

PATHS = [
    *("new", "new/below", "folder", "file", "file/below", "fifo", "loop", "nowhere", "é", "new\r"),
    *("x" * 300, "x/" * 2000, "folder/../new", "read-only", "read-only/new"),
]
"""Paths below a folder that `furnish` has filled."""

UNWRITABLE = ["/sys/fs", "/proc/sys/new", "/dev/null", "/dev/full"]
"""Paths where not even root can make a file."""

AVAILABLE = {"BIND": ["127.0.0.1", "::1", "192.0.2.1", "fe80::1%none"], "WORKERS": ["1", "2"]}
"""Allowed values, in place of those that this machine may not have or would be slowed down by."""

REQUIRED = {"CAS_STORAGE_DIR", "PORT"}
"""Settings that are never empty here: their defaults are no test's to use."""

BYTES = st.binary(min_size=1, max_size=12).map(
    lambda given: os.fsdecode(given.replace(b"\0", b"x"))
)
ODD = BYTES | st.sampled_from([" ", "\t", "\r", "é", "9" * 5000, "1e400", "-0", "x" * 100_000])


def values_of(name: str) -> st.SearchStrategy[str]:
    """Values for a setting: allowed ones, bad ones, empty ones, and what is no value at all."""
    if name in PLACES:
        allowed = st.sampled_from(PATHS).map("{folder}/".__add__) | st.sampled_from(UNWRITABLE)
    elif name in SECRETS:
        allowed = st.just("secret")
    elif name == "SERVER_URL":
        allowed = st.just("{tuist}/")
    else:
        allowed = st.sampled_from(AVAILABLE.get(name) or [value for value, _ in GOOD[name][1]])
    bad = st.sampled_from(BAD[name][1]) if name in BAD else ODD
    ended = allowed.map("{}\r".format) if name not in PLACES else allowed
    values = allowed | allowed | ended | bad | ODD
    return values if name in REQUIRED else values | st.just("")


ENVIRONMENTS = st.lists(st.sampled_from(NAMES), max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: values_of(name) for name in names})
)


@pytest.fixture(scope="module")
def tuist() -> Iterator[StandInTuist]:
    with StandInTuist({"token": ["acme/app"]}) as tuist:
        yield tuist


@settings(max_examples=EXAMPLES)
@given(drawn=ENVIRONMENTS)
def test_any_settings_start_a_service_or_are_refused_in_lines(
    tmp_path_factory: pytest.TempPathFactory, tuist: StandInTuist, drawn: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    furnish(folder)
    environment = {
        name: value.replace("{folder}", str(folder)).replace("{tuist}", tuist.url)
        for name, value in drawn.items()
    }
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER_URL": tuist.url,
        "CAS_STORAGE_DIR": f"{folder}/cas",
        "PORT": str(free_port()),
        **environment,
    }
    with running("serve", environment, folder / "serve.log") as serve:
        eventually(lambda: not serve.is_alive() or is_up(environment))
        is_refused = not serve.is_alive()
        with running("check", environment, folder / "check.log") as check:
            check.join(LIMIT)
        assert check.exitcode == 1 or (check.exitcode == 0 and not is_refused)
        verdicts = lines_of(folder / "check.log")
        assert all(line.startswith(("ok  ", "warning ", "broken ")) for line in verdicts), verdicts
        if is_refused:
            assert serve.exitcode == 2
            known = [*NAMES, *(environment[name] for name in {*environment} & PLACES)]
            known += [f":{environment['PORT']}: "]
            lines = lines_of(folder / "serve.log")
            assert lines
            assert all(any(word in line for word in known) for line in lines), lines
        else:
            serve.terminate()
            serve.join(LIMIT)
            assert serve.exitcode == 0
            assert "all values are allowed" in verdicts[0]
            assert "Traceback" not in (folder / "serve.log").read_text()


def furnish(folder: Path) -> None:
    """Make what the paths lead to."""
    (folder / "folder").mkdir()
    (folder / "read-only").mkdir(mode=0o555)  # to root it is like any other
    (folder / "file").touch()
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing/file")


def is_up(environment: dict[str, str]) -> bool:
    """Whether a service answers where its settings say that it listens."""
    try:
        check_health(environment)
    except (Unhealthy, CommandError):
        return False
    return True


@contextmanager
def running(command: str, environment: dict[str, str], output: Path) -> Iterator[ForkServerProcess]:
    """A process of a command, killed in the end if it still runs."""
    process = PROCESSES.Process(target=run, args=(command, environment, output))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run(command: str, environment: dict[str, str], output: Path) -> None:
    """Be a process of a command, from which everything has been imported already."""
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["cache-actors", command]
    main()


def lines_of(output: Path) -> list[str]:
    """The lines that a command has printed."""
    return output.read_text().splitlines()
