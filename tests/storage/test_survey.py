"""A walk meets what is the service's own, and nothing else; a survey counts it, by project."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage import walk
from cache_actors.storage.cutoff import Histogram
from cache_actors.storage.layout import Project
from cache_actors.storage.survey import Holdings, Survey
from cache_actors.storage.walk import FolderLost, files, projects, shards
from tests.support.stored import APP, BLOCK_BYTES, DAY, HOUR, LIB, Stored, artifact_id

from .stores import fail_calls_for

A = artifact_id(1)


def found(root: Path, project: Project, kind: Kind) -> set[str]:
    """The ids of all that a walk meets."""
    return {file.id for shard in shards(root, project, kind) for file in files(shard, kind)}


def test_empty_storage_has_no_projects(root: Path) -> None:
    assert projects(root) == []
    (root / "acme").mkdir()
    assert projects(root) == []


@pytest.mark.parametrize(
    "name",
    [".tmp/cache-actors-1", ".quarantine/acme", "Acme/app", "acme/App", "acme/.app", "a b/app"],
)
def test_folder_that_is_no_projects_is_left_out(root: Path, name: str) -> None:
    (root / name / "cas" / "AB").mkdir(parents=True)
    assert projects(root) == []


def test_link_to_a_folder_is_left_out(stored: Stored, root: Path, tmp_path: Path) -> None:
    path = stored.artifact(1)
    (root / "linked").symlink_to(root / "acme")
    (root / "acme" / "linked").symlink_to(root / "acme" / "app")
    (root / "file").write_bytes(b"")
    (root / "acme" / "file").write_bytes(b"")
    (path.parents[1] / "ZZ").symlink_to(path.parent)
    (path.parents[1] / "file").write_bytes(b"")
    assert projects(root) == [APP]
    assert shards(root, APP, Kind.CAS) == [str(path.parent)]


def test_files_have_their_path_id_and_status(stored: Stored) -> None:
    path = stored.artifact(1)
    [file] = files(str(path.parent), Kind.CAS)
    assert (file.path, file.id) == (str(path), A)
    assert file.status.st_ino == path.stat().st_ino
    entry = stored.entry("abcd")
    [file] = files(str(entry.parent), Kind.KEYVALUE)
    assert (file.path, file.id) == (str(entry), "0~abcd")


def test_size_is_what_a_file_takes_on_the_disk(stored: Stored) -> None:
    path = stored.artifact(1)
    os.truncate(path, 100 * BLOCK_BYTES)  # a hole takes nothing
    [file] = files(str(path.parent), Kind.CAS)
    assert file.size == BLOCK_BYTES
    assert file.status.st_size == 100 * BLOCK_BYTES


def test_what_is_no_file_of_the_services_is_left_out(stored: Stored) -> None:
    path = stored.artifact(1)
    entry = stored.entry("a")
    for name in ("stranger.txt", "0~a", "0~a.json.new", ".json"):
        entry.with_name(name).write_bytes(b"x")
    path.with_name("a name").write_bytes(b"x")
    path.with_name(artifact_id(2)).write_bytes(b"of another shard")
    path.with_name(A[:4] + "F").mkdir()
    path.with_name(A[:4] + "E").symlink_to(path)
    os.mkfifo(path.with_name(A[:4] + "D"))
    assert found(stored.root, APP, Kind.CAS) == {A}
    assert found(stored.root, APP, Kind.KEYVALUE) == {"0~a"}


def test_file_that_vanishes_after_it_was_listed_is_left_out(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [stored.artifact(A[:4] + str(number)) for number in range(4)]
    really_listed = walk._listed

    def listed(folder: str) -> Iterator[os.DirEntry[str]]:
        for number, each in enumerate(list(really_listed(folder))):
            if number == 2:
                os.unlink(each.path)  # noqa: PTH108
            yield each

    monkeypatch.setattr(walk, "_listed", listed)
    assert len(list(files(str(paths[0].parent), Kind.CAS))) == 3


def test_folder_that_vanishes_after_it_was_listed_is_empty(stored: Stored) -> None:
    path = stored.artifact(1)
    [shard] = shards(stored.root, APP, Kind.CAS)
    path.unlink()
    path.parent.rmdir()
    assert list(files(shard, Kind.CAS)) == []
    path.parent.write_bytes(b"a file in its place")
    assert list(files(shard, Kind.CAS)) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_broken_folder_is_told_as_lost(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_calls_for(monkeypatch, os, "scandir", stored.artifact(1).parent, number)
    with pytest.raises(FolderLost, match=os.strerror(number)):
        found(stored.root, APP, Kind.CAS)


@pytest.mark.parametrize("level", [0, 1, 3, 4])
def test_folder_of_somebody_else_is_an_error(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    folder = stored.artifact(1).parents[level]
    fail_calls_for(monkeypatch, os, "scandir", folder, errno.EACCES)
    with pytest.raises(PermissionError):
        [found(stored.root, project, Kind.CAS) for project in projects(stored.root)]


def test_folder_that_cannot_be_an_accounts_is_not_looked_into(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as ext4's own, which is root's."""
    stored.artifact(1)
    (stored.root / "lost+found").mkdir()
    fail_calls_for(monkeypatch, os, "scandir", stored.root / "lost+found", errno.EACCES)
    assert projects(stored.root) == [APP]


