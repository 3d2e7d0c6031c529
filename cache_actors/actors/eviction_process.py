"""A pass of eviction as a process of its own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec
import trio

from cache_actors.storage.eviction.last_pass import EXIT_RUNNING, PassReport

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

    from cache_actors.storage.eviction.run import Limits


class PassFailed(Exception):
    """A pass of eviction failed; the message says why."""


async def run_pass(root: Path, limits: Limits) -> PassReport | None:
    """Run a pass over the storage folder `root`; None if another one is running.

    If this is cancelled the process is ended, which it can be at any time.

    Raises:
        PassFailed: it could not be started, or failed.
    """
    command = [sys.executable, "-m", "cache_actors", "evict", "--json", f"--storage={root}"]
    command += [f"--high={limits.high * 100}", f"--target={limits.target * 100}"]
    command += [f"--parent={os.getpid()}"]
    if limits.max_bytes is not None:
        command += [f"--max-bytes={limits.max_bytes}"]
    try:
        ended: CompletedProcess[bytes] = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            process_group=0,  # a terminal's Ctrl-C is for the service, which ends the pass itself
        )
    except OSError as error:
        raise PassFailed(f"A pass could not be started: {error.strerror}") from error
    if ended.returncode == EXIT_RUNNING:
        return None
    if ended.returncode != 0:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {ended.returncode}"
        raise PassFailed(reason)
    return msgspec.json.decode(ended.stdout, type=PassReport)
