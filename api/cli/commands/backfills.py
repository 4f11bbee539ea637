"""The commands `noetl backfills …`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from noetl.api.cli.access.opening import UrlOption, open_backfills
from noetl.api.cli.display.console import (
    CommandError,
    print_message,
    write_json,
    write_stdout,
)
from noetl.api.cli.list_pages import CursorOption, JsonOption, print_page
from noetl.api.cli.store_option import StoreOption
from noetl.api.cli.trigger_names import TriggerArgument, split_trigger

app = typer.Typer(
    name="backfills",
    help="Start runs of a trigger for past times, and control them, in a store or a service.",
    no_args_is_help=True,
    epilog="Example: noetl backfills start close_month/nightly --from 2026-01-01 --to 2026-02-01",
)

BackfillArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a backfill.")]


class RedoChoice(StrEnum):
    """Partitions that had a run before, and get another one."""

    FAILED = "failed"
    ALL = "all"


@app.command(
    "start",
    no_args_is_help=True,
    epilog="Example: noetl backfills start close_month/nightly --from 2026-01-01 --to 2026-02-01 --limit 4",
)
def start_backfill(
    trigger: TriggerArgument,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="The first time, in the zone of the trigger: 2026-01-31."
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="The time before which all runs are.")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(
            "--every", metavar="DURATION", help="The distance of the runs. Default: the times of the trigger."
        ),
    ] = None,
    partitions: Annotated[
        str | None,
        typer.Option("--partitions", metavar="FILE|-", help="A list in YAML or JSON: a run for each value."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100, metavar="N", help="How many runs are open at once.")
    ] = 1,
    redo: Annotated[
        RedoChoice | None,
        typer.Option("--redo", help="Which times that had a run before get another one. Default: none."),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Start a run of a trigger for each past time, or each value of a list. Write the id of the backfill.

    Services and workers of the store start the runs.
    """
    from noetl.executor.engine.backfill_start import BackfillRequest

    playbook, name = split_trigger(trigger)
    request = BackfillRequest(
        start,
        end,
        None if interval is None else _parse_interval(interval),
        None if partitions is None else _read_partitions(partitions),
        limit,
        None if redo is None else redo.value,
    )
    with open_backfills(store, url) as backfills:
        entry = backfills.start(playbook, name, request)
    if json:
        write_json(entry)
        return
    write_stdout(f"{entry.id}\n")
    noun = "partition" if entry.partitions == 1 else "partitions"
    print_message(f"{entry.partitions:,} {noun} in version {entry.version}: noetl backfills show {entry.id}")


@app.command("list", epilog="Example: noetl backfills list --limit 10")
def list_backfills(
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=200, metavar="N", help="The maximum number of backfills.")
    ] = 50,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List backfills, the newest first: trigger, state, and how many partitions are done."""
    from noetl.api.cli.display.backfill_table import format_backfills

    with open_backfills(store, url) as backfills:
        page = backfills.find(limit, cursor)
    print_page(page, format_backfills, "backfills", json=json)


@app.command("show", no_args_is_help=True, epilog="Example: noetl backfills show 5d1f0a7c3b9e4f2aa1c47e60")
def show_backfill(
    backfill: BackfillArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Show a backfill: its progress, its open runs, and the latest that have failed."""
    with open_backfills(store, url) as backfills:
        _print(backfills.get(backfill), is_json=json)


@app.command("pause", no_args_is_help=True, epilog="Example: noetl backfills pause 5d1f0a7c3b9e4f2aa1c47e60")
def pause_backfill(
    backfill: BackfillArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Pause a backfill: it starts no run until it is resumed. Its open runs go on."""
    with open_backfills(store, url) as backfills:
        _print(backfills.pause(backfill), is_json=json)


@app.command(
    "resume", no_args_is_help=True, epilog="Example: noetl backfills resume 5d1f0a7c3b9e4f2aa1c47e60"
)
def resume_backfill(
    backfill: BackfillArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Resume a paused backfill."""
    with open_backfills(store, url) as backfills:
        _print(backfills.resume(backfill), is_json=json)


@app.command(
    "cancel", no_args_is_help=True, epilog="Example: noetl backfills cancel 5d1f0a7c3b9e4f2aa1c47e60 --runs"
)
def cancel_backfill(
    backfill: BackfillArgument,
    runs: Annotated[bool, typer.Option("--runs", help="Cancel its open runs, too.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Cancel a backfill: it starts no run any more. Its open runs go on, unless --runs is given."""
    with open_backfills(store, url) as backfills:
        _print(backfills.cancel(backfill, cancels_runs=runs), is_json=json)


@app.command(
    "retry", no_args_is_help=True, epilog="Example: noetl backfills retry 5d1f0a7c3b9e4f2aa1c47e60 --fresh"
)
def retry_backfill(
    backfill: BackfillArgument,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start new runs. Otherwise the failed runs are resumed.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Resume the failed runs of a backfill that has ended, or start new ones."""
    with open_backfills(store, url) as backfills:
        _print(backfills.retry(backfill, "fresh" if fresh else "resume"), is_json=json)


def _print(entry: Any, *, is_json: bool) -> None:
    from noetl.api.cli.display.backfill_table import format_backfill
    from noetl.api.service.views import to_json

    if is_json:
        write_json(entry)
    else:
        write_stdout(format_backfill(to_json(entry)))


def _parse_interval(text: str) -> float:
    """Return the seconds of the distance of two runs.

    Raises:
        CommandError: the text is no duration, or less than a second.
    """
    from noetl.planner.syntax.durations import parse_interval

    try:
        return parse_interval(text)
    except ValueError:
        raise CommandError(f"--every must be a duration of at least 1s, such as 1d, not {text}") from None


def _read_partitions(file: str) -> list[Any]:
    """Return the list in a file. Its values are checked when the backfill is started.

    Raises:
        CommandError: the file cannot be read, or is no list.
    """
    from noetl.api.cli.inputs import name_of_file, read_text_file
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import read_document

    findings = Diagnostics()
    document = read_document(read_text_file(file), findings)
    if document is None or findings.error_count or not isinstance(document.data, list):
        raise CommandError(f"{name_of_file(file)} must be a list in YAML or JSON, such as [eu, us]")
    return document.data
