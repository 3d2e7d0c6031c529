"""A scrub finds all that is broken, moves it away, and touches nothing else."""

import errno
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cache_actors.kinds import Kind
from cache_actors.storage.files.store import FileStore, Publication, Published, Replacement
from cache_actors.storage.files.temporary import TemporaryFolder
from cache_actors.storage.integrity.checksum import ATTRIBUTE
from cache_actors.storage.integrity.quarantine import Quarantine
from cache_actors.storage.integrity.scrub import (
    MIN_COST,
    READ_BYTES,
    Damage,
    Scrub,
    ScrubLock,
    ScrubReport,
    ScrubRunning,
    last_scrub,
)
from cache_actors.storage.integrity.validation import Fault
from cache_actors.storage.layout import LAST_SCRUB, QUARANTINE, TEMPORARY, Key, Project
from tests.storage.stores import (
    empty,
    fail,
    fail_calls_for,
    flip,
    make_old,
    open_descriptors,
    refusing,
    shorten,
    times_of,
)
from tests.support.mounts import require_root

NOBODY = 65534
ENTRIES = b'{"entries":[{"value":"a"}]}'


@dataclass
class Storage:
    """A storage folder with artifacts and entries in it."""

    root: Path
    store: FileStore
    chances: random.Random = field(default_factory=lambda: random.Random(1))

    def artifact(self, content: bytes, project: str = "app") -> Path:
        path = self._path(Kind.CAS, project)
        assert self.store.publish([Publication(str(path), [content])]) == [Published.STORED]
        return path

    def entry(self, content: bytes = ENTRIES, project: str = "app") -> Path:
        path = self._path(Kind.KEYVALUE, project)
        self.replace(path, content)
        return path

    def stored(self, kind: Kind, content: bytes) -> Path:
        return self.artifact(content) if kind is Kind.CAS else self.entry(content)

    def replace(self, path: Path, content: bytes) -> None:
        assert self.store.replace([Replacement(str(path), content)]) == [None]

    def _path(self, kind: Kind, project: str) -> Path:
        entry_id = self.chances.randbytes(16).hex().upper()
        return Key(Project("acme", project), kind, entry_id).path(self.root)

    def scrub(self) -> ScrubReport:
        scrub = Scrub(self.root)
        for _ in scrub.run():
            pass
        return scrub.report

    def held(self) -> dict[str, Path]:
        """What is in quarantine, by its name without what was added."""
        folder = self.root / QUARANTINE
        return {path.name[:-9]: path for path in folder.glob("*/*/*/*")}

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    root = tmp_path / "cas"
    root.mkdir()
    temporary = TemporaryFolder(root / TEMPORARY)
    yield Storage(root, FileStore(root, temporary, durable=False))
    temporary.remove()


def forget(path: Path) -> None:
    """Make it a file of a time, or a file system, without records."""
    os.removexattr(path, ATTRIBUTE)


def fail_reads_of(patch: pytest.MonkeyPatch, path: Path, number: int = errno.EIO) -> None:
    really_read, inode = os.preadv, path.stat().st_ino

    def preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if os.fstat(fd).st_ino == inode:
            raise fail(number)
        return really_read(fd, buffers, offset)

    patch.setattr(os, "preadv", preadv)


# What is well.

SIZES = [1, 511, 512, 4096, 4097, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES + 7]


def test_good_files_are_read_and_left_alone(storage: Storage) -> None:
    contents = [storage.chances.randbytes(size) for size in SIZES]
    paths = {storage.artifact(content): content for content in contents}
    paths |= {storage.entry(content): content for content in contents}
    before = {path: path.stat().st_ino for path in paths}
    report = storage.scrub()
    assert report.findings == []
    assert report.files == 2 * len(SIZES)
    assert report.bytes == 2 * sum(SIZES)
    assert (report.unrecorded, report.skipped, report.unknown) == (0, 0, 0)
    assert report.complete
    assert {path: path.stat().st_ino for path in paths} == before
    assert all(path.read_bytes() == content for path, content in paths.items())
    assert not (storage.root / QUARANTINE).exists()


