"""The lock of a project: entries share it, eviction has it alone, and nobody is starved."""

import errno
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache_actors.storage import locks, project_lock
from cache_actors.storage.project_lock import brief, exclusive, shared
from tests.support.waiting import LIMIT, eventually

from .stores import open_descriptors

Lock = Callable[[Path], AbstractContextManager[None]]


HOLDER = """
import sys
from pathlib import Path
from cache_actors.storage.project_lock import {how}
with {how}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def project(root: Path) -> Path:
    project = root / "acme" / "app"
    (project / "keyvalue").mkdir(parents=True)
    (project / "cas").mkdir()
    return project


@contextmanager
def another_process(how: str, project: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock; it lets go when the context ends, or when it is killed."""
    command = [sys.executable, "-c", HOLDER.format(how=how), str(project)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


class Worker:
    """A thread that takes the lock, and holds it until it is told to let go."""

    def __init__(self, how: Lock, project: Path) -> None:
        self.has_it, self._release = threading.Event(), threading.Event()
        self._how = how
        self._project = project
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._how(self._project):
                self.has_it.set()
                assert self._release.wait(LIMIT)
        except OSError as error:
            self.error = error

    def got_it(self) -> bool:
        """Whether it has the lock within the limit."""
        return self.has_it.wait(LIMIT)

    def end(self) -> None:
        self._release.set()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


@pytest.fixture
def work(project: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers; in the end all of them let go."""
    workers: list[Worker] = []

    def work(how: Lock) -> Worker:
        workers.append(Worker(how, project))
        return workers[-1]

    yield work
    for worker in workers:
        worker.end()


def waiting_for(folder: Path) -> int:
    """How many wait in the kernel for the lock on a folder."""
    end = f":{folder.stat().st_ino} 0 EOF"
    with open("/proc/locks") as locks:  # noqa: PTH123
        return sum(line.rstrip().endswith(end) and "->" in line for line in locks)


def expect_busy(how: Lock, project: Path) -> None:
    with pytest.raises(OSError, match="being evicted") as caught, how(project):
        pytest.fail("it came in")
    assert caught.value.errno == errno.EBUSY


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared holders do not wait."""
    monkeypatch.setattr(project_lock, "MAX_WAIT_SECONDS", 0.0)


# Who keeps out whom.


def test_shared_holders_are_in_together(project: Path, work: Callable[..., Worker]) -> None:
    with shared(project), shared(project), another_process("shared", project):
        assert work(shared).got_it()
        assert work(brief).got_it()


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("how", [shared, brief])
def test_exclusive_keeps_out_the_others_of_all_processes(project: Path, how: Lock) -> None:
    with another_process("exclusive", project):
        expect_busy(how, project)
    with how(project):
        pass


@pytest.mark.parametrize("how", ["shared", "exclusive", "brief"])
def test_exclusive_waits_until_the_holders_of_all_processes_are_gone(
    project: Path, work: Callable[..., Worker], how: str
) -> None:
    with another_process(how, project) as holder:
        worker = work(exclusive)
        eventually(lambda: waiting_for(project) > 0)
        assert not worker.has_it.is_set()
        holder.kill()
        assert worker.got_it()


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("how", [shared, exclusive, brief])
def test_lock_ends_with_an_exception(project: Path, how: Lock) -> None:
    before = open_descriptors()
    with pytest.raises(ZeroDivisionError), how(project):
        raise ZeroDivisionError
    assert open_descriptors() <= before
    with exclusive(project):
        pass


# Waiting.


def test_shared_holder_waits_for_an_exclusive_one(
    project: Path, work: Callable[..., Worker]
) -> None:
    with exclusive(project):
        waiting = [work(shared), work(brief)]
        assert not waiting[0].has_it.wait(0.05)
        assert not waiting[1].has_it.is_set()
    assert all(worker.got_it() for worker in waiting)


@pytest.mark.parametrize("how", [shared, brief])
def test_wait_has_an_end(
    project: Path,
    how: Lock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that only the waiting itself moves."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    for module in project_lock, locks:
        monkeypatch.setattr(module, "time", clock)
    before = open_descriptors()
    with exclusive(project):
        inside = open_descriptors()
        expect_busy(how, project)
        assert now[0] - 1000 == pytest.approx(project_lock.MAX_WAIT_SECONDS, abs=0.01)
        assert open_descriptors() <= inside
    assert open_descriptors() <= before


@pytest.mark.usefixtures("no_patience")
def test_those_who_come_while_an_exclusive_one_waits_stay_behind_it(
    project: Path, work: Callable[..., Worker]
) -> None:
    with shared(project):
        waiting = work(exclusive)
        eventually(lambda: waiting_for(project) > 0)
        expect_busy(shared, project)
    assert waiting.got_it()


def test_brief_inside_shared_does_not_wait_for_an_exclusive_one_that_waits(
    project: Path, work: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_lock, "MAX_WAIT_SECONDS", 0.2)
    with shared(project):
        waiting = work(exclusive)
        eventually(lambda: waiting_for(project) > 0)
        with brief(project):
            assert not waiting.has_it.is_set()
    assert waiting.got_it()


# Folders.


def test_exclusive_needs_no_folder_of_entries(project: Path) -> None:
    (project / "keyvalue").rmdir()
    with exclusive(project), pytest.raises(FileNotFoundError), shared(project):
        pytest.fail("it came in")


@pytest.mark.parametrize("how", [shared, exclusive, brief])
def test_project_that_is_not_there_has_no_lock(root: Path, how: Lock) -> None:
    with pytest.raises(FileNotFoundError), how(root / "acme" / "nobody"):
        pytest.fail("it came in")


def test_link_is_not_followed(project: Path, root: Path) -> None:
    link = root / "acme" / "link"
    link.symlink_to(project)
    for how in (exclusive, brief):
        with pytest.raises(OSError, match=r"Not a directory|symbolic"), how(link):
            pytest.fail("it came in")


def test_lock_changes_nothing_on_the_disk(project: Path) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in (project, *project.iterdir())]
    for how in (shared, exclusive, brief):
        with how(project):
            pass
    assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before
    assert len(list(project.rglob("*"))) == 2
