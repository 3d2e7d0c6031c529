"""The application finds the routes that werkzeug would find."""

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from pydantic import HttpUrl
from werkzeug.exceptions import HTTPException

from cache_actors.http.app import CacheApp
from cache_actors.settings import Settings

ANY: Any = None
APP = CacheApp(ANY, Settings(server_url=HttpUrl("http://tuist")), ANY, ANY)

KNOWN = [rule.rule.partition("<")[0] for rule in APP.url_map.iter_rules()]
PATHS = st.builds(
    "{}{}".format,
    st.sampled_from([*KNOWN, "/api/cache", "/"]),
    st.sampled_from(["", "start", "/", "a/b", "a//b", "..", "%2F", "\n", "é", "a?b"]) | st.text(),
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"])


def found(match: Any) -> object:
    """A route and its arguments, or why there is none."""
    try:
        return match()
    except HTTPException as error:
        return type(error), getattr(error, "valid_methods", None)


@given(path=PATHS, method=METHODS)
def test_route_is_the_one_that_werkzeug_finds(path: str, method: str) -> None:
    request = cast("Any", SimpleNamespace(path=path, method=method))
    assert found(lambda: APP._match(request)) == found(lambda: APP._routes.match(path, method))
