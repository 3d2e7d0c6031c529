"""nginx's configuration: whatever differs from the snippets is found, and nothing else."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cache_actors.cli.check.nginx import check_nginx_and_host, check_nginx_log
from cache_actors.cli.check.result import CheckResult, Verdict
from cache_actors.nginx.config import NginxOptions, nginx_config
from cache_actors.settings import Settings

SNIPPETS = Path(__file__).parents[3] / "platform/nginx"
SERVER = (SNIPPETS / "server.conf").read_text()
OPTIONS = NginxOptions(
    listen="127.0.0.1:8080",
    upstream="127.0.0.1:4000",
    storage=Path("/cas"),
    runtime=Path("/run/nginx"),
    open_files=32_768,
)
MADE = nginx_config(OPTIONS)
AUTH = "    auth_request /_cache_decision;\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "nginx.conf"


def check(config: Path, text: str) -> CheckResult:
    config.write_text(text)
    return next(check_nginx_and_host(config))


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
        ("server_tokens              off;\n", ""),
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
    found = next(check_nginx_and_host(SNIPPETS.parent / "compose/nginx.conf"))
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


# gRPC.


def grpc(config: Path, text: str) -> CheckResult:
    config.write_text(text)
    return next(each for each in check_nginx_and_host(config) if each.subject == "gRPC")


def test_grpc_that_an_older_nginx_does_without_is_told(config: Path) -> None:
    assert grpc(config, MADE).verdict is Verdict.OK
    older = nginx_config(replace(OPTIONS, nginx_version=(1, 22, 1)))
    assert check(config, older).verdict is Verdict.OK
    found = grpc(config, older)
    assert found.verdict is Verdict.WARNING
    assert "nginx 1.27.2 or newer" in (found.advice or "")


def test_grpc_without_http2_is_told(config: Path) -> None:
    found = grpc(config, MADE.replace("http2 on;", ""))
    assert found.verdict is Verdict.WARNING
    assert "`http2 on;`" in (found.advice or "")
    with_listen = MADE.replace("http2 on;", "listen 127.0.0.1:8081 http2;")
    assert grpc(config, with_listen).verdict is Verdict.OK


def test_change_of_grpc_is_found(config: Path) -> None:
    found = check(config, MADE.replace("proxy_pass_trailers     on;", "", 1))
    assert found.verdict is Verdict.BROKEN
    assert "grpc.conf" in found.text


# The largest upload.

LIMIT = "client_max_body_size 26214400;"


def largest_upload(config: Path, text: str, service: int = 26_214_400) -> CheckResult | None:
    config.write_text(text)
    found = check_nginx_and_host(config, service)
    return next((each for each in found if each.subject == "largest upload"), None)


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (LIMIT, Verdict.OK),
        ("client_max_body_size 25M;", Verdict.OK),
        ("client_max_body_size 25600k;", Verdict.OK),
        ("client_max_body_size 26214399;", Verdict.BROKEN),
        ("client_max_body_size 10m;", Verdict.BROKEN),
        ("", Verdict.BROKEN),  # nginx's own is 1 MiB
        ("client_max_body_size 26214401;", Verdict.WARNING),
        ("client_max_body_size 1g;", Verdict.WARNING),
        ("client_max_body_size 0;", Verdict.WARNING),
    ],
)
def test_limit_on_uploads_that_is_not_the_services_is_found(
    config: Path, limit: str, verdict: Verdict
) -> None:
    found = largest_upload(config, MADE.replace(LIMIT, limit, 1))
    assert found is not None
    assert found.verdict is verdict
    assert bool(found.advice) is (verdict is not Verdict.OK)
    assert "26,214,400" in found.text


def test_limit_on_uploads_is_that_of_the_servers_own_block(config: Path) -> None:
    """The one of all servers, as NixOS has it, and those of other servers do not count."""
    others = "http {\n client_max_body_size 10m;\n server {\n client_max_body_size 1k;\n}\n"
    found = largest_upload(config, MADE.replace("http {\n", others, 1))
    assert found is not None
    assert found.verdict is Verdict.OK
    inherited = MADE.replace(LIMIT, "", 1).replace("http {\n", others, 1)
    assert "10,485,760" in str(largest_upload(config, inherited))


def test_limit_on_uploads_is_found_in_what_nginx_prints(config: Path) -> None:
    """With its includes in the order in which it reads them, as of compose.yml."""
    printed = (
        "# configuration file /etc/x/nginx.conf:\n"
        "http {\ninclude a/http.conf;\nserver {\ninclude a/limit*.conf;\n"
        "include /etc/y/server.conf;\n}\n}\n"
        f"# configuration file /etc/x/a/http.conf:\n{(SNIPPETS / 'http.conf').read_text()}\n"
        "# configuration file /etc/x/a/limit1.conf:\nclient_max_body_size 5;\n"
        f"# configuration file /etc/y/server.conf:\n{SERVER}\n"
    )
    assert check(config, printed).verdict is Verdict.OK
    assert "larger than 5 bytes" in str(largest_upload(config, printed))


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
        found = next(check_nginx_and_host(path))
        assert found.verdict is Verdict.BROKEN
        assert f"{path} cannot be read" in found.text


@pytest.mark.parametrize(
    ("directive", "verdict"),
    [
        ("worker_rlimit_nofile 32768;", Verdict.OK),
        ("worker_rlimit_nofile 131072;", Verdict.OK),
        ("worker_rlimit_nofile 1024;", Verdict.WARNING),
        ("", Verdict.WARNING),
    ],
)
def test_limit_of_open_files_is_looked_at(config: Path, directive: str, verdict: Verdict) -> None:
    config.write_text(MADE.replace("worker_rlimit_nofile 32768;", directive))
    first, _, limit = check_nginx_and_host(config)
    assert (first.verdict, limit.verdict) == (Verdict.OK, verdict)


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", 0), ("ext4", 1)])
def test_decisions_that_outlive_a_power_cut_are_warned_of(
    config: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: int
) -> None:
    monkeypatch.setattr("cache_actors.cli.check.nginx.file_system_at", lambda _: kind)
    (config.parent / "decisions").mkdir()
    config.write_text(MADE.replace("/run/nginx", str(config.parent)))
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE):  # a child, as a worker is
        (config.parent / "nginx.pid").write_text(str(os.getpid()))
        found = [
            each for each in check_nginx_and_host(config) if each.subject == "nginx's decisions"
        ]
    assert len(found) == expected
    assert all("outlives a power cut" in each.text for each in found)


def log_findings(log: Path | None) -> list[CheckResult]:
    return list(check_nginx_log(cast("Settings", SimpleNamespace(nginx_log=log))))


def test_log_of_answers_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_findings(None) == []
    log = tmp_path / "answers.log"
    assert [finding.verdict for finding in log_findings(log)] == [Verdict.OK]
    log.touch()
    assert [finding.verdict for finding in log_findings(log)] == [Verdict.OK]
    for right, told in (os.W_OK, "cannot be emptied"), (os.R_OK, "cannot be read"):
        monkeypatch.setattr(os, "access", lambda _, asked, right=right: not asked & right)
        [finding] = log_findings(log)
        assert finding.verdict is Verdict.WARNING
        assert told in finding.text
    log.unlink()
    log.symlink_to(tmp_path)
    [finding] = log_findings(log)
    assert "is no file" in finding.text


WITH_BUCKET = nginx_config(
    NginxOptions(
        listen="127.0.0.1:8080",
        upstream="127.0.0.1:4000",
        storage=Path("/cas"),
        runtime=Path("/run/nginx"),
        open_files=32_768,
        bucket=True,
    )
)


@pytest.mark.parametrize(
    ("text", "has_bucket", "verdicts", "said"),
    [
        (MADE, False, [Verdict.OK], ""),
        (MADE, None, [Verdict.OK], ""),
        (WITH_BUCKET, True, [Verdict.OK], ""),
        (WITH_BUCKET, None, [Verdict.OK], ""),
        (MADE, True, [Verdict.OK, Verdict.WARNING], "the bucket is not read"),
        (WITH_BUCKET, False, [Verdict.OK, Verdict.WARNING], "which has no bucket"),
        (
            WITH_BUCKET.replace("proxy_intercept_errors   on;", ""),
            True,
            [Verdict.OK, Verdict.BROKEN],
            "`proxy_intercept_errors   on;` of bucket.conf",
        ),
    ],
)
def test_bucket_that_nginx_does_not_ask_for_or_that_is_not_there_is_found(
    config: Path, text: str, has_bucket: bool | None, verdicts: list[Verdict], said: str
) -> None:
    config.write_text(text)
    found = [
        result
        for result in check_nginx_and_host(config, has_bucket=has_bucket)
        if result.subject.startswith("nginx")
    ]
    assert [result.verdict for result in found[: len(verdicts)]] == verdicts
    assert said in found[len(verdicts) - 1].text
