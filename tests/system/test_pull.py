"""Nodes with one bucket: what one stores, the others answer, through a real nginx."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cache_actors.fetcher_process.protocol import FetcherConfig
from cache_actors.nginx.process import NginxFailed
from cache_actors.storage.layout import module_id
from tests.contract.examples import (
    cas_path,
    gradle_path,
    handles,
    kv_path,
    new_cas_id,
    new_kv_id,
)
from tests.support.nginx import find_binary
from tests.support.s3 import FaultProxy, Garble, Hold, Refuse, S3Bucket, S3Server
from tests.support.service import Service, client_of, free_port, nodes_of, running_service
from tests.support.stored import value_of
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually
from tests.support.writer_processes import disk_processes, processes_with

from .site import PROJECT, Site, running_site

OTHER = "acme/other"
THIRD = "acme/third"
CLEAN = "/api/cache/clean"


@contextmanager
def running_node(
    tuist: HeldTuist, bucket: S3Bucket, *, proxy: FaultProxy | None = None, **settings: str
) -> Iterator[Site]:
    """A node, whose nginx asks it for what is missing."""
    environment = bucket.settings(proxy.url if proxy else None) | settings
    with running_site("debian", tuist, environment, bucket=True, answers_log=None) as node:
        yield node


@pytest.fixture(scope="module", autouse=True)
def _projects(shared_tuist: HeldTuist) -> None:
    shared_tuist.tokens["token"] = [PROJECT, OTHER, THIRD]


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    with s3_server.new_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def one(shared_tuist: HeldTuist, bucket: S3Bucket) -> Iterator[Site]:
    """The node that stores."""
    with running_node(shared_tuist, bucket) as node:
        yield node


@pytest.fixture(scope="module")
def module_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shared_other(
    shared_tuist: HeldTuist, bucket: S3Bucket, module_proxy: FaultProxy
) -> Iterator[Site]:
    with running_node(shared_tuist, bucket, proxy=module_proxy) as node:
        yield node


@pytest.fixture
def proxy(module_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Before the bucket of the other node."""
    yield module_proxy
    module_proxy.fault = lambda _method, _path: None


@pytest.fixture
def other(shared_other: Site, proxy: FaultProxy) -> Site:
    """The node that reads, which asks the bucket, through the proxy, for what it has not."""
    eventually(lambda: answers_for_sure(shared_other))
    return shared_other


def answers_for_sure(node: Site) -> bool:
    """Whether the node knows of something that it is nowhere, as its bucket can be asked."""
    answer = node.direct.get(cas_path(new_cas_id()), params=HANDLES, headers=TOKEN)
    return bool(answer.headers.get("X-Accel-Expires") == "30")


HANDLES = {"account_handle": "acme", "project_handle": "app"}
TOKEN = {"Authorization": "Bearer token"}


def expect_in(bucket: S3Bucket, *names: str, project: str = PROJECT) -> None:
    """Wait until objects are in the bucket."""
    wanted = {f"1/{project}/{name}" for name in names}
    eventually(lambda: wanted <= set(bucket.names()))


def stored(
    node: Site, bucket: S3Bucket, body: bytes = b"bytes", project: str = PROJECT
) -> tuple[str, str]:
    """The ids of a new artifact, and of an entry that refers to it, when both are in the bucket."""
    cas_id, kv_id = node.stored(body, project=project), new_kv_id()
    assert node.put(kv_id, value_of(cas_id), project=project).status_code == 204
    expect_in(bucket, f"cas/{cas_id}", f"keyvalue/{kv_id}.json", project=project)
    return cas_id, kv_id


def read(node: Site, path: str, method: str = "GET", **how: Any) -> tuple[int, bytes]:
    answer = node.ask(method, path, **how)
    return answer.status_code, answer.content


