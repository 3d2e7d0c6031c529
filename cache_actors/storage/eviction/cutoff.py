"""The cut-off of eviction: the age from which files are evicted. Pure, no I/O.

Ages are counted in a histogram whose buckets are at most a 64th of the age wide, so that its size
does not depend on the number of files. The cut-off lies in one bucket, of which only a share is
evicted, chosen by name: so eviction removes no more than it has to even if all files have one age.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

from cache_actors.storage.capacity import Amount
from cache_actors.storage.files.last_use import WRONG_CLOCK_NS

_MANTISSA_BITS = 6
_MILLISECOND = 1_000_000
_NAMES = 1 << 32
_NEVER = 1 << 32


@dataclass(slots=True)
class Histogram:
    """Bytes and files by age at the time `now` (nanoseconds since the epoch)."""

    now: int
    buckets: dict[int, list[int]] = field(default_factory=dict)

    def add(self, last_use: int, size: int) -> None:
        """Count a file of `size` bytes on disk, last used at `last_use` (as `now`)."""
        bucket = self.buckets.setdefault(_bucket(_age(self.now, last_use)), [0, 0])
        bucket[0] += size
        bucket[1] += 1


@dataclass(frozen=True, slots=True)
class Cutoff:
    """An eviction rule: all files older than the bucket `bucket`, and a `share` of those in it.

    The rule is monotonic: if it takes a file, it would take that at any earlier last use too.
    """

    now: int
    bucket: int
    share: float

    def takes(self, last_use: int, name: str) -> bool:
        """Whether the file `name`, last used at `last_use`, is to be evicted."""
        bucket = _bucket(_age(self.now, last_use))
        if bucket != self.bucket:
            return bucket > self.bucket
        return zlib.crc32(name.encode()) < self.share * _NAMES

    def takes_all(self, last_use: int) -> bool:
        """Whether files of any name, last used at `last_use`, are to be evicted."""
        return _bucket(_age(self.now, last_use)) > self.bucket


def cutoff(histogram: Histogram, excess: Amount, protected: float) -> Cutoff:
    """The rule that evicts `excess`, least recently used files first.

    Args:
        histogram: all files that may be evicted.
        excess: amount to evict. If there is less, the rule takes all files but protected ones.
        protected: age in seconds below which a file is never evicted.
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


def evictable(histogram: Histogram, protected: float) -> Amount:
    """All that a rule could evict; files younger than `protected` seconds are not."""
    youngest = _bucket(int(protected * 1e9)) + 1
    old = [sums for bucket, sums in histogram.buckets.items() if bucket >= youngest]
    return Amount(sum(size for size, _ in old), sum(files for _, files in old))


def _share(wanted: int, there: int) -> float:
    """The share of the amount `there` to evict; above 1 if all of it is not enough."""
    if wanted <= 0:
        return 0.0
    return wanted / there if there else math.inf  # tiny files may use no disk blocks


def _age(now: int, last_use: int) -> int:
    """The age in nanoseconds. A last use far in the future comes from a wrong clock, and counts as
    one as far in the past, so that it keeps no file for ever."""
    age = now - last_use
    return age if age >= -WRONG_CLOCK_NS else -age


def _bucket(age_ns: int) -> int:
    """The bucket of an age: 64 for each doubling, and none narrower than a millisecond."""
    age = max(0, age_ns) // _MILLISECOND
    shift = max(0, age.bit_length() - _MANTISSA_BITS - 1)
    return (shift << _MANTISSA_BITS) + (age >> shift)
