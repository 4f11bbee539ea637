"""The command `noetl run`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
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
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Perform only this step, and keep no run.")
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--with", metavar="FILE.json", help="With --step: the names that it reads, as JSON."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done outside, and do nothing.")
    ] = False,
    store: StoreOption = None,
    json: Annotated[bool, typer.Option("--json", help="Write id, status, result, errors and steps.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")] = False,
) -> None:
    """Run a playbook in this process, and write its result to stdout as JSON.

    Progress goes to stderr. The store keeps the run, so it can be resumed after a failure, a crash or Ctrl-C.
    Playbooks that it starts are looked up in the folder of its file, then in the registry.

    With --step, only this step is performed, with all that it does outside. Its result, the names it saved
    and the steps that would follow are written to stdout.

    With --dry-run, the steps and the actions of a run are written to stdout, and nothing is done or kept. A
    value that comes from outside is shown as its template, and a case that depends on it as possible.
    """
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.local.run_to_end import check_settings, run_to_end
    from noetl.api.cli.sources import compile_or_fail, read_source

    if given is not None and step is None:
        raise CommandError("--with needs --step")
    if step is not None and store is not None:
        raise CommandError("--step keeps no run; leave out --store")
    if dry_run and (step is not None or store is not None):
        raise CommandError("--dry-run keeps and performs nothing; leave out --step and --store")
    source = read_source(file)
    file_inputs = read_input_file(input_file) if input_file is not None else {}
    plan = compile_or_fail(source, quiet=quiet)
    types = {name: declared.type for name, declared in plan.header.inputs.items()}
    values = {**file_inputs, **parse_input_pairs(inputs or (), types)}
    check_settings()
    if step is not None:
        names = read_input_file(given) if given is not None else {}
        _run_step(_StepTrial(plan, step, values, names), file, json=json, quiet=quiet)
        return
    checked_run, _ = _create_run(plan, values, file, time.time())
    if dry_run:
        _show_dry_run(plan, checked_run, json=json)
        return
    with open_command_services(store, create=True) as services:
        new_run, first_visit = _create_run(plan, values, file, services.store.clock(), checked_run.id)
        stored_run = services.runs.add(plan, new_run, first_visit)
        context = RunCommandContext(services, json, quiet, can_resume=not is_in_memory(store))
        run_to_end(context, stored_run, plan)


@dataclass(frozen=True, slots=True)
class _StepTrial:
    """A step of a plan that is performed alone, the inputs of the playbook, and the names that are given."""

    plan: Plan
    step: str
    inputs: Mapping[str, Any]
    names: Mapping[str, Any]


def _run_step(trial: _StepTrial, file: str, *, json: bool, quiet: bool) -> None:
    """Perform a step alone in a store in memory, and write its report to stdout."""
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.cli.local.run_to_end import run_to_end
    from noetl.api.cli.local.single_step import add_single_run, isolate_step, report_step, split_given

    plan = isolate_step(trial.plan, trial.step)
    inputs, names = split_given(plan, trial.names)
    with open_command_services("memory://", create=True) as services:
        run, first = _create_run(plan, {**inputs, **trial.inputs}, file, services.store.clock())
        stored = add_single_run(services.store, plan, run, first, names)
        context = RunCommandContext(services, json, quiet, can_resume=False)
        step = trial.plan.steps[trial.step]
        run_to_end(context, stored, plan, find_result=lambda run: report_step(services.store, run, step))


def _show_dry_run(plan: Plan, run: Run, *, json: bool) -> None:
    """Write to stdout what a run would do, and to stderr how many of its actions would act outside."""
    from noetl.api.cli.display.console import print_message, write_json, write_stdout
    from noetl.api.cli.display.dry_run import count_outside, dry_run_data, format_dry_run
    from noetl.executor.actions import catalogue
    from noetl.executor.engine.dry_run import walk_plan

    dry = walk_plan(plan, run, catalogue())
    if json:
        write_json(dry_run_data(dry))
    else:
        write_stdout(format_dry_run(dry))
    count = count_outside(dry)
    print_message(f"{count:,} action{'' if count == 1 else 's'} would act outside; nothing was done")


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
