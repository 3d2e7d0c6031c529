"""Workers for tests: their process ids, and changed services that run in several processes."""

import os
import sys
from contextlib import suppress

import msgspec

from cache_actors.cli.serve import run_process
from cache_actors.settings import load_settings
from cache_actors.workers.protocol import WorkerConfig
from cache_actors.workers.worker import run_worker
from cache_actors.writer_process import client
from cache_actors.writer_process.__main__ import run
from cache_actors.writer_process.protocol import WriterConfig

from .service import Service
from .strace import children_of, last_argument


def run_service(module: str) -> int:
    """Run the service or, if this process was started as one of its workers, that worker.

    Args:
        module: module for `python -m` that changes workers as it does the service.
    """
    if len(sys.argv) > 1:
        return run_worker(msgspec.json.decode(sys.argv[-1], type=WorkerConfig))
    return run_process(load_settings(), worker_command=(sys.executable, "-m", module))


def run_as_writer_process_if_asked(module: str) -> None:
    """Run `module` in the service's writer processes too; be one if started as one.

    Args:
        module: module for `python -m` that changes writer processes as it does the service.
    """
    if "disk" in sys.argv:
        run(msgspec.json.decode(sys.argv[-1], type=WriterConfig))
        sys.exit()
    client.COMMAND = (sys.executable, "-m", module, "disk")


def worker_pids(service: Service) -> dict[str, int]:
    """The process ids of a service's workers, by name."""
    assert service.process is not None
    names = {}
    for pid in children_of(service.process.pid):
        with suppress(msgspec.DecodeError):  # just forked, or ended
            names[msgspec.json.decode(last_argument(pid), type=WorkerConfig).name] = pid
    return names


def is_alive(pid: int) -> bool:
    """Whether a process with the id `pid` exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
