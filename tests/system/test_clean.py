"""A project is cleaned through nginx, in several workers: nothing comes back, what is new stays."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cache_actors.storage.layout import TRASH
from tests.contract.examples import bearer, cas_path, handles, kv_path, new_kv_id
from tests.support.service import CHANGED_COMMAND, COMMAND, constants
from tests.support.tuist import HeldTuist
from tests.support.waiting import eventually

from .site import OTHER_PROJECT, PROJECT, Site, running_site

CLEAN = "/api/cache/clean"
NEVER_EMPTIED = constants({"actors.cleaner.FILES_PER_STEP": 0})
"""What is in the trash stays there, as if removing it took for ever."""


@pytest.fixture(scope="module")
def site(shared_tuist: HeldTuist) -> Iterator[Site]:
    shared_tuist.tokens["token"] = [PROJECT, OTHER_PROJECT]
    with running_site("wheel", shared_tuist, {"WORKERS": "2"}) as site:
        yield site


def build(site: Site, project: str = PROJECT) -> tuple[str, str]:
    """The ids of a new artifact, and of an entry that refers to it."""
    cas_id, kv_id = site.stored(project=project), new_kv_id()
    assert site.put(kv_id, cas_id, project=project).status_code == 204
    return cas_id, kv_id


def statuses(site: Site, cas_id: str, kv_id: str, project: str = PROJECT) -> set[int]:
    """What reads answer, through nginx, and by the workers of the service itself."""
    paths = (kv_path(kv_id), cas_path(cas_id))
    through = {site.ask("GET", path, project=project).status_code for path in paths}
    return through | {ask_service(site, each, project).status_code for each in paths * 4}


def ask_service(site: Site, path: str, project: str = PROJECT) -> httpx.Response:
    """What one of the workers answers, over a connection of its own."""
    headers = bearer(site.token) | {"Connection": "close"}
    return site.direct.get(path, params=handles(project), headers=headers)


def test_what_was_stored_is_gone_and_what_comes_later_stays(site: Site) -> None:
    old, others = build(site), build(site, OTHER_PROJECT)
    for _ in range(3):  # nginx and all workers have seen it
        assert statuses(site, *old) == {200}
    cleaned = site.ask("DELETE", CLEAN)
    assert (cleaned.status_code, cleaned.content) == (204, b"")
    assert site.ask("GET", kv_path(old[1])).status_code == 404
    refused = site.put(new_kv_id(), old[0])
    assert refused.status_code == 409, "the artifact that it refers to has gone"
    site.upload(old[0], b"new")
    new = build(site)
    assert ask_service(site, cas_path(old[0])).content == b"new"
    assert statuses(site, *new) == {200}
    assert statuses(site, *others, project=OTHER_PROJECT) == {200}
    assert site.ask("GET", kv_path(old[1])).status_code == 404
    eventually(lambda: not list((site.service.storage / TRASH).iterdir()))


def test_artifact_is_read_no_longer_than_nginx_remembers_its_file(site: Site) -> None:
    cas_id, _ = build(site)
    assert site.ask("GET", cas_path(cas_id)).status_code == 200
    assert site.ask("DELETE", CLEAN).status_code == 204
    eventually(lambda: site.ask("GET", cas_path(cas_id)).status_code == 404)


def test_who_may_not_see_the_project_cleans_nothing(site: Site) -> None:
    ids = build(site)
    token = site.new_token(OTHER_PROJECT)
    assert site.ask("DELETE", CLEAN, token).status_code == 403
    assert site.ask("DELETE", CLEAN, "unknown").status_code == 401
    assert statuses(site, *ids) == {200}


def test_other_methods_are_told_which_one_it_is(site: Site) -> None:
    answer = site.ask("POST", CLEAN)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE")


def test_what_a_killed_service_has_not_removed_is_removed_by_the_next(tuist: HeldTuist) -> None:
    with running_site("wheel", tuist, NEVER_EMPTIED, command=CHANGED_COMMAND) as site:
        ids = [build(site) for _ in range(3)]
        assert site.ask("DELETE", CLEAN).status_code == 204
        trash = site.service.storage / TRASH
        site.service.stop(signal.SIGKILL)
        assert len([path for path in trash.rglob("*") if path.is_file()]) == 6
        site.service.command = COMMAND
        site.service.environment["WORKERS"] = "2"  # which both find it
        site.start_again()
        eventually(lambda: not list(trash.iterdir()))
        for each in ids:
            assert statuses(site, *each) <= {404}


# The command.


def run_command(storage: Path, project: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "cache_actors", "clean", f"--storage={storage}"]
    ended = subprocess.run(
        [*command, f"--project={project}"], capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_command_cleans_beside_a_running_service(site: Site) -> None:
    cas_id, kv_id = build(site)
    status, said, _ = run_command(site.service.storage, "ACME/App")
    assert (status, said.splitlines()[0]) == (0, "acme/app is gone; its files are being removed")
    assert site.ask("GET", kv_path(kv_id)).status_code == 404
    assert ask_service(site, cas_path(cas_id)).status_code == 404
    assert run_command(site.service.storage, PROJECT)[:2] == (0, "Nothing is stored of acme/app\n")
    assert statuses(site, *build(site)) == {200}


@pytest.mark.parametrize("project", ["acme", "acme/", "acme/a.b", "../x"])
def test_command_refuses_what_is_no_project(tmp_path: Path, project: str) -> None:
    status, _, complaint = run_command(tmp_path, project)
    assert status == 2
    assert "--project" in complaint
    assert list(tmp_path.iterdir()) == []


def test_command_says_that_there_is_no_storage(tmp_path: Path) -> None:
    status, _, complaint = run_command(tmp_path / "none", "acme/app")
    assert (status, complaint.count("\n")) == (2, 1)
    assert complaint.startswith("Cannot clean ")
