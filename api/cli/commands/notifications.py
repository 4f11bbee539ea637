"""The commands `noetl notifications …`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_channels
from noetl.api.cli.display.console import print_message, write_json, write_stdout
from noetl.api.cli.list_pages import CursorOption, JsonOption, print_page
from noetl.api.cli.store_option import StoreOption

app = typer.Typer(
    name="notifications",
    help="Show notifications that were not delivered yet, send them again, or discard them.",
    no_args_is_help=True,
    epilog="Example: noetl notifications list --state undelivered",
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a notification.")]


class StateChoice(StrEnum):
    """States of notifications."""

    PENDING = "pending"
    HELD = "held"
    UNDELIVERED = "undelivered"


@app.command("list", epilog="Example: noetl notifications list --state undelivered")
def list_notifications(
    state: Annotated[
        StateChoice | None, typer.Option("--state", help="Only notifications in this state.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", min=1, max=1000, metavar="N", help="The maximum number of notifications."),
    ] = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List notifications that were not delivered yet, the newest first."""
    from noetl.api.cli.display.channel_table import format_notifications

    with open_channels(store, url) as channels:
        page = channels.find_notifications(None if state is None else state.value, limit, cursor)
    print_page(page, format_notifications, "notifications", json=json)


@app.command(
    "show", no_args_is_help=True, epilog="Example: noetl notifications show 5f1c7c0b1f2ad1f04b0d9f1e"
)
def show_notification(
    id: IdArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Show a notification: its run, its channel, its next attempt, and why the last one has failed."""
    from noetl.api.cli.display.channel_table import format_members
    from noetl.api.service.views import to_json

    with open_channels(store, url) as channels:
        entry = channels.get_notification(id)
    if json:
        write_json(entry)
    else:
        write_stdout(format_members(to_json(entry)))


@app.command(
    "retry", no_args_is_help=True, epilog="Example: noetl notifications retry 5f1c7c0b1f2ad1f04b0d9f1e"
)
def retry_notification(
    id: IdArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Send a notification now, with all its attempts again. A service or a worker sends it."""
    with open_channels(store, url) as channels:
        entry = channels.retry(id)
    if json:
        write_json(entry)
    else:
        print_message(f"notification {id} to {entry.channel} is due now")


@app.command(
    "discard", no_args_is_help=True, epilog="Example: noetl notifications discard 5f1c7c0b1f2ad1f04b0d9f1e"
)
def discard_notification(id: IdArgument, store: StoreOption = None, url: UrlOption = None) -> None:
    """Remove a notification, which is not sent any more."""
    with open_channels(store, url) as channels:
        channels.discard(id)
    print_message(f"notification {id} is removed")
