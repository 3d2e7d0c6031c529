"""Tables that commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table; without a terminal, up to 200 columns wide."""
    table.box = box.SIMPLE
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
