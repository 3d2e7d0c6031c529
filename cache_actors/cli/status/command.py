"""Asking once or again and again, and what becomes of the answers.

Errors are one line on standard error. Where there is no terminal, the same text is printed without
colours and control codes, each answer below the one before it.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cache_actors.cli.format import printable
from cache_actors.http.routes.up_schema import NotAnAnswer, read_answer
from cache_actors.runtime.up_probe import NoAnswer, instance_at, own_instance

from .view import view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

    from cache_actors.http.routes.up_schema import Health
    from cache_actors.runtime.up_probe import UpAnswer

EXIT_NOT_UP = 1
"""Exit status: the service is degraded, draining, or does not answer."""

EVERY_SECONDS = 1.0
"""Pause in seconds between an answer and the next question, with `--watch`."""

WIDE = 200
"""Width of the output in columns where there is no terminal, so that nothing is cut off."""


def run_status(
    environment: Mapping[str, str], url: str | None, *, watch: bool, as_json: bool
) -> int:
    """Show how the service is, and return the exit status.

    A watch goes on until it is interrupted, whatever the answers are. That is how it ends, so its
    exit status is 0.

    Args:
        environment: that of the service, which says where it listens.
        url: where to ask instead.
        watch: whether to ask again and again.
        as_json: whether to print answers as they come, each on a line.

    Raises:
        BadAddress: neither says where the service listens.
    """

    def ask() -> UpAnswer:
        # Each time anew: in a folder of sockets, another instance may have taken over.
        return (instance_at(url) if url else own_instance(environment)).get()

    if not watch:
        return _once(ask, as_json=as_json)
    try:
        return _watch_lines(ask) if as_json else _watch(ask)
    except KeyboardInterrupt:
        return 0


def _once(ask: Callable[[], UpAnswer], *, as_json: bool) -> int:
    try:
        answer = ask()
        health = _read(answer)
    except (NoAnswer, NotAnAnswer) as error:
        click.echo(str(error), err=True)
        return EXIT_NOT_UP
    if as_json:
        click.echo(answer.body)
    else:
        console = _console()
        console.print(_picture(health, console))
    return 0 if answer.status == HTTPStatus.OK and health.status == "up" else EXIT_NOT_UP


def _watch_lines(ask: Callable[[], UpAnswer]) -> int:
    while True:
        _once(ask, as_json=True)
        time.sleep(EVERY_SECONDS)


def _watch(ask: Callable[[], UpAnswer]) -> int:
    console = _console()
    if not console.is_terminal:
        while True:
            console.print(_latest(ask, console), end="\n\n")
            time.sleep(EVERY_SECONDS)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_latest(ask, console), refresh=True)
            time.sleep(EVERY_SECONDS)


def _latest(ask: Callable[[], UpAnswer], console: Console) -> RenderableType:
    """The picture of an answer, or why there is none."""
    try:
        return _picture(_read(ask()), console)
    except (NoAnswer, NotAnAnswer) as error:
        return Text.assemble(("unreachable", "bold red"), " ", str(error))


def _read(answer: UpAnswer) -> Health:
    """What an answer of `/up` says.

    Raises:
        NotAnAnswer: it is somebody else's; the message says what it is.
    """
    try:
        return read_answer(answer.body)
    except NotAnAnswer:
        text = printable(answer.body.decode(errors="replace")[:200])
        raise NotAnAnswer(f"Not the service's own answer: status {answer.status}, {text}") from None


def _picture(health: Health, console: Console) -> RenderableType:
    return view(health, only_ascii=console.options.ascii_only)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)
