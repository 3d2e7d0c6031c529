"""The crash of a thread, which is that of its process."""

from __future__ import annotations

import os
import threading

EXIT_CRASHED = 1
"""Exit status of a process of which a thread has crashed."""


def end_with_any_thread() -> None:
    """End this process from now on when a thread crashes, with the traceback on standard error.

    So another one takes its place; without that thread it would do half of its work, unnoticed.
    """
    threading.excepthook = _end


def _end(crash: threading.ExceptHookArgs) -> None:
    try:
        threading.__excepthook__(crash)
    finally:
        os._exit(EXIT_CRASHED)
