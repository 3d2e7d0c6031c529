"""The page of `/up`: what is sent, and what a browser makes of it."""

import html
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from cache_actors.http.routes.page import HEADERS, TYPE, is_wanted, page_with
from tests.support import up_answers
from tests.support.browser import Browser, running_browser

PHONE, DESK = 390, 1200

CONTRASTS = """
(() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (element) => {
    const colour = rgba(getComputedStyle(element).backgroundColor);
    return colour[3] === 0 ? behind(element.parentElement) : colour;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([texts.currentNode.data, ratio]);
  }
  return found;
})()
"""
"""Each text on the page with its contrast, as WCAG 2.2 defines it."""


class StandIn:
    """Answers as `/up` would, with whatever health it is given."""

    def __init__(self) -> None:
        self.health: dict[str, Any] = up_answers.PLAIN
        self.status = 200
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, headers = json.dumps(stand_in.health).encode(), {"Content-Type": "text/json"}
                if is_wanted(parse_accept_header(self.headers["Accept"], MIMEAccept)):
                    body, headers = page_with(body).encode(), {"Content-Type": TYPE, **HEADERS}
                self.send_response(stand_in.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/up"

    @contextmanager
    def running(self) -> "Iterator[StandIn]":
        """The server, answering."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser, service: StandIn) -> Iterator[Browser]:
    """A browser that in the end has nothing to complain of, and has asked nobody else."""
    one_browser.troubles.clear()
    one_browser.requests.clear()
    yield one_browser
    assert one_browser.troubles == []
    assert one_browser.other_hosts(service.url) == []


@pytest.fixture
def service() -> Iterator[StandIn]:
    with StandIn().running() as service:
        yield service


def shown(browser: Browser, service: StandIn, health: dict[str, Any], **how: Any) -> str:
    """Open the page when the service is like that, and return all text on it."""
    service.health = health
    browser.open(service.url, **how)
    return browser.text("body")


def card(browser: Browser, name: str) -> str:
    """All that is said of a part of the tree, in one line."""
    return " ".join(browser.text(f"[data-name={name}]").split())


# Who gets it.


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("application/json;q=0.5, text/html", True),
        ("text/*", True),
        ("TEXT/HTML", True),
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html, application/json", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=nonsense", False),
        (";;,,/", False),
    ],
)
def test_who_prefers_html_gets_the_page(accept: str | None, wanted: bool) -> None:
    assert is_wanted(parse_accept_header(accept, MIMEAccept)) == wanted


# What is sent.


def test_page_is_one_piece_and_its_policy_allows_nothing_else() -> None:
    page = page_with(b"{}")
    assert (
        re.findall(r"(?:src|href|action)=[\"'](?!data:)[^\"']*", page.partition("<script>")[0])
        == []
    )
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert len(policy["script-src"].split()) == page.count("<script>")
    assert len(policy["style-src"].split()) == page.count("<style>")


def test_without_scripts_the_json_is_there_to_read() -> None:
    health = {"status": "up", "last_error": "</pre><script>alert(1)</script>&amp;"}
    page = page_with(json.dumps(health).encode())
    shown = re.search(r"<pre[^>]*>([^<]*)</pre>", page)
    assert shown is not None
    assert html.unescape(shown[1]) == json.dumps(health, indent=2)
    assert "<noscript>" in page


# What it looks like.


@pytest.mark.parametrize("name", up_answers.EVERY)
@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, True), (320, False)])
def test_every_state_is_drawn_fits_and_can_be_read(
    browser: Browser, service: StandIn, name: str, width: int, dark: bool
) -> None:
    health = up_answers.EVERY[name]
    text = shown(browser, service, health, width=width, dark=dark)
    for part in ("disk_writer", "kv_store", "auth_cache", "listener"):
        assert part in text
    assert browser.text("#status") == health["status"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    faint = [found for found in browser.evaluate(CONTRASTS) if found[1] < 4.5]
    assert faint == []
    levels = browser.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])"
    )
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_dark_and_light_differ(browser: Browser, service: StandIn) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(service.url, dark=True)
    dark = browser.evaluate(colour)
    browser.open(service.url, dark=False)
    assert browser.evaluate(colour) != dark


# What it says.


def test_parts_tell_what_is_known_of_them(browser: Browser, service: StandIn) -> None:
    shown(browser, service, up_answers.BUSY)
    assert card(browser, "disk_writer") == (
        "disk_writer running restarts 2 mailbox 0 up 30 min 41 s last error OSError"
    )
    assert (
        card(browser, "kv_store")
        == "kv_store running restarts 0 mailbox 17 waiting 42 ms up 3 d 4 h"
    )
    assert card(browser, "scrubber") == "scrubber running restarts 0 up 3 d 4 h"


def test_traffic_is_plotted_if_it_is_told(browser: Browser, service: StandIn) -> None:
    text = shown(browser, service, up_answers.BUSY)
    for figure in (
        "Requests\n\n68.9/s",
        "Hits\n\n91.3 %",
        "p50 1.7 ms",
        "p95 4.4 ms",
        "Errors\n\n0/s",
    ):
        assert figure in text
    lines = browser.evaluate(
        "[...document.querySelectorAll('figure')].map(f => f.querySelectorAll('.stroke').length)"
    )
    assert lines == [1, 2, 4, 1]  # a pause in the middle parts those of hits and latency
    assert "Traffic" not in shown(browser, service, up_answers.PLAIN)


def test_single_moment_of_traffic_is_a_dot_at_the_right(browser: Browser, service: StandIn) -> None:
    shown(browser, service, up_answers.NEWBORN)
    line = browser.evaluate("document.querySelector('figure .stroke').getBBox().x")
    assert line > 230
    shown(browser, service, up_answers.SILENT)
    assert browser.text("figure .now") == "-"


def test_eviction_is_shown(browser: Browser, service: StandIn) -> None:
    text = shown(browser, service, up_answers.EVICTING)
    assert "81.4 %" in text
    assert "2 min 10 s ago" in text
    assert "1,204 artifacts, 311 entries, 8.4 GB, the youngest unused for 9 d" in text
    text = shown(browser, service, up_answers.NOT_YET_EVICTED)
    assert "none yet" in text
    assert "eviction" not in shown(browser, service, up_answers.PLAIN)


def test_bucket_is_shown_if_there_is_one(browser: Browser, service: StandIn) -> None:
    text = shown(browser, service, up_answers.SHARING)
    assert "unreachable" in text
    assert "no connection" in text
    assert "1,204 files" in text
    assert "8.4 GB, the oldest for 2 min 10 s, 7 evicted before" in text
    assert "0 files" in shown(browser, service, up_answers.SHARED)
    assert "bucket" not in shown(browser, service, up_answers.PLAIN).lower()


def test_each_worker_has_its_tree(browser: Browser, service: StandIn) -> None:
    shown(browser, service, up_answers.WORKERS)
    assert "restarts 0" in card(browser, "worker_1] [data-name=kv_store")
    assert "restarts 3" in card(browser, "worker_2] [data-name=kv_store")


def test_notice_says_what_is_wrong(browser: Browser, service: StandIn) -> None:
    service.status = 503
    shown(browser, service, up_answers.DEGRADED)
    assert browser.text("#notice") == "disk_writer is stuck; auth_cache is starting."
    shown(browser, service, up_answers.DRAINING)
    assert browser.text("#notice").startswith("The service is stopping.")
    service.status = 200
    full = up_answers.STORAGE | {"state": "full", "reason": "No space left on device"}
    shown(browser, service, up_answers.PLAIN | {"storage": full})
    assert browser.text("#notice") == "Writing is full; No space left on device."


def test_names_and_errors_are_never_markup(browser: Browser, service: StandIn) -> None:
    nasty = "</pre><script>document.title='x'</script><img src=x onerror=alert(1)>"
    parts = up_answers.tree(kv_store={"last_error": nasty})
    assert nasty in shown(browser, service, up_answers.PLAIN | {"tree": parts})


# What it does.


def test_it_follows_without_being_loaded_again(browser: Browser, service: StandIn) -> None:
    shown(browser, service, up_answers.PLAIN)
    browser.evaluate("document.body.dataset.same = 'page'")
    crashed = up_answers.tree(kv_store={"restarts": 1, "last_error": "Boom"})
    service.health = up_answers.PLAIN | {"tree": crashed}
    browser.wait_until("document.body.innerText.includes('Boom')")
    assert "restarts 1" in card(browser, "kv_store")
    assert browser.text("#notice") == "Restarted just now: kv_store."
    service.status, service.health = 503, up_answers.DRAINING
    browser.wait_until("document.title.startsWith('draining')")
    assert browser.evaluate("document.body.dataset.same") == "page"


def test_answer_of_somebody_else_is_none(browser: Browser, service: StandIn) -> None:
    """As nginx gives it while there is no service behind it."""
    shown(browser, service, up_answers.PLAIN)
    service.status, service.health = 503, {"message": "The service cannot answer at the moment"}
    browser.wait_until("document.title.startsWith('unreachable')")
    assert "(status 503)" in browser.text("#notice")
    assert "kv_store" in browser.text("#tree")
    service.status, service.health = 200, up_answers.PLAIN
    browser.wait_until("document.title.startsWith('up')")
    assert browser.text("#notice") == "Everything runs."


def test_figures_in_words(browser: Browser, service: StandIn) -> None:
    browser.open(service.url)
    calls = [f"in{kind.title()}({json.dumps(figure)})" for kind, figure, _ in up_answers.FIGURES]
    assert browser.evaluate(f"[{', '.join(calls)}]") == [told for *_, told in up_answers.FIGURES]
