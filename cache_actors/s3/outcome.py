"""What a search of the bucket comes to."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The outcome of a pull."""

    HERE = "here"
    """The file is on this disk."""

    ABSENT = "absent"
    """It is neither here nor in the bucket."""

    CLEANED = "cleaned"
    """It is not here, and a clean has taken what the bucket has under its name, or a part of it."""

    UNUSABLE = "unusable"
    """It is not here, and what the bucket has under its name cannot be used."""

    UNKNOWN = "unknown"
    """It is not here. The bucket could not be asked in time, or the disk has no room."""

    COMING = "coming"
    """An entry has been found, and the artifacts that it refers to are on their way."""
