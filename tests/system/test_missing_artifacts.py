"""A service that takes entries without their artifacts, and what it tells of eviction."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache_actors.dev.tuist import StandInTuist
from tests.contract.examples import (
    expect_entries,
    new_cas_id,
    new_kv_id,
    store,
    stored,
    uploaded,
)
from tests.support.service import Service, client_of, running_service
from tests.support.stored import DAY, Stored, value_of
from tests.support.waiting import eventually


@pytest.mark.parametrize("required", [True, False], ids=["required", "not required"])
def test_entry_without_its_artifact_is_logged_whether_it_is_stored_or_not(
    tmp_path: Path, tuist: StandInTuist, required: bool
) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    settings = {} if required else {"KV_REQUIRE_ARTIFACTS": "off"}
    with (
        running_service(Service(tmp_path / "cas", tuist.url, settings)) as service,
        client_of(service.url) as client,
    ):
        answer = store(client, kv_id, value_of(cas_id))
        assert answer.status_code == (409 if required else 204)
        if not required:
            expect_entries(client, kv_id, value_of(cas_id))
        there = stored(client, value_of(uploaded(client, b"bytes")))
        assert client.get(f"/api/cache/keyvalue/{there}").status_code == 200
    [line] = service.logged("artifact_missing")
    assert (line["level"], line["artifact"]) == ("warning", cas_id)
    assert line["stored"] is not required
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert line["project"] == "acme/app"


def test_last_pass_is_told_by_up_without_names(tmp_path: Path, tuist: StandInTuist) -> None:
    stored_files = Stored(tmp_path / "cas")
    artifact, entry = stored_files.artifact(1, DAY), stored_files.entry("a", 1, age=DAY)
    command = [sys.executable, "-m", "cache_actors", "evict", f"--storage={tmp_path / 'cas'}"]
    command += ["--target=0", "--max-bytes=1"]  # as it were full, so that it does not wait for long
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        eventually(lambda: service.up().json()["eviction"]["last_pass"] is not None)
        text = service.up().text
    eviction = json.loads(text)["eviction"]
    last = eviction["last_pass"]
    assert (last["artifacts"], last["entries"], last["stored_bytes"]) == (1, 1, 0)
    assert last["youngest_evicted_seconds"] == pytest.approx(DAY, abs=600)
    assert 0 <= last["ended_seconds_ago"] < 600
    assert eviction["passes"] == 0  # of its own
    for secret in (artifact.name, entry.stem, "acme", str(tmp_path)):
        assert secret.lower() not in text.lower()
