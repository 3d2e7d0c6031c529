"""The picture in a terminal, of every answer that there may be."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from cache_actors.cli import format as module
from cache_actors.cli.status.view import view
from cache_actors.http.routes.up_schema import NotAnAnswer, read_answer
from tests.support import up_answers


def drawn(health: dict[str, Any], **how: Any) -> str:
    """The text of the picture."""
    file = io.StringIO()
    Console(file=file, width=200).print(view(read_answer(json.dumps(health).encode()), **how))
    return file.getvalue()


def row(picture: str, name: str) -> str:
    """What is said of a part of the tree, behind its name."""
    (line,) = [line for line in picture.splitlines() if f" {name} " in line]
    return " ".join(line.partition(name)[2].split())


@pytest.mark.parametrize("name", up_answers.EVERY)
def test_every_answer_is_drawn(name: str) -> None:
    picture = drawn(up_answers.EVERY[name])
    assert picture.startswith(up_answers.EVERY[name]["status"])
    for part in ("disk_writer", "kv_store", "auth_cache", "listener"):
        assert part in picture


def test_parts_tell_what_is_known_of_them() -> None:
    picture = drawn(up_answers.BUSY)
    assert row(picture, "disk_writer") == "running 2 0 30 min 41 s OSError"
    assert row(picture, "kv_store") == "running 0 17 42 ms 3 d 4 h"
    assert row(drawn(up_answers.DEGRADED), "disk_writer") == "stuck 0 256 31 s"


def test_columns_without_anything_are_left_out() -> None:
    assert "oldest" in drawn(up_answers.BUSY)
    assert "oldest" not in drawn(up_answers.PLAIN)


def test_tree_is_drawn_with_what_the_terminal_has() -> None:
    assert "├── disk_writer" in drawn(up_answers.PLAIN)
    assert "|-- disk_writer" in drawn(up_answers.PLAIN, only_ascii=True)
    assert drawn(up_answers.EVICTING, only_ascii=True).isascii()


def test_traffic_storage_and_eviction_are_a_line_each() -> None:
    lines = drawn(up_answers.EVICTING).splitlines()
    assert lines[:4] == [
        "up version 0.1.0, up for 3 d 4 h",
        "68.9 requests/s, 91.3 % hits, latency 1.7 ms (p50), 4.4 ms (p95), 0 errors/s",
        "Storage ok for 3 d 4 h, 71.2 GB free, 16,286,867 inodes free",
        "81.4 % used, last eviction 2 min 10 s ago: 1204 artifacts, 311 entries, 8.4 GB, "
        "the youngest unused for 9 d",
    ]
    assert "12 % used, nothing evicted yet" in drawn(up_answers.NOT_YET_EVICTED)
    assert "Storage failing for 3 d 4 h, Input/output error\n" in drawn(up_answers.DEGRADED)
    assert "- requests/s, - hits" in drawn(up_answers.SILENT)


def test_bucket_is_a_line_if_there_is_one() -> None:
    assert (
        "Bucket unreachable for 1 min 35 s, no connection, 1,204 files to go, 8.4 GB, "
        "the oldest for 2 min 10 s, 7 evicted before they were there\n"
    ) in drawn(up_answers.SHARING)
    assert "Bucket ok nothing to go\n" in drawn(up_answers.SHARED)
    assert "Bucket" not in drawn(up_answers.PLAIN)


def test_each_worker_has_its_tree() -> None:
    picture = drawn(up_answers.WORKERS)
    assert row(picture, "worker_2").startswith("running 1")
    assert picture.count("kv_store") == 2


def test_nothing_in_an_answer_is_taken_for_markup_or_control_codes() -> None:
    parts = up_answers.tree(kv_store={"last_error": "[bold]\x1b[31m"})
    assert row(drawn(up_answers.PLAIN | {"tree": parts}), "kv_store").endswith(" [bold][31m")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"message": "no"}', b'{"status": "up", "tree": 1}']
)
def test_other_things_are_not_answers(body: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        read_answer(body)


FORMATS = {
    "figures": module.format_number,
    "percent": module.format_percent,
    "bytes": module.format_bytes,
    "time": module.format_seconds,
}


@pytest.mark.parametrize(("kind", "figure", "told"), up_answers.FIGURES)
def test_figures_in_words(kind: str, figure: float | None, told: str) -> None:
    assert FORMATS[kind](figure) == told


def test_text_cannot_tell_the_terminal_anything() -> None:
    assert module.printable("a\x1b[31m\r\nb") == "a[31mb"


def test_what_nginx_could_not_do_is_told_if_there_is_any() -> None:
    assert "nginx" not in drawn(up_answers.PLAIN | {"nginx": {"troubles": []}})
    troubles = ["decisions_not_remembered", "log_not_emptied"]
    picture = drawn(up_answers.PLAIN | {"nginx": {"troubles": troubles}})
    assert "nginx: decisions not remembered, log not emptied\n" in picture
