"""Bazel's Remote Execution API through a real nginx, with Google's client of gRPC.

What each method answers is tried in full at the service; these tests look at what passes nginx.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.google.bytestream import bytestream_pb2 as bytestream

from tests.support.grpc_client import GrpcError
from tests.support.http2 import HEADERS, http2
from tests.support.nginx import new_certificate
from tests.support.remote_cache import (
    BLOBS,
    EMPTY,
    STREAM,
    RemoteCache,
    digest_of,
    pieces_of,
    remote_cache,
)
from tests.support.service import nodes_of
from tests.support.tuist import HeldTuist

from .site import OTHER_PROJECT, PROJECT, Site, running_site

NOT_FOUND, INVALID_ARGUMENT = 5, 3
LARGE = 5_000_000
"""Bytes, more than a batch may have by the defaults of clients."""

SETTINGS = {"MAX_UPLOAD_BYTES": "268435456"}


@pytest.fixture(scope="module", params=["plain", pytest.param("tls", marks=pytest.mark.nightly)])
def site(
    request: pytest.FixtureRequest,
    shared_tuist: HeldTuist,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One worker behind plain HTTP/2, two behind TLS."""
    tls: dict[str, Any] = {}
    workers = "1"
    if request.param == "tls":
        certificate, key = new_certificate(tmp_path_factory.mktemp("tls"))
        tls, workers = {"tls_cert": certificate, "tls_key": key}, "2"
    settings = SETTINGS | {"WORKERS": workers}
    with running_site("wheel", shared_tuist, settings, complaints=True, **tls) as site:
        yield site


@pytest.fixture
def cache(site: Site) -> Iterator[RemoteCache]:
    with remote_cache(site.nginx.port, site.nginx.options.tls_cert) as cache:
        yield cache


