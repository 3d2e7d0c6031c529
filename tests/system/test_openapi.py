"""docs/openapi.yml describes all that is served, and what is answered is as it says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_actors.http.app import _ROUTES
from tests.contract.examples import bearer, handles, new_body, new_cas_id, new_kv_id, store, upload
from tests.support.lanes import NIGHTLY
from tests.support.nginx import nginx_before, shared_storage
from tests.support.service import Service, client_of, running_service
from tests.support.tuist import HeldTuist

DOCUMENT = Path(__file__).parents[2] / "docs/openapi.yml"
DESCRIBED = [
    (path, method)
    for path, item in yaml.safe_load(DOCUMENT.read_text())["paths"].items()
    for method in item
    if method != "parameters"
]
EXAMPLES = 150 if NIGHTLY else 8

OWN = handles("acme/app")

NOT_OF_FORM = {412, 416, 422}
"""Statuses of requests that are well formed: of conditions, ranges and digests."""


@pytest.fixture(scope="module")
def schema() -> Any:
    import schemathesis  # which takes a second

    return schemathesis.openapi.from_path(DOCUMENT)


def test_document_is_openapi(schema: Any) -> None:
    schema.validate()


def test_every_route_is_described_and_nothing_else() -> None:
    shapes = [(re.sub("{[^}]*}", "{}", path), method.upper()) for path, method in DESCRIBED]
    routes = {
        (re.sub("<[^>]*>", "{}", path), method)
        for _, path, methods, _ in _ROUTES
        for method in methods.split()
    }
    assert sorted(shapes) == sorted(routes)


@dataclass(frozen=True)
class Front:
    """Whoever is asked, and those who ask."""

    url: str
    session: requests.Session
    client: httpx.Client

    def ids(self, path: str) -> dict[str, str]:
        """What stands in a path for something that is stored."""
        cas_id, kv_id = new_cas_id(), new_kv_id()
        assert upload(self.client, cas_id, new_body()).is_success
        assert store(self.client, kv_id, "value").is_success
        return {"id": cas_id} if "{id}" in path else {"cas_id": kv_id} if "{" in path else {}


@pytest.fixture(scope="module", params=["direct", "nginx"])
def front(request: pytest.FixtureRequest, shared_tuist: HeldTuist) -> Iterator[Front]:
    """The service itself, and nginx in front of it."""
    with (
        shared_storage() as storage,
        running_service(Service(storage, shared_tuist.url)) as service,
        nginx_before(f"127.0.0.1:{service.port}", storage, "wheel") as nginx,
        requests.Session() as session,
    ):
        session.trust_env = False
        url = nginx.url if request.param == "nginx" else service.url
        with client_of(url) as client:
            yield Front(url, session, client)
        assert all(node["restarts"] == 0 for node in service.nodes())
        assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize(("path", "method"), DESCRIBED)
def test_answers_are_those_that_are_described(
    front: Front, schema: Any, path: str, method: str
) -> None:
    operation, ids = schema[path][method], front.ids(path)

    @given(_requests(operation, ids))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        answer = case.call(base_url=front.url, session=front.session, headers=bearer("token"))
        excluded = _excluded_checks(case, answer.status_code, path, method)
        case.validate_response(answer, excluded_checks=excluded)

    ask()


def _requests(operation: Any, ids: dict[str, str]) -> st.SearchStrategy[Any]:
    """Requests that the document allows and forbids: of any project, of the token's, for `ids`."""
    from schemathesis import GenerationMode

    whose: list[dict[str, Any]] = [{}, {"query": OWN}]
    whose += [{"query": OWN, "path_parameters": ids}] if ids else []
    return st.one_of(
        *(
            operation.as_strategy(generation_mode=mode, **of_whom)
            for mode in GenerationMode
            for of_whom in whose
        )
    )


def _excluded_checks(case: Any, status: int, path: str, method: str) -> list[Any]:
    """The checks that say nothing of an answer.

    No bytes can be wrong where any are stored, and what is wrong in headers may be the token, in
    the place of which a right one is sent.
    """
    from schemathesis.specs.openapi import checks

    excluded: list[Any] = [checks.positive_data_acceptance] if status in NOT_OF_FORM else []
    is_upload = (path, method) == ("/api/cache/cas/{id}", "post")  # of whatever bytes
    wrong = {str(each.value) for each, how in case.meta.components.items() if how.mode.is_negative}
    takes_any = case.media_type == "application/octet-stream" and {"body"} <= wrong
    is_right = is_upload or (takes_any and wrong <= {"body", "header"})
    return excluded + ([checks.negative_data_rejection] if is_right else [])