def test_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        projects(tmp_path / "missing")


# The survey.


def surveyed(stored: Stored, wanted: Project | None = None) -> Survey:
    survey = Survey(stored.now)
    list(survey.run(stored.root, wanted))
    return survey


def counted(histogram: Histogram) -> list[int]:
    """Bytes and files in all its buckets."""
    return [sum(column) for column in zip(*histogram.buckets.values(), strict=True)]


def test_everything_is_counted_by_project(stored: Stored) -> None:
    for number, age in enumerate((DAY, HOUR, 3 * DAY)):
        stored.artifact(number, age)
    stored.entry("a", 1, age=9 * DAY)
    stored.artifact(7, 5.0, LIB)
    survey = surveyed(stored)
    assert survey.complete
    assert survey.holdings == {
        APP: Holdings(
            artifacts=3,
            artifact_bytes=3 * BLOCK_BYTES,
            entries=1,
            entry_bytes=BLOCK_BYTES,
            oldest_use=stored.at(3 * DAY),
            latest_use=stored.at(HOUR),
        ),
        LIB: Holdings(1, BLOCK_BYTES, 0, 0, stored.at(5.0), stored.at(5.0)),
    }
    assert survey.holdings[APP].bytes == 4 * BLOCK_BYTES
    assert survey.bytes == 5 * BLOCK_BYTES
    assert counted(survey.histogram) == [5 * BLOCK_BYTES, 5]


def test_use_is_the_later_of_reading_and_writing(stored: Stored) -> None:
    path = stored.artifact(1)
    for times in ((stored.at(HOUR), stored.at(DAY)), (stored.at(DAY), stored.at(HOUR))):
        os.utime(path, ns=times)
        assert surveyed(stored).holdings[APP].latest_use == stored.at(HOUR)


def test_only_what_is_wanted_may_be_evicted_and_all_is_counted(stored: Stored) -> None:
    stored.artifact(1, HOUR)
    stored.artifact(2, HOUR, LIB)
    stored.entry("a", 2, age=HOUR, project=LIB)
    survey = surveyed(stored, LIB)
    assert survey.bytes == 3 * BLOCK_BYTES
    assert counted(survey.histogram) == [2 * BLOCK_BYTES, 2]
    assert not surveyed(stored, Project("no", "body")).histogram.buckets


def test_it_tells_how_far_it_is(stored: Stored) -> None:
    for number in range(4):
        stored.artifact(number)
    survey = Survey(stored.now)
    assert (survey.folders, survey.complete) == (0, False)
    steps = [
        (survey.folders_done, survey.folders, survey.complete) for _ in survey.run(stored.root)
    ]
    assert steps == [(number, 4, False) for number in range(1, 5)]
    assert survey.complete


def test_what_vanishes_meanwhile_is_not_counted(stored: Stored) -> None:
    for number in range(3):
        stored.artifact(number)
    survey = Survey(stored.now)
    steps = survey.run(stored.root)
    next(steps)
    shutil.rmtree(stored.root / "acme")
    list(steps)
    assert survey.complete
    assert survey.holdings[APP].artifacts == 1


def test_use_at_the_beginning_of_time_is_a_use() -> None:
    holdings = Holdings()
    holdings.add(Kind.CAS, 1, 0)
    holdings.add(Kind.CAS, 1, 5)
    assert (holdings.oldest_use, holdings.latest_use) == (0, 5)
