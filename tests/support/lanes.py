"""How tests share a machine: what runs every day, and who goes first."""

import os
import threading

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Whether there is time to try things more often, as in `make test-all`."""


def let_others_go_first() -> None:
    """Give this thread a lower priority: a load must not keep what it loads from running."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
