"""The commands `noetl triggers …`."""

from __future__ import annotations

from datetime import UTC
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_triggers
from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import (
    CommandError,
    print_message,
    write_json,
    write_stdout,
)
from noetl.api.cli.list_pages import CursorOption, JsonOption, print_page
from noetl.api.cli.store_option import StoreOption
from noetl.api.cli.trigger_names import TriggerArgument, split_trigger
from noetl.planner.syntax.instants import check_instant, parse_instant

app = typer.Typer(
    name="triggers",
    help="Show triggers, fire them by hand, pause and resume them, in a store or a service.",
    no_args_is_help=True,
    epilog="Example: noetl triggers list --playbook nightly",
)


class CatchUpChoice(StrEnum):
    """Firings of a pause that are performed when it ends."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@app.command("list", epilog="Example: noetl triggers list --playbook nightly")
def list_triggers(
    playbook: Annotated[
        str | None, typer.Option("--playbook", metavar="NAME", help="Only triggers of this playbook.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=200, metavar="N", help="The maximum number of triggers.")
    ] = 50,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the triggers of registered playbooks: what they fire at, the next firing, the last outcome."""
    from noetl.api.cli.display.trigger_table import format_triggers

    with open_triggers(store, url) as triggers:
        page = triggers.find(playbook, limit, cursor)
        now = triggers.current_time()
    print_page(page, partial(format_triggers, now=now), "triggers", json=json)


@app.command("show", no_args_is_help=True, epilog="Example: noetl triggers show close_month/nightly -n 10")
def show_trigger(
    trigger: TriggerArgument,
    count: Annotated[
        int, typer.Option("-n", min=0, max=100, metavar="N", help="How many firings to come are shown.")
    ] = 5,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show a trigger: what it fires at, its latest firing, and the next firings of a schedule."""
    from noetl.api.cli.display.trigger_table import format_details
    from noetl.api.service.views import to_json

    playbook, name = split_trigger(trigger)
    with open_triggers(store, url) as triggers:
        details = triggers.get(playbook, name, count)
        now = triggers.current_time()
    if json:
        write_json(details)
    else:
        write_stdout(format_details(to_json(details), now))


@app.command("history", no_args_is_help=True, epilog="Example: noetl triggers history close_month/nightly")
def show_history(
    trigger: TriggerArgument,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, metavar="N", help="The maximum number of firings.")
    ] = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the firings of a trigger, the newest first: outcome, run, and why there is none."""
    from noetl.api.cli.display.trigger_table import format_firings

    playbook, name = split_trigger(trigger)
    with open_triggers(store, url) as triggers:
        page = triggers.firings(playbook, name, limit, cursor)
    print_page(page, format_firings, "firings", json=json)


@app.command("fire", no_args_is_help=True, epilog="Example: noetl triggers fire close_month/nightly")
def fire_trigger(
    trigger: TriggerArgument,
    instant: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="An instant of the schedule: 2026-01-31T09:00Z. It starts the run that the schedule would.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|-",
            help='What the templates read under `trigger`, as JSON. For a webhook: such as {"body": {}}.',
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="ID",
            help="For a trigger of type `run`: an ended run. It starts the run that its end would.",
        ),
    ] = None,
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Fire a trigger by hand, and write the id of its run to stdout. Inputs replace those of the trigger.

    A service or a worker of the store performs the run.
    """
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.service.triggers import FireRequest

    playbook, name = split_trigger(trigger)
    values = read_input_file(input_file) if input_file is not None else {}
    seconds = None if instant is None else _parse_instant(instant)
    view = None if data is None else read_input_file(data, 'such as {"body": {}}')
    with open_triggers(store, url) as triggers:
        if inputs:
            declared = triggers.get(playbook, name, 0).inputs
            values |= parse_input_pairs(inputs, {key: value["type"] for key, value in declared.items()})
        fired = triggers.fire(playbook, name, FireRequest(seconds, values, data=view, run_id=run))
    if fired.earlier_status is not None:
        cause = f"{instant}" if run is None else f"the end of run {run}"
        status = fired.earlier_status.value.replace("_", " ")
        print_message(f"{trigger} has fired for {cause} before, and its run is {status}; no run was started")
    if json:
        write_json({"workflow_id": fired.id} | ({} if fired.starts is None else {"starts": fired.starts}))
        return
    write_stdout(f"{fired.id}\n")
    if fired.starts is not None:
        print_message(f"{fired.starts:,} starts share this run")


@app.command("pause", no_args_is_help=True, epilog="Example: noetl triggers pause close_month/nightly")
def pause_trigger(
    trigger: TriggerArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Pause a trigger: it does not fire until it is resumed."""
    playbook, name = split_trigger(trigger)
    with open_triggers(store, url) as triggers:
        entry = triggers.pause(playbook, name)
    if json:
        write_json(entry)
    else:
        print_message(f"trigger {trigger} is paused")


@app.command("resume", no_args_is_help=True, epilog="Example: noetl triggers resume close_month/nightly")
def resume_trigger(
    trigger: TriggerArgument,
    catch_up: Annotated[
        CatchUpChoice,
        typer.Option("--catch-up", help="Which firings that were missed while it was paused are performed."),
    ] = CatchUpChoice.NONE,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Resume a paused trigger, and print when it fires next."""
    playbook, name = split_trigger(trigger)
    with open_triggers(store, url) as triggers:
        entry = triggers.resume(playbook, name, catch_up.value)
    if json:
        write_json(entry)
    elif entry.schedule is None:
        print_message(f"trigger {trigger} fires again: {entry.summary}")
    elif entry.due_at is None:
        print_message(f"trigger {trigger} does not fire any more")
    else:
        print_message(f"trigger {trigger} fires next at {entry.due_at[:19]}Z")


def _parse_instant(text: str) -> float:
    """Return the seconds since the epoch of a time. Without a zone, it is in UTC.

    Raises:
        CommandError: the text is no time.
    """
    try:
        return parse_instant(check_instant(text), UTC)
    except ValueError:
        raise CommandError(f"--at must be a time such as 2026-01-31T09:00Z, not {text}") from None
