"""The command `noetl doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import EXIT_FAILED, print_message, write_json, write_stdout
from noetl.api.cli.store_option import NO_QUEUE, StoreOption, is_without_queue, open_command_store

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding
    from noetl.executor.stores.interface import Store

app = typer.Typer()

MAX_NOTIFICATIONS = 1000
"""How many of the newest notifications are counted."""


@app.command(epilog="Example: noetl doctor --store postgresql://localhost/noetl")
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False,
    store: StoreOption = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="First let damaged runs that were set aside continue, and protect the files of SQLite.",
        ),
    ] = False,
) -> None:
    """Check that a store is consistent: no run is stuck, no row is left over, and it can be written.

    Workers may execute runs meanwhile.
    """
    from noetl.planner.diagnostics.terminal_text import to_printable

    if fix:
        _repair(store)
    findings = _find_inconsistencies(store)
    if json:
        items = [
            {"check": finding.check, "workflow_id": finding.run_id, "message": finding.message}
            for finding in findings
        ]
        write_json({"healthy": not findings, "findings": items})
    else:
        write_stdout("".join(f"{to_printable(finding.message)}\n" for finding in findings))
    if findings:
        raise typer.Exit(EXIT_FAILED)
    print_message("the store is consistent")


def _repair(url: str | None) -> None:
    """Let the damaged runs of a store continue, and hide its files from other users of the machine.

    A worker sets the runs aside again that are not repaired.
    """
    from noetl.executor.stores.sqlite.file_modes import protect_files
    from noetl.executor.stores.sqlite.store import SqliteStore

    with open_command_store(url, create=False) as store:
        for file in protect_files(store.path) if isinstance(store, SqliteStore) else ():
            print_message(f"only its owner may read {file} from now on")
        for run_id in store.maintenance.put_back(store.clock()):
            print_message(f"run {run_id} continues")


def _report_undelivered(store: Store) -> None:
    """Name the channels that are paused by themselves, and how many notifications were not delivered."""
    from noetl.executor.model.deliveries import DeliveryState, delivery_state
    from noetl.executor.model.outbox import OutboxKind
    from noetl.executor.model.run import DEFAULT_TENANT

    for channel in store.channels.find(DEFAULT_TENANT):
        if channel.paused_reason is not None:
            print_message(f"channel {channel.name} is paused: {channel.paused_reason}")
    entries, _ = store.outbox.find(DEFAULT_TENANT, OutboxKind.NOTIFICATION, limit=MAX_NOTIFICATIONS)
    count = sum(delivery_state(entry) is DeliveryState.UNDELIVERED for entry in entries)
    if count:
        hint = "`noetl notifications list --state undelivered` shows them"
        print_message(f"notifications that were not delivered: {count:,}; {hint}")


def _find_inconsistencies(url: str | None) -> list[Finding]:
    from noetl.executor.errors import SchemaError, StoreError
    from noetl.executor.stores.finding import Finding

    try:
        with open_command_store(url, create=False) as store:
            if is_without_queue(store):
                print_message(NO_QUEUE)
            findings = store.maintenance.check_consistency()
            _report_undelivered(store)
            try:
                store.maintenance.probe()
            except StoreError as error:
                findings.append(Finding("writable", str(error)))
            return findings
    except SchemaError as error:
        return [Finding("schema", str(error))]
