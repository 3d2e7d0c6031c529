"""The tests' share of the machine: nightly or daily effort, and thread priorities."""

import os
import threading

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Whether tests may take longer, for more repetitions, as in `make test-all`."""


def let_others_go_first() -> None:
    """Lower the priority of this thread, so that a load generator does not starve its target."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
