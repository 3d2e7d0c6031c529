"""The command `status`: asks `/up` once or repeatedly, and prints the answers.

Errors are one line on standard error. Without a terminal the same text is printed without colours
and control codes, one answer below another.
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
"""Pause between an answer and the next request, with `--watch`, in seconds."""

WIDE = 200
"""Width of the output without a terminal, in columns; wide enough that nothing is cut off."""


def run_status(
    environment: Mapping[str, str], url: str | None, *, watch: bool, as_json: bool
) -> int:
    """Print the health of the service, and return the exit status.

    A watch ends only when it is interrupted, with exit status 0, whatever the answers were.

    Args:
        environment: the service's environment, for its address.
        url: the URL of the service, instead of that address.
        watch: whether to repeat the request until interrupted.
        as_json: whether to print the answers as received, one per line.

    Raises:
        BadAddress: the environment or `url` is not a valid address.
    """

    def ask() -> UpAnswer:
        # The address is looked up each time: another instance may have taken over.
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
        health = _parse(answer)
    except (NoAnswer, NotAnAnswer) as error:
        click.echo(str(error), err=True)
        return EXIT_NOT_UP
    if as_json:
        click.echo(answer.body)
    else:
        console = _console()
        console.print(_rendered(health, console))
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
    """The next answer, rendered; or the reason why there is none."""
    try:
        return _rendered(_parse(ask()), console)
    except (NoAnswer, NotAnAnswer) as error:
        return Text.assemble(("unreachable", "bold red"), " ", str(error))


def _parse(answer: UpAnswer) -> Health:
    """The health in an answer of `/up`.

    Raises:
        NotAnAnswer: the answer is another server's; the message has its status and its beginning.
    """
    try:
        return read_answer(answer.body)
    except NotAnAnswer:
        text = printable(answer.body.decode(errors="replace")[:200])
        raise NotAnAnswer(f"Not the service's own answer: status {answer.status}, {text}") from None


def _rendered(health: Health, console: Console) -> RenderableType:
    return view(health, only_ascii=console.options.ascii_only)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)
