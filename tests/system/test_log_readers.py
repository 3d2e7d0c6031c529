"""The service answers and stops in order, whatever its standard output is."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.service import COMMAND, Service, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

MORE_THAN_A_PIPE_HOLDS = 500
"""Requests; the line of each has more than 150 bytes, and a pipe holds 65,536."""


@contextmanager
def service_with(
    output: str, tmp_path: Path, tuist: StandInTuist, **environment: str
) -> Iterator[Service]:
    """A service whose standard output a shell has redirected to `output`."""
    command = ("sh", "-c", f'exec "$0" "$@" >{output}', *COMMAND)
    with running_service(Service(tmp_path / "cas", tuist.url, environment, command)) as service:
        yield service


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reader_that_stands_still_holds_up_nobody(
    tmp_path: Path, tuist: StandInTuist, workers: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDWR)
    try:
        with (
            service_with(str(pipe), tmp_path, tuist, WORKERS=workers) as service,
            httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client,
        ):
            for _ in range(MORE_THAN_A_PIPE_HOLDS):
                assert client.get("/nothing/here").status_code == 404
            dropped = client.get("/metrics").text
            assert client.get("/up").status_code == 200
            assert service.stop() == 0
        lines = [
            line for line in dropped.splitlines() if "cache_actors_log_lines_dropped_total" in line
        ]
        assert sum(float(line.split()[-1]) for line in lines if not line.startswith("#")) > 0
    finally:
        os.close(reading)


@pytest.mark.parametrize(("locale", "log_format"), [("C", "text"), ("en_US.ISO-8859-1", "json")])
def test_path_outside_of_the_locale_harms_nobody(
    tmp_path: Path, tuist: StandInTuist, locale: str, log_format: str
) -> None:
    log = tmp_path / "log"
    environment = {"LC_ALL": locale, "LOG_FORMAT": log_format, "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PYTHONUTF8": "0", "NO_COLOR": "1"}
    with service_with(str(log), tmp_path, tuist, **environment) as service:
        for path in "/%C3%A9", "/%FF%FE", "/%F0%9F%98%80", "/%00":
            response = httpx.get(service.url + path, trust_env=False)
            assert response.status_code in (400, 404)
        assert service.stop() == 0
    assert log.read_text(encoding="utf-8").count("/é") == 1
