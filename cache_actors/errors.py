"""The error of a command that cannot do what it was asked for."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what it was asked for; the message says what, and why.

    The command line prints the message, without a traceback, and exits with status 2.
    """
