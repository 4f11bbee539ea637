"""The command `noetl inbox`."""

from __future__ import annotations

from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.display.console import print_message, write_json, write_stdout
from noetl.api.cli.store_option import StoreOption

app = typer.Typer()


@app.command(epilog="Example: noetl inbox")
def inbox(
    json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show what the runs of a store or a service ask persons; what expires first comes first.

    Answer with `noetl runs answer ID --step NAME -d JSON`.
    """
    from noetl.api.cli.display.inbox import format_entry
    from noetl.api.service.views import to_json

    with open_runs(store, url) as runs:
        page = runs.questions()
        while not page.items and page.next_cursor is not None:
            page = runs.questions(page.next_cursor)
    if json:
        write_json(page)
        return
    for entry in page.items:
        write_stdout(format_entry(to_json(entry)))
    if not page.items:
        print_message("nothing waits for a person")
    elif page.next_cursor is not None:
        print_message(f"the first {len(page.items)} questions; answer some to see more")
