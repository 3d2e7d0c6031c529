"""Prometheus as it is shipped, beside a real site: what it asks has answers."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.examples import cas_path, new_cas_id, new_kv_id
from tests.support.programs import find_program
from tests.support.service import client_of, free_port
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import Site, running_site

OBSERVABILITY = Path(__file__).parents[2] / "platform" / "observability"
CHOSEN = {"$job": "cache-actors", "$instance": ".*", "$__rate_interval": "10s"}


class Prometheus:
    """What a running Prometheus says."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, query: str) -> list[Any]:
        """The series that a query finds now."""
        found: list[Any] = self.ask("query", query=query)["result"]
        return found

    def is_up(self) -> bool:
        """Whether it answers, and has looked at its target more than twice."""
        try:
            is_ready = self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False
        return is_ready and self.query("count_over_time(up[1m]) > 2 and up == 1") != []


@contextmanager
def running_prometheus(folder: Path, metrics_port: int) -> Iterator[Prometheus]:
    """Prometheus as it is shipped, but that it asks another port, and every second."""
    config = (OBSERVABILITY / "prometheus.yml").read_text()
    assert "127.0.0.1:9464" in config
    config = config.replace("127.0.0.1:9464", f"127.0.0.1:{metrics_port}").replace("15s", "1s")
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text((OBSERVABILITY / "alerts.yml").read_text())
    address = f"127.0.0.1:{free_port()}"
    command = [find_program("prometheus"), f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with client_of(f"http://{address}", params={}) as client:
            prometheus = Prometheus(client)
            eventually(prometheus.is_up)
            yield prometheus
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def metrics_port() -> int:
    """Where nginx hands metrics on."""
    return free_port()


@pytest.fixture
def site(tuist: HeldTuist, sockets: Path, metrics_port: int) -> Iterator[Site]:
    """A site that is asked for a few things."""
    log = sockets / "answers.log"
    settings = {"NGINX_LOG": str(log), "STORAGE_MAX_BYTES": str(2**30)}
    settings["DISK_HIGH_WATERMARK_PERCENT"] = "85"
    with running_site("wheel", tuist, settings, answers_log=log, metrics_port=metrics_port) as site:
        cas_id = site.stored()
        site.put(new_kv_id(), "value")
        for wanted in cas_id, new_cas_id():
            site.ask("GET", cas_path(wanted))
        yield site


@pytest.mark.usefixtures("site")
def test_shipped_prometheus_scrapes_and_has_an_answer_to_all(
    metrics_port: int, tmp_path: Path
) -> None:
    with running_prometheus(tmp_path, metrics_port) as prometheus:
        [version] = prometheus.query("cache_actors_build_info")
        assert version["metric"]["job"] == "cache-actors"
        eventually(lambda: {rule["health"] for rule in rules(prometheus)} == {"ok"})
        assert {rule["state"] for rule in rules(prometheus)} == {"inactive"}
        nothing_evicted = {"Youngest evicted artifact"}
        no_calls = {"Calls by gRPC", "Calls by method", "Blobs in batches"}
        assert set(plots_without_an_answer(prometheus)) == nothing_evicted | no_calls


def plots_without_an_answer(prometheus: Prometheus) -> Iterator[str]:
    """The titles of the dashboard's plots in which there is nothing, or not all, to be seen."""
    dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in CHOSEN.items():
                query = query.replace(variable, value)
            if not prometheus.query(query):
                yield panel["title"]


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    """All rules, as they have been evaluated."""
    return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
