"""The commands `noetl cache …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.display.console import CommandError, print_message, write_json, write_table
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.store_option import StoreOption

if TYPE_CHECKING:
    from noetl.api.service.cached_results import CachedEntry, CacheQuery

app = typer.Typer(
    name="cache",
    help="List and delete the cached results of work.",
    no_args_is_help=True,
    epilog="Example: noetl cache list --playbook nightly",
)

PlaybookOption = Annotated[
    str | None, typer.Option("--playbook", metavar="NAME", help="Only results of this playbook.")
]
StepOption = Annotated[str | None, typer.Option("--step", metavar="NAME", help="Only results of this step.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="PREFIX", help="Only results whose key or digest begins with this."),
]
AgeOption = Annotated[
    str | None,
    typer.Option("--older-than", metavar="DURATION", help="Only results that are older, such as 1h or 2d."),
]

_SHOWN_DIGITS = 12


@app.command("list", epilog="Example: noetl cache list --playbook nightly --older-than 1h")
def list_results(
    playbook: PlaybookOption = None,
    step: StepOption = None,
    key: KeyOption = None,
    older_than: AgeOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, metavar="N", help="The most results to list.")
    ] = 100,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the cached results of a store or a service, the newest first."""
    query = _read_query(playbook, step, key, older_than)
    with open_runs(store, url) as runs:
        page = runs.cached(query, limit)
        now = runs.current_time()
    if json:
        write_json(page)
        return
    write_table([_row(entry, now) for entry in page.items])
    if not page.items:
        print_message("no cached results")
    elif page.has_more:
        print_message(f"the newest {len(page.items)} results; there are more")


@app.command("clear", epilog="Example: noetl cache clear --playbook nightly --step load")
def clear_results(
    playbook: PlaybookOption = None,
    step: StepOption = None,
    key: KeyOption = None,
    older_than: AgeOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Delete cached results of a store or a service: those of the options, or all.

    Runs compute them again when they need them.
    """
    query = _read_query(playbook, step, key, older_than)
    with open_runs(store, url) as runs:
        report = runs.clear_cache(query)
    if json:
        write_json(report)
    else:
        print_message(f"{report.cleared:,} cached results are deleted")


def _read_query(
    playbook: str | None, step: str | None, key: str | None, older_than: str | None
) -> CacheQuery:
    from noetl.api.service.cached_results import CacheQuery
    from noetl.planner.syntax.durations import parse_duration

    try:
        seconds = None if older_than is None else parse_duration(older_than)
    except ValueError:
        raise CommandError(f"--older-than must be a duration such as 1h or 2d, not {older_than}") from None
    return CacheQuery(playbook, step, key, seconds)


def _row(entry: CachedEntry, now: float) -> tuple[str, ...]:
    from noetl.api.cli.display.run_board import format_duration, parse_time

    created_at, expires_at = (parse_time(text) or now for text in (entry.created_at, entry.expires_at))
    return (
        entry.digest[:_SHOWN_DIGITS],
        entry.playbook,
        entry.step,
        entry.label or "-",
        f"{format_duration(max(now - created_at, 0.0))} ago",
        f"for {format_duration(max(expires_at - now, 0.0))}",
        f"{entry.size:,}",
        entry.workflow_id,
    )
