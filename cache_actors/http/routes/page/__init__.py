"""The page that `/up` sends to browsers, which draws the JSON that programs get.

`up.html` in this folder can be opened and edited as it is. It is sent with its style, its scripts
and the health's JSON inside, so that one response is enough to draw the page; without scripts the
JSON is shown as text. Its policy (Content Security Policy Level 3) allows only this style and these
scripts, by their hashes, and requests to the page's own origin.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from cache_actors.http.responses import NO_STORE, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.datastructures import MIMEAccept

_HEALTH = "{{ health }}"
_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z]+\.js)"></script>')


def is_wanted(accept: MIMEAccept) -> bool:
    """Whether a client prefers HTML to JSON, as browsers do (RFC 9110, section 12.5.1).

    JSON is the default of clients without a preference.
    """
    return accept.quality("text/html") > accept.quality("application/json")


def page_response(health: bytes, status: int) -> Response:
    """The response with the page.

    Args:
        health: JSON of `/up`'s answer.
        status: status of `/up`'s answer.
    """
    return Response(page_with(health), status=status, headers=dict(HEADERS), content_type=TYPE)


def page_with(health: bytes) -> str:
    """The page with the JSON `health` inside, which it draws first."""
    return _PAGE.replace(_HEALTH, html.escape(msgspec.json.format(health).decode()), 1)


def _text(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _hashes(texts: list[str]) -> str:
    """The policy's source expressions for these inline styles or scripts."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _assemble() -> tuple[str, str]:
    """The page with style and scripts inside, and its policy."""
    page = _text("up.html")
    styles = [_text(name) for name in _STYLE.findall(page)]
    scripts = [_text(name) for name in _SCRIPT.findall(page)]
    page = _STYLE.sub(lambda link: f"<style>{_text(link[1])}</style>", page)
    page = _SCRIPT.sub(lambda link: f"<script>{_text(link[1])}</script>", page)
    policy = (
        "default-src 'none'",
        f"style-src {_hashes(styles)}",
        f"script-src {_hashes(scripts)}",
        "connect-src 'self'",
        "img-src data:",  # its icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return page, "; ".join(policy)


_PAGE, _POLICY = _assemble()

TYPE = "text/html; charset=utf-8"
HEADERS: Mapping[str, str] = {
    **NO_STORE,
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of the page besides Content-Type."""
