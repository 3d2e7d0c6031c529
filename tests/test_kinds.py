"""What holds for every kind of file, one that does not exist yet included, and for nginx."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_actors.kinds import IdGrammar, Kind
from cache_actors.settings import Settings
from cache_actors.storage import layout
from cache_actors.storage.capacity import Amount
from cache_actors.storage.eviction.cutoff import Histogram, cutoff
from cache_actors.storage.eviction.scan import ProjectUsage, Scan
from cache_actors.storage.eviction.sweep import Sweep
from cache_actors.storage.integrity.quarantine import Quarantine
from cache_actors.storage.integrity.scrub import Scrub
from cache_actors.storage.layout import QUARANTINE, InvalidIdentifier, Key, key_at, parse_id
from tests.support.stored import APP, BLOCK_BYTES, DAY, HOUR, Stored, artifact_id, set_age

SNIPPETS = Path(__file__).parents[1] / "platform" / "nginx"
HTTP_CONF = (SNIPPETS / "http.conf").read_text()
SERVER_CONF = (SNIPPETS / "server.conf").read_text()


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind that nobody has thought of, as an addition to the table would make it."""
    kind = object.__new__(Kind)
    kind._name_, kind._value_ = "THIRD", "third"
    ids = IdGrammar(re.compile(r"[0-9A-F]{64}(\.\w{1,40})?"), "a SHA-256 and a name")
    row = ("third", ".bin", "third", ("GET",), ("PUT",), ids, 100, False, None)
    kind.__init__(*row)  # type: ignore[misc]
    monkeypatch.setattr(Kind, "_member_names_", [*Kind._member_names_, "THIRD"])
    monkeypatch.setitem(Kind._member_map_, "THIRD", kind)
    return kind


@pytest.fixture
def deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels of folders between a kind's folder and its files."""
    monkeypatch.setattr(layout, "shard", lambda each: f"{each[2:4] or '_'}/{each[4:6] or '_'}")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def put_away(stored: Stored, kind: Kind, number: int, age: float) -> Path:
    """A file of that kind, last used at that age."""
    path = Key(APP, kind, artifact_id(number)).path(stored.root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * BLOCK_BYTES)
    set_age(path, stored.at(age))
    return path


def eviction_of(stored: Stored) -> Sweep:
    """One that takes everything which was not used for half a day."""
    rule = cutoff(Histogram(stored.now), Amount(1 << 60), protected=DAY / 2)
    return Sweep(stored.root, rule, grace=0.0)


def surveyed(stored: Stored) -> Scan:
    scan = Scan(stored.now)
    list(scan.run(stored.root))
    return scan


def scrubbed(stored: Stored) -> Scrub:
    scrub = Scrub(stored.root)
    list(scrub.run())
    return scrub


# A kind of its own: it refers to nothing, and nothing refers to it.


def test_third_kind_counts_as_artifact_and_goes_by_its_own_last_use(
    stored: Stored, third: Kind
) -> None:
    old, recent = put_away(stored, third, 1, DAY), put_away(stored, third, 2, HOUR)
    scan = surveyed(stored)
    at, later = stored.at(DAY), stored.at(HOUR)
    assert scan.usage == {APP: ProjectUsage(2, 2 * BLOCK_BYTES, 0, 0, at, later)}
    assert len(scan.histogram.buckets) == 2
    dry, eviction = eviction_of(stored), eviction_of(stored)
    list(dry.look([APP]))
    assert dry.removed.artifacts == 1
    list(eviction.run([APP]))
    assert (old.exists(), recent.exists()) == (False, True)
    assert (eviction.removed.artifacts, eviction.removed.entries) == (1, 0)
    assert eviction.kept[APP].artifacts == 1


def test_scrub_leaves_any_content_of_third_kind_alone(stored: Stored, third: Kind) -> None:
    path = put_away(stored, third, 1, HOUR)
    report = scrubbed(stored).report
    assert (report.files, report.unknown, report.findings) == (1, 0, [])
    assert path.exists()


def test_third_kind_has_ids_of_its_own(stored: Stored, third: Kind) -> None:
    named = artifact_id(1) + ".Büro"
    assert parse_id(third, "id", named) == named
    path = Key(APP, third, named).path(stored.root).relative_to(stored.root)
    assert key_at(path.parts) == Key(APP, third, named)
    assert key_at((*path.parts[:-1], "no-hash.bin")) is None
    with pytest.raises(InvalidIdentifier, match=r"^id 'a' .* must be a SHA-256 and a name$"):
        parse_id(third, "id", "a")
    with pytest.raises(InvalidIdentifier):
        parse_id(Kind.CAS, "id", named)


