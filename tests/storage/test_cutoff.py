"""The rule takes what was used least recently, about as much as has to go, and nothing else."""

from dataclasses import dataclass, replace
from hashlib import sha256

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cache_actors.storage.capacity import Amount
from cache_actors.storage.cutoff import Cutoff, Histogram, cutoff
from cache_actors.storage.last_use import WRONG_CLOCK_NS

NOW = 1_800_000_000 * 10**9
SECOND = 10**9
HOUR, DAY, YEAR = 3600 * SECOND, 86_400 * SECOND, 365 * 86_400 * SECOND
PROTECTED = 10.0
FINENESS = 1 / 32
"""How far apart two ages are that the rule tells from each other in any case, as a share."""


@dataclass(frozen=True)
class File:
    """A file: its age in nanoseconds, its size on disk, its name."""

    age: int
    size: int = 4096
    name: str = "A"

    @property
    def used(self) -> int:
        return NOW - self.age


def rule_for(files: list[File], excess: Amount, protected: float = PROTECTED) -> Cutoff:
    histogram = Histogram(NOW)
    for file in files:
        histogram.add(file.used, file.size)
    return cutoff(histogram, excess, protected)


def taken(rule: Cutoff, files: list[File]) -> list[File]:
    return [file for file in files if rule.takes(file.used, file.name)]


def name(number: int) -> str:
    return sha256(str(number).encode()).hexdigest().upper()


ages = st.one_of(
    st.integers(0, 20 * SECOND), st.integers(0, DAY), st.integers(0, 3 * YEAR), st.just(HOUR)
)
files = st.lists(
    st.builds(File, ages, st.sampled_from([0, 512, 4096, 1 << 20]), st.integers().map(name)),
    max_size=60,
)
shares = st.floats(0, 1)


def sum_of(files: list[File]) -> Amount:
    return Amount(sum(file.size for file in files), len(files))


# How much.


@given(files, shares, shares)
def test_as_much_goes_as_has_to_if_there_is_so_much(
    files: list[File], bytes_share: float, files_share: float
) -> None:
    """But for the chance of names, for which the bucket that is cut through counts as a whole."""
    everything = sum_of(files)
    excess = Amount(int(everything.bytes * bytes_share), int(everything.files * files_share))
    rule = rule_for(files, excess, protected=0)
    going = taken(rule, files)
    all_names = replace(rule, share=1.0)
    chance = sum_of([f for f in taken(all_names, files) if not rule.takes_all(f.used)])
    assert sum_of(going).bytes + chance.bytes >= excess.bytes or all_old_go(rule, files)
    assert sum_of(going).files + chance.files >= excess.files or all_old_go(rule, files)


def all_old_go(rule: Cutoff, files: list[File]) -> bool:
    return all(rule.takes(file.used, file.name) for file in files if file.age > 2_000_000)


@given(files, shares)
def test_no_more_goes_than_has_to(files: list[File], share: float) -> None:
    """Without the bucket that is cut through it would be too little."""
    assume(files)
    excess = Amount(int(sum_of(files).bytes * share), 0)
    rule = rule_for(files, excess, protected=0)
    older = [file for file in files if rule.takes_all(file.used)]
    assert sum_of(older).bytes < excess.bytes or older == []


