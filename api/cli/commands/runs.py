"""`noetl runs …`"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from noetl.api.cli.commands.run import GivenOption, InputOption
from noetl.api.cli.display.console import RefusalError, say, write, write_json
from noetl.api.cli.store_option import StoreOption, opened

if TYPE_CHECKING:
    from noetl.api.service.runs import Service
    from noetl.executor.stores.interface import Store

app = typer.Typer(help="See, follow, answer, stop and resume the runs of a store.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A run's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but what went wrong.")]


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


@contextmanager
def _served(store: str | None) -> Iterator[tuple[Store, Service]]:
    from noetl.api.service.errors import NotFoundError
    from noetl.api.service.runs import Service
    from noetl.executor.actions import catalogue

    with opened(store, create=False) as opened_store:
        try:
            yield opened_store, Service(opened_store, catalogue())
        except NotFoundError as error:
            raise RefusalError(str(error)) from error


@app.command("list", epilog="Example: noetl runs list --status failed --limit 20")
def list_runs(
    status: Annotated[Status | None, typer.Option("--status", help="Only those that stand so.")] = None,
    playbook: Annotated[
        str | None, typer.Option("--playbook", metavar="NAME", help="Only that playbook's.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 100,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="The next_cursor of the page before.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List runs, the newest first."""
    from noetl.executor.model.run import RunStatus

    with _served(store) as (_, service):
        wanted = RunStatus(status.value) if status else None
        page = service.runs(status=wanted, playbook=playbook, limit=limit, cursor=cursor)
    if json:
        write_json(page)
        return
    rows = [
        (run["workflow_id"], run["status"], run["created_at"][:19], run["playbook"]) for run in page["items"]
    ]
    write_table(rows)
    if not rows:
        say("no runs")
    if page["next_cursor"]:
        say(f"there are more: --cursor {page['next_cursor']}")


