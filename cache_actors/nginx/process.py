"""nginx as a child process, for development and tests."""

from __future__ import annotations

import errno
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cache_actors.errors import CommandError

from .config import NginxOptions, nginx_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_SECONDS = 10.0


class NginxFailed(CommandError):
    """nginx did not start; the message is one line that says why."""


@contextmanager
def running_nginx(nginx: Path, options: NginxOptions) -> Iterator[None]:
    """Run the binary `nginx` with `options` for as long as the context lasts.

    Its runtime folder has to exist.

    Raises:
        BadNginxOption: the options make no configuration.
        NginxFailed: it ended at once, or does not come up.
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
        ) as process,
    ):
        try:
            _wait_until_started(process, options, errors)
            yield
        finally:
            process.terminate()


def _wait_until_started(
    process: subprocess.Popen[bytes], options: NginxOptions, errors: Path
) -> None:
    """nginx writes its pid once it listens."""
    deadline = time.monotonic() + START_SECONDS
    while not (options.runtime / "nginx.pid").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = errors.read_text().strip().splitlines() or ["it says nothing"]
            if any(f"({errno.EADDRINUSE}: " in line for line in said):
                advice = "end what listens there, or set PORT to another port"
                raise NginxFailed(f"{options.listen} is taken: {advice}")
            raise NginxFailed(f"nginx did not start: {said[-1]}")
        time.sleep(0.01)
