"""A scrub finds all that is broken, moves it away, and touches nothing else."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tests.storage.stores import empty, fail, flip, open_descriptors, refusing, shorten
from tests.support.mounts import require_root, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NOBODY = 65534
DAY = 86_400
ENTRIES = b'{"entries":[{"value":"a"}]}'


@dataclass
class Storage:
    """A storage folder with artifacts and entries in it."""

    root: Path
    store: FileStore
    chances: random.Random = field(default_factory=lambda: random.Random(1))

    def artifact(self, content: bytes, project: str = "app") -> Path:
        path = self._path(Kind.CAS, project)
        assert self.store.publish([Publication(path, [content])]) == [Published.STORED]
        return path

    def entry(self, content: bytes = ENTRIES, project: str = "app") -> Path:
        path = self._path(Kind.KEYVALUE, project)
        self.replace(path, content)
        return path

    def replace(self, path: Path, content: bytes) -> None:
        assert self.store.replace([Replacement(path, content)]) == [None]

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


def test_empty_storage_is_well(storage: Storage) -> None:
    assert storage.scrub() == ScrubReport(complete=True)


def test_every_folder_is_looked_at(storage: Storage) -> None:
    paths = [storage.artifact(b"a", project) for project in ("app", "other") for _ in range(20)]
    paths += [storage.entry(project=project) for project in ("app", "other") for _ in range(20)]
    for path in paths:
        flip(path)
    report = storage.scrub()
    assert {finding.path for finding in report.findings} == {storage.name(path) for path in paths}
    assert report.folders == report.folders_done == len({path.parent for path in paths})


def test_folders_come_in_another_order_each_time(storage: Storage) -> None:
    paths = [storage.artifact(b"a") for _ in range(30)]
    orders = []
    for _ in range(2):
        for path in paths:
            flip(path)
        orders.append([finding.path for finding in storage.scrub().findings])
        for path, held in ((path, storage.held()[path.name]) for path in paths):
            held.rename(path)
            flip(path)
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_storage_that_is_not_there_cannot_be_scrubbed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(Scrub(tmp_path / "missing").run())


# What is broken.


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def lengthen_by_pages(path: Path) -> None:
    os.truncate(path, path.stat().st_size + READ_BYTES)


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
    (lengthen_by_pages, Fault.SIZE),
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
    make = storage.artifact if kind is Kind.CAS else storage.entry
    good = [make(b"good"), storage.artifact(b"good"), storage.entry()]
    path = make(storage.chances.randbytes(size))
    damage(path)
    before = path.lstat()
    content = path.read_bytes() if fault in {Fault.SIZE, Fault.DIGEST, Fault.EMPTY} else None
    report = storage.scrub()
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
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG], ids=errno.errorcode.get
)
def test_file_that_cannot_be_read_is_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, kind: Kind, recorded: bool, number: int
) -> None:
    path = storage.artifact(b"bytes") if kind is Kind.CAS else storage.entry()
    good = storage.artifact(b"good")
    if not recorded:
        forget(path)
    fail_reads_of(monkeypatch, path, number)
    report = storage.scrub()
    held = storage.held()[path.name]
    assert report.findings == [Damage(storage.name(path), Fault.UNREADABLE, storage.name(held))]
    assert not path.exists()
    assert good.exists()
    assert report.complete


def test_file_that_cannot_be_opened_is_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, really_open = storage.artifact(b"bytes"), os.open

    def failing_open(file: Path | str, flags: int, mode: int = 0o777, **how: Any) -> int:
        if file == path:
            raise fail(errno.EIO)
        return really_open(file, flags, mode, **how)

    monkeypatch.setattr(os, "open", failing_open)
    report = storage.scrub()
    assert [finding.fault for finding in report.findings] == [Fault.UNREADABLE]
    assert path.name in storage.held()


def test_folder_that_cannot_be_listed_is_found_and_the_others_are_scrubbed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [storage.artifact(b"bytes") for _ in range(10)]
    lost, really_list = paths[0].parent, Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == lost:
            raise fail(errno.EIO)
        return really_list(folder)

    for path in paths:
        flip(path)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = storage.scrub()
    assert Damage(storage.name(lost), Fault.UNREADABLE, None) in report.findings
    found = {finding.path for finding in report.findings} - {storage.name(lost)}
    assert found == {storage.name(path) for path in paths if path.parent != lost}
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
    assert open_descriptors() == before


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


@pytest.mark.parametrize("kind", Kind)
def test_empty_unrecorded_file_is_found(storage: Storage, kind: Kind) -> None:
    path = storage.artifact(b"bytes") if kind is Kind.CAS else storage.entry()
    forget(path)
    empty(path)
    assert [finding.fault for finding in storage.scrub().findings] == [Fault.EMPTY]


def test_file_on_a_disk_without_attributes_is_unrecorded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.artifact(b"bytes"), storage.entry()
    monkeypatch.setattr(os, "getxattr", refusing(errno.EOPNOTSUPP))
    report = storage.scrub()
    assert (report.files, report.unrecorded, report.findings) == (2, 2, [])


# What is not ours.


@pytest.mark.parametrize(
    "name",
    [
        "acme/app/cas/AB/01AB.tmp",
        "acme/app/cas/CD/01AB",
        "acme/app/keyvalue/AB/01AB",
        "acme/app/keyvalue/AB/01AB.json.bak",
        "Acme/app/cas/AB/01AB",
        "acme/a.b/cas/AB/01AB",
    ],
)
def test_unknown_file_is_counted_and_left_alone(storage: Storage, name: str) -> None:
    path = storage.root / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    report = storage.scrub()
    assert (report.unknown, report.files, report.findings) == (1, 0, [])
    assert path.exists()


@pytest.mark.parametrize(
    "name",
    [
        "file",
        "acme",
        "acme/app",
        "acme/app/cas",
        "acme/app/cas/AB",
        "acme/app/other/AB/01AB",
        "acme/app/cas/AB/01AB/deeper",
        f"{QUARANTINE}/app/cas/AB/01AB",
        f"{TEMPORARY}/app/cas/AB/01AB",
        ".else/app/cas/AB/01AB",
    ],
)
def test_what_lies_elsewhere_is_not_touched(storage: Storage, name: str) -> None:
    path = storage.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    report = storage.scrub()
    assert report.files == (1 if name.endswith("deeper") else 0)
    found = [finding.path for finding in report.findings]
    if name.endswith("deeper"):
        assert found == ["acme/app/cas/AB/01AB"]
    else:
        assert found == []
        assert path.exists()


def test_folder_that_others_made_in_the_storage_hinders_nobody() -> None:
    """Every ext4 has a `lost+found` at its top, which only root may look into."""
    require_root()
    outcome = scrub_as_nobody("(root / 'lost+found').mkdir(mode=0o700)")
    assert outcome["files"] == 1
    assert outcome["complete"]


# Whose files.

AS_NOBODY = """
import dataclasses, json, os, sys
from pathlib import Path
from cache_actors.storage.integrity.scrub import Scrub
from cache_actors.storage.files.store import FileStore, Publication
from cache_actors.storage.files.temporary import TemporaryFolder
import encodings.idna

