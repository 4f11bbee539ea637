"""The command `noetl explain`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from noetl.api.cli.display.console import CommandError, write_stdout

app = typer.Typer()


@app.command(epilog="Example: noetl explain NP101")
def explain(
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="A code such as NP101. Without it, all codes are listed."),
    ] = None,
) -> None:
    """Explain a code of `noetl check`, with an example that fails and one that passes.

    It also explains the codes NC101 and above, with which a resume is refused.
    """
    from noetl.planner.continuation.verdict import TITLES, explain_code
    from noetl.planner.diagnostics.codes import CODES
    from noetl.planner.diagnostics.diagnostic import did_you_mean
    from noetl.planner.diagnostics.explanations import explanation
    from noetl.planner.diagnostics.wording import join_words

    if code is None:
        width = max(len(entry.severity) for entry in CODES.values())
        write_stdout(
            "".join(f"{entry.code}  {entry.severity:<{width}}  {entry.title}\n" for entry in CODES.values())
        )
        write_stdout("".join(f"{code}  {'resume':<{width}}  {title}\n" for code, title in TITLES.items()))
        return
    codes = [*CODES, *TITLES]
    if (normalized_code := code.upper()) not in codes:
        normalized_code = normalized_code.replace("O", "0").replace("I", "1").replace("L", "1")
        same_start = [known for known in codes if known.startswith(normalized_code)]
        hint = (
            f"did you mean {join_words(same_start)}?" if same_start else did_you_mean(normalized_code, codes)
        )
        raise CommandError(f"unknown code {code}: {hint or '`noetl explain` lists all codes'}")
    page = explain_code(normalized_code) if normalized_code in TITLES else explanation(normalized_code)
    if not sys.stdout.isatty():
        write_stdout(page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(page), width=min(console.width, 100))
