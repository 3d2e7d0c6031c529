"""strace of a running service, to record its system calls or to make some of them fail.

`violations` checks recorded calls: files must be durable before a reply acknowledges them.
"""

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .programs import find_program
from .service import Service
from .waiting import LIMIT, eventually

_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile"}
_CHANGES = _WRITES | {"fsetxattr", "ftruncate", "fallocate"}
_SYNCS = {"fsync", "fdatasync"}
_LINKS = {"link", "linkat"}
_RENAMES = {"rename", "renameat", "renameat2"}
_MKDIRS = {"mkdir", "mkdirat"}
_SENDS = {"sendto", "sendmsg", "write", "writev"}
PARTS_OF_A_PLACE = 5
"""Parts of a path below the storage folder: account, project, kind, shard and file."""

_ALL = _CHANGES | _SYNCS | _LINKS | _RENAMES | _MKDIRS | _SENDS | {"openat", "close"}
SYSCALLS = ",".join(f"?{name}" for name in sorted(_ALL))
"""Traced system calls; `?` allows names that an architecture does not have."""

_LINE = re.compile(r"(?P<thread>\d+) +\d+\.\d+ (?P<rest>.*)")
_WHOLE = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>.*)")
_UNFINISHED = re.compile(r"(?P<name>\w+)\((?P<arguments>.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_DESCRIPTOR = re.compile(r"(?P<fd>\d+)<(?P<path>[^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class SystemCall:
    """A system call; `began` and `ended` are numbers of lines in the trace."""

    thread: str
    name: str
    arguments: str
    result: str
    began: int
    ended: int

    @property
    def succeeded(self) -> bool:
        """Whether the call returned without an error."""
        return not self.result.startswith(("-1", "?"))

    @property
    def descriptor(self) -> tuple[int, str] | None:
        """The descriptor that is the first argument, and its path; None without one."""
        match = _DESCRIPTOR.match(self.arguments)
        return (int(match["fd"]), match["path"]) if match else None

    @property
    def strings(self) -> list[str]:
        """The arguments in quotes."""
        return _QUOTED.findall(self.arguments)


@dataclass(frozen=True, slots=True)
class Expected:
    """An expectation that `path` is durable once the request with this id is answered 204."""

    request_id: str
    path: str


def parse(lines: Iterable[str]) -> list[SystemCall]:
    """The system calls in the output of `strace -f -y -ttt -o`, in the order of their ends."""
    calls: list[SystemCall] = []
    unfinished: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, rest, began = match["thread"], match["rest"], number
        if begun := _UNFINISHED.fullmatch(rest):
            unfinished[thread] = (f"{begun['name']}({begun['arguments']}", number)
            continue
        if resumed := _RESUMED.fullmatch(rest):
            head, began = unfinished.pop(thread, (f"{resumed['name']}(", number))
            rest = head + resumed["rest"]
        if whole := _WHOLE.fullmatch(rest):
            calls.append(
                SystemCall(
                    thread, whole["name"], whole["arguments"], whole["result"], began, number
                )
            )
    return calls


def violations(calls: Sequence[SystemCall], expected: Iterable[Expected]) -> list[str]:
    """The files and folders that were not durable when they were named or acknowledged.

    A sync covers calls that had returned when it began, and counts once it has returned itself. A
    link, rename or reply must not begin before that.
    """
    return [
        f"{each.request_id}: {problem}" for each in expected for problem in _problems(calls, each)
    ]


def _problems(calls: Sequence[SystemCall], expected: Expected) -> Iterator[str]:
    reply = _reply(calls, expected.request_id)
    if reply is None:
        yield "no reply of 204 was seen"
        return
    namings = [
        call
        for call in calls
        if call.name in _LINKS | _RENAMES
        and call.succeeded
        and call.strings[-1] == expected.path
        and call.began < reply.began
    ]
    if not namings:
        yield f"{expected.path} was not given its name before the reply"
        return
    naming = namings[-1]
    if not _logged(calls, expected.path, naming.began):
        yield from _file_problems(calls, naming)
        folder = str(Path(expected.path).parent)
        if not _synced(calls, folder, naming.ended, reply.began):
            yield f"{folder} was not synced between the {naming.name} and the reply"
    above = {str(parent) for parent in Path(expected.path).parents}
    for made in calls:
        if made.name in _MKDIRS and made.succeeded and made.strings[-1] in above:
            parent = str(Path(made.strings[-1]).parent)
            if not _synced(calls, parent, made.ended, reply.began):
                yield f"{parent} was not synced between the {made.name} in it and the reply"


def _reply(calls: Sequence[SystemCall], request_id: str) -> SystemCall | None:
    for call in calls:
        text = "".join(call.strings) if call.name in _SENDS else ""
        if text.startswith("HTTP/1.1 204") and f"x-request-id: {request_id}\\r\\n" in text:
            return call
    return None


def _logged(calls: Sequence[SystemCall], path: str, before: int) -> bool:
    """Whether the file of that path was written to a log, and the log synced."""
    place = "/".join(Path(path).parts[-PARTS_OF_A_PLACE:])
    return any(
        _synced(calls, call.descriptor[1], call.ended, before)
        for call in calls
        if call.name in _WRITES and call.succeeded and call.descriptor is not None
        if "/.log/" in call.descriptor[1] and any(each.endswith(place) for each in call.strings)
    )


def _file_problems(calls: Sequence[SystemCall], naming: SystemCall) -> Iterator[str]:
    """The violations in the writing of the file that the link or rename `naming` names."""
    opened = _opening(calls, naming)
    if opened is None:
        yield f"the file of the {naming.name} was not seen to be opened"
        return
    file = opened.result
    closed = min(
        (
            call.began
            for call in calls
            if call.name == "close" and _is_of(call, file) and call.began > opened.ended
        ),
        default=float("inf"),
    )
    own = [call for call in calls if _is_of(call, file) and opened.ended < call.began <= closed]
    changes = [call for call in own if call.name in _CHANGES]
    if not any(call.name in _WRITES for call in changes):
        yield "the file was not seen to be written"
        return
    last = max(changes, key=lambda call: call.ended)
    if last.ended > naming.began:
        yield f"{last.name} after the {naming.name} began"
    elif not any(
        call.name in _SYNCS
        and call.result == "0"
        and last.ended < call.began
        and call.ended < naming.began
        for call in own
    ):
        yield f"the file was not synced between its last {last.name} and the {naming.name}"


def _opening(calls: Sequence[SystemCall], naming: SystemCall) -> SystemCall | None:
    """The call that opened the file of a link or rename, whose source is a descriptor's number in
    /proc/self/fd, or a path."""
    source = naming.strings[-2]
    found = [
        call
        for call in calls
        if call.name == "openat" and call.succeeded and call.ended <= naming.began
        if call.strings[0] == source
        or (
            source.isdigit()
            and "O_TMPFILE" in call.arguments
            and call.result.startswith(f"{source}<")
        )
    ]
    if source.isdigit():  # of the same process: writer processes have one thread each
        pid, pids = _owner(naming), {_owner(call) for call in calls if call.name in _LINKS}
        found = [call for call in found if call.thread == pid] or [
            call for call in found if call.thread not in pids
        ]
    return found[-1] if found else None


def _owner(link: SystemCall) -> str | None:
    """The process id in a link from /proc/<pid>/fd, or None."""
    match = re.search(r"</proc/(\d+)/fd>", link.arguments)
    return match[1] if match else None


def _is_of(call: SystemCall, file: str) -> bool:
    """Whether a call's first argument is `file`, a descriptor with its path as strace prints it."""
    match = _DESCRIPTOR.match(call.arguments)
    return match is not None and file.startswith(match[0])


def _synced(calls: Sequence[SystemCall], folder: str, after: int, before: int) -> bool:
    return any(
        call.name in _SYNCS
        and call.result == "0"
        and call.descriptor is not None
        and call.descriptor[1] == folder
        and after < call.began
        and call.ended < before
        for call in calls
    )


@contextmanager
def attached(
    service: Service, output: Path, *options: str, pids: Sequence[int] = ()
) -> Iterator[None]:
    """Attach strace to all threads of `service` and of its processes.

    Or to `pids` alone, some of these processes, and to what they start.
    """
    program = find_program("strace")
    pids = pids or family(service.pid)
    errors = output.with_name(output.name + ".errors")
    with errors.open("wb") as file:
        strace = subprocess.Popen(
            [program, "-f", *(f"--attach={pid}" for pid in pids), "-o", str(output), *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:

        def is_attached() -> bool:
            assert strace.poll() is None, errors.read_text()
            return " attached" in errors.read_text() and all(map(_is_traced, pids))

        eventually(is_attached)
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        try:
            strace.wait(LIMIT)
        finally:
            strace.kill()
            strace.wait()


@contextmanager
def traced(service: Service, output: Path) -> Iterator[None]:
    """Record system calls of `service` in `output`, for `parse`."""
    with attached(service, output, "-y", "-ttt", "-s", "256", "-e", f"trace={SYSCALLS}"):
        yield


@contextmanager
def injected(service: Service, output: Path, names: Sequence[str], error: str) -> Iterator[None]:
    """Make the system calls `names` of `service` fail with `error`, such as EIO.

    Raises:
        AssertionError: none of them was called.
    """
    calls = ",".join(f"?{name}" for name in names)
    with attached(service, output, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"):
        yield
    assert "(INJECTED)" in output.read_text(), f"none of {calls} was called"


def family(pid: int) -> list[int]:
    """The ids of a process and of all its descendants."""
    return [pid, *(each for child in children_of(pid) for each in family(child))]


def children_of(pid: int) -> list[int]:
    """The ids of a process's children; any of them may end meanwhile."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, task.read_text().split())
    return children


def last_argument(pid: int) -> bytes:
    """The last argument of a process's command; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2]
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
