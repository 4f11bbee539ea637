"""The command `noetl run`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.store_option import StoreOption, is_in_memory, open_command_services

if TYPE_CHECKING:
    from noetl.executor.errors import RejectedError
    from noetl.executor.model.run import Run, Visit
    from noetl.planner.plan import Plan

app = typer.Typer()

InputPairsOption = Annotated[
    list[str] | None,
    typer.Option("-i", metavar="NAME=VALUE", help="An input. Repeat it for each; it overrides --input."),
]
InputFileOption = Annotated[
    str | None, typer.Option("--input", metavar="FILE.json", help="Inputs, as a JSON object.")
]


@app.command(no_args_is_help=True, epilog="Example: noetl run deploy.yaml -i region=eu -i count=3")
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    store: StoreOption = None,
    json: Annotated[bool, typer.Option("--json", help="Write id, status, result, errors and steps.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")] = False,
) -> None:
    """Run a playbook in this process, and write its result to stdout as JSON.

    Progress goes to stderr. The store keeps the run, so it can be resumed after a failure, a crash or Ctrl-C.
    Playbooks that it starts are looked up in the folder of its file, then in the registry.
    """
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.local.run_to_end import check_settings, run_to_end
    from noetl.api.cli.sources import compile_or_fail, read_source

    source = read_source(file)
    file_inputs = read_input_file(input_file) if input_file is not None else {}
    plan = compile_or_fail(source, quiet=quiet)
    types = {name: declared.type for name, declared in plan.header.inputs.items()}
    values = {**file_inputs, **parse_input_pairs(inputs or (), types)}
    check_settings()
    checked_run, _ = _create_run(plan, values, file, time.time())
    with open_command_services(store, create=True) as services:
        new_run, first_visit = _create_run(plan, values, file, services.store.clock(), checked_run.id)
        stored_run = services.runs.add(plan, new_run, first_visit)
        context = RunCommandContext(services, json, quiet, can_resume=not is_in_memory(store))
        run_to_end(context, stored_run, plan)


def _create_run(
    plan: Plan, values: Mapping[str, Any], file: str, now: float, run_id: str | None = None
) -> tuple[Run, Visit]:
    """Return a run with its first visit. Its id is random, if none is given.

    It is also called before the store is opened, so that wrong input creates no store.
    """
    from noetl.executor.engine.start import new_run
    from noetl.executor.errors import RejectedError
    from noetl.executor.model.start_request import StartRequest

    source = None if file == "-" else str(Path(file).absolute())
    request = StartRequest(values, origin="local", folder=str(Path.cwd()), source=source, run_id=run_id)
    try:
        return new_run(plan.header, plan.hash, request, now=now)
    except RejectedError as error:
        raise CommandError("\n".join(_input_problems(error, file, values)) or str(error)) from error


def _input_problems(error: RejectedError, file: str, values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each input, with the line of the file and the option that gives a missing one."""
    sentences = []
    for problem in error.details.get("inputs", ()):
        name, line, sentence = problem["name"], problem.get("line"), str(problem["message"])
        if sentence.startswith("missing") and name not in values:
            sentence += f"; give it with `-i {name}=VALUE`"
        sentences.append(f"{file}:{line}: {sentence}" if line else sentence)
    return sentences
