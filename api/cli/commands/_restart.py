"""The command `noetl runs restart`."""

from __future__ import annotations

from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.commands._resume import (
    DryRunOption,
    ResumeOutput,
    preview_request,
    resume_one,
    show_preview,
)
from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.new_version import MapOption, SetOption, VersionOptions
from noetl.api.cli.run_changes import IdArgument, QuietOption
from noetl.api.cli.run_ids import find_run
from noetl.api.cli.store_option import StoreOption

PlaceOption = Annotated[
    str,
    typer.Option("--at", metavar="EVENT", help="The event: its number in `noetl runs events`, or its id."),
]


RestartVersionOption = Annotated[
    str | None,
    typer.Option("--playbook", metavar="NAME|FILE", help="Start in this file, or in NAME@VERSION."),
]


def restart_run(
    id: IdArgument,
    place: PlaceOption,
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    playbook: RestartVersionOption = None,
    given: SetOption = None,
    renamed: MapOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Start a new run from the state that a run had after an event of its history, with corrected input.

    The run must have ended, and does not change. What it had done up to the event is not done again. Each
    step that was at work, waited or had stopped the run starts again.

    With --playbook, the new run starts in another version, if the compiler can show that it may.
    """
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.local.run_to_end import check_settings
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.past_restarts import PastRestart

    version = VersionOptions(playbook, given or (), renamed or (), None)
    version.check(starts_new_run=True)
    file_inputs = read_input_file(input_file) if input_file is not None else {}
    check_settings()
    with open_runs(store, url) as runs:
        run = find_run(runs, id)
        plan = runs.plan(run.id)
        types = {name: declared.type for name, declared in plan.header.inputs.items()}
        values = {**file_inputs, **parse_input_pairs(inputs or (), types)}
        restart: PastRestart | ChangedRestart = PastRestart(place, values)
        if playbook is not None:
            restart = ChangedRestart(version.read_change(runs, values, plan), place=place)
        if dry_run:
            show_preview(preview_request(runs, run.id, restart), json=json)
        else:
            resume_one(runs, run, plan, restart, ResumeOutput(json, quiet))