# What a row has to be.


@pytest.mark.parametrize("kind", Kind)
@given(chosen=st.data())
def test_every_id_is_the_name_of_one_file_in_its_projects_folder(
    kind: Kind, chosen: st.DataObject
) -> None:
    each = chosen.draw(st.from_regex(kind.ids.pattern, fullmatch=True))
    path = Key(APP, kind, each).path(Path("/cas"))
    assert key_at(path.relative_to("/cas").parts) == Key(APP, kind, each)
    for part in path.parts[4:]:
        assert not part.startswith(".")
        assert not set(part) & set("/\0")
        assert len(part.encode()) <= 246


@pytest.mark.usefixtures("third")
def test_limit_is_a_setting_or_a_number() -> None:
    settings = Settings(server_url="http://tuist", max_upload_bytes=5, max_keyvalue_bytes=6)
    limits = [settings.largest(kind) for kind in Kind]
    assert (limits[:2], limits[-1]) == ([5, 6], 100)


# Folders that are deeper than today's.


@pytest.mark.usefixtures("deeper")
def test_deeper_shards_are_seen_by_survey_eviction_and_scrub(stored: Stored) -> None:
    old, recent = stored.artifact(1, DAY), stored.artifact(2, HOUR)
    assert old.parent.parent.parent == APP.path(stored.root) / "cas"
    assert surveyed(stored).usage[APP].artifacts == 2
    report = scrubbed(stored).report
    assert (report.files, report.unknown) == (2, 0)
    list(eviction_of(stored).run([APP]))
    assert (old.exists(), recent.exists()) == (False, True)


@pytest.mark.usefixtures("deeper")
def test_quarantine_locks_the_project_however_deep_the_file_lies(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = []

    @contextmanager
    def brief(project: Path) -> Iterator[None]:
        locked.append(project)
        yield

    monkeypatch.setattr("cache_actors.storage.integrity.quarantine.brief", brief)
    path = stored.artifact(1, HOUR)
    moved = Quarantine(stored.root).take(path, path.stat().st_ino)
    assert locked == [APP.path(stored.root)]
    assert moved is not None
    assert moved.parent == stored.root / QUARANTINE / "acme" / "app" / "cas"


# nginx, which reads the same files. Of modules it is told where they lie.

READ_BY_NGINX = [kind for kind in Kind if kind.read_methods]


@pytest.mark.parametrize("kind", READ_BY_NGINX)
def test_nginx_knows_the_methods_of_each_kind(kind: Kind) -> None:
    block = re.search(
        rf"map \$request_method \$cache_{kind.label}_action {{(.*?)}}", HTTP_CONF, re.DOTALL
    )
    assert block is not None
    rows = dict(line.rstrip(";").split() for line in block[1].strip().splitlines())
    assert rows.pop("default") == "other"
    assert {each for each in rows if rows[each] == "read"} == set(kind.read_methods)
    assert {each for each in rows if rows[each] == "store"} == set(kind.store_methods)


@pytest.mark.parametrize("kind", READ_BY_NGINX)
def test_nginx_reads_each_kind_where_the_layout_puts_it(kind: Kind) -> None:
    ids = f"(?<cache_id>{kind.ids.pattern.pattern})"
    assert f'location ~ "^/api/cache/{kind.folder}/{ids}\\z"' in SERVER_CONF
    assert f"set $cache_kind    {kind.label};" in SERVER_CONF
    path = f"/$cache_project/{kind.folder}/$cache_shard/$cache_id{kind.ending} "
    assert f"try_files {path}" in SERVER_CONF


def test_nginx_serves_no_other_kind() -> None:
    folders = re.search(r"api/cache/\(\?:([a-z|]+)\)/", HTTP_CONF)
    assert folders is not None
    assert set(folders[1].split("|")) == {kind.folder for kind in READ_BY_NGINX}
    assert set(re.findall(r"set \$cache_kind\s+(\w+);", SERVER_CONF)) == {
        kind.label for kind in READ_BY_NGINX
    }


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 200])
def test_nginx_finds_the_same_shard(length: int) -> None:
    pattern = re.search(r"map \$cache_id \$cache_shard {\s+\"~(\S+)\"", HTTP_CONF)
    assert pattern is not None
    entry_id = "".join(itertools.islice(itertools.cycle("0~aB-_=+"), length))
    found = re.search(pattern[1].replace("(?<", "(?P<"), entry_id)
    assert layout.shard(entry_id) == (found[1] if found else "_")