def test_excess_of_one_size_and_many_ages_is_met_closely() -> None:
    stored = [File(HOUR + number * HOUR // 10, 4096, name(number)) for number in range(10_000)]
    for share in (0.01, 0.1, 0.5, 0.9):
        for excess in (Amount(int(10_000 * 4096 * share)), Amount(0, int(10_000 * share))):
            going = taken(rule_for(stored, excess), stored)
            assert len(going) == pytest.approx(10_000 * share, rel=0.1)


def test_files_of_one_age_share_by_name() -> None:
    stored = [File(DAY, 4096, name(number)) for number in range(20_000)]
    before: set[str] = set()
    for share in (0.0001, 0.2, 0.5, 0.8, 1.0):
        rule = rule_for(stored, Amount(int(20_000 * 4096 * share)))
        going = {file.name for file in taken(rule, stored)}
        assert len(going) == pytest.approx(20_000 * share, abs=300)
        assert before <= going  # always the same ones first
        before = going
    assert len(before) == 20_000


def test_inodes_count_as_much_as_bytes() -> None:
    stored = [File(number * HOUR, 4096, name(number)) for number in range(1, 101)]
    many = taken(rule_for(stored, Amount(4096, 50)), stored)
    assert len(many) == pytest.approx(50, abs=4)
    assert taken(rule_for(stored, Amount(50 * 4096, 1)), stored) == many


@pytest.mark.parametrize("protected", [0.0, PROTECTED])
def test_no_excess_takes_nothing(protected: float) -> None:
    rule = rule_for([File(YEAR)], Amount(), protected)
    assert not rule.takes(NOW - 1000 * YEAR, "A")
    assert not rule.takes(0, "A")
    assert not rule.takes_all(0)


def test_excess_beyond_everything_takes_everything_old() -> None:
    stored = [File(age) for age in (11 * SECOND, HOUR, YEAR)]
    rule = rule_for(stored, Amount(1 << 50, 1 << 50))
    assert taken(rule, stored) == stored
    assert rule_for([], Amount(1)).takes(NOW - HOUR, "A")


@given(files)
@example([File(YEAR, 0), File(HOUR, 4096)])
def test_files_that_take_nothing_on_the_disk_do_not_stand_in_the_way(files: list[File]) -> None:
    """Small files may lie in their inodes."""
    old = [file for file in files if file.age > 2 * PROTECTED * SECOND]
    excess = Amount(sum_of(files).bytes, 0)
    assume(excess)
    assert set(taken(rule_for(files, excess), files)) >= {file for file in old if file.size}


# What.


@given(files, shares, ages, ages, st.integers().map(name))
def test_what_is_taken_is_taken_at_every_earlier_use_too(
    files: list[File], share: float, one: int, other: int, of: str
) -> None:
    rule = rule_for(files, Amount(int(sum_of(files).bytes * share)))
    later, earlier = NOW - min(one, other), NOW - max(one, other)
    assert rule.takes(earlier, of) >= rule.takes(later, of)
    assert rule.takes_all(earlier) >= rule.takes_all(later)
    assert rule.takes(later, of) >= rule.takes_all(later)


@given(files, shares)
def test_what_goes_was_used_before_what_stays(files: list[File], share: float) -> None:
    rule = rule_for(files, Amount(int(sum_of(files).bytes * share)))
    going = taken(rule, files)
    staying = [file for file in files if file not in going]
    assume(going and staying)
    youngest_gone, oldest_kept = min(f.age for f in going), max(f.age for f in staying)
    assert oldest_kept <= youngest_gone * (1 + FINENESS) + 1_000_000


@given(files, st.floats(0, 100_000), ages)
def test_what_was_used_within_the_protected_time_stays(
    files: list[File], protected: float, age: int
) -> None:
    rule = rule_for(files, Amount(1 << 60, 1 << 60), protected)
    assert not any(file.age <= protected * SECOND for file in taken(rule, files))
    if age <= protected * SECOND:
        assert not rule.takes(NOW - age, "A")
    assert rule.takes(NOW - int(protected * SECOND * (1 + FINENESS)) - 2_000_000, "A")


@pytest.mark.parametrize("ahead", [1, WRONG_CLOCK_NS, 2 * DAY, YEAR, 1000 * YEAR])
def test_time_far_ahead_keeps_no_file_for_ever_and_one_a_little_ahead_does(ahead: int) -> None:
    stored = [File(-ahead), File(HOUR)]
    rule = rule_for(stored, Amount(4096))
    assert taken(rule, stored) == stored[ahead <= WRONG_CLOCK_NS :][:1]


# Size.


def test_histogram_stays_small_whatever_the_number_of_files() -> None:
    histogram = Histogram(NOW)
    for number in range(100_000):
        histogram.add(NOW - (number * 7_919_777_777_777) % (10 * YEAR), 1)
    assert len(histogram.buckets) < 2000
    assert sum(size for size, _ in histogram.buckets.values()) == 100_000
