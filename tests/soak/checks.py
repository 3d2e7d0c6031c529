"""What is looked at while nobody writes: every file on disk, and whether every promise is kept."""

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cache_actors.kinds import Kind
from cache_actors.storage.layout import LAST_SCRUB, LOGS, QUARANTINE, TEMPORARY, Key, key_at

from .report import Tally
from .site import Site
from .world import Fault, Violation, World

LEFTOVER_SECONDS = 3.0
"""Seconds that the service has to get rid of uploads whose clients are gone."""

SAMPLE = 0.1
"""Part of the files already compared that is compared again after a round."""

KEEP_BYTES = 140 << 20
"""What the soak leaves on disk after a round; it removes the oldest, once verified."""

NGINX_COMPLAINTS = ("[crit]", "[alert]", "[emerg]")


class Inspector:
    """Looks at a site's storage, and compares it with what was sent."""

    def __init__(self, site: Site, world: World, tally: Tally) -> None:
        self._site = site
        self._world = world
        self._tally = tally
        self._compared: dict[Key, tuple[tuple[int, int, int], bytes]] = {}
        self._log_position = 0
        self._nginx_log_position = 0

    def check_disk(self, sample: random.Random | None) -> None:
        """Compare every file with what was sent, and look for every acknowledged write.

        Args:
            sample: chooses which of the files that have been compared before are compared again;
                None for all of them.
        """
        found: dict[Key, bytes] = {}
        began = time.monotonic()
        for path in self._files():
            key = key_at(path.relative_to(self._site.storage).parts)
            if key is None:
                self._violate(Fault.FILE, str(path))
                continue
            self._check_file(key, path, found, sample, began)
        for key in self._world.firm():
            self._tally.add("present")
            if key not in found:
                self._tally.violate(self._world.check_digest(key, None, began, began))
        for key in self._compared.keys() - found.keys():
            del self._compared[key]

    def _check_file(
        self,
        key: Key,
        path: Path,
        found: dict[Key, bytes],
        sample: random.Random | None,
        began: float,
    ) -> None:
        status = path.lstat()
        # A module has a second name, where its parts were, if a kill came right after its link.
        links = {1, 2} if key.kind is Kind.MODULE else {1}
        if not stat.S_ISREG(status.st_mode) or status.st_nlink not in links:
            self._violate(
                Fault.FILE, str(path), f"mode {status.st_mode:o}, {status.st_nlink} links"
            )
            return
        fingerprint = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._compared.get(key)
        if known and known[0] == fingerprint and sample and sample.random() > SAMPLE:
            digest = known[1]
            violation = self._world.check_digest(key, digest, began, began)
        else:
            data = path.read_bytes()
            digest = hashlib.sha256(data).digest()
            self._tally.add("files")
            violation = self._world.check_read(key, data, began, time.monotonic())
        self._tally.violate(violation)
        if violation is None:
            self._compared[key] = (fingerprint, digest)
        found[key] = digest

    def _files(self) -> Iterator[Path]:
        """All files below the storage folder, but those in the service's own places."""
        root = self._site.storage
        for folder, folders, names in os.walk(root):
            if folder == str(root):
                for own in (TEMPORARY, QUARANTINE, LOGS):
                    if own in folders:
                        folders.remove(own)
                names = [name for name in names if name != LAST_SCRUB]
            for name in names:
                yield Path(folder) / name

    def check_places(self, *, stopped: bool = False) -> None:
        """The temporary folder holds the living processes' own folders at most, and nothing in
        those, beside uploads in parts, which are kept for a while; the quarantine is empty.
        """
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while (left := self._leftovers(stopped)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in left:
            self._violate(Fault.LEFTOVER, path, "after a stop" if stopped else "")
        quarantine = self._site.storage / QUARANTINE
        for file in quarantine.rglob("*"):
            if not file.is_dir():
                self._violate(Fault.QUARANTINED, str(file))

    def _leftovers(self, stopped: bool) -> list[str]:
        folders = sorted((self._site.storage / TEMPORARY).glob("cache-actors-*"))
        own = 0 if stopped else 3 * self._site.workers  # each one's, and of its two that write
        left = [str(path) for path in folders[own:]]
        return left + [str(path) for folder in folders[:own] for path in folder.rglob("*")]

    def check_logs(self) -> None:
        """The service logs no exception but those injected, and nginx nothing that is critical."""
        with self._site.service.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._log_position)
            lines = file.readlines()
            self._log_position = file.tell()
        for line in lines:
            if (problem := problem_in(line)) is not None:
                self._violate(Fault.LOG, "the service's log", problem)
        complaints = self._site.nginx.error_log()
        new = complaints[self._nginx_log_position :]
        self._nginx_log_position = len(complaints)
        for line in new.splitlines():
            if any(level in line for level in NGINX_COMPLAINTS):
                self._violate(Fault.LOG, "nginx's log", line[:300])

    def check_scrub(self) -> None:
        """The service's own scrub finds nothing broken."""
        command = [sys.executable, "-m", "cache_actors", "scrub", "--json", "--rate", "2000"]
        ended = subprocess.run(
            [*command, "--storage", str(self._site.storage)],
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode != 0:
            self._violate(Fault.SCRUB, f"exit status {ended.returncode}", ended.stdout[-500:])

    def retire(self) -> set[Key]:
        """Remove the oldest of what was compared if it is too much; return what was removed."""
        sizes = {entry: fingerprint[2] for entry, (fingerprint, _) in self._compared.items()}
        excess = sum(sizes.values()) - KEEP_BYTES
        retired: set[Key] = set()
        for upload in self._world.uploads():
            entry = upload.content.entry
            if excess <= 0:
                break
            if not entry.kind.refers and entry in sizes and entry not in retired:
                excess -= sizes[entry]
                retired.add(entry)
        for entry in retired:
            entry.path(self._site.storage).unlink(missing_ok=True)
            del self._compared[entry]
        self._world.retire(retired)
        self._tally.add("retired", len(retired))
        return retired

    def _violate(self, fault: Fault, what: str, detail: str = "") -> None:
        self._tally.violate(Violation(fault, what, detail))


INJECTED = ("InjectedCrash", "ProcessDied")
"""What crashes actors: a flag, and the kill of a process that writes."""


def problem_in(line: str) -> str | None:
    """What is wrong with a line of the service's log, if anything."""
    if not line.startswith("{"):
        return line.strip()[:500] or None
    event = json.loads(line)
    exception = str(event.get("exception", ""))
    if event["level"] == "critical":
        return line.strip()[:500]
    if exception and not any(name in exception for name in INJECTED):
        return f"{event['event']}: {exception[-500:]}"
    return None
