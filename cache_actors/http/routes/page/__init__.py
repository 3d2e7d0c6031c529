"""The page that `/up` shows to a browser: a picture of the same JSON that programs get.

`up.html` is the page as it is in this folder, where it may be opened and edited. It is sent as one
piece, with its style and its scripts inside and the health as text in it, so that one answer is
all it takes to draw the first picture; without scripts that text is what there is to read. The
policy that goes with it (Content Security Policy Level 3) allows just these scripts and this style,
by their hashes, and questions to where the page came from, nothing else.
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
    """Whether somebody would rather have the page than JSON (RFC 9110, section 12.5.1).

    Browsers say so. Whoever takes both alike, or says nothing, gets JSON.
    """
    return accept.quality("text/html") > accept.quality("application/json")


def page_response(health: bytes, status: int) -> Response:
    """The response with the page.

    Args:
        health: the JSON that `/up` answers with.
        status: the status that it answers with.
    """
    return Response(page_with(health), status=status, headers=dict(HEADERS), content_type=TYPE)


def page_with(health: bytes) -> str:
    """The page with this JSON in it, from which it draws its first picture."""
    return _PAGE.replace(_HEALTH, html.escape(msgspec.json.format(health).decode()), 1)


def _text(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _hashes(texts: list[str]) -> str:
    """The source expressions that allow these inline texts."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _assemble() -> tuple[str, str]:
    """The page in one piece, and the policy that allows what is in it."""
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
"""Headers of the page, beside its type."""
