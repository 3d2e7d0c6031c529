"""nginx as a child process, for development and tests."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cache_actors.errors import CommandError
from cache_actors.runtime.ports import listener_at

from .config import NginxOptions, nginx_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_SECONDS = 10.0

STOP_SECONDS = 5.0
"""Longest time that nginx may take to finish its requests, in seconds."""


class NginxFailed(CommandError):
    """nginx did not start, or has ended by itself; the message is one line with the reason."""


@contextmanager
def running_nginx(
    nginx: Path, options: NginxOptions, ended: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Run the binary `nginx` with `options` for as long as the context lasts.

    If this process dies, nginx is ended and its runtime folder removed, as that holds tokens. nginx
    has a session of its own, so a terminal's Ctrl-C does not end it before the context does.

    Args:
        nginx: the binary.
        options: the options of nginx's configuration; the runtime folder has to exist.
        ended: called in a thread if nginx ends by itself.

    Raises:
        BadNginxOption: an option cannot be written into a configuration.
        NginxFailed: nginx did not start within `START_SECONDS`, or ended before the context did.
    """
    config = options.runtime / "nginx.conf"
    config.write_text(nginx_config(options))
    errors = options.runtime / "start.log"
    with (
        errors.open("wb") as output,
        subprocess.Popen(  # noqa: S603
            [nginx, "-c", config, "-e", options.runtime / "error.log", "-g", "daemon off;"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
        guarded(process.pid, options.runtime),
    ):
        try:
            _wait_until_started(process, options, errors)
            with _watched(process, ended):
                yield
            if process.poll() is not None:
                raise NginxFailed(f"nginx has ended by itself, with status {process.returncode}")
            process.send_signal(signal.SIGQUIT)  # nginx finishes its requests first
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # workers that it has left behind, if any
                os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def _watched(process: subprocess.Popen[bytes], ended: Callable[[], None]) -> Iterator[None]:
    """Call `ended`, in a thread, if `process` ends within the context."""
    is_over = threading.Event()

    def watch() -> None:
        process.wait()
        if not is_over.is_set():
            ended()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


_GUARD = """
trap '' HUP INT TERM
read -r _
kill -TERM "-$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "-$1" && sleep 0.1; done
kill -KILL "-$1"
rm -rf "$2"
"""
"""Shell script that waits for the end of its standard input, which is the end of this process.

Its arguments are a process group, which it ends, and a folder, which it removes."""


@contextmanager
def guarded(group: int, folder: Path) -> Iterator[None]:
    """End the processes of `group`, and remove `folder`, if this process dies in the context."""
    with subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", _GUARD, "sh", str(group), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the end of the terminal must not end the guard
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


def _wait_until_started(
    process: subprocess.Popen[bytes], options: NginxOptions, errors: Path
) -> None:
    """Wait until nginx has written its pid, which it does once it listens."""
    deadline = time.monotonic() + START_SECONDS
    while not (options.runtime / "nginx.pid").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            output = errors.read_text().strip().splitlines() or ["it says nothing"]
            if any(f"({errno.EADDRINUSE}: " in line for line in output):
                host, _, port = options.listen.rpartition(":")
                holder = listener_at(host.strip("[]"), int(port))
                advice = "end that, or set PORT to another port"
                raise NginxFailed(f"{options.listen} is taken by {holder}: {advice}")
            raise NginxFailed(f"nginx did not start: {output[-1]}")
        time.sleep(0.01)
