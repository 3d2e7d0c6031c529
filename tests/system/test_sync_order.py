"""What is acknowledged has been synced: the order of the real process's system calls."""

import threading
from pathlib import Path

import pytest

from cache_actors.cli.dev.tuist import StandInTuist
from tests.support.service import Service, client_of, running_service
from tests.support.strace import Expected, parse, traced, violations

MEBIBYTE = 1 << 20


class Session:
    """Sends requests under an id of their own, and remembers what each one must have stored."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.expected: list[Expected] = []

    def upload(self, name: str, size: int) -> None:
        """Store an artifact."""
        path = f"acme/app/cas/{name[2:4]}/{name}"
        self._send("POST", f"/api/cache/cas/{name}", name.encode().ljust(size, b"x"), path)

    def put(self, name: str, value: str) -> None:
        """Store an entry."""
        body = b'{"cas_id": "%b", "entries": [{"value": "%b"}]}' % (name.encode(), value.encode())
        path = f"acme/app/keyvalue/{name[2:4]}/{name}.json"
        self._send("PUT", "/api/cache/keyvalue", body, path)

    def _send(self, method: str, url: str, body: bytes, path: str) -> None:
        request_id = f"request-{threading.get_native_id()}-{len(self.expected)}"
        self.expected.append(Expected(request_id, str(self._service.storage / path)))
        with client_of(self._service.url) as client:
            headers = {"X-Request-ID": request_id}
            answer = client.request(method, url, headers=headers, content=body)
        assert answer.status_code == 204


def write_a_bit_of_everything(service: Service) -> list[Expected]:
    """Small, large and concurrent uploads, into new folders and old ones, and entries."""
    session = Session(service)
    session.upload("AA00-first", 1000)
    session.upload("AA00-second", 1000)
    session.upload("AA00-large", 2 * MEBIBYTE)
    session.upload("AA01-large", 2 * MEBIBYTE)
    session.put("0~00-entry", "b25l")
    session.put("0~00-entry", "dHdv")
    names = [f"AA{number % 4:02}-concurrent-{number}" for number in range(16)]
    threads = [threading.Thread(target=session.upload, args=(name, 1000)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(session.expected) == 6 + 16
    return session.expected


def test_everything_is_synced_in_order_before_it_is_acknowledged(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    output = tmp_path / "trace"
    with running_service(Service(tmp_path / "cas", tuist.url)) as service:
        with traced(service, output):
            expected = write_a_bit_of_everything(service)
        calls = parse(output.read_text().splitlines())
        assert violations(calls, expected) == []
        made = {call.strings[-1] for call in calls if call.name.startswith("mkdir")}
        project = service.storage / "acme" / "app"
        assert {str(folder) for folder in (project.parent, project, project / "cas")} <= made


def test_without_durability_the_check_finds_that_nothing_is_synced(
    tmp_path: Path, tuist: StandInTuist
) -> None:
    output = tmp_path / "trace"
    relaxed = Service(tmp_path / "cas", tuist.url, {"DURABILITY": "relaxed"})
    with running_service(relaxed) as service:
        with traced(service, output):
            expected = write_a_bit_of_everything(service)
        found = violations(parse(output.read_text().splitlines()), expected)
    for each in expected:
        own = [line for line in found if line.startswith(f"{each.request_id}: ")]
        assert any("the file was not synced" in line for line in own)
        assert any(" and the reply" in line for line in own)


# The check itself, on traces made by hand.

OPEN = '7 1.0 openat(AT_FDCWD</>, "/s/.tmp/t", O_RDWR|O_TMPFILE, 0640) = 13</s/.tmp/t/#5>(deleted)'
WRITE = '7 1.0 writev(13</s/.tmp/t/#5>(deleted), [{iov_base="x", iov_len=1}], 1) = 1'
RECORD = '7 1.0 fsetxattr(13</s/.tmp/t/#5>(deleted), "user.a", "\\t\\1", 2, 0) = 0'
SYNC = "7 1.0 fdatasync(13</s/.tmp/t/#5>(deleted)) = 0"
LINK = '7 1.0 linkat(14</proc/1/fd>, "13", AT_FDCWD</>, "/s/a/b/id", AT_SYMLINK_FOLLOW) = 0'
FOLDER = "7 1.0 fsync(15</s/a/b>) = 0"
REPLY = '8 1.0 sendto(9<socket:[1]>, "HTTP/1.1 204 \\r\\nx-request-id: r\\r\\n"..., 60, 0) = 60'
MAKE = '7 1.0 mkdir("/s/a/b", 0777) = 0'
PARENT = "7 1.0 fsync(15</s/a>) = 0"

GOOD = [MAKE, PARENT, OPEN, WRITE, RECORD, SYNC, LINK, FOLDER, REPLY]


def in_two(line: str, *between: str) -> list[str]:
    """A system call that others come in between of, as strace writes it."""
    thread, rest = line.split(" 1.0 ")
    name = rest.partition("(")[0]
    head, _, result = rest.rpartition(") = ")
    first = f"{thread} 1.0 {head} <unfinished ...>"
    return [first, *between, f"{thread} 1.0 <... {name} resumed>) = {result}"]


def on_another_thread(line: str) -> str:
    return line.replace("7", "6", 1)


def found_in(lines: list[str]) -> list[str]:
    return violations(parse(lines), [Expected("r", "/s/a/b/id")])


def test_good_order_is_found_good() -> None:
    assert found_in(GOOD) == []
    assert found_in([MAKE, *GOOD[2:7], *in_two(FOLDER), PARENT, REPLY]) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([OPEN, WRITE, LINK, SYNC, FOLDER, REPLY], "the file was not synced"),
        ([OPEN, WRITE, SYNC, RECORD, LINK, FOLDER, REPLY], "between its last fsetxattr"),
        ([OPEN, WRITE, SYNC, LINK, WRITE, FOLDER, REPLY], "writev after the linkat began"),
        ([OPEN, WRITE, SYNC.replace("= 0", "= -1 EIO"), LINK, FOLDER, REPLY], "was not synced"),
        ([OPEN, WRITE, *in_two(SYNC, on_another_thread(LINK)), FOLDER, REPLY], "was not synced"),
        ([OPEN, *in_two(WRITE, on_another_thread(SYNC)), LINK, FOLDER, REPLY], "was not synced"),
        ([OPEN, SYNC, LINK, FOLDER, REPLY], "not seen to be written"),
        ([OPEN, WRITE, SYNC, LINK, REPLY, FOLDER], "/s/a/b was not synced between the linkat"),
        ([OPEN, WRITE, SYNC, FOLDER, LINK, REPLY], "/s/a/b was not synced between the linkat"),
        ([OPEN, WRITE, SYNC, LINK, *in_two(FOLDER, REPLY)], "/s/a/b was not synced"),
        ([MAKE, *GOOD[2:]], "/s/a was not synced between the mkdir in it and the reply"),
        ([PARENT, MAKE, *GOOD[2:]], "/s/a was not synced between the mkdir in it and the reply"),
        ([MAKE, *GOOD[2:], PARENT], "/s/a was not synced between the mkdir in it and the reply"),
        ([OPEN, WRITE, SYNC, FOLDER, REPLY, LINK], "not given its name before the reply"),
        (GOOD[:-1], "no reply"),
    ],
)
def test_bad_order_is_found(lines: list[str], problem: str) -> None:
    found = found_in(lines)
    assert len(found) == 1
    assert problem in found[0]


def test_renamed_file_is_followed_to_where_it_was_opened() -> None:
    path = "/s/.tmp/t/0"
    opened = f'7 1.0 openat(AT_FDCWD</>, "{path}", O_RDWR|O_CREAT, 0640) = 13<{path}>'
    write = f'7 1.0 writev(13<{path}>, [{{iov_base="x", iov_len=1}}], 1) = 1'
    sync = f"7 1.0 fdatasync(13<{path}>) = 0"
    rename = f'7 1.0 rename("{path}", "/s/a/b/id") = 0'
    assert found_in([opened, write, sync, rename, FOLDER, REPLY]) == []
    assert found_in([opened, write, rename, sync, FOLDER, REPLY]) != []


IN_LOG = Expected("r", "/s/acme/app/cas/AB/id")
LOG = '7 1.0 pwritev(9</s/.log/x/1>, [{iov_base="\\7acme/app/cas/AB/id", iov_len=9}], 1, 4096) = 9'
LOG_SYNC = "7 1.0 fdatasync(9</s/.log/x/1>) = 0"
NAME = LINK.replace("/s/a/b/id", IN_LOG.path)


@pytest.mark.parametrize(
    ("lines", "is_good"),
    [
        ([OPEN, WRITE, LOG, LOG_SYNC, NAME, REPLY], True),
        ([OPEN, WRITE, LOG, NAME, LOG_SYNC, REPLY], False),
        ([OPEN, WRITE, LOG_SYNC, LOG, NAME, REPLY], False),
        ([OPEN, WRITE, LOG, LOG_SYNC.replace("= 0", "= -1 EIO"), NAME, REPLY], False),
        ([OPEN, WRITE, LOG.replace("/AB/id", "/AB/other"), LOG_SYNC, NAME, REPLY], False),
        ([OPEN, WRITE, LOG.replace("/.log/", "/a/"), LOG_SYNC, NAME, REPLY], False),
    ],
)
def test_file_in_a_log_that_was_synced_before_its_name_needs_no_other_sync(
    lines: list[str], is_good: bool
) -> None:
    assert (violations(parse(lines), [IN_LOG]) == []) is is_good