@app.command("show", no_args_is_help=True, epilog="Example: noetl runs show ID")
def show_run(id: IdArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show where a run stands, step by step, and what it waits for."""
    from noetl.api.cli.display.run_board import failure
    from noetl.api.cli.local.run_to_end import is_abandoned
    from noetl.planner.draw import text

    with _served(store) as (opened_store, service):
        status = service.status(id)
        run = service.run(id)
        plan = opened_store.plan(run.plan_hash)
        is_left = run.origin == "local" and not run.status.is_final and is_abandoned(opened_store, run)
    if json:
        write_json(status)
        return
    write(f"run {status['workflow_id']} {status['status']}\n")
    for moment in ("created_at", "started_at", "finished_at"):
        if status[moment]:
            write(f"{moment.removesuffix('_at'):<9}{status[moment]}\n")
    if run.parent is not None:
        write(f"{'parent':<9}{run.parent.run_id}\n")
    if run.resumed_from is not None:
        write(f"{'from':<9}{run.resumed_from}\n")
    write("\n" + text.draw(plan, {name: step["status"] for name, step in status["steps"].items()}))
    waiting = [line for name, step in status["steps"].items() for line in _waiting(name, step)]
    if waiting:
        write("\n" + "".join(f"{line}\n" for line in waiting))
    failed = [(name, step["error"]) for name, step in status["steps"].items() if step["error"]]
    if failed or run.errors or run.error:
        write("\n")
    for name, error in failed:
        write(f"{name} (line {plan.steps[name].line}): {failure(error)}\n")
    for error in run.errors or filter(None, [run.error]):
        if error["step"] not in dict(failed):
            write(f"{failure(error)}\n")
    if is_left:
        say(f"nobody seems to be at work on it: `noetl runs resume {id}` goes on with the run")


@app.command("events", no_args_is_help=True, epilog="Example: noetl runs events ID --json")
def show_events(id: IdArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show what happened in a run, in order."""
    with _served(store) as (_, service):
        events = list(_all_events(service, id))
    if json:
        write_json({"items": events, "next_cursor": None})
        return
    import json as encoder

    write_table(
        [
            (
                event["at"],
                event["type"],
                event["step"] or "",
                encoder.dumps(event["payload"], ensure_ascii=False) if event["payload"] else "",
            )
            for event in events
        ]
    )


def _all_events(service: Service, id: str) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = service.events(id, cursor)
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


@app.command("cancel", no_args_is_help=True, epilog="Example: noetl runs cancel ID")
def cancel_run(id: IdArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Cancel a run: what is at work is given up, and nothing new starts."""
    from noetl.api.cli.local.run_to_end import let_it_end

    with _served(store) as (opened_store, service):
        service.cancel(id)
        run = service.run(id)
        if run.origin == "local":
            # No service works for such a run, and the process that did may be gone.
            run = let_it_end(opened_store, run)
    if json:
        write_json({"workflow_id": run.id, "status": run.status.value})
    else:
        say(f"run {id} is {run.status.value if run.status.is_final else 'being cancelled'}")


@app.command("resume", no_args_is_help=True, epilog="Example: noetl runs resume ID -i region=us")
def resume_run(
    id: IdArgument,
    given: GivenOption = None,
    input: InputOption = None,
    step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="A step that a new run goes on from instead.")
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on with a run that crashed, failed or was stopped, from where it stood, with corrected input if given.

    With --from, a new run goes on from a step of one that has ended, with what that one knew there.
    """
    from noetl.api.cli.display.event_follower import Follower
    from noetl.api.cli.inputs import read_file, read_pairs
    from noetl.api.cli.local.run_to_end import walk_to_the_end
    from noetl.api.service.runs import summary_body

    from_file = read_file(input) if input is not None else {}
    with _served(store) as (opened_store, service):
        run = service.run(id)
        plan = opened_store.plan(run.plan_hash)
        types = {name: declared.type for name, declared in plan.header.inputs.items()}
        values = {**from_file, **read_pairs(given or (), types)}
        if step is not None:
            run = service.start_from(id, step, values)
            follower = None
        else:
            follower = Follower(opened_store, run)
            follower.skip()
            service.resume(id, values)
            run = service.run(id)
        if run.origin == "local":
            walk_to_the_end(opened_store, service, run, plan, as_json=json, quiet=quiet, follower=follower)
            return
    if json:
        write_json(summary_body(run))
    else:
        say(f"run {run.id} is {run.status.value}: the workers of its service go on with it")


@app.command("watch", no_args_is_help=True, epilog="Example: noetl runs watch ID")
def watch_run(
    id: IdArgument, json: JsonOption = False, quiet: QuietOption = False, store: StoreOption = None
) -> None:
    """Follow a run that another process works for, until it ends. Ctrl-C leaves it alone."""
    from noetl.api.cli.local.watch import watch_to_the_end

    with _served(store) as (opened_store, service):
        watch_to_the_end(opened_store, service, service.run(id), as_json=json, quiet=quiet)


@app.command(
    "answer", no_args_is_help=True, epilog="Example: noetl runs answer TOKEN -d '{\"approved\": true}'"
)
def answer_callback(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="What `callback` has asked with: its token or URL.")
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", metavar="JSON", help="The answer; null unless given, - for standard input."
        ),
    ] = "null",
    heartbeat: Annotated[
        bool, typer.Option("--heartbeat", help="Only say that the answer is being worked on.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Answer a step that waits in a `callback`.

    A URL is answered over HTTP, a token, or a URL with --store, in the store.
    """
    from noetl.api.cli.callback_answer import answer_in_store, answer_over_http, read_answer, token_of

    answer = None if heartbeat else read_answer(data)
    if store is None and "://" in token:
        answer_over_http(token, answer, heartbeat=heartbeat)
        return
    with _served(store) as (opened_store, _):
        answer_in_store(opened_store, token_of(token), answer, heartbeat=heartbeat)


def _waiting(name: str, step: Mapping[str, Any]) -> Iterator[str]:
    """What a step waits for, in words. Behind the time at which it goes on it only waits for somebody to do so."""
    import time

    from noetl.api.cli.display.run_board import Doing, moment, waiting
    from noetl.planner.diagnostics.terminal_text import visible

    wait = step.get("waiting_for")
    due_at = moment(wait["until"]) if wait is not None else None
    if wait is not None and due_at is not None and due_at <= time.time():
        yield f"{visible(name)} is due since {wait['until'][:19]}Z"
    elif wait is not None:
        when = "until" if wait["actions"] or "retried" not in wait else "at"
        until = "" if wait["until"] is None else f" {when} {wait['until'][:19]}Z"
        doing = Doing(name, 0.0, actions=tuple(wait["actions"]), retried=tuple(wait.get("retried", ())))
        runs = f": {', '.join(wait['workflows'])}" if wait["workflows"] else ""
        yield f"{visible(name)} {waiting(doing, '')}{until}{runs}"


def write_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows of cells to stdout, in columns."""
    from noetl.planner.diagnostics.terminal_text import cells, visible

    shown = [tuple(map(visible, row)) for row in rows]
    columns = [max(map(cells, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        padded = (text + " " * (column - cells(text)) for text, column in zip(row, columns, strict=True))
        write("  ".join(padded).rstrip() + "\n")
