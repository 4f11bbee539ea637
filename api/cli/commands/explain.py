"""`noetl explain`"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from noetl.api.cli.display.console import RefusalError, write


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Such as NP101; all codes without it.")
    ] = None,
) -> None:
    """Explain a code that `noetl check` reports, with an example that fails and one that passes."""
    from noetl.planner.diagnostics.codes import CODES
    from noetl.planner.diagnostics.diagnostic import suggest
    from noetl.planner.diagnostics.explanations import explanation

    if code is None:
        width = max(len(entry.severity) for entry in CODES.values())
        write(
            "".join(f"{entry.code}  {entry.severity:<{width}}  {entry.title}\n" for entry in CODES.values())
        )
        return
    if (known := code.upper()) not in CODES:
        hint = suggest(known, CODES)
        raise RefusalError(f"there is no code {code}: {hint or '`noetl explain` lists all of them'}")
    page = explanation(known)
    if not sys.stdout.isatty():
        write(page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(page), width=min(console.width, 100))
