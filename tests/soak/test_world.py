"""The oracle reports every kind of wrong answer, and none that is right."""

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.layout import Key, Project

from .world import Content, Fault, Result, Upload, Violation, World

APP, OTHER = Project("acme", "app"), Project("acme", "other")
ARTIFACT = Key(APP, Kind.CAS, "AABBCC")
VALUES = Key(APP, Kind.KEYVALUE, "0~key")


class Story:
    """A world in which one thing happens each second."""

    def __init__(self) -> None:
        self.world = World()
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    def begin(self, key: Key, content: Content | None = None, **how: bool) -> Upload:
        content = content or self.world.new_content(key, 1000)
        return self.world.begin(content, content.data(), self.tick(), **how)

    def end(
        self, upload: Upload, result: Result = Result.ACKNOWLEDGED, *, by_nginx: bool = False
    ) -> Upload:
        self.world.end(upload, result, self.tick(), by_nginx=by_nginx)
        return upload

    def store(self, key: Key, result: Result = Result.ACKNOWLEDGED, **how: bool) -> Upload:
        return self.end(self.begin(key, None, **how), result)

    def read(self, key: Key, data: bytes | None, *, through_nginx: bool = False) -> Fault | None:
        found = self.world.check_read(
            key, data, self.tick(), self.tick(), through_nginx=through_nginx
        )
        return found.fault if found else None


def data_of(upload: Upload) -> bytes:
    return upload.content.data()


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.mark.parametrize("key", [ARTIFACT, VALUES])
def test_what_was_stored_is_right(story: Story, key: Key) -> None:
    stored = story.store(key)
    assert story.read(key, data_of(stored)) is None
    assert story.world.firm() == [key]


@pytest.mark.parametrize("key", [ARTIFACT, VALUES])
def test_lost_write_is_reported(story: Story, key: Key) -> None:
    assert story.read(key, None) is None
    story.store(key)
    assert story.read(key, None) is Fault.LOST


@pytest.mark.parametrize("result", [Result.REFUSED, Result.UNKNOWN])
@pytest.mark.parametrize("key", [ARTIFACT, VALUES])
def test_unacknowledged_write_may_show_or_not(story: Story, key: Key, result: Result) -> None:
    tried = story.store(key, result)
    assert story.read(key, None) is None
    assert story.read(key, data_of(tried)) is None


def test_read_that_began_before_the_acknowledgement_may_miss(story: Story) -> None:
    upload = story.begin(ARTIFACT)
    began = story.tick()
    story.end(upload)
    assert story.world.check_read(ARTIFACT, None, began, story.tick()) is None


@pytest.mark.parametrize("key", [ARTIFACT, VALUES])
@pytest.mark.parametrize("length", [0, 1, 500, -1])
def test_torn_read_is_reported(story: Story, key: Key, length: int) -> None:
    stored = story.store(key)
    assert story.read(key, data_of(stored)[:length]) is Fault.TORN


def test_read_with_a_changed_byte_is_reported(story: Story) -> None:
    data = bytearray(data_of(story.store(ARTIFACT)))
    data[-1] ^= 1
    assert story.read(ARTIFACT, bytes(data)) is Fault.TORN
    assert story.read(ARTIFACT, b"\0" * len(data)) is Fault.UNSENT


@pytest.mark.parametrize("other", [Key(OTHER, Kind.CAS, ARTIFACT.id), Key(APP, Kind.CAS, "DDEEFF")])
def test_foreign_bytes_are_reported(story: Story, other: Key) -> None:
    story.store(ARTIFACT)
    foreign = story.store(other)
    assert story.read(ARTIFACT, data_of(foreign)) is Fault.FOREIGN


def test_what_must_not_be_stored_is_reported(story: Story) -> None:
    wrong = story.store(ARTIFACT, Result.REFUSED, may_be_stored=False)
    assert story.read(ARTIFACT, None) is None
    assert story.read(ARTIFACT, data_of(wrong)) is Fault.FORBIDDEN
    assert story.read(ARTIFACT, data_of(wrong)[:100]) is Fault.TORN


def test_content_that_nobody_has_sent_yet_is_reported(story: Story) -> None:
    began, ended = story.tick(), story.tick()
    later = story.store(ARTIFACT)
    found = story.world.check_read(ARTIFACT, data_of(later), began, ended)
    assert found is not None
    assert found.fault is Fault.FORBIDDEN