def new_blob(size: int = 1000) -> bytes:
    """A blob that nobody has stored; its first half can be compressed."""
    return os.urandom(size - size // 2) + bytes(size // 2)


def test_capabilities_are_those_of_a_cache(cache: RemoteCache) -> None:
    found = cache.capabilities()
    assert reapi.DigestFunction.SHA256 in found.cache_capabilities.digest_functions
    assert found.cache_capabilities.action_cache_update_capabilities.update_enabled
    assert not found.HasField("execution_capabilities")
    assert found.low_api_version.major == 2
    assert found.high_api_version.major == 2


def test_blobs_are_stored_found_and_read_in_batches(cache: RemoteCache) -> None:
    blobs = [new_blob(size) for size in (1, 1000, 100_000)]
    digests = [digest_of(blob) for blob in blobs]
    unknown = digest_of(new_blob())
    assert cache.missing(*digests, EMPTY) == digests
    assert cache.store_as([*zip(digests, blobs, strict=True), (unknown, b"not that")]) == [
        *(0, 0, 0),
        INVALID_ARGUMENT,
    ]
    assert cache.missing(*digests, EMPTY, unknown) == [unknown]
    assert cache.blobs(unknown, *digests, EMPTY) == [NOT_FOUND, *blobs, b""]


def test_batch_of_many_mebibytes_passes(cache: RemoteCache) -> None:
    """As Tuist's plug-in sends them: up to 32 MiB."""
    blobs = [new_blob(1 << 20) for _ in range(31)]
    cache.store(*blobs)
    assert cache.blobs(*map(digest_of, blobs)) == blobs


@pytest.mark.parametrize("size", [0, 1, 65_536, LARGE])
def test_blob_is_written_and_read_as_a_stream(cache: RemoteCache, size: int) -> None:
    blob = new_blob(size) if size else b""
    assert cache.write(blob) == size
    assert cache.read(digest_of(blob)) == blob
    assert cache.write(blob) == size, "it exists"
    if size == LARGE:
        assert cache.read(digest_of(blob), offset=size - 10) == blob[-10:]
        assert cache.read(digest_of(blob), offset=7, limit=100) == blob[7:107]


def test_write_that_was_cut_short_goes_on_where_the_service_says(cache: RemoteCache) -> None:
    blob = new_blob(LARGE)
    name = cache.new_upload(digest_of(blob))
    half = [piece for piece in pieces_of(name, blob) if piece.write_offset < LARGE // 2]
    committed = cache.send(half)
    assert committed == cache.write_status(name).committed_size < LARGE
    assert not cache.write_status(name).complete
    assert cache.write(blob, name, committed) == LARGE
    assert cache.write_status(name).complete
    assert cache.read(digest_of(blob)) == blob


def test_bytes_that_are_not_those_of_the_digest_are_refused(cache: RemoteCache) -> None:
    blob = new_blob(LARGE)
    name = cache.new_upload(digest_of(blob))
    with pytest.raises(GrpcError, match="INVALID_ARGUMENT"):
        cache.write(blob[:-1] + b"x", name)
    assert cache.missing(digest_of(blob)) == [digest_of(blob)]


def test_action_is_answered_with_all_its_blobs_or_not_at_all(cache: RemoteCache) -> None:
    here, absent = new_blob(), new_blob()
    cache.store(here)
    action, other = digest_of(new_blob()), digest_of(new_blob())
    with pytest.raises(GrpcError, match="NOT_FOUND"):
        cache.action(action)
    cache.store_action(action, result_of(here))
    assert cache.action(action).output_files[0].digest == digest_of(here)
    inlined = cache.action(action, inline_output_files=["out0"])
    assert inlined.output_files[0].contents in (here, b"")
    with suppress(GrpcError):  # whether it is refused already does not matter
        cache.store_action(other, result_of(here, absent))
    with pytest.raises(GrpcError, match="NOT_FOUND"):
        cache.action(other)


def result_of(*blobs: bytes) -> reapi.ActionResult:
    """What an action with these outputs comes to."""
    files = [
        reapi.OutputFile(path=f"out{number}", digest=digest_of(blob))
        for number, blob in enumerate(blobs)
    ]
    return reapi.ActionResult(output_files=files, exit_code=0)


def test_what_tuists_plugin_does_works(cache: RemoteCache, site: Site) -> None:
    """Its order of calls, its way to name the project, and opaque values."""
    plugin = cache.as_(instance="app", token=site.new_token(PROJECT, "other/app"))
    with pytest.raises(GrpcError, match="PERMISSION_DENIED"):
        plugin.capabilities()
    plugin = replace(plugin, account="acme")
    values = [new_blob(size) for size in (100, 70_000, 12_000_000, 19_000_000)]
    digests = [digest_of(value) for value in values]
    key = digest_of(new_blob())
    with pytest.raises(GrpcError, match="NOT_FOUND"):
        plugin.action(key)
    assert plugin.missing(*digests) == digests
    plugin.store(*values)
    plugin.store_action(key, result_of(*values))
    found = plugin.action(key)
    assert [file.digest for file in found.output_files] == digests
    assert plugin.blobs(*digests) == values
    assert cache.action(key) == found, "it is the same project"


def test_tree_is_told_from_its_root(cache: RemoteCache) -> None:
    leaf = reapi.Directory(files=[reapi.FileNode(name="a", digest=EMPTY)])
    leaf_bytes = leaf.SerializeToString()
    root = reapi.Directory(
        directories=[reapi.DirectoryNode(name="b", digest=digest_of(leaf_bytes))]
    )
    cache.store(leaf_bytes, root.SerializeToString())
    assert cache.tree(digest_of(root.SerializeToString())) == [root, leaf]


def test_access_is_judged_for_each_instance(cache: RemoteCache, site: Site) -> None:
    blob = new_blob()
    cache.store(blob)
    for other, status in (
        (cache.as_(token="nobody's"), "UNAUTHENTICATED"),
        (cache.as_(token=site.new_token(OTHER_PROJECT)), "PERMISSION_DENIED"),
        (cache.as_(instance=OTHER_PROJECT), "PERMISSION_DENIED"),
    ):
        with pytest.raises(GrpcError, match=status):
            other.missing(digest_of(blob))
        with pytest.raises(GrpcError, match=status):
            other.write(new_blob(LARGE))
    both = cache.as_(instance=OTHER_PROJECT, token=site.new_token(PROJECT, OTHER_PROJECT))
    assert both.missing(digest_of(blob)) == [digest_of(blob)], "another project has its own"


def test_call_that_is_cancelled_leaves_nothing_behind(cache: RemoteCache, site: Site) -> None:
    blob = new_blob(LARGE)
    name = cache.new_upload(digest_of(blob))
    began, over = threading.Event(), threading.Event()

    def requests() -> Iterator[bytes]:
        for request in pieces_of(name, blob):
            if request.finish_write:
                began.set()
                over.wait(60)
            yield request.SerializeToString()

    path = f"{STREAM}/Write"
    call = cache.client.begin_to_send(path, requests(), metadata=cache.metadata)
    assert began.wait(60)
    call.cancel()
    over.set()
    assert cache.missing(digest_of(blob)) == [digest_of(blob)]
    answers = cache.client.begin(
        f"{STREAM}/Read",
        bytestream.ReadRequest(resource_name=cache.name_of(EMPTY)).SerializeToString(),
        metadata=cache.metadata,
    )
    answers.cancel()
    assert cache.write(blob) == LARGE
    assert cache.read(digest_of(blob)) == blob


def test_methods_that_are_not_there_are_unimplemented(cache: RemoteCache) -> None:
    for path in (
        f"{BLOBS}/Nothing",
        "/build.bazel.remote.execution.v2.Execution/Execute",
        "/grpc.health.v1.Health/Check",
    ):
        with pytest.raises(GrpcError, match="UNIMPLEMENTED"):
            cache.client.call(path, metadata=cache.metadata)
    assert cache.capabilities()


def test_service_that_is_killed_costs_the_calls_it_had(cache: RemoteCache, site: Site) -> None:
    """They are `UNAVAILABLE`, so that clients try again, over the same connection."""
    blob, large = new_blob(), new_blob(LARGE)
    cache.store(blob)

    def requests() -> Iterator[bytestream.WriteRequest]:
        for request in pieces_of(cache.new_upload(digest_of(large)), large):
            if request.finish_write:
                site.service.stop(signal.SIGKILL)
            yield request

    with pytest.raises(GrpcError, match="UNAVAILABLE"):
        cache.send(requests())
    with pytest.raises(GrpcError, match="UNAVAILABLE"):
        cache.missing(digest_of(blob))
    site.start_again()
    assert cache.blobs(digest_of(blob)) == [blob], "what was acknowledged is there"
    assert cache.missing(digest_of(large)) == [digest_of(large)]
    assert cache.write(large) == LARGE


def test_calls_at_once_do_not_meet(cache: RemoteCache, site: Site) -> None:
    """As of a build: many streams of one connection, each with bytes of its own."""
    wrong: list[str] = []

    def one(number: int) -> None:
        blob = number.to_bytes(4, "big") * 50_000
        cache.write(blob)
        if cache.read(digest_of(blob)) != blob or cache.blobs(digest_of(blob)) != [blob]:
            wrong.append(f"{number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What no library sends.

INTERNAL, UNIMPLEMENTED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 13, 12, 4, 8
BAD = {INVALID_ARGUMENT, INTERNAL}
FIND = f"{BLOBS}/FindMissingBlobs"


def framed(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A message as it travels, or not."""
    size = len(message) if length is None else length
    return bytes([flag]) + size.to_bytes(4, "big") + message


def asking(hash_: str, size: int) -> bytes:
    """A message that asks for one blob."""
    digest = reapi.Digest(hash=hash_, size_bytes=size)
    request = reapi.FindMissingBlobsRequest(instance_name=PROJECT, blob_digests=[digest])
    return framed(request.SerializeToString())


GOOD = asking(EMPTY.hash, 0)

BAD_CALLS = {
    "nothing": (b"", BAD),
    "a cut head": (b"\0\0\0", BAD),
    "a cut message": (framed(b"12345", length=100), BAD),
    "more than fits": (framed(b"", length=2**32 - 1), {*BAD, RESOURCE_EXHAUSTED}),
    "compressed, which was not said": (framed(b"12345", flag=1), {*BAD, UNIMPLEMENTED}),
    "no flag": (framed(b"", flag=7), BAD),
    "no protobuf": (framed(b"\xff\xff\xff"), BAD),
    "two messages": (GOOD + GOOD, {*BAD, UNIMPLEMENTED}),
    "a short hash": (asking("ab", 1), BAD),
    "upper case": (asking("AB" * 32, 1), BAD),
    "a path": (asking("../" * 21 + "x", 1), BAD),
    "size -1": (asking("ab" * 32, -1), BAD),
}


def test_bad_call_has_its_status_and_the_connection_goes_on(site: Site) -> None:
    if site.nginx.options.tls_cert is not None:
        pytest.skip("the same over TLS")
    with http2(site.nginx.port) as connection:
        found = {name: connection.call(FIND, body).status for name, (body, _) in BAD_CALLS.items()}
        assert connection.call(FIND, GOOD).status == 0
        for timeout, status in ("0n", DEADLINE_EXCEEDED), ("soon", INVALID_ARGUMENT):
            answer = connection.call(FIND, GOOD, HEADERS | {"grpc-timeout": timeout})
            assert answer.status in {status, INTERNAL}, timeout
        assert connection.call(FIND, GOOD).status == 0
    wrong = {name: status for name, status in found.items() if status not in BAD_CALLS[name][1]}
    assert wrong == {}
    assert all(node["restarts"] == 0 for node in nodes_of(site.direct.get("/up").json()["tree"]))
