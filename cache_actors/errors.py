"""The base class of errors that the command line prints without a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """A command failed for a reason that its user can mend; the message names it.

    The command line prints the message, without a traceback, and exits with status 2.
    """
