"""The commands `noetl runs …`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import CommandError, print_message, write_json, write_stdout, write_table
from noetl.api.cli.store_option import StoreOption, open_command_store
from noetl.executor.model.run import RunStatus

if TYPE_CHECKING:
    from noetl.api.service.runs import Service
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store
    from noetl.planner.plan import Plan

app = typer.Typer(help="Show, watch, answer, cancel and resume the runs of a store.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]


@contextmanager
def _open_service(store: str | None) -> Iterator[tuple[Store, Service]]:
    from noetl.api.service.errors import NotFoundError
    from noetl.api.service.runs import Service
    from noetl.executor.actions import catalogue

    with open_command_store(store, create=False) as opened_store:
        try:
            yield opened_store, Service(opened_store, catalogue())
        except NotFoundError as error:
            raise CommandError(str(error)) from error


@app.command("list", epilog="Example: noetl runs list --status failed --limit 20")
def list_runs(
    status: Annotated[RunStatus | None, typer.Option("--status", help="Only runs with this status.")] = None,
    playbook: Annotated[
        str | None, typer.Option("--playbook", metavar="NAME", help="Only runs of this playbook.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The maximum number of runs.")] = 100,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="The next_cursor of the previous page.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List runs, the newest first."""
    with _open_service(store) as (_, service):
        page = service.runs(status=status, playbook=playbook, limit=limit, cursor=cursor)
    if json:
        write_json(page)
        return
    rows = [
        (run["workflow_id"], run["status"], run["created_at"][:19], run["playbook"]) for run in page["items"]
    ]
    write_table(rows)
    if not rows:
        print_message("no runs")
    if page["next_cursor"]:
        print_message(f"more runs: --cursor {page['next_cursor']}")


