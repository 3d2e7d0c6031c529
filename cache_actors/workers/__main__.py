"""`python -m cache_actors.workers CONFIG` runs a worker; started only by a parent."""

import sys

import msgspec

from .protocol import WorkerConfig
from .worker import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(msgspec.json.decode(sys.argv[-1], type=WorkerConfig)))
