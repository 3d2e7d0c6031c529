"""The commands that the documents name: they are there, and take what is written after them."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from cache_actors.cli.main import main

PROJECT = Path(__file__).parent.parent.parent
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]

_CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`]+)`", re.DOTALL | re.MULTILINE)
_CALL = r"(?<![\w./-])%s (?=[a-z])([^|;&<>()`\n]*)"
"""A call, up to the end of its part of the line."""


class Written(NamedTuple):
    """A command as a document has it."""

    document: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def written() -> Iterator[Written]:
    for document in DOCUMENTS:
        name = "cache(?:-actors)?" if document.name == "runbook.md" else "cache-actors"
        for block, inline in _CODE.findall(document.read_text()):
            for call in re.findall(_CALL % name, (block or inline).replace("\\\n", " ")):
                words = shlex.split(call, comments=True)
                yield Written(document.name, tuple(words))


WRITTEN = sorted(set(written()))


def test_commands_are_found_in_the_documents() -> None:
    assert len(WRITTEN) > 40
    assert {each.words[0] for each in WRITTEN} >= main.commands.keys() - {"dev"}


@pytest.mark.parametrize("each", WRITTEN, ids=str)
def test_command_is_there_and_takes_what_is_written_after_it(each: Written) -> None:
    name, *arguments = each.words
    command = main.commands[name]
    parser = command.make_parser(click.Context(command))
    with suppress(click.BadOptionUsage):  # an option is mentioned without its value
        given, more, _ = parser.parse_args(list(arguments))
        assert more == [], "it takes no more words"
        if arguments:
            required = {option.name for option in command.params if option.required}
            assert required <= given.keys()


@pytest.mark.parametrize("name", main.commands)
def test_command_says_what_it_does(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")
