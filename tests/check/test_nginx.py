"""nginx's configuration: whatever differs from the snippets is found, and nothing else."""

from pathlib import Path

import pytest

from cache_actors.check.finding import Finding, Verdict
from cache_actors.check.nginx import check_nginx
from cache_actors.nginx.config import NginxOptions, nginx_config

SNIPPETS = Path(__file__).parents[2] / "platform/nginx"
SERVER = (SNIPPETS / "server.conf").read_text()
MADE = nginx_config(
    NginxOptions(
        listen="127.0.0.1:8080",
        upstream="127.0.0.1:4000",
        storage=Path("/cas"),
        runtime=Path("/run/nginx"),
    )
)
AUTH = "    auth_request /_cache_decision;\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "nginx.conf"


def check(config: Path, text: str) -> Finding:
    config.write_text(text)
    return check_nginx(config)


def test_made_configuration_is_that_of_this_version(config: Path) -> None:
    assert check(config, MADE).verdict is Verdict.OK


def test_indentation_comments_and_empty_lines_do_not_count(config: Path) -> None:
    odd = "\n\n".join(f"\t{line.strip()}\n# more" for line in MADE.splitlines())
    assert check(config, odd).verdict is Verdict.OK


def test_line_that_stands_elsewhere_too_is_missed(config: Path) -> None:
    assert MADE.count(AUTH) > 1
    found = check(config, MADE.replace(AUTH, "", 1))
    assert found.verdict is Verdict.BROKEN
    assert "`auth_request /_cache_decision;` of server.conf" in found.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("etag                       on;", "etag                       off;"),
        (AUTH, AUTH + "    satisfy any;\n"),
        ("merge_slashes              off;\n", ""),
        ("location / {", "location /other {"),
        ("map $request_uri $cache_logged_path {", "map $uri $cache_logged_path {"),
    ],
)
def test_change_is_found(config: Path, old: str, new: str) -> None:
    assert old in MADE
    found = check(config, MADE.replace(old, new, 1))
    assert found.verdict is Verdict.BROKEN
    assert found.advice


def test_empty_configuration_is_that_of_no_version(config: Path) -> None:
    assert check(config, "").verdict is Verdict.BROKEN


def test_includes_are_followed_from_the_folder_of_the_configuration(config: Path) -> None:
    folder = config.parent / "parts"
    folder.mkdir()
    (folder / "http.conf").write_text((SNIPPETS / "http.conf").read_text())
    (folder / "site.conf").write_text('server {\ninclude "parts/server.conf";\n}')
    (folder / "server.conf").write_text(SERVER)
    text = "http {\ninclude parts/http.conf;\n    include parts/s*e.conf;\ninclude none/*.conf;\n}"
    assert check(config, text).verdict is Verdict.OK
    (folder / "server.conf").write_text(SERVER.replace(AUTH, "", 1))
    assert check(config, text).verdict is Verdict.BROKEN


def test_include_that_is_elsewhere_is_told(config: Path) -> None:
    """As those of platform/compose/nginx.conf, which are in the container of nginx."""
    found = check_nginx(SNIPPETS.parent / "compose/nginx.conf")
    assert found.verdict is Verdict.BROKEN
    assert found.advice is not None
    assert "/etc/cache-actors/snippets/http.conf, which is not to be read here" in found.advice
    assert "nginx -T" in found.advice


def test_include_that_is_elsewhere_does_not_hide_a_difference(config: Path) -> None:
    """As that of MIME types, in what NixOS makes and a container reads."""
    text = MADE.replace("http {", "http {\ninclude /elsewhere/mime.types;", 1)
    assert check(config, text).verdict is Verdict.OK
    found = check(config, text.replace(AUTH, "", 1))
    assert "auth_request" in found.text
    assert "/elsewhere" not in (found.advice or "")


def test_configuration_that_nginx_prints_with_its_includes_is_read(config: Path) -> None:
    """`nginx -T` prints one file after the other, each under its name."""
    printed = f"""\
# configuration file /etc/cache-actors/nginx.conf:
http {{
    include /elsewhere/http.conf;
    server {{ include /elsewhere/server.conf; }}
}}

# configuration file /elsewhere/http.conf:
{(SNIPPETS / "http.conf").read_text()}
# configuration file /elsewhere/server.conf:
{SERVER}
"""
    assert check(config, printed).verdict is Verdict.OK


def test_configuration_that_includes_itself_comes_to_an_end(config: Path) -> None:
    assert check(config, "include nginx.conf;").verdict is Verdict.BROKEN


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in tmp_path, tmp_path / "missing", tmp_path / "binary":
        found = check_nginx(path)
        assert found.verdict is Verdict.BROKEN
        assert f"{path} cannot be read" in found.text
