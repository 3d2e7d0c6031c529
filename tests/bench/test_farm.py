"""What build farms ask for, and the names of it."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.files.store import FileStore
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.layout import Key, parse_id, shard
from cache_actors.storage.references import references_in

from .farm import BODIES, LARGE, LARGE_WRITE, RATES, Load, operations
from .fill import ARTIFACT_BYTES, fill_part
from .names import PROJECT, STORED, artifact_id, entry_id, payload, stored_entry

LOAD = Load(RATES, seconds=4.0, stored=50, tag="F" * 16, seed=1)


def test_operations_come_at_their_rates_in_order() -> None:
    made = operations(LOAD)
    assert [operation.due for operation in made] == sorted(operation.due for operation in made)
    assert 0 < made[0].due < made[-1].due < LOAD.seconds
    counts = Counter(operation.kind for operation in made)
    for kind, rate in RATES.items():
        expected = rate * LOAD.seconds
        assert counts[kind] == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_large_artifacts_are_operations_of_their_own() -> None:
    large = [operation.kind == LARGE_WRITE for operation in operations(LOAD)]
    bodies = [operation.requests[0].body == BODIES[LARGE] for operation in operations(LOAD)]
    assert bodies == large
    assert any(large)


def test_the_same_load_is_the_same_operations() -> None:
    assert operations(LOAD) == operations(LOAD)


def test_nothing_new_is_stored_twice() -> None:
    requests = [request for operation in operations(LOAD) for request in operation.requests]
    ids = [
        request.head.split(b"/")[4].split(b"?")[0]
        if request.head.startswith(b"POST")
        else json.loads(request.head.partition(b"\r\n\r\n")[2])["cas_id"].encode()
        for request in requests
        if not request.head.startswith(b"GET")
    ]
    assert len(ids) == len(set(ids)) > 500


def test_ids_are_valid_and_spread_over_folders() -> None:
    artifacts = {artifact_id(STORED, number) for number in range(5000)}
    entries = {entry_id(STORED, number) for number in range(5000)}
    assert len(artifacts) == len(entries) == 5000
    assert {len(name) for name in artifacts} == {64}
    assert {len(name) for name in entries} == {90}
    assert all(parse_id(Kind.CAS, "id", name) for name in artifacts)
    assert all(parse_id(Kind.KEYVALUE, "id", name) for name in entries)
    assert len({shard(name) for name in artifacts}) == 256
    assert len({shard(name) for name in entries}) == 4096


def test_entries_refer_to_artifacts() -> None:
    artifact = artifact_id(STORED, 7)
    assert references_in(stored_entry(artifact)) == {artifact}


def test_what_is_filled_in_is_what_the_service_would_have_stored(tmp_path: Path) -> None:
    fill_part(tmp_path, range(3, 40, 2))
    store = FileStore(tmp_path, TemporaryFolder(tmp_path / ".tmp"), durable=False)
    there = Key(PROJECT, Kind.CAS, artifact_id(STORED, 5)).path(tmp_path)
    opened = store.open(there)
    assert opened is not None
    opened.close()
    assert there.read_bytes() == payload(ARTIFACT_BYTES)
    assert there.stat().st_mode & 0o777 == 0o640
    assert there.parent.stat().st_mode & 0o7777 == 0o2750
    entry = Key(PROJECT, Kind.KEYVALUE, entry_id(STORED, 5)).path(tmp_path)
    assert entry.read_bytes() == stored_entry(artifact_id(STORED, 5))
    assert not Key(PROJECT, Kind.CAS, artifact_id(STORED, 4)).path(tmp_path).exists()
