"""A process of which a thread crashes."""

import subprocess
import sys

from cache_actors.actor_process.crash import EXIT_CRASHED

PROGRAM = """
import threading
from cache_actors.actor_process.crash import end_with_any_thread
end_with_any_thread()
threading.Thread(target=lambda: 1 / 0, daemon=True).start()
threading.Event().wait(60)
"""


def test_process_ends_with_a_thread_that_crashes_and_says_why() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=50
    )
    assert ended.returncode == EXIT_CRASHED
    assert "ZeroDivisionError" in ended.stderr