root = Path(sys.argv[1])
os.chown(root, 65534, 65534)
exec(sys.argv[2])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
temporary = TemporaryFolder(root / ".tmp")
store = FileStore(root, temporary, durable=False)
print(store.publish([Publication(root / "acme/app/cas/AB/01AB", [b"ours"])]), file=sys.stderr)
scrub = Scrub(root)
list(scrub.run())
temporary.remove()
print(json.dumps(dataclasses.asdict(scrub.report), default=str))
"""


def scrub_as_nobody(preparation: str) -> dict[str, Any]:
    """The report of a scrub by nobody, who has stored one file in a folder as root has left it."""
    with tempfile.TemporaryDirectory(prefix="cache-actors-scrub-") as name:
        Path(name).chmod(0o755)
        root = Path(name) / "cas"
        root.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(root), preparation],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        report: dict[str, Any] = json.loads(run.stdout)
        return report


def test_files_of_another_user_are_skipped() -> None:
    require_root()
    outcome = scrub_as_nobody(
        "theirs = root / 'beta/app/cas/AB/01AB'; theirs.parent.mkdir(parents=True);"
        "theirs.write_bytes(b''); theirs.chmod(0o644);"
        "closed = theirs.with_name('02AB'); closed.write_bytes(b''); closed.chmod(0)",
    )
    assert (outcome["files"], outcome["skipped"], outcome["findings"]) == (1, 2, [])
    assert outcome["complete"]


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
        lock.completed()
    assert (len(report.findings), report.skipped) == (1, 0)
    made = [storage.root / LAST_SCRUB, storage.held()[path.name].parent]
    assert {each.stat().st_uid for each in made} == {NOBODY}


# How it reads.


def set_old_atime(path: Path) -> int:
    """An access time that any reader would move, if access times are kept at all."""
    now = time.time_ns()
    os.utime(path, ns=(now - 3 * DAY * 10**9, now - 2 * DAY * 10**9))
    return path.stat().st_atime_ns


@pytest.mark.parametrize("size", [10_000, 2 * READ_BYTES + 5])
@pytest.mark.parametrize("kind", Kind)
def test_access_times_stay(storage: Storage, kind: Kind, size: int) -> None:
    content = storage.chances.randbytes(size)
    path = storage.artifact(content) if kind is Kind.CAS else storage.entry(content)
    before = set_old_atime(path)
    assert storage.scrub().bytes == size
    assert path.stat().st_atime_ns == before
    path.read_bytes()
    if path.stat().st_atime_ns == before:
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


def test_no_descriptor_stays_open(storage: Storage) -> None:
    for damage, _ in BREAKS:
        damage(storage.artifact(b"bytes"))
    before = open_descriptors()
    assert len(storage.scrub().findings) == len(BREAKS)
    assert open_descriptors() == before


def test_storage_in_memory_is_scrubbed(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", "size=8m") as root:
        temporary = TemporaryFolder(root / TEMPORARY)
        storage = Storage(root, FileStore(root, temporary, durable=False))
        paths = [storage.artifact(storage.chances.randbytes(size)) for size in SIZES[:7]]
        os.truncate(paths[-1], 0)
        report = storage.scrub()
        assert report.files == 7
        assert [finding.path for finding in report.findings] == [storage.name(paths[-1])]
        temporary.remove()


# What it costs.


def costs(storage: Storage) -> list[int]:
    return list(Scrub(storage.root).run())


def test_cost_is_what_is_read_and_no_step_is_large(storage: Storage) -> None:
    storage.artifact(storage.chances.randbytes(3 * READ_BYTES + 5))
    steps = costs(storage)
    assert sum(steps) == 3 * READ_BYTES + 5
    assert max(steps) <= READ_BYTES


def test_small_file_costs_something_too(storage: Storage) -> None:
    for size in (1, MIN_COST - 1, MIN_COST):
        storage.artifact(storage.chances.randbytes(size))
    assert sum(costs(storage)) == 3 * MIN_COST


@pytest.mark.parametrize("damage", [empty, link, folder, fifo, listen])
def test_file_that_is_not_read_costs_something_too(
    storage: Storage, damage: Callable[[Path], None]
) -> None:
    damage(storage.artifact(b"bytes"))
    assert sum(costs(storage)) == MIN_COST


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


def test_whole_project_that_is_removed_meanwhile_is_no_trouble(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.artifact(b"bytes", "gone")
    kept = storage.artifact(b"bytes", "kept")
    flip(kept)
    really_list = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if "gone" in folder.parts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return really_list(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = storage.scrub()
    assert [finding.path for finding in report.findings] == [storage.name(kept)]
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
        assert open_descriptors() == before
    with ScrubLock(storage.root):
        pass


def test_lock_is_for_processes_too(storage: Storage) -> None:
    script = (
        "import sys; from pathlib import Path; from cache_actors.storage.integrity.scrub import *\n"
    )
    script += "try: ScrubLock(Path(sys.argv[1]))\nexcept ScrubRunning: print('running')"
    command = [sys.executable, "-c", script, str(storage.root)]
    with ScrubLock(storage.root):
        assert subprocess.check_output(command, text=True) == "running\n"
    assert subprocess.check_output(command, text=True) == ""


def test_lock_in_a_storage_that_is_not_there_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScrubLock(tmp_path / "missing")


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
            lock.completed()
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
