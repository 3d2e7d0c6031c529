"""Workers as tests see them: their processes, and changed services that consist of several."""

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
        module: what `python -m` has to run, so that workers are changed as the service is.
    """
    if len(sys.argv) > 1:
        return run_worker(msgspec.json.decode(sys.argv[-1], type=WorkerConfig))
    return run_process(load_settings(), worker_command=(sys.executable, "-m", module))


def run_as_writer_process_if_asked(module: str) -> None:
    """Have processes that write to the disk changed as the service is; be one if started as one.

    Args:
        module: what `python -m` has to run.
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
        with suppress(msgspec.DecodeError):  # it has only just been forked, or has ended
            names[msgspec.json.decode(last_argument(pid), type=WorkerConfig).name] = pid
    return names


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
