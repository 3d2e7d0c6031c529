"""The process that listens at a port of this host, for error messages about a port in use."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
"""Code of the state LISTEN in `/proc/net/tcp`."""


def listener_at(host: str, port: int) -> str:
    """The process that listens at `host` and `port`, in words.

    Another user's process is not visible, and is described by the user's number or as "somebody".
    """
    wanted = ipaddress.ip_address(host.partition("%")[0])
    for table in "tcp", "tcp6":
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                found = _address(address)
                overlap = found == wanted or found.is_unspecified or wanted.is_unspecified
                if fields[3] == _LISTENS and int(number, 16) == port and overlap:
                    return _holder(f"socket:[{fields[9]}]") or f"a process of user {fields[7]}"
    return "somebody"


def process_named(pid: int | str) -> str:
    """The process `pid` in words, with at most 100 characters of its command if it is visible."""
    command = ""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        command = b" ".join(words).decode(errors="replace")
    shown = "".join(each if each.isprintable() else "?" for each in command[:100])
    return f"process {pid}" + (f" ({shown})" if shown else "")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address of `/proc/net/tcp`: words of 32 bits in hexadecimal, little-endian."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _holder(socket: str) -> str | None:
    """The first process that has the socket open, in words; None if no such process is visible."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) == socket:
                        return process_named(process.name)
    return None
