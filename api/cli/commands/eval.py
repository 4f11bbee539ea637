"""The command `noetl eval`."""

from __future__ import annotations

from typing import Annotated

import typer

from noetl.api.cli.display.console import EXIT_FAILED, CommandError, write_json
from noetl.api.cli.store_option import StoreOption, open_command_services

app = typer.Typer()


@app.command("eval", no_args_is_help=True, epilog="Example: noetl eval last 'total > 100' --step check")
def evaluate(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a run, its first characters, or `last`.")
    ],
    expression: Annotated[
        str, typer.Argument(metavar="EXPRESSION", help="An expression. Its braces may be left out.")
    ],
    step: Annotated[
        str | None,
        typer.Option("--step", metavar="NAME", help="Evaluate it where this step had done its work."),
    ] = None,
    visit: Annotated[
        int | None,
        typer.Option("--visit", metavar="N", min=1, help="With --step: the visit. Default: the latest."),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--at", metavar="EVENT", help="Evaluate it as after an event: its number, or its id."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Evaluate an expression in the state of a run, and write its value to stdout as JSON.

    With --step, the value is the one that a guard of this step has. Without it, the names have the values
    that the run has given them so far, or up to the event of --at. Nothing is changed.
    """
    from noetl.api.cli.access.store_runs import StoreRuns
    from noetl.api.cli.display.failure import fact_lines
    from noetl.api.cli.run_ids import find_run
    from noetl.api.service.evaluation import ExpressionRequest
    from noetl.executor.errors import RejectedError

    if visit is not None and step is None:
        raise CommandError("--visit needs --step")
    with open_command_services(store) as services:
        run = find_run(StoreRuns(services), id)
        try:
            request = ExpressionRequest(expression, step, visit, event)
            value = services.evaluation.evaluate(run.id, request)
        except RejectedError as error:
            lines = [str(error), *fact_lines(error.details)] if "values" in error.details else [str(error)]
            raise CommandError("\n".join(lines), EXIT_FAILED) from error
    write_json(value)