def test_entry_brings_its_artifacts_which_then_never_leave_nginx(
    one: Site, other: Site, bucket: S3Bucket
) -> None:
    body = b"bytes" * 1000
    cas_id, kv_id = stored(one, bucket, body)
    for method in "GET", "PUT":
        answer = other.ask(method, kv_path(kv_id))
        assert answer.json() == {"entries": [{"value": value_of(cas_id)}]}
        assert answer.headers["Cache-Control"] == "no-store"
    assert other.file(cas_id).read_bytes() == body
    there, here = (node.ask("GET", cas_path(cas_id)) for node in (one, other))
    assert here.content == body
    for name in "ETag", "Last-Modified", "Cache-Control", "Content-Type", "Accept-Ranges":
        assert here.headers[name] == there.headers[name]
    assert other.requests(cas_path(cas_id)) == []
    assert len(other.requests(kv_path(kv_id))) == 1
    assert other.file(cas_id).stat().st_mtime_ns == one.file(cas_id).stat().st_mtime_ns


@pytest.mark.parametrize("kind", ["cas", "gradle", "module"])
@pytest.mark.parametrize("how", ["GET", "HEAD", "range"])
def test_artifacts_of_all_kinds_come_as_from_the_node_that_stored_them(
    one: Site, other: Site, bucket: S3Bucket, kind: str, how: str
) -> None:
    body = os.urandom(3_000_000)
    path, query = store_one(one, bucket, kind, body)
    headers = {"Range": "bytes=5-9"} if how == "range" else {}
    method = "HEAD" if how == "HEAD" else "GET"
    answers = [
        node.client.request(method, path, params=HANDLES | query, headers=TOKEN | headers)
        for node in (other, one)
    ]
    assert [answer.status_code for answer in answers] == [answers[1].status_code] * 2
    assert answers[0].is_success
    assert answers[0].content == answers[1].content
    if how == "range":
        assert answers[0].content == body[5:10]
    for name in "ETag", "Last-Modified", "Content-Length", "Content-Range", "Content-Type":
        assert answers[0].headers.get(name) == answers[1].headers.get(name)


def store_one(node: Site, bucket: S3Bucket, kind: str, body: bytes) -> tuple[str, dict[str, str]]:
    """Store an artifact, and return its path and query when it is in the bucket."""
    key = new_cas_id()
    if kind == "module":
        query = {"hash": key, "name": "Module.zip", "cache_category": "builds"}
        base = "/api/cache/module"
        started = node.direct.post(f"{base}/start", params=HANDLES | query, headers=TOKEN)
        upload = {"upload_id": started.json()["upload_id"]}
        part = HANDLES | upload | {"part_number": "1"}
        node.direct.post(f"{base}/part", params=part, headers=TOKEN, content=body)
        done = node.direct.post(
            f"{base}/complete", params=HANDLES | upload, headers=TOKEN, json={"parts": [1]}
        )
        assert done.is_success
        expect_in(bucket, f"module/{module_id('builds', key, 'Module.zip')}")
        return f"{base}/{key}", query
    path, method = (cas_path(key), "POST") if kind == "cas" else (gradle_path(key), "PUT")
    assert node.ask(method, path, content=body).is_success
    expect_in(bucket, f"{kind}/{key}")
    return path, {}


def test_repeated_miss_does_not_reach_the_service_until_it_is_stored_here(
    other: Site, proxy: FaultProxy
) -> None:
    cas_id, kv_id = new_cas_id(), new_kv_id()
    for path in cas_path(cas_id), kv_path(kv_id):
        answers = {read(other, path) for _ in range(5)}
        assert len(answers) == 1
        assert answers.pop()[0] == 404
        assert other.ask("HEAD", path).status_code == 404
        assert len(other.requests(path)) == 1
    assert proxy.asked(cas_id) == 1
    other.upload(cas_id, b"bytes")
    assert other.put(kv_id, value_of(cas_id)).status_code == 204
    assert read(other, cas_path(cas_id)) == (200, b"bytes")
    assert read(other, kv_path(kv_id))[0] == 200


def test_remembered_miss_is_of_one_project_and_nobody_without_access_sees_it(
    one: Site, other: Site, bucket: S3Bucket
) -> None:
    cas_id, _ = stored(one, bucket, b"another project's", project=OTHER)
    assert read(other, cas_path(cas_id))[0] == 404
    assert read(other, cas_path(cas_id), project=OTHER) == (200, b"another project's")
    assert read(other, cas_path(cas_id))[0] == 404
    assert read(other, cas_path(cas_id), token="unknown")[0] == 401


