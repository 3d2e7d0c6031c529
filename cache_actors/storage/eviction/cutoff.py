"""The cut-off of eviction: everything that was used before it goes. Pure, no I/O.

The times of last use go into a histogram whose buckets are a 64th of the age wide, so that its size
does not depend on the number of files. The cut-off goes through one bucket; of that, a share is
taken by name, so that no more goes than has to even if all files have the same age.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_actors.storage.files.last_use import WRONG_CLOCK_NS

if TYPE_CHECKING:
    from cache_actors.storage.capacity import Amount

_MANTISSA_BITS = 6
_MILLISECOND = 1_000_000
_NAMES = 1 << 32
_NEVER = 1 << 32


@dataclass(slots=True)
class Histogram:
    """Amounts by time of last use, seen from the time `now` (nanoseconds since the epoch)."""

    now: int
    buckets: dict[int, list[int]] = field(default_factory=dict)

    def add(self, last_use: int, size: int) -> None:
        """Count a file of `size` bytes on disk."""
        bucket = self.buckets.setdefault(_bucket(_age(self.now, last_use)), [0, 0])
        bucket[0] += size
        bucket[1] += 1


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A rule for what goes: older than a bucket of age, and of that bucket a `share` by name.

    If it takes a file, it takes it at any earlier last use as well.
    """

    now: int
    bucket: int
    share: float

    def takes(self, last_use: int, name: str) -> bool:
        """Whether a file of that name, used last at that time, has to go."""
        bucket = _bucket(_age(self.now, last_use))
        if bucket != self.bucket:
            return bucket > self.bucket
        return zlib.crc32(name.encode()) < self.share * _NAMES

    def takes_all(self, last_use: int) -> bool:
        """Whether files of any name that were used last at that time have to go."""
        return _bucket(_age(self.now, last_use)) > self.bucket


def cutoff(histogram: Histogram, excess: Amount, protected: float) -> Cutoff:
    """The rule that makes `excess` go, least recently used first.

    Args:
        histogram: of everything that may go.
        excess: how much has to go; if there is not so much, everything does. Nothing: nothing.
        protected: seconds; what was used within them stays in any case.
    """
    if not excess:
        return Cutoff(histogram.now, _NEVER, 0.0)
    youngest = _bucket(int(protected * 1e9)) + 1
    taken_bytes = taken_files = 0
    for bucket in sorted(histogram.buckets, reverse=True):
        if bucket < youngest:
            break
        size, files = histogram.buckets[bucket]
        share = max(
            _share(excess.bytes - taken_bytes, size), _share(excess.files - taken_files, files)
        )
        if share <= 1.0:
            return Cutoff(histogram.now, bucket, share)
        taken_bytes += size
        taken_files += files
    return Cutoff(histogram.now, youngest, 1.0)


def _share(wanted: int, there: int) -> float:
    """The share of what is there that has to go; more than 1 if all of it is not enough."""
    if wanted <= 0:
        return 0.0
    return wanted / there if there else math.inf  # small files may take nothing on the disk


def _age(now: int, last_use: int) -> int:
    """The age in nanoseconds. A time far in the future is that of a wrong clock: it must not keep
    a file for ever."""
    age = now - last_use
    return age if age >= -WRONG_CLOCK_NS else -age


def _bucket(age_ns: int) -> int:
    """The bucket of an age: the number of its highest bits, and those bits, in milliseconds."""
    age = max(0, age_ns) // _MILLISECOND
    shift = max(0, age.bit_length() - _MANTISSA_BITS - 1)
    return (shift << _MANTISSA_BITS) + (age >> shift)
