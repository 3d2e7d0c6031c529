"""A survey counts everything, by project, and how long ago it was used."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Project
from cache_actors.storage.survey import Holdings, Survey
from tests.support.stored import APP, BLOCK_BYTES, DAY, HOUR, LIB, Stored, times_below

if TYPE_CHECKING:
    from cache_actors.storage.cutoff import Histogram


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
    folders = len({path.parent for path in stored.root.glob("*/*/*/*/*")})
    assert counted(survey.histogram) == [5 * BLOCK_BYTES, 5 + folders]
    assert survey.empty_folders == 0


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
    assert counted(survey.histogram) == [2 * BLOCK_BYTES, 2 + 2]  # and their folders
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


def test_empty_storage_holds_nothing(stored: Stored) -> None:
    survey = surveyed(stored)
    assert survey.complete
    assert (survey.bytes, survey.holdings) == (0, {})


def test_looking_changes_nothing(stored: Stored) -> None:
    stored.artifact(1, DAY)
    stored.entry("a", 1, age=DAY)
    before = times_below(stored.root)
    surveyed(stored)
    assert times_below(stored.root) == before


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


def test_folder_goes_with_the_file_in_it_that_was_used_last(stored: Stored) -> None:
    """It takes an inode for as long as there is one file in it."""
    for number, age in enumerate((HOUR, DAY, 3 * DAY)):
        stored.artifact(f"AA11{number}", age)
    buckets = surveyed(stored).histogram.buckets
    assert [files for _, (_, files) in sorted(buckets.items())] == [2, 1, 1]


def test_empty_folders_are_counted_where_something_may_go(stored: Stored) -> None:
    for project in APP, LIB:
        stored.artifact("AA11", HOUR, project).parent.with_name("22").mkdir()
    assert surveyed(stored).empty_folders == 2
    assert surveyed(stored, LIB).empty_folders == 1
