"""The command `noetl runs migrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message, write_json
from noetl.api.cli.display.migration import format_migration
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.new_version import MapOption, SetOption, VersionOptions
from noetl.api.cli.run_changes import IdsArgument
from noetl.api.cli.run_filters import (
    FilterOptions,
    ParentOption,
    PlaybookOption,
    RunChange,
    SearchOption,
    SinceOption,
    StatusOption,
    TagOption,
    UntilOption,
    check_selection,
    select_runs,
)
from noetl.api.cli.store_option import StoreOption

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess

ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="VERSION|FILE", help="The registered version, or the file, to continue in."),
]
UndoOption = Annotated[
    bool,
    typer.Option("--undo", help="Return to the version before, if nothing was done or answered since."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say which runs could continue, and change nothing.")
]


def migrate_runs(
    ids: IdsArgument = None,
    version: ToOption = None,
    undo: UndoOption = False,
    given: SetOption = None,
    renamed: MapOption = None,
    dry_run: DryRunOption = False,
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With a filter: do not ask.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Let open runs continue in another version of their playbook, each if the compiler shows that it may.

    A run that may not is left as it is. Runs that have ended are resumed with `runs resume ID --playbook`.

    With --undo, runs that have not gone on since are as they were before their last switch.
    """
    if undo == (version is not None) or (undo and (given or renamed)):
        raise CommandError("a migration needs --to VERSION, or --undo without --to, --set and --map")
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    with open_runs(store, url) as runs:
        is_confirmed = yes or dry_run
        selected = select_runs(runs, RunChange.MIGRATE, ids or options, is_confirmed=is_confirmed)
        if not selected:
            return
        change = None
        if version is not None:
            named = _name_version(runs, version, playbook or runs.get(selected[0]).playbook)
            options_of_version = VersionOptions(named, given or (), renamed or (), None)
            change = options_of_version.read_change(runs, {}, runs.plan(selected[0]))
        report = runs.migrate(selected, change, is_dry_run=dry_run)
    if json:
        write_json(report)
    else:
        for line in format_migration(report, is_dry_run=dry_run, is_undone=undo):
            print_message(line)
    if report.skipped:
        raise typer.Exit(EXIT_FAILED)


def _name_version(runs: RunAccess, text: str, playbook: str) -> str:
    """Return a version as `NAME@VERSION`, or a file as it is.

    Raises:
        CommandError: the version is empty.
    """
    from noetl.api.cli.sources import names_file

    if not text:
        raise CommandError("--to is empty; name a version or a file")
    return text if names_file(text) else f"{playbook}@{text}"
