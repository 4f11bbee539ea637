"""The pages of lists that commands print, and the parameters of these commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import typer

from noetl.api.cli.display.console import print_message, write_json, write_table

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
CursorOption = Annotated[str | None, typer.Option("--cursor", help="The next_cursor of the previous page.")]


class ListPage(Protocol):
    """A page of a list, and the cursor of the next page or None."""

    @property
    def items(self) -> Sequence[Any]: ...

    @property
    def next_cursor(self) -> str | None: ...


class RowFormatter(Protocol):
    """A function that returns the rows of a table, with a header for a terminal."""

    def __call__(
        self, entries: Sequence[Mapping[str, Any]], /, *, with_header: bool
    ) -> Sequence[tuple[str, ...]]: ...


def print_page(page: ListPage, format_rows: RowFormatter, noun: str, *, json: bool) -> None:
    """Print a page as JSON, or as a table and a line about the next page.

    `noun` is the plural of what the page has, such as `limits`.
    """
    from noetl.api.service.views import to_json

    if json:
        write_json(page)
        return
    write_table(format_rows([to_json(entry) for entry in page.items], with_header=sys.stdout.isatty()))
    if page.next_cursor:
        print_message(f"more {noun}: --cursor {page.next_cursor}")
    elif not page.items:
        print_message(f"no {noun}")
