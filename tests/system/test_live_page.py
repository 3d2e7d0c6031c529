"""The page of `/up` in a real browser, while things happen to a real service behind nginx."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_actors.dev.tuist import StandInTuist
from tests.support.browser import Browser, running_browser
from tests.support.nginx import nginx_before
from tests.support.service import CHANGED_COMMAND, Service, client_of, running_service


@pytest.fixture
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def service(tmp_path: Path, tuist: StandInTuist) -> Iterator[Service]:
    """A service whose key-value store crashes at an entry named CRASH."""
    service = Service(tmp_path / "cas", tuist.url, {"CRASH_AT": "CRASH"}, CHANGED_COMMAND)
    with running_service(service):
        yield service


def test_crash_and_end_of_the_service_show_by_themselves(
    browser: Browser, service: Service
) -> None:
    with nginx_before(f"127.0.0.1:{service.port}", service.storage, "wheel") as nginx:
        browser.open(nginx.url + "/up")
        assert browser.text("#status") == "up"
        assert browser.text("#notice") == "Everything runs."
        restarts = (
            "document.querySelector('[data-name=kv_store] [data-fact=restarts] dd').innerText"
        )
        assert browser.evaluate(restarts) == "0"

        with client_of(service.url) as client:
            entry = {"cas_id": "CRASH", "entries": [{"value": "YQ=="}]}
            assert client.put("/api/cache/keyvalue", json=entry).status_code == 503
        browser.wait_until(f"{restarts} === '1'")
        assert "RuntimeError" in browser.text("[data-name=kv_store]")
        notice = "document.querySelector('#notice').innerText"
        browser.wait_until(f"{notice} === 'Restarted just now: kv_store.'")
        assert browser.text("#status") == "up"

        assert service.stop() == 0
        browser.wait_until("document.title.startsWith('unreachable')")
        assert "cannot be reached" in browser.text("#notice")
        assert browser.troubles == []
        assert browser.other_hosts(nginx.url) == []


def test_without_nginx_the_end_shows_too(browser: Browser, service: Service) -> None:
    browser.open(service.url + "/up")
    assert browser.text("#status") == "up"
    service.stop()
    browser.wait_until("document.title.startsWith('unreachable')")
    assert "(no connection)" in browser.text("#notice")
    assert browser.troubles == []
