"""`python -m cache_actors.workers CONFIG`: a worker. Only a parent starts it."""

import sys

import msgspec

from .protocol import WorkerConfig
from .worker import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(msgspec.json.decode(sys.argv[-1], type=WorkerConfig)))
