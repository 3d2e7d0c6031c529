"""What a site holds while nobody wants anything of it: as much after trouble as before."""

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from operator import le
from pathlib import Path

from tests.support.strace import family
from tests.support.waiting import eventually
from tests.system.site import Site

ANSWER = "held.json"


@dataclass(frozen=True)
class Held:
    """What the processes of a site hold.

    Attributes:
        service, nginx: how many sockets, and files without a name, they have open.
        own: what the service's own books say: requests in flight, and shares.
        temporary: the temporary files.
    """

    service: tuple[int, int]
    nginx: tuple[int, int]
    own: dict[str, int]
    temporary: tuple[str, ...]


def settings_for_held(folder: Path) -> dict[str, str]:
    """The environment in which `CHANGED_COMMAND` tells what it holds, into that folder."""
    return {"HELD": str(folder / ANSWER)}


def held_by(site: Site) -> Held:
    """What a site holds now."""
    answer = Path(site.service.environment["HELD"])
    answer.unlink(missing_ok=True)
    os.kill(site.service.pid, signal.SIGUSR1)
    eventually(answer.exists)
    return Held(
        _open(site.service.pid),
        _open(int((site.nginx.options.runtime / "nginx.pid").read_text())),
        json.loads(answer.read_text()),
        tuple(sorted(map(str, site.service.storage.glob(".tmp/*/*")))),
    )


def expect_no_more_held(site: Site, before: Held) -> None:
    """Return once a site holds no more than `before`: what it keeps for a while it has let go."""
    seen: list[Held] = []

    def is_as_before() -> bool:
        seen.append(held_by(site))
        now = seen[-1]
        return (
            all(map(le, now.service + now.nginx, before.service + before.nginx))
            and now.own == before.own
            and now.temporary == before.temporary
        )

    try:
        eventually(is_as_before)
    except AssertionError as error:
        raise AssertionError(f"{seen[-1]} is more than {before}") from error


def _open(pid: int) -> tuple[int, int]:
    """How many sockets, and files without a name, a process and its children have open."""
    kinds = Counter[str]()
    for each in family(pid):
        for link in Path(f"/proc/{each}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(link.readlink())
                kinds["socket" if target.startswith("socket:") else target[-9:]] += 1
    return kinds["socket"], kinds["(deleted)"]
