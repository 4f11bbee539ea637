"""The commands `noetl channels …`."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_channels
from noetl.api.cli.display.console import (
    CommandError,
    print_message,
    write_json,
    write_stdout,
    write_table,
)
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.store_option import StoreOption

app = typer.Typer(
    name="channels",
    help="Add, list, test and remove the channels of notifications, in a store or a service.",
    no_args_is_help=True,
    epilog="Example: noetl channels list",
)

ChannelArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a channel.")]


class ChannelType(StrEnum):
    """Types of channels."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"
    EVENTBRIDGE = "eventbridge"


@app.command(
    "add",
    no_args_is_help=True,
    epilog="Example: noetl channels add ops --target https://hooks.example.com/noetl --on failed,late",
)
def add_channel(
    name: ChannelArgument,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="URL",
            help="The address, or '{{ secrets.NAME }}'. For eventbridge, the name or the ARN of a bus."
            " For email, smtps://USER@HOST/?from=…&to=….",
        ),
    ],
    channel_type: Annotated[
        ChannelType, typer.Option("--type", help="The way in which it receives notifications.")
    ] = ChannelType.WEBHOOK,
    events: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="EVENTS",
            help="Events of all runs: failed, succeeded, cancelled, late, separated by commas.",
        ),
    ] = "",
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            metavar="SECRET",
            help="The secret that signs: '{{ secrets.NAME }}', whsec_ and base64, or `new`."
            " Default: the same, or a new one."
            " For email, the password of the user: '{{ secrets.NAME }}'.",
        ),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Add a channel, or change it. A secret that is generated for a webhook is written once, to stdout."""
    from noetl.api.service.channels import ChannelRequest

    names = tuple(word.strip() for word in events.split(",") if word.strip())
    with open_channels(store, url, create=True) as channels:
        stored = channels.put(name, ChannelRequest(target, channel_type.value, names, secret))
    if json:
        write_json(stored)
        return
    print_message(f"channel {name} sends to {stored.url}")
    if stored.secret is not None:
        print_message("its receiver checks signatures with this secret, which is not shown again:")
        write_stdout(f"{stored.secret}\n")


@app.command("list", epilog="Example: noetl channels list")
def list_channels(json: JsonOption = False, store: StoreOption = None, url: UrlOption = None) -> None:
    """List the channels: type, address without secrets, events of all runs, and whether they are paused."""
    from noetl.api.cli.display.channel_table import format_channels
    from noetl.api.service.views import to_json

    with open_channels(store, url) as channels:
        page = channels.find()
    if json:
        write_json(page)
        return
    items = [to_json(channel) for channel in page.items]
    write_table(format_channels(items, with_header=sys.stdout.isatty()))
    if not items:
        print_message("no channels")


@app.command("show", no_args_is_help=True, epilog="Example: noetl channels show ops")
def show_channel(
    name: ChannelArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Show a channel, without its secret and without the path of its address."""
    from noetl.api.cli.display.channel_table import format_members
    from noetl.api.service.views import to_json

    with open_channels(store, url) as channels:
        entry = channels.get(name)
    if json:
        write_json(entry)
    else:
        write_stdout(format_members(to_json(entry)))


@app.command("remove", no_args_is_help=True, epilog="Example: noetl channels remove ops")
def remove_channel(name: ChannelArgument, store: StoreOption = None, url: UrlOption = None) -> None:
    """Remove a channel. Its notifications become undelivered when they are due."""
    with open_channels(store, url) as channels:
        channels.remove(name)
    print_message(f"channel {name} is removed")


@app.command("pause", no_args_is_help=True, epilog="Example: noetl channels pause ops")
def pause_channel(
    name: ChannelArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Pause a channel: its notifications wait until it is resumed."""
    with open_channels(store, url) as channels:
        entry = channels.pause(name)
    if json:
        write_json(entry)
    else:
        print_message(f"channel {name} is paused")


@app.command("resume", no_args_is_help=True, epilog="Example: noetl channels resume ops")
def resume_channel(
    name: ChannelArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Resume a channel, and send what waits for it."""
    with open_channels(store, url) as channels:
        entry = channels.resume(name)
    if json:
        write_json(entry)
    else:
        print_message(f"channel {name} is not paused")


@app.command("test", no_args_is_help=True, epilog="Example: noetl channels test ops")
def send_test(
    name: ChannelArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Send a test message to a channel. The exit code is 2 if it is not accepted."""
    with open_channels(store, url) as channels:
        result = channels.test(name)
    if json:
        write_json(result)
    elif result.delivered:
        print_message(f"channel {name} works")
    if not result.delivered:
        raise CommandError(f"channel {name} does not work: {result.problem}")