def test_miss_is_one_while_the_service_is_down(one: Site, other: Site, bucket: S3Bucket) -> None:
    cas_id, kv_id = stored(one, bucket)
    assert read(other, cas_path(cas_id))[0] == 200
    other.service.stop(signal.SIGKILL)
    try:
        assert read(other, cas_path(cas_id))[0] == 200
        for path in cas_path(new_cas_id()), kv_path(kv_id):
            answer = other.ask("GET", path)
            assert answer.status_code == 404
            assert "message" in answer.json()
    finally:
        other.start_again()
    eventually(lambda: read(other, kv_path(kv_id))[0] == 200)


def test_bytes_that_are_wrong_are_never_served(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    cas_id, kv_id = stored(one, bucket)
    proxy.fault = lambda _method, path: Garble() if f"/cas/{cas_id}" in path else None
    assert read(other, kv_path(kv_id))[0] == 404
    assert read(other, cas_path(cas_id))[0] == 404
    assert not other.file(cas_id).exists()
    assert "cache_actors_shared_unusable_total 0.0" not in other.direct.get("/metrics").text
    assert f"1/{PROJECT}/keyvalue/{kv_id}.json" in bucket.names()
    assert other.service.logged("pull_unusable")


def test_entry_whose_artifact_is_gone_is_a_miss_and_is_counted(
    one: Site, other: Site, bucket: S3Bucket
) -> None:
    cas_id, kv_id = stored(one, bucket)
    bucket.delete(f"1/{PROJECT}/cas/{cas_id}")
    assert read(other, kv_path(kv_id))[0] == 404
    assert f"1/{PROJECT}/keyvalue/{kv_id}.json" in bucket.names(), "another version may be whole"
    assert "cache_actors_shared_dangling_total 1.0" in other.direct.get("/metrics").text
    assert read(one, kv_path(kv_id))[0] == 200, "that node has all of it"


def test_artifact_that_is_only_in_the_bucket_is_no_reason_to_refuse_an_entry(
    one: Site, other: Site, bucket: S3Bucket
) -> None:
    cas_id, _ = stored(one, bucket)
    kv_id, missing = new_kv_id(), new_cas_id()
    assert other.put(kv_id, value_of(cas_id)).status_code == 204
    assert read(other, cas_path(cas_id))[0] == 200
    assert other.put(new_kv_id(), value_of(cas_id, missing)).status_code == 409


def test_silent_bucket_delays_nobody_else_and_each_only_for_the_budget(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    """All misses are held by the bucket; hits, uploads and entries go on, and misses end."""
    cas_id, kv_id = stored(one, bucket)
    here = other.stored(b"here")
    hold = Hold()
    proxy.fault = lambda _method, _path: hold
    paths = [kv_path(kv_id), *(kv_path(new_kv_id()) for _ in range(80))]
    with ThreadPoolExecutor(len(paths)) as clients:
        answers = [clients.submit(read, other, path) for path in paths]
        assert hold.reached.wait(60)
        assert read(other, cas_path(here)) == (200, b"here")
        own = new_kv_id()
        assert other.put(own, value_of(here)).status_code == 204
        assert read(other, kv_path(own))[0] == 200
        assert {answer.result()[0] for answer in answers} == {404}  # though nothing was let go
    proxy.fault = lambda _method, _path: None
    hold.gate.set()
    eventually(lambda: read(other, kv_path(kv_id))[0] == 200)
    assert read(other, cas_path(cas_id))[0] == 200


def test_once_the_breaker_is_open_the_bucket_is_not_asked(
    tuist: HeldTuist, s3_bucket: S3Bucket, s3_proxy: FaultProxy
) -> None:
    with running_node(tuist, s3_bucket, proxy=s3_proxy) as node:
        eventually(lambda: answers_for_sure(node))
        s3_proxy.fault = lambda _method, _path: Refuse(503, "SlowDown")
        eventually(lambda: not asks(node, s3_proxy))
        eventually(lambda: shared(node)["state"] == "unreachable")  # though nothing is to be put
        assert 'shared_state{state="unreachable"} 1.0' in node.direct.get("/metrics").text
        assert read(node, cas_path(node.stored(b"bytes"))) == (200, b"bytes")
        s3_proxy.fault = lambda _method, _path: None
        eventually(lambda: answers_for_sure(node))
        eventually(lambda: shared(node)["state"] == "ok")


def asks(node: Site, proxy: FaultProxy) -> bool:
    """Whether a miss is looked for in the bucket."""
    cas_id = new_cas_id()
    assert read(node, cas_path(cas_id))[0] == 404
    return proxy.asked(cas_id) > 0


def test_one_projects_misses_do_not_keep_another_from_its_own(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    cas_id, _ = stored(one, bucket, project=OTHER)
    hold = Hold()
    proxy.fault = lambda _method, path: hold if f"/{PROJECT}/" in path else None
    with ThreadPoolExecutor(100) as clients:
        flood = [clients.submit(read, other, cas_path(new_cas_id())) for _ in range(100)]
        assert hold.reached.wait(60)
        assert read(other, cas_path(cas_id), project=OTHER) == (200, b"bytes")
        proxy.fault = lambda _method, _path: None
        hold.gate.set()
        assert {each.result()[0] for each in flood} == {404}


def test_local_put_wins_over_an_entry_that_is_being_pulled(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    cas_id, kv_id = stored(one, bucket)
    mine = other.stored(b"mine")
    hold = Hold()
    proxy.fault = lambda method, path: hold if method == "GET" and cas_id in path else None
    with ThreadPoolExecutor(1) as clients:
        pulled = clients.submit(read, other, kv_path(kv_id))
        assert hold.reached.wait(60)
        assert other.put(kv_id, value_of(mine)).status_code == 204
        hold.gate.set()
        pulled.result()
    answer = other.ask("GET", kv_path(kv_id))
    assert answer.json() == {"entries": [{"value": value_of(mine)}]}


def test_process_that_dies_is_replaced_and_its_misses_are_misses(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    cas_id, _ = stored(one, bucket)
    hold = Hold()
    proxy.fault = lambda _method, path: hold if cas_id in path else None
    with ThreadPoolExecutor(1) as clients:
        pulled = clients.submit(read, other, cas_path(cas_id))
        assert hold.reached.wait(60)
        assert len(disk_processes(other.service.pid)) == 2
        os.kill(fetcher_of(other), signal.SIGKILL)
        assert pulled.result()[0] == 404
    proxy.fault = lambda _method, _path: None
    hold.gate.set()
    eventually(lambda: read(other, cas_path(cas_id))[0] == 200)
    tree = nodes_of(other.direct.get("/up").json()["tree"])
    assert [node["restarts"] for node in tree if node["name"] == "fetcher"] == [0]


@pytest.mark.nightly  # it counts as dead after a minute
def test_process_that_hangs_is_replaced_and_told(one: Site, other: Site, bucket: S3Bucket) -> None:
    hanging = fetcher_of(other)
    os.kill(hanging, signal.SIGSTOP)
    cas_id, _ = stored(one, bucket)
    assert read(other, cas_path(cas_id))[0] == 404
    eventually(lambda: shared(other)["state"] == "unreachable", within=120)
    assert "says nothing" in shared(other)["reason"]
    eventually(lambda: shared(other)["state"] == "ok")
    assert fetcher_of(other) != hanging
    eventually(lambda: read(other, cas_path(cas_id))[0] == 200)


def shared(node: Site) -> dict[str, Any]:
    """The state of the bucket, as the node tells it."""
    found: dict[str, Any] = node.direct.get("/up").json()["shared"]
    return found


def fetcher_of(node: Site) -> int:
    """The id of the process that pulls."""
    [pid] = processes_with(node.service.pid, FetcherConfig)
    return pid


@pytest.mark.parametrize(
    "hears", ["at its start", pytest.param("as it runs", marks=pytest.mark.nightly)]
)
def test_clean_on_one_node_is_one_on_all(
    one: Site, bucket: S3Bucket, shared_tuist: HeldTuist, hears: str
) -> None:
    cas_id, kv_id = stored(one, bucket, project=OTHER)
    with running_node(shared_tuist, bucket) as late:
        eventually(lambda: read(late, kv_path(kv_id), project=OTHER)[0] == 200)
        if hears == "at its start":
            late.service.stop()
        assert one.ask("DELETE", CLEAN, project=OTHER).status_code == 204
        if hears == "at its start":
            late.start_again()
        again, _ = stored(one, bucket, b"again", project=OTHER)
        for path in cas_path(cas_id), kv_path(kv_id):
            assert read(one, path, project=OTHER)[0] == 404
            eventually(lambda: read(late, path, project=OTHER)[0] == 404)  # noqa: B023
        assert read(one, cas_path(again), project=OTHER) == (200, b"again")
        assert read(late, cas_path(again), project=OTHER) == (200, b"again")


def test_clean_that_the_bucket_does_not_hear_of_is_one_here_and_is_told_later(
    other: Site, bucket: S3Bucket, proxy: FaultProxy
) -> None:
    cas_id = other.stored(b"bytes", project=OTHER)
    proxy.fault = lambda method, _path: Refuse(503) if method == "PUT" else None
    answer = other.ask("DELETE", CLEAN, project=OTHER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "has yet to be told" in answer.json()["message"]
    assert not list((other.service.storage / OTHER).rglob("*/*/*"))
    markers = bucket.names(f"1/.cleans/{OTHER}")
    proxy.fault = lambda _method, _path: None
    eventually(lambda: read(other, cas_path(cas_id), project=OTHER)[0] == 404)
    look_for_cleans(other)  # which tells of all that the bucket does not know
    assert len(bucket.names(f"1/.cleans/{OTHER}")) > len(markers)


def look_for_cleans(node: Site) -> None:
    """Have a node look for cleans now, rather than within ten seconds."""
    assert node.ask("DELETE", CLEAN, project=THIRD).status_code == 204


def test_clean_on_one_node_takes_what_is_older_on_the_other_and_nothing_else(
    one: Site, other: Site, bucket: S3Bucket
) -> None:
    """It stores on, before it hears of the clean and after; nothing of that is lost."""
    cas_id, kv_id = stored(one, bucket, b"old", project=OTHER)
    assert read(other, kv_path(kv_id), project=OTHER)[0] == 200
    assert one.ask("DELETE", CLEAN, project=OTHER).status_code == 204
    young = [stored(other, bucket, b"young", project=OTHER) for _ in range(2)]
    mixed = new_kv_id()
    refused = 409  # if it has just heard of the clean
    assert other.put(mixed, value_of(cas_id), project=OTHER).status_code in (204, refused)
    look_for_cleans(other)
    eventually(lambda: not other.file(cas_id, OTHER).exists())
    young.append(stored(other, bucket, b"younger", project=OTHER))
    for node in one, other:
        for each in kv_id, mixed:
            assert read(node, kv_path(each), project=OTHER)[0] == 404
        eventually(lambda: read(node, cas_path(cas_id), project=OTHER)[0] == 404)  # noqa: B023
    os.kill(fetcher_of(other), signal.SIGKILL)
    eventually(lambda: answers_for_sure(other))
    for artifact, entry in young:
        for node in one, other:
            assert read(node, kv_path(entry), project=OTHER)[0] == 200
            assert read(node, cas_path(artifact), project=OTHER)[0] == 200
    assert f"1/{OTHER}/cas/{cas_id}" in bucket.names(), "it stays out of sight until it expires"
    assert OTHER in {line["project"] for line in other.service.logged("clean_followed")}


@pytest.mark.parametrize("how", ["request", "command"])
def test_what_is_pulled_while_its_project_is_cleaned_is_not_stored(
    one: Site, other: Site, bucket: S3Bucket, proxy: FaultProxy, how: str
) -> None:
    """The pull began before the clean, and ends after it was answered."""
    cas_id, _ = stored(one, bucket, project=OTHER)
    hold = Hold()
    proxy.fault = lambda method, path: hold if method == "GET" and cas_id in path else None
    with ThreadPoolExecutor(1) as clients:
        pulled = clients.submit(read, other, cas_path(cas_id), project=OTHER)
        assert hold.reached.wait(60)
        if how == "request":
            assert other.ask("DELETE", CLEAN, project=OTHER).status_code == 204
        else:
            run_clean(other, bucket)
        hold.gate.set()
        assert pulled.result()[0] == 404
    assert not other.file(cas_id, OTHER).exists()


def run_clean(node: Site, bucket: S3Bucket) -> None:
    """Run `cache-actors clean` beside a node."""
    environment = {
        "PATH": os.environ["PATH"],
        "SERVER_URL": node.service.server_url,
        "CAS_STORAGE_DIR": str(node.service.storage),
        **bucket.settings(),
    }
    command = [sys.executable, "-m", "cache_actors", "clean", f"--project={OTHER}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)


@pytest.mark.nightly  # eviction leaves alone what was just used, and tries again in half a minute
def test_without_nginx_and_on_a_disk_smaller_than_the_cache_all_that_is_shared_is_answered(
    one: Site, bucket: S3Bucket, shared_tuist: HeldTuist, tmp_path: Any
) -> None:
    """The disk has no room for all of it, so what is read first is evicted, and comes again."""
    cas_ids = [one.stored(os.urandom(100_000)) for _ in range(14)]
    expect_in(bucket, *(f"cas/{cas_id}" for cas_id in cas_ids))
    settings = bucket.settings() | {
        "STORAGE_MAX_BYTES": "1100000",
        "DISK_HIGH_WATERMARK_PERCENT": "80",
        "DISK_TARGET_PERCENT": "50",
    }
    service = Service(tmp_path / "cas", shared_tuist.url, settings)
    with running_service(service), client_of(service.url) as client:
        for cas_id in [*cas_ids, *cas_ids[:2]]:
            body = one.file(cas_id).read_bytes()
            eventually(lambda: client.get(cas_path(cas_id)).content == body)  # noqa: B023
        sizes = [f.stat().st_size for f in service.storage.rglob("acme/app/cas/*/*")]
        assert sum(sizes) < 1_100_000


HOW_TO = Path(__file__).parents[2] / "docs/how-to/s3.md"


@contextmanager
def running_front(folder: Path, nodes: list[Site]) -> Iterator[str]:
    """The nginx of the how-to guide, which has each project on one node; yields its URL."""
    [example] = re.findall(r"```nginx\n(upstream cache_nodes.*?)```", HOW_TO.read_text(), re.DOTALL)
    for name, node in zip(("a.internal:8080", "b.internal:8080"), nodes, strict=True):
        assert name in example
        example = example.replace(name, f"127.0.0.1:{node.nginx.port}")
    port = free_port()
    config = folder / "front.conf"
    config.write_text(
        f"daemon off; pid {folder}/front.pid; error_log {folder}/front.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"{example}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://cache_nodes; }} }} }}"
    )
    front = subprocess.Popen([find_binary("debian"), "-c", config], stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: (folder / "front.pid").exists())
        yield f"http://127.0.0.1:{port}"
    finally:
        front.terminate()
        front.wait(60)


@pytest.mark.nightly
def test_nginx_of_the_how_to_has_each_project_on_one_node_and_on_the_other_if_that_is_lost(
    s3_bucket: S3Bucket, tuist: HeldTuist, tmp_path: Path
) -> None:
    projects = [f"acme/app-{number}" for number in range(8)]
    tuist.tokens["token"] = projects
    served: list[bytes] = []
    with (
        suppress(NginxFailed),  # that of the node that is lost
        running_node(tuist, s3_bucket) as one,
        running_node(tuist, s3_bucket) as two,
        running_front(tmp_path, [one, two]) as url,
        client_of(url, params={}) as client,
    ):
        ids = {project: new_cas_id() for project in projects}
        for project, cas_id in ids.items():
            query = handles(project)
            assert client.post(cas_path(cas_id), params=query, content=b"bytes").is_success
            assert client.get(cas_path(cas_id), params=query).content == b"bytes"
        homes = {
            project: [node for node in (one, two) if (node.service.storage / project).exists()]
            for project in projects
        }
        assert {len(nodes) for nodes in homes.values()} == {1}
        for project, cas_id in ids.items():
            expect_in(s3_bucket, f"cas/{cas_id}", project=project)
        os.kill(one.nginx.pid, signal.SIGQUIT)
        for project, cas_id in ids.items():
            query = handles(project)
            eventually(lambda: client.get(cas_path(cas_id), params=query).content == b"bytes")  # noqa: B023
            served.append(b"bytes")
    assert len(served) == len(projects)