@app.command("show", no_args_is_help=True, epilog="Example: noetl runs show ID")
def show_run(id: IdArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show the status of a run and of its steps, and what it waits for."""
    from noetl.api.cli.local.run_to_end import is_abandoned

    with _open_service(store) as (opened_store, service):
        status = service.status(id)
        run = service.run(id)
        plan = opened_store.plans.get(run.plan_hash)
        has_no_worker = run.origin == "local" and not run.status.is_final and is_abandoned(opened_store, run)
    if json:
        write_json(status)
        return
    _write_status(run, status, plan)
    _write_errors(run, status, plan)
    if has_no_worker:
        print_message(f"no live worker holds this run; resume it with `noetl runs resume {id}`")


def _write_status(run: Run, status: Mapping[str, Any], plan: Plan) -> None:
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import text

    write_stdout(f"run {status['workflow_id']} {status['status']}\n")
    for key in ("created_at", "started_at", "finished_at"):
        if status[key]:
            write_stdout(f"{key.removesuffix('_at'):<9}{status[key]}\n")
    if run.parent is not None:
        write_stdout(f"{'parent':<9}{run.parent.run_id}\n")
    if run.resumed_from is not None:
        write_stdout(f"{'from':<9}{run.resumed_from}\n")
    states = {name: step["status"] for name, step in status["steps"].items()}
    write_stdout("\n" + text.draw(plan, catalogue(), states))
    waits = [wait for name, step in status["steps"].items() if (wait := _describe_step_wait(name, step))]
    if waits:
        write_stdout("\n" + "".join(f"{wait}\n" for wait in waits))


def _write_errors(run: Run, status: Mapping[str, Any], plan: Plan) -> None:
    """Write the errors of the steps, and those of the run that no step has."""
    from noetl.api.cli.display.run_board import format_error

    step_errors = {name: step["error"] for name, step in status["steps"].items() if step["error"]}
    if step_errors or run.errors or run.error:
        write_stdout("\n")
    for name, error in step_errors.items():
        write_stdout(f"{name} (line {plan.steps[name].line}): {format_error(error)}\n")
    for error in run.errors or filter(None, [run.error]):
        if error["step"] not in step_errors:
            write_stdout(f"{format_error(error)}\n")


def _describe_step_wait(name: str, step: Mapping[str, Any]) -> str | None:
    """Return words for what a step waits for, or None. After its due time it waits only for a worker."""
    import time

    from noetl.api.cli.display.run_board import ActiveVisit, describe_wait, parse_time
    from noetl.planner.diagnostics.terminal_text import to_printable

    wait = step.get("waiting_for")
    if wait is None:
        return None
    until = wait["until"]
    due_at = parse_time(until)
    if due_at is not None and due_at <= time.time():
        return f"{to_printable(name)} has been due since {until[:19]}Z"
    preposition = "until" if wait["actions"] or "retried" not in wait else "at"
    shown_until = "" if until is None else f" {preposition} {until[:19]}Z"
    visit = ActiveVisit(name, 0.0, actions=tuple(wait["actions"]), retried=tuple(wait.get("retried", ())))
    runs = f": {', '.join(wait['workflows'])}" if wait["workflows"] else ""
    return f"{to_printable(name)} {describe_wait(visit, '')}{shown_until}{runs}"


@app.command("events", no_args_is_help=True, epilog="Example: noetl runs events ID --json")
def show_events(id: IdArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show the events of a run, in order."""
    with _open_service(store) as (_, service):
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
    """Cancel a run: abandon its work, and start nothing new."""
    from noetl.api.cli.local.run_to_end import wait_until_stopped

    with _open_service(store) as (opened_store, service):
        service.cancel(id)
        run = service.run(id)
        if run.origin == "local":
            # No service executes such a run, and the process that did may be gone.
            run = wait_until_stopped(opened_store, run)
    if json:
        write_json({"workflow_id": run.id, "status": run.status.value})
    else:
        print_message(f"run {id} is {run.status.value if run.status.is_final else 'being cancelled'}")


@app.command("resume", no_args_is_help=True, epilog="Example: noetl runs resume ID -i region=us")
def resume_run(
    id: IdArgument,
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Start a new run at this step instead.")
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Resume a run that crashed, failed or was stopped, with corrected input if given.

    With --from, start a new run at a step of a run that has ended, with the names that had values there.
    """
    from noetl.api.cli.display.event_follower import EventFollower
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.local.run_to_end import run_to_end
    from noetl.api.service.runs import summary_body

    file_inputs = read_input_file(input_file) if input_file is not None else {}
    with _open_service(store) as (opened_store, service):
        run = service.run(id)
        plan = opened_store.plans.get(run.plan_hash)
        types = {name: declared.type for name, declared in plan.header.inputs.items()}
        values = {**file_inputs, **parse_input_pairs(inputs or (), types)}
        if step is not None:
            run = service.start_from(id, step, values)
            follower = None
        else:
            follower = EventFollower(opened_store, run)
            follower.skip_past_events()
            service.resume(id, values)
            run = service.run(id)
        if run.origin == "local":
            run_to_end(RunCommandContext(opened_store, service, json, quiet), run, plan, follower)
            return
    if json:
        write_json(summary_body(run))
    else:
        print_message(f"run {run.id} is {run.status.value}; the workers of its service execute it")


@app.command("watch", no_args_is_help=True, epilog="Example: noetl runs watch ID")
def watch_run(
    id: IdArgument, json: JsonOption = False, quiet: QuietOption = False, store: StoreOption = None
) -> None:
    """Watch a run that another process executes, until it ends. Ctrl-C does not stop the run."""
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.cli.local.watch import watch_until_finished

    with _open_service(store) as (opened_store, service):
        context = RunCommandContext(opened_store, service, json, quiet)
        watch_until_finished(context, service.run(id))


@app.command(
    "answer", no_args_is_help=True, epilog="Example: noetl runs answer TOKEN -d '{\"approved\": true}'"
)
def answer_callback(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token of the callback, or its URL.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="JSON",
            help="The answer. Without it the answer is null; - reads standard input.",
        ),
    ] = "null",
    heartbeat: Annotated[
        bool, typer.Option("--heartbeat", help="Report that the answer is still being worked on.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Answer a step that waits in a `callback`.

    A URL is answered over HTTP. A token, or a URL with --store, is answered in the store.
    """
    from noetl.api.cli.callback_answer import answer_in_store, answer_over_http, parse_answer, token_from

    answer = None if heartbeat else parse_answer(data)
    if store is None and "://" in token:
        answer_over_http(token, answer, heartbeat=heartbeat)
        return
    with _open_service(store) as (opened_store, _):
        answer_in_store(opened_store, token_from(token), answer, heartbeat=heartbeat)
