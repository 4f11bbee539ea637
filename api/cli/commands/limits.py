"""The commands `noetl limits …`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_limits
from noetl.api.cli.display.console import CommandError, print_message, write_json, write_table
from noetl.api.cli.list_pages import CursorOption, JsonOption, print_page
from noetl.api.cli.store_option import StoreOption
from noetl.executor.model.gates import LimitKind
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.limits import format_rate
from noetl.planner.syntax.durations import parse_rate

app = typer.Typer(
    name="limits",
    help="Bound how many runs or steps are in progress at once or begin in a time, and see what waits.",
    no_args_is_help=True,
    epilog="Example: noetl limits list",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a limit, or its id.")]
PageOption = Annotated[
    int, typer.Option("--limit", min=1, max=1000, metavar="N", help="The maximum number of entries.")
]
SharedOption = Annotated[bool, typer.Option("--shared", help="A limit of all tenants. Needs the store.")]


@app.command("set", no_args_is_help=True, epilog="Example: noetl limits set salesforce 5 --of steps")
def set_limit(
    name: NameArgument,
    kind: Annotated[LimitKind, typer.Option("--of", help="What it bounds.")],
    units: Annotated[
        int | None,
        typer.Argument(metavar="UNITS", min=0, max=10_000, help="How many may be held at once. 0 stops all."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="UNITS/TIME", help="Instead: how many may begin in a time, such as `100/1m`."),
    ] = None,
    shared: SharedOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Make a limit or a rate, or change how many units it has. What is held or reserved stays so."""
    units, per = _read_size(units, rate)
    with open_limits(store, url, create=True) as limits:
        entry = limits.put(name, units, kind, per=per, is_shared=shared)
    if json:
        write_json(entry)
        return
    place = " in all tenants" if entry.shared else ""
    if entry.per is None:
        noun = kind.value.removesuffix("s") if entry.units == 1 else kind.value
        print_message(f"limit {name}: at most {entry.units:,} {noun} at once{place}")
    else:
        print_message(f"limit {name}: at most {format_rate(entry.units, entry.per)}, of {kind.value}{place}")


def _read_size(units: int | None, rate: str | None) -> tuple[int, float | None]:
    """Return the units of a limit, and the window of a rate or None.

    Raises:
        CommandError: there are both, none of them, or no rate.
    """
    if (units is None) is (rate is None):
        words = "has neither UNITS nor `--rate`" if units is None else "has both UNITS and `--rate`"
        raise CommandError(f"`noetl limits set` {words}; write `UNITS` or `--rate UNITS/TIME`")
    if rate is None:
        assert units is not None
        return units, None
    try:
        return parse_rate(rate)
    except ValueError as problem:
        raise CommandError(f"`--rate` is `{abbreviate(rate)}`: {problem}") from problem


@app.command("list", epilog="Example: noetl limits list --in-use")
def list_limits(
    in_use: Annotated[
        bool, typer.Option("--in-use", help="Limits of playbooks and steps that are in use.")
    ] = False,
    limit: PageOption = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the limits: how many units they have, how many are held, and how many runs and steps wait."""
    from noetl.api.cli.display.limit_table import format_limits

    with open_limits(store, url) as limits:
        page = limits.find(in_use, limit, cursor)
    print_page(page, format_limits, "limits", json=json)


@app.command("show", no_args_is_help=True, epilog="Example: noetl limits show salesforce")
def show_limit(
    name: NameArgument,
    limit: PageOption = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show what holds units of a limit, then what waits for them, flow by flow."""
    from noetl.api.cli.display.limit_table import format_queue
    from noetl.api.service.views import to_json

    with open_limits(store, url) as limits:
        entry, page = limits.get(name), limits.queue(name, limit, cursor)
    if json:
        write_json({"limit": entry, **vars(page)})
        return
    items = [to_json(use) for use in page.items]
    is_rate = entry.per is not None
    write_table(format_queue(items, is_rate=is_rate, with_header=sys.stdout.isatty()))
    place = ", shared by all tenants" if entry.shared else ""
    if entry.per is None:
        numbers = f"{entry.held:,} of {entry.units:,} held, {entry.waiting:,} waiting"
    else:
        size = format_rate(entry.units, entry.per)
        numbers = f"{entry.held:,} of {size} taken, {entry.waiting:,} reserved for later"
    print_message(f"limit {name}: {numbers}{place}")
    if page.next_cursor:
        print_message(f"more: --cursor {page.next_cursor}")


@app.command("remove", no_args_is_help=True, epilog="Example: noetl limits remove salesforce")
def remove_limit(
    name: NameArgument,
    shared: SharedOption = False,
    force: Annotated[bool, typer.Option("--force", help="Also if playbooks name it.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Remove a limit that nothing holds or waits for, and that no live version of a playbook names.

    With --force, playbooks may name it. Their steps fail from then on.
    """
    with open_limits(store, url) as limits:
        limits.remove(name, is_shared=shared, is_forced=force)
    print_message(f"limit {name} is removed")