def test_every_folder_is_looked_at(storage: Storage) -> None:
    paths = [storage.artifact(b"a", project) for project in ("app", "other") for _ in range(20)]
    paths += [storage.entry(project=project) for project in ("app", "other") for _ in range(20)]
    for path in paths:
        flip(path)
    report = storage.scrub()
    assert {finding.path for finding in report.findings} == {storage.name(path) for path in paths}
    assert report.folders == report.folders_done == len({path.parent for path in paths})


def test_folders_come_in_another_order_each_time(storage: Storage) -> None:
    sizes = [MIN_COST + number for number in range(30)]
    for size in sizes:
        storage.artifact(bytes(size))
    orders = [[cost for cost in Scrub(storage.root).run() if cost] for _ in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sizes
    assert orders[0] != orders[1]


def test_storage_that_is_not_there_cannot_be_scrubbed(tmp_path: Path) -> None:
    for scrub in (ScrubLock, lambda root: list(Scrub(root).run())):
        with pytest.raises(FileNotFoundError):
            scrub(tmp_path / "missing")


# What is broken.


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def flip_the_last(path: Path) -> None:
    flip(path, path.stat().st_size - 1)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"inside")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listen(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket's
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


BREAKS = [
    (empty, Fault.EMPTY),
    (shorten, Fault.SIZE),
    (lengthen, Fault.SIZE),
    (flip, Fault.DIGEST),
    (flip_the_last, Fault.DIGEST),
    (link, Fault.NOT_A_FILE),
    (link_to_nothing, Fault.NOT_A_FILE),
    (folder, Fault.NOT_A_FILE),
    (fifo, Fault.NOT_A_FILE),
    (listen, Fault.NOT_A_FILE),
]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", [1000, READ_BYTES, 2 * READ_BYTES + 9])
@pytest.mark.parametrize(("damage", "fault"), BREAKS)
def test_broken_file_is_found_and_moved_as_it_is(
    storage: Storage, damage: Callable[[Path], None], fault: Fault, kind: Kind, size: int
) -> None:
    good = [storage.stored(kind, b"good"), storage.artifact(b"good"), storage.entry()]
    path = storage.stored(kind, storage.chances.randbytes(size))
    damage(path)
    before = path.lstat()
    content = path.read_bytes() if fault in {Fault.SIZE, Fault.DIGEST, Fault.EMPTY} else None
    descriptors = open_descriptors()
    report = storage.scrub()
    assert open_descriptors() <= descriptors
    (held,) = storage.held().values()
    assert report.findings == [Damage(storage.name(path), fault, storage.name(held))]
    assert held.parent.relative_to(storage.root / QUARANTINE) == path.parent.parent.relative_to(
        storage.root
    )
    after = held.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert content is None or held.read_bytes() == content
    assert path not in path.parent.iterdir()
    assert all(each.exists() for each in good)
    assert storage.scrub().findings == []


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("failing", ["open", "preadv", "preadv, without a record"])
@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG], ids=errno.errorcode.get
)
def test_file_that_cannot_be_read_is_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, kind: Kind, failing: str, number: int
) -> None:
    path, good = storage.stored(kind, ENTRIES), storage.artifact(b"good")
    if failing.endswith("without a record"):
        forget(path)
    if failing == "open":
        fail_calls_for(monkeypatch, os, "open", path, number)
    else:
        fail_reads_of(monkeypatch, path, number)
    report = storage.scrub()
    held = storage.held()[path.name]
    assert report.findings == [Damage(storage.name(path), Fault.UNREADABLE, storage.name(held))]
    assert not path.exists()
    assert good.exists()
    assert report.complete