def test_either_of_two_uploads_may_win_but_only_once(story: Story) -> None:
    first, second = story.begin(ARTIFACT), story.begin(ARTIFACT)
    story.end(first)
    story.end(second)
    assert story.read(ARTIFACT, data_of(second)) is None
    assert story.read(ARTIFACT, data_of(second)) is None
    assert story.read(ARTIFACT, data_of(first)) is Fault.CHANGED


def test_artifact_that_is_replaced_later_is_reported(story: Story) -> None:
    first = story.store(ARTIFACT)
    assert story.read(ARTIFACT, data_of(first)) is None
    second = story.store(ARTIFACT)
    assert story.read(ARTIFACT, data_of(second)) is Fault.CHANGED


def test_stale_entry_is_reported(story: Story) -> None:
    first, second = story.store(VALUES), story.store(VALUES)
    assert story.read(VALUES, data_of(first)) is Fault.STALE
    assert story.read(VALUES, data_of(second)) is None


def test_unacknowledged_put_does_not_bring_back_an_older_entry(story: Story) -> None:
    first = story.store(VALUES)
    second = story.store(VALUES)
    tried = story.store(VALUES, Result.UNKNOWN)
    assert story.read(VALUES, data_of(second)) is None
    assert story.read(VALUES, data_of(tried)) is None
    assert story.read(VALUES, data_of(second)) is Fault.STALE
    assert story.read(VALUES, data_of(first)) is Fault.STALE
    assert story.read(VALUES, None) is Fault.LOST


def test_unacknowledged_put_that_is_over_does_not_replace_a_later_one(story: Story) -> None:
    tried = story.store(VALUES, Result.UNKNOWN)
    story.store(VALUES)
    assert story.read(VALUES, data_of(tried)) is Fault.STALE


def test_puts_that_overlap_may_come_in_any_order(story: Story) -> None:
    first, second = story.begin(VALUES), story.begin(VALUES)
    story.end(second)
    story.end(first)
    assert story.read(VALUES, data_of(second)) is None
    assert story.read(VALUES, data_of(first)) is None


def test_read_entry_that_is_gone_is_reported(story: Story) -> None:
    tried = story.store(VALUES, Result.UNKNOWN)
    assert story.read(VALUES, data_of(tried)) is None
    assert story.read(VALUES, None) is Fault.LOST


@pytest.mark.parametrize(("by_nginx", "fault"), [(True, None), (False, Fault.LOST)])
def test_nginx_may_acknowledge_what_a_failed_sync_undoes(
    story: Story, by_nginx: bool, fault: Fault | None
) -> None:
    storing = story.begin(ARTIFACT, may_be_undone=True)
    duplicate = story.begin(ARTIFACT)
    story.end(duplicate, by_nginx=by_nginx)
    story.end(storing, Result.REFUSED)
    assert duplicate.is_weak() is by_nginx
    assert story.read(ARTIFACT, None) is fault


def test_nginx_may_not_acknowledge_what_is_lost_without_failing_syncs(story: Story) -> None:
    storing = story.begin(ARTIFACT)
    duplicate = story.begin(ARTIFACT)
    story.end(duplicate, by_nginx=True)
    story.end(storing, Result.UNKNOWN)
    assert story.read(ARTIFACT, None) is Fault.LOST


def test_nginx_may_not_acknowledge_what_failed_before(story: Story) -> None:
    story.store(ARTIFACT, Result.REFUSED, may_be_undone=True)
    story.end(story.begin(ARTIFACT), by_nginx=True)
    assert story.read(ARTIFACT, None) is Fault.LOST


def test_nginx_may_serve_what_was_undone_for_a_moment_only(story: Story) -> None:
    undone = story.store(ARTIFACT, Result.REFUSED, may_be_undone=True)
    stored = story.store(ARTIFACT)
    story.now = (undone.ended or 0) + 1
    assert story.read(ARTIFACT, data_of(undone), through_nginx=True) is None
    assert story.read(ARTIFACT, data_of(stored), through_nginx=True) is None
    assert story.read(ARTIFACT, data_of(undone), through_nginx=True) is Fault.CHANGED
    assert story.read(ARTIFACT, data_of(undone)) is Fault.CHANGED


def test_retired_entry_that_shows_up_is_reported(story: Story) -> None:
    stored = story.store(ARTIFACT)
    story.world.retire([ARTIFACT])
    assert story.world.firm() == []
    assert story.read(ARTIFACT, data_of(stored)) is Fault.FILE


def test_violation_names_the_entry() -> None:
    assert str(Violation(Fault.LOST, "acme/app/cas/A", "why")) == (
        "acme/app/cas/A: acknowledged, but not there (why)"
    )
