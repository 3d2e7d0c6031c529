"""Committing a batch of files, in stages.

Theory of operation
-------------------
All files of a batch are written, then all are synced, and then they get their names; whoever calls
this syncs the folders after that. So syncs come together, which makes them cheap (`group_sync.py`),
and at every moment what has a name has been synced before. What fails in one stage is not in the
next one; the others are. If it is all cut short, there are some names of whole files, of which
nobody has been told, and no more.

Of items that share a path only one is committed: the others would be written for nothing. They get
their turn if it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .temporary import TemporaryFile


class HasPath(Protocol):
    """Something that is to get a name."""

    @property
    def path(self) -> str:
        """The path of the file that it becomes."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A file whose bytes are written.

    It was made here, to be synced, and discarded in the end; or it has been made ready before.

    Attributes:
        file: the file.
        is_ours: whether it was made here.
        time: when it was written, in nanoseconds since the epoch.
    """

    file: TemporaryFile
    is_ours: bool
    time: int = 0


Argument = TypeVar("Argument")
Item = TypeVar("Item", bound=HasPath)
Outcome = TypeVar("Outcome")


def attempt(action: Callable[[Argument], Outcome], argument: Argument) -> Outcome | OSError:
    """The result of `action(argument)`, or the operating system error that it met."""
    try:
        return action(argument)
    except OSError as error:
        return error


def commit(
    batch: Sequence[Item],
    write: Callable[[Sequence[Item]], Iterable[Written | Outcome | OSError]],
    sync: Callable[[Sequence[tuple[Item, Written]]], Iterable[OSError | None]],
    name: Callable[[Item, TemporaryFile], Outcome],
    duplicate_outcome: Outcome,
) -> list[Outcome | OSError]:
    """Commit the first item of each path; the next one only if that fails, and so on.

    Args:
        batch: the items.
        write: writes the files of some; yields the file of each, or its outcome if it has one.
        sync: makes files durable, and returns what went wrong with each.
        name: gives an item's file its name.
        duplicate_outcome: the outcome of items that are not committed as another one was.
    """
    outcomes: list[Outcome | OSError] = [duplicate_outcome] * len(batch)
    waiting = list(range(len(batch)))
    while waiting:
        firsts: dict[str, int] = {}
        for number in waiting:
            firsts.setdefault(batch[number].path, number)
        done = _in_stages([batch[number] for number in firsts.values()], write, sync, name)
        for number, outcome in zip(firsts.values(), done, strict=True):
            outcomes[number] = outcome
        waiting = [
            number
            for number in waiting
            if (first := firsts[batch[number].path]) != number
            and isinstance(outcomes[first], OSError)
        ]
    return outcomes


def _in_stages(
    batch: Sequence[Item],
    write: Callable[[Sequence[Item]], Iterable[Written | Outcome | OSError]],
    sync: Callable[[Sequence[tuple[Item, Written]]], Iterable[OSError | None]],
    name: Callable[[Item, TemporaryFile], Outcome],
) -> list[Outcome | OSError]:
    found: list[Written | Outcome | OSError] = []
    try:
        found += write(batch)
        ours = [
            (item, each)
            for item, each in zip(batch, found, strict=True)
            if isinstance(each, Written) and each.is_ours
        ]
        failures = dict(zip((each for _, each in ours), sync(ours), strict=True))
        outcomes: list[Outcome | OSError] = []
        for item, each in zip(batch, found, strict=True):
            if not isinstance(each, Written):
                outcomes.append(each)
            elif failure := failures.get(each):
                outcomes.append(failure)
            else:
                outcomes.append(attempt(partial(name, item), each.file))
        return outcomes
    finally:
        for each in found:
            if isinstance(each, Written) and each.is_ours:
                each.file.discard()
