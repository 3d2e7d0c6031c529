"""A service that takes entries without their artifacts, and what it tells of eviction."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract.examples import (
    bearer,
    expect_entries,
    handles,
    new_cas_id,
    new_kv_id,
    store,
    stored,
    uploaded,
)
from tests.support.service import Service, running_service
from tests.support.stored import DAY, Stored, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_actors.dev.tuist import StandInTuist

PATIENCE = 20.0


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    environment = {"KV_REQUIRE_ARTIFACTS": "off"}
    with running_service(Service(tmp_path / "cas", tuist.url, environment)) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=service.url, params=handles("acme/app"), headers=bearer("token"), trust_env=False
    ) as client:
        yield client


def test_entry_without_its_artifact_is_stored_and_logged(
    service: Service, client: httpx.Client
) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    answer = store(client, kv_id, value_of(cas_id))
    assert answer.status_code == 204
    expect_entries(client, kv_id, value_of(cas_id))
    there = stored(client, uploaded(client, b"bytes"))
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    [line] = [line for line in lines if line["event"] == "artifact_missing"]
    assert (line["level"], line["artifact"], line["stored"]) == ("warning", cas_id, True)
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert client.get(f"/api/cache/keyvalue/{there}").status_code == 200


def test_refusal_is_logged_with_what_is_missing(tmp_path: Path, tuist: StandInTuist) -> None:
    cas_id = new_cas_id()
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        with httpx.Client(
            base_url=service.url, params=handles("acme/app"), headers=bearer("token")
        ) as client:
            answer = store(client, new_kv_id(), value_of(cas_id))
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert answer.status_code == 409
    [line] = [line for line in lines if line["event"] == "artifact_missing"]
    assert (line["level"], line["artifact"], line["stored"]) == ("warning", cas_id, False)
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert line["project"] == "acme/app"


def test_last_pass_is_told_by_up_without_names(tmp_path: Path, tuist: StandInTuist) -> None:
    stored_files = Stored(tmp_path / "cas")
    artifact, entry = stored_files.artifact(1, DAY), stored_files.entry("a", 1, age=DAY)
    command = [sys.executable, "-m", "cache_actors", "evict", f"--storage={tmp_path / 'cas'}"]
    command += ["--target=0", "--max-bytes=1"]  # as it were full, so that it does not wait for long
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        deadline = time.monotonic() + PATIENCE
        eviction: dict[str, Any] = {"last_pass": None}
        while eviction["last_pass"] is None:
            assert time.monotonic() < deadline
            text = httpx.get(service.url + "/up", trust_env=False).text
            eviction = json.loads(text)["eviction"]
    last = eviction["last_pass"]
    assert (last["artifacts"], last["entries"], last["stored_bytes"]) == (1, 1, 0)
    assert last["youngest_evicted_seconds"] == pytest.approx(DAY, abs=60)
    assert 0 <= last["ended_seconds_ago"] < 60
    assert eviction["passes"] == 0  # of its own
    for secret in (artifact.name, entry.stem, "acme", str(tmp_path)):
        assert secret.lower() not in text.lower()