@pytest.mark.parametrize(
    ("number", "findings", "skipped"),
    [(errno.EIO, 1, 0), (errno.EACCES, 0, 1), (errno.ENOENT, 0, 0)],
    ids=["broken", "of somebody else", "removed meanwhile"],
)
@pytest.mark.parametrize("level", [0, 1])
def test_folder_that_cannot_be_listed_does_not_hinder_the_others(
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    findings: int,
    skipped: int,
    level: int,
) -> None:
    paths = [storage.artifact(b"bytes", name) for name in ("app", "lib") for _ in range(10)]
    for path in paths:
        flip(path)
    lost = paths[0].parents[level]
    fail_calls_for(monkeypatch, Path, "iterdir", lost, number)
    report = storage.scrub()
    of_folder = Damage(storage.name(lost), Fault.UNREADABLE, None)
    assert report.findings.count(of_folder) == findings
    assert report.skipped == skipped
    found = {finding.path for finding in report.findings if finding != of_folder}
    assert found == {storage.name(path) for path in paths if lost not in path.parents}
    assert report.complete


def test_failure_of_another_sort_ends_the_scrub(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.artifact(b"bytes")
    before = open_descriptors()
    fail_reads_of(monkeypatch, path, errno.ENOMEM)
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        storage.scrub()
    assert path.exists()
    assert open_descriptors() <= before


def test_broken_file_that_cannot_be_moved_is_reported_and_stays(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = storage.artifact(b"bytes"), storage.artifact(b"other")
    for each in (path, other):
        flip(each)

    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    report = storage.scrub()
    assert sorted(report.findings, key=lambda finding: finding.path) == [
        Damage(storage.name(each), Fault.DIGEST, None) for each in sorted((path, other))
    ]
    assert path.exists()
    assert other.exists()


# Files without a record.


def test_unrecorded_artifact_is_read_and_counted(storage: Storage) -> None:
    path = storage.artifact(b"bytes")
    forget(path)
    flip(path)  # nobody can know
    report = storage.scrub()
    assert (report.files, report.bytes, report.unrecorded) == (1, 5, 1)
    assert report.findings == []
    assert path.exists()


@pytest.mark.parametrize(
    "content", [ENTRIES, b"{}", b'{"entries":[{"value":"' + b"a" * READ_BYTES + b'"}]}']
)
def test_unrecorded_entry_is_checked_for_its_form(storage: Storage, content: bytes) -> None:
    path = storage.entry(content)
    forget(path)
    report = storage.scrub()
    assert (report.findings, report.unrecorded) == ([], 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        ENTRIES[:-1],
        b"\0" * 100,
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"entries":[{"value":"' + b"a" * READ_BYTES,
        ENTRIES + b"x" * READ_BYTES,
    ],
    ids=lambda content: f"{content[:10]!r} {len(content)}",
)
def test_unrecorded_entry_of_another_form_is_found(storage: Storage, content: bytes) -> None:
    path, good = storage.entry(content), storage.entry()
    forget(path)
    report = storage.scrub()
    assert [(finding.path, finding.fault) for finding in report.findings] == [
        (storage.name(path), Fault.FORM)
    ]
    assert storage.held()[path.name].read_bytes() == content
    assert good.exists()


# What is not ours.


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("acme/app/cas/AB/01AB.tmp", 1),
        ("acme/app/cas/CD/01AB", 1),
        ("acme/app/keyvalue/AB/01AB", 1),
        ("acme/app/keyvalue/AB/01AB.json.bak", 1),
        ("Acme/app/cas/AB/01AB", 1),
        ("acme/a.b/cas/AB/01AB", 1),
        ("file", 0),
        ("acme", 0),
        ("acme/app", 0),
        ("acme/app/cas", 0),
        ("acme/app/cas/AB", 0),
        ("acme/app/other/AB/01AB", 0),
        (f"{QUARANTINE}/app/cas/AB/01AB", 0),
        (f"{TEMPORARY}/app/cas/AB/01AB", 0),
        (".else/app/cas/AB/01AB", 0),
    ],
)
def test_file_that_is_not_the_services_is_left_alone(
    storage: Storage, name: str, unknown: int
) -> None:
    path = storage.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    report = storage.scrub()
    assert (report.unknown, report.files, report.findings) == (unknown, 0, [])
    assert report.complete
    assert path.exists()


# Whose files.


def test_what_is_somebody_elses_is_skipped() -> None:
    """Every ext4 has a `lost+found` at its top, which only root may look into."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="cache-actors-scrub-") as name:
        root = Path(name) / "cas"
        root.parent.chmod(0o755)
        (root / "lost+found").mkdir(mode=0o700, parents=True)
        shard = root / "acme" / "app" / "cas" / "AB"
        shard.mkdir(parents=True)
        for number, mode in enumerate((0o640, 0o644, 0o000)):
            (shard / f"0{number}AB").write_bytes(b"")
            (shard / f"0{number}AB").chmod(mode)
        (shard / "00AB").write_bytes(b"ours")
        os.chown(shard / "00AB", NOBODY, NOBODY)
        scrub = Scrub(root)
        os.seteuid(NOBODY)
        try:
            list(scrub.run())
        finally:
            os.seteuid(0)
    report = scrub.report
    assert (report.files, report.skipped, report.findings) == (1, 3, [])
    assert report.complete


def test_root_scrubs_files_of_everyone_and_gives_what_it_makes_to_the_owner(
    storage: Storage,
) -> None:
    require_root()
    path = storage.artifact(b"bytes")
    flip(path)
    for each in (storage.root, path):
        os.chown(each, NOBODY, NOBODY)
    with ScrubLock(storage.root) as lock:
        report = storage.scrub()
        lock.record_completed()
    assert (len(report.findings), report.skipped) == (1, 0)
    made = [storage.root / LAST_SCRUB, storage.held()[path.name].parent]
    assert {each.stat().st_uid for each in made} == {NOBODY}


# How it reads.


@pytest.mark.parametrize("kind", Kind)
def test_access_times_stay(storage: Storage, kind: Kind) -> None:
    path = storage.stored(kind, storage.chances.randbytes(10_000))
    before, _ = make_old(path)  # which any reader would move
    assert storage.scrub().bytes == 10_000
    assert times_of(path)[0] == before
    path.read_bytes()
    if times_of(path)[0] == before:
        pytest.skip("this file system keeps no access times")


def opened_with(patch: pytest.MonkeyPatch, *, direct: bool) -> list[int]:
    """The flags that files are opened with, on a file system with or without direct reads."""
    really_open, seen = os.open, list[int]()

    def watching_open(path: Path | str, flags: int, mode: int = 0o777, **how: Any) -> int:
        if flags & os.O_DIRECT and not direct:
            raise fail(errno.EINVAL)
        if not flags & os.O_DIRECTORY:
            seen.append(flags)
        return really_open(path, flags & ~os.O_DIRECT, mode, **how)

    patch.setattr(os, "open", watching_open)
    return seen


@pytest.mark.parametrize("direct", [True, False])
def test_page_cache_is_passed_by_where_that_can_be_done(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    contents = [storage.chances.randbytes(size) for size in SIZES]
    paths = [storage.artifact(content) for content in contents]
    flip(paths[-1], READ_BYTES + 1)
    seen = opened_with(monkeypatch, direct=direct)
    report = storage.scrub()
    assert [bool(flags & os.O_DIRECT) for flags in seen] == [direct] * len(SIZES)
    assert all(flags & os.O_NOATIME and flags & os.O_NOFOLLOW for flags in seen)
    assert report.bytes == sum(SIZES)
    assert [finding.path for finding in report.findings] == [storage.name(paths[-1])]


# What it costs.


@pytest.mark.parametrize("size", [1, MIN_COST - 1, MIN_COST, 3 * READ_BYTES + 5])
def test_cost_is_what_is_read_and_no_step_is_large(storage: Storage, size: int) -> None:
    storage.artifact(storage.chances.randbytes(size))
    steps = list(Scrub(storage.root).run())
    assert sum(steps) == max(size, MIN_COST)
    assert max(steps) <= READ_BYTES


@pytest.mark.parametrize("damage", [empty, link, folder, fifo, listen])
def test_file_that_is_not_read_costs_something_too(
    storage: Storage, damage: Callable[[Path], None]
) -> None:
    damage(storage.artifact(b"bytes"))
    assert sum(Scrub(storage.root).run()) == MIN_COST


# While others are at work.


def test_files_that_are_removed_meanwhile_are_no_trouble(storage: Storage) -> None:
    paths = [storage.artifact(storage.chances.randbytes(3 * READ_BYTES)) for _ in range(4)]
    for path in paths:
        flip(path)
    scrub = Scrub(storage.root)
    steps = scrub.run()
    next(steps)
    for path in paths:
        path.unlink()
        path.parent.rmdir()
    assert sum(steps) > 0
    assert scrub.report.findings == []
    assert scrub.report.complete
    assert storage.held() == {}


def test_file_that_vanishes_after_it_was_listed_is_no_trouble(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_calls_for(monkeypatch, os, "open", storage.artifact(b"bytes"), errno.ENOENT)
    report = storage.scrub()
    assert (report.files, report.skipped, report.findings) == (0, 0, [])
    assert report.complete


def test_file_that_is_replaced_while_it_is_read_is_never_moved(storage: Storage) -> None:
    path = storage.entry(storage.chances.randbytes(3 * READ_BYTES))
    flip(path)
    scrub = Scrub(storage.root)
    steps = scrub.run()
    next(steps)
    storage.replace(path, ENTRIES)
    good = path.stat().st_ino
    list(steps)
    assert scrub.report.findings == []
    assert path.stat().st_ino == good
    assert storage.held() == {}
    assert storage.scrub().findings == []


@pytest.mark.parametrize("damage", [empty, shorten, flip, link, fifo, folder])
def test_file_that_is_replaced_just_before_it_is_moved_is_never_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    path, really_take = storage.entry(b"x" * 100), Quarantine.take
    damage(path)

    def take(quarantine: Quarantine, at: Path, inode: int) -> Path | None:
        if path.is_dir():
            path.rename(storage.root / ".elsewhere")
        storage.replace(path, ENTRIES)
        return really_take(quarantine, at, inode)

    monkeypatch.setattr(Quarantine, "take", take)
    assert storage.scrub().findings == []
    assert path.read_bytes() == ENTRIES
    assert path.stat().st_nlink == 1
    assert storage.held() == {}


def test_read_that_stops_at_a_bad_place_is_found_without_a_record_too(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffered read returns what comes before the bad place; only the next one fails."""
    path, really_read = storage.artifact(storage.chances.randbytes(20_000)), os.preadv
    forget(path)

    def preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if offset >= 8192:
            raise fail(errno.EIO)
        return really_read(fd, [memoryview(buffers[0])[: 8192 - offset]], offset)

    opened_with(monkeypatch, direct=False)
    monkeypatch.setattr(os, "preadv", preadv)
    assert [finding.fault for finding in storage.scrub().findings] == [Fault.UNREADABLE]


# One at a time.


def test_only_one_scrub_runs_at_a_time(storage: Storage) -> None:
    with ScrubLock(storage.root):
        before = open_descriptors()
        with pytest.raises(ScrubRunning):
            ScrubLock(storage.root)
        assert open_descriptors() <= before
    with ScrubLock(storage.root):
        pass


def test_lock_remembers_when_the_last_scrub_came_to_its_end(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert last_scrub(storage.root) is None
    with ScrubLock(storage.root):
        assert last_scrub(storage.root) is None
    assert last_scrub(storage.root) is None
    for now in (1_700_000_000.0, 1_700_000_001.0, 99.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with ScrubLock(storage.root) as lock:
            lock.record_completed()
        assert last_scrub(storage.root) == now
    with ScrubLock(storage.root):
        pass
    assert last_scrub(storage.root) == 99.0


@pytest.mark.parametrize("content", [b"", b"soon", b"\xff\xfe"])
def test_lock_that_says_nothing_is_as_if_there_was_no_scrub(
    storage: Storage, content: bytes
) -> None:
    (storage.root / LAST_SCRUB).write_bytes(content)
    assert last_scrub(storage.root) is None
