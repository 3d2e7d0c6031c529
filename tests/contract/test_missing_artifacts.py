"""An entry that refers to an artifact which is not stored is refused: it would break a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stored import value_of

from .examples import (
    all_at_once,
    artifact_file,
    cas_path,
    every_front,
    expect_entries,
    expect_error,
    expect_no_entries,
    handles,
    new_body,
    new_cas_id,
    new_kv_id,
    new_value,
    store,
    stored,
    upload,
    uploaded,
)
from .facts import OTHER_PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.support.service import Service

pytestmark = every_front

forms = pytest.mark.parametrize(
    "form",
    [str.upper, str.lower, value_of, lambda cas_id: value_of(cas_id.lower())],
    ids=["id", "id in lower case", "protobuf", "protobuf in lower case"],
)
"""How a value refers to an artifact."""


def missing(cas_id: str) -> str:
    """What a client is told."""
    return f"Artifact {cas_id} does not exist"


@forms
def test_entry_without_its_artifact_is_refused(
    client: httpx.Client, form: Callable[[str], str]
) -> None:
    kv_id, cas_id = new_kv_id(), new_cas_id()
    expect_error(store(client, kv_id, form(cas_id)), 409, missing(cas_id))
    expect_no_entries(client, kv_id)


@forms
@pytest.mark.parametrize("spelled", [str.upper, str.lower])
def test_entry_is_stored_once_its_artifact_is(
    client: httpx.Client, form: Callable[[str], str], spelled: Callable[[str], str]
) -> None:
    kv_id, cas_id = new_kv_id(), new_cas_id()
    expect_error(store(client, kv_id, form(cas_id)), 409, missing(cas_id))
    assert upload(client, spelled(cas_id), new_body()).status_code == 204
    assert store(client, kv_id, form(cas_id)).status_code == 204
    expect_entries(client, kv_id, form(cas_id))


def test_every_artifact_of_every_value_has_to_be_there(client: httpx.Client) -> None:
    first, second, third = sorted(new_cas_id() for _ in range(3))
    values = [new_value(), value_of(third, first), second]
    kv_id = new_kv_id()
    for cas_id in (first, second, third):
        expect_error(store(client, kv_id, *values), 409, missing(cas_id))
        assert upload(client, cas_id, new_body()).status_code == 204
    assert store(client, kv_id, *values).status_code == 204
    expect_entries(client, kv_id, *values)


def test_artifact_of_another_project_does_not_count(client: httpx.Client) -> None:
    other = handles(OTHER_PROJECT)
    cas_id, kv_id = uploaded(client, new_body(), params=other), new_kv_id()
    expect_error(store(client, kv_id, cas_id), 409, missing(cas_id))
    assert store(client, kv_id, cas_id, params=other).status_code == 204
    expect_no_entries(client, kv_id)


def test_refused_entry_leaves_the_one_before_it(client: httpx.Client) -> None:
    before = value_of(uploaded(client, new_body()))
    kv_id = stored(client, before)
    cas_id = new_cas_id()
    expect_error(store(client, kv_id, value_of(cas_id)), 409, missing(cas_id))
    expect_entries(client, kv_id, before)
    assert upload(client, cas_id, new_body()).status_code == 204
    assert store(client, kv_id, value_of(cas_id)).status_code == 204
    expect_entries(client, kv_id, value_of(cas_id))


@pytest.mark.parametrize("value", ["", "=", "AB" * 31, "AB" * 33, "G" * 64, "é" * 64, "opaque"])
def test_value_of_another_form_is_opaque(client: httpx.Client, value: str) -> None:
    expect_entries(client, stored(client, value), value)


def test_of_many_at_once_each_is_judged_by_its_own_artifacts(client: httpx.Client) -> None:
    there, absent = uploaded(client, new_body()), new_cas_id()
    ids = [new_kv_id() for _ in range(30)]

    def put(number: int) -> httpx.Response:
        return store(client, ids[number], value_of(absent if number % 3 == 0 else there))

    for number, answer in enumerate(all_at_once(put, len(ids))):
        if number % 3 == 0:
            expect_error(answer, 409, missing(absent))
            expect_no_entries(client, ids[number])
        else:
            assert answer.status_code == 204
            expect_entries(client, ids[number], value_of(there))


def test_artifact_that_is_gone_can_be_stored_again(client: httpx.Client, service: Service) -> None:
    cas_id = uploaded(client, new_body())
    kv_id = stored(client, cas_id)
    artifact_file(service.storage, cas_id).unlink()
    expect_error(store(client, kv_id, cas_id), 409, missing(cas_id))
    assert upload(client, cas_id, new_body()).status_code == 204
    assert store(client, kv_id, cas_id).status_code == 204
    assert client.get(cas_path(cas_id)).status_code == 200
