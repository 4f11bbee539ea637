"""The commands `noetl runs …`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.commands._migrate import migrate_runs
from noetl.api.cli.commands._restart import restart_run
from noetl.api.cli.commands._resume import resume_runs
from noetl.api.cli.display.console import (
    CommandError,
    damage_remedy,
    print_message,
    write_json,
    write_stdout,
    write_table,
)
from noetl.api.cli.drawings import (
    Drawing,
    FormatOption,
    OutlineOption,
    OutOption,
    UnfoldOption,
    choose_format,
    draw,
    write_drawing,
)
from noetl.api.cli.list_pages import CursorOption, JsonOption
from noetl.api.cli.run_changes import IdArgument, IdsArgument, QuietOption, change_each
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
from noetl.api.cli.run_ids import find_run
from noetl.api.cli.store_option import StoreOption
from noetl.api.service.loop_states import ItemState

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.api.service.data_views import RunDetails, StepData
    from noetl.api.service.views import EventEntry, RunTrigger, StepReport
    from noetl.executor.model.run import ErrorRecord
    from noetl.planner.plan import Plan

app = typer.Typer(
    name="runs",
    help="Show, watch, answer, pause, cancel, resume and delete the runs of a store, or of a service.",
    no_args_is_help=True,
    epilog="Example: noetl runs list --status failed",
)

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="EVENT", help="The run as it was after an event: its number, or its id."),
]

_FOLLOW_SECONDS = 0.5
_MAX_PAYLOAD = 160
_MAX_SHOWN_QUESTIONS = 10
"""How many questions of a step `noetl runs show` lists."""


@app.command("list", epilog="Example: noetl runs list --status failed --status timed_out --limit 20")
def list_runs(
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest run.")] = False,
    counts: Annotated[
        bool, typer.Option("--counts", help="Show only the numbers of runs by status.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The maximum number of runs.")] = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List runs, the newest first: id, status, start, duration, steps, playbook, tags and headline.

    The headline is the first error, what the run waits for, or the step at work. A run that has succeeded has
    none, and no number of finished steps.
    """
    from noetl.api.cli.display.run_list import format_counts, format_runs
    from noetl.api.service.views import to_json
    from noetl.planner.frozen import replace

    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    with open_runs(store, url) as runs:
        run_filter = options.to_filter(runs)
        if counts:
            numbers = runs.counts(run_filter)
        else:
            page = runs.page(replace(run_filter, is_oldest_first=oldest_first, limit=limit, cursor=cursor))
    if json:
        write_json(numbers if counts else page)
    elif counts:
        write_table(format_counts(to_json(numbers)))
    else:
        write_table(format_runs([to_json(run) for run in page.items], with_header=sys.stdout.isatty()))
        if page.next_cursor:
            print_message(f"more runs: --cursor {page.next_cursor}")
        elif not page.items:
            print_message("no runs")


@app.command("histogram", epilog="Example: noetl runs histogram --step 1h --since 2d")
def show_histogram(
    step: Annotated[
        str, typer.Option("--step", metavar="DURATION", help="The length of an interval: 15m, 1h, 1d.")
    ] = "15m",
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Count runs by the time of their creation: in each interval, by status."""
    from noetl.api.cli.display.run_list import format_histogram
    from noetl.api.service.run_lists import parse_step
    from noetl.api.service.views import to_json

    try:
        step_seconds = parse_step(step)
    except ValueError as error:
        raise CommandError(f"--step is `{step}`; {error}") from error
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    with open_runs(store, url) as runs:
        histogram = runs.histogram(options.to_filter(runs), step_seconds)
    if json:
        write_json(histogram)
        return
    write_table(format_histogram(to_json(histogram)))
    if histogram.more:
        print_message(f"there are more than {histogram.total:,} runs; only the newest were counted")


@app.command("show", no_args_is_help=True, epilog="Example: noetl runs show last --step load")
def show_run(
    id: IdArgument,
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Show the data of this step.")
    ] = None,
    visit: Annotated[
        int | None,
        typer.Option("--visit", metavar="N", min=1, help="With --step: the visit. Default: the latest."),
    ] = None,
    event: AtOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show the status of a run and of its steps, and what it waits for.

    With --step, show what a step received, did, saved and wrote, and which case followed. With --at, show the
    run as it was after an event, with its branches, its joins, and the names and their values.
    """
    if step is not None:
        with open_runs(store, url) as runs:
            data = runs.step(find_run(runs, id).id, step, visit, event)
        _write_step(data, json=json)
        return
    if visit is not None:
        raise CommandError("--visit needs --step")
    from noetl.executor.stores.damage import RUN_DAMAGED

    with open_runs(store, url) as runs:
        run = find_run(runs, id)
        report = runs.details(run.id, event)
        is_damaged = report.error is not None and report.error["type"] == RUN_DAMAGED
        plan = None if is_damaged else runs.plan(run.id)
        has_no_worker = event is None and not is_damaged and runs.is_abandoned(run)
    if json:
        write_json(report)
        return
    _write_status(report, plan)
    _write_errors(() if event is not None else run.errors, report, plan)
    if report.moment is not None:
        from noetl.api.cli.display.past_state import format_past

        write_stdout(format_past(report.moment))
    if is_damaged:
        print_message(damage_remedy(run.id))
    if has_no_worker:
        print_message(f"no live worker holds this run; resume it with `noetl runs resume {run.id}`")


def _write_step(data: StepData, *, json: bool) -> None:
    from noetl.api.cli.display.step_data import format_step
    from noetl.api.service.views import to_json

    if json:
        write_json(data)
    else:
        write_stdout(format_step(to_json(data)))


@app.command(
    "items", no_args_is_help=True, epilog="Example: noetl runs items last --step load --state failed"
)
def list_items(
    id: IdArgument,
    step: Annotated[str, typer.Option("--step", metavar="NAME", help="The step with the loop.")],
    state: Annotated[ItemState | None, typer.Option("--state", help="Only items in this state.")] = None,
    visit: Annotated[
        int | None, typer.Option("--visit", metavar="N", min=1, help="The visit. Default: the latest.")
    ] = None,
    loop: Annotated[
        str | None,
        typer.Option(
            "--loop", metavar="POSITION", help="The loop, if the step has several. Default: the last."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, help="The maximum number of items.")
    ] = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the items of a loop with their states, and the counts of all states.

    A failed item has its value, its error, and what its action had received.
    """
    from noetl.api.cli.display.item_table import format_counts, format_items
    from noetl.api.service.loop_items import ItemQuery
    from noetl.api.service.views import to_json
    from noetl.planner.diagnostics.terminal_text import to_printable

    query = ItemQuery(step, visit, loop, state, cursor, limit)
    with open_runs(store, url) as runs:
        page = runs.items(find_run(runs, id).id, query)
    if json:
        write_json(page)
        return
    place = f"{to_printable(page.step)}  visit {page.visit}" + (f"  {page.loop}" if page.loops else "")
    total = "no items yet" if page.total is None else f"{page.total:,} items"
    write_stdout(f"{place}  {total}" + (f": {format_counts(page.counts)}" if page.counts else "") + "\n")
    if page.items:
        write_table(format_items([to_json(item) for item in page.items]))
    if page.unlisted:
        print_message(f"not recorded which items these are: {format_counts(page.unlisted)}")
    if page.loops and loop is None:
        print_message(f"other loops: {', '.join(f'--loop {entry.position}' for entry in page.loops)}")
    if page.next_cursor:
        print_message(f"more items: --cursor {page.next_cursor}")


@app.command("logs", no_args_is_help=True, epilog="Example: noetl runs logs last -f")
def show_log(
    id: IdArgument,
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Only lines of this step.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Wait for further lines until the run ends.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write each line as JSON.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show what a run has written: the lines of `log`, and the output of commands.

    Lines of a step appear when the step is committed or pauses.
    """
    import time

    from noetl.api.cli.display.step_data import format_log_line
    from noetl.api.service.views import to_json
    from noetl.executor.model.json_values import write_json as to_json_text

    with open_runs(store, url) as runs:
        run, cursor = find_run(runs, id), None
        if follow:
            runs.outlast_outages(lambda: None)
        while True:
            has_ended = run.status.is_final or runs.get(run.id).status.is_final
            page = runs.log(run.id, step, cursor)
            for line in map(to_json, page.items):
                write_stdout((to_json_text(line) if json else format_log_line(line)) + "\n")
            if page.next_cursor is None and (has_ended or not follow):
                return
            cursor = page.last_event
            if page.next_cursor is None:
                time.sleep(_FOLLOW_SECONDS)


def _describe_trigger(trigger: RunTrigger) -> str:
    """Return a trigger with what it has fired at, if that is a time or a run."""
    cause = trigger.scheduled_at or (trigger.workflow_id and f"after run {trigger.workflow_id}")
    return f"{trigger.name}  {cause}" if cause else trigger.name


def _write_status(report: RunDetails, plan: Plan | None) -> None:
    """Write the status of a run and of its steps. The plan of a damaged run is not read."""
    from noetl.api.cli.display.past_state import format_event
    from noetl.api.cli.display.step_data import format_split
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import text

    write_stdout(f"run {report.workflow_id} {report.status}\n")
    for label, value in (
        ("version", report.version),
        ("created", report.created_at),
        ("started", report.started_at),
        ("finished", report.finished_at),
        ("time", (report.finished_at and format_split(vars(report))) or None),
        ("parent", report.parent),
        ("trigger", report.trigger and _describe_trigger(report.trigger)),
        ("from", report.resumed_from),
        ("at", report.moment and format_event(report.moment)),
    ):
        if value is not None:
            write_stdout(f"{label:<9}{value}\n")
    states = {name: step.status for name, step in report.steps.items()}
    loops = [line for name, step in report.steps.items() for line in _describe_work(name, step)]
    if plan is not None:
        write_stdout("\n" + text.draw(plan, catalogue(), states))
    if loops:
        write_stdout("\n" + "".join(f"{line}\n" for line in loops))
    if waits := list(_wait_lines(report)):
        write_stdout("\n" + "".join(f"{wait}\n" for wait in waits))


def _wait_lines(report: RunDetails) -> Iterator[str]:
    """Yield lines with what the steps of a run wait for, at the time at which the run is shown."""
    import time

    from noetl.api.cli.display.run_board import parse_time

    past_time = None if report.moment is None else parse_time(report.moment.event.at)
    now = time.time() if past_time is None else past_time
    release = ""
    if report.status == "paused":
        release = f"; `noetl runs unpause {report.workflow_id}` lets it continue"
    for name, step in report.steps.items():
        if wait := _describe_step_wait(name, step, now, release):
            yield wait
            yield from _describe_questions(step)


def _describe_work(name: str, step: StepReport) -> Iterator[str]:
    """Yield why the work of a step was left out, or the counts and the failed items of its loops."""
    from noetl.api.cli.display.failure import failed_item_lines
    from noetl.api.cli.display.run_board import describe_left_out
    from noetl.planner.diagnostics.terminal_text import to_printable

    if step.left_out is not None:
        yield f"{to_printable(name)} {describe_left_out(vars(step.left_out))}"
    loops = step.loops or ()
    for loop in loops:
        place = f" {loop.position}" if len(loops) > 1 else ""
        failed = f", {loop.failed:,} failed" if loop.failed else ""
        yield f"{to_printable(name)}{to_printable(place)}: {loop.done:,} of {loop.total:,} items{failed}"
    items = [{"value": item.value, "error": item.error} for item in step.failed_items or ()]
    yield from failed_item_lines(items, step.failed_item_count or 0)


def _write_errors(errors: Sequence[ErrorRecord], report: RunDetails, plan: Plan | None) -> None:
    """Write the errors of the steps, and those of the run that no step has."""
    from noetl.api.cli.display.failure import fact_lines, failure_line_number
    from noetl.api.cli.display.run_board import format_error

    step_errors = {name: step.error for name, step in report.steps.items() if step.error}
    if step_errors or errors or report.error:
        write_stdout("\n")
    for name, error in step_errors.items():
        place = "" if plan is None else f" (line {failure_line_number(error, plan)})"
        write_stdout(f"{name}{place}: {format_error(error)}\n")
        write_stdout("".join(f"{fact}\n" for fact in fact_lines(error)))
    for error in errors or filter(None, [report.error]):
        if error["step"] not in step_errors:
            write_stdout(f"{format_error(error)}\n")


def _describe_step_wait(name: str, step: StepReport, now: float, release: str) -> str | None:
    """Return words for what a step waits for, or None. After its due time it waits only for a worker."""
    from noetl.api.cli.display.run_board import ActiveVisit, describe_limit, describe_wait, parse_time
    from noetl.planner.diagnostics.terminal_text import to_printable

    wait = step.waiting_for
    if wait is None:
        return None
    shown_time = "" if wait.until is None else f"{wait.until[:19]}Z"
    due_at = parse_time(wait.until)
    if due_at is not None and due_at <= now:
        return f"{to_printable(name)} has been due since {shown_time}{release}"
    preposition = "until" if wait.actions or wait.retried is None else "at"
    shown_until = f" {preposition} {shown_time}" if shown_time else ""
    limit = "" if wait.limit is None else describe_limit(vars(wait.limit))
    visit = ActiveVisit(
        name, 0.0, actions=tuple(wait.actions), retried=tuple(wait.retried or ()), limit=limit
    )
    runs = f": {', '.join(wait.workflows)}" if wait.workflows else ""
    return f"{to_printable(name)} {describe_wait(visit, '')}{shown_until}{runs}"


def _describe_questions(step: StepReport) -> Iterator[str]:
    """Yield lines with what a waiting step asks persons: titles, details and the fields of the answers."""
    from noetl.executor.model.json_values import write_json as to_json
    from noetl.planner.diagnostics.terminal_text import to_printable

    questions = () if step.waiting_for is None else step.waiting_for.questions or ()
    for question in questions[:_MAX_SHOWN_QUESTIONS]:
        if question.title is not None:
            yield f"  {to_printable(question.title)}"
        if question.details is not None:
            yield f"  details: {to_printable(to_json(question.details))}"
        for name, field in (question.answer or {}).items():
            choices = [f"one of {to_json(field['enum'])}"] if field.get("enum") else []
            default = [f"default {to_json(field['default'])}"] if "default" in field else []
            description = [field["description"]] if field.get("description") else []
            words = ", ".join([field["type"], *choices, *default, *description])
            yield f"  answer.{name}: {to_printable(words)}"
    if len(questions) > _MAX_SHOWN_QUESTIONS:
        yield f"  and {len(questions) - _MAX_SHOWN_QUESTIONS:,} more questions; --json shows all"


@app.command("events", no_args_is_help=True, epilog="Example: noetl runs events ID --json")
def show_events(
    id: IdArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Show the events of a run, in order."""
    with open_runs(store, url) as runs:
        events = list(_all_events(runs, find_run(runs, id).id))
    if json:
        write_json({"items": events, "next_cursor": None})
        return
    header = ("#", "time", "event", "step", "duration", "details")
    rows = [(str(number), *_event_row(event)) for number, event in enumerate(events, start=1)]
    write_table([header, *rows])


def _event_row(event: EventEntry) -> tuple[str, ...]:
    """Return the cells of an event: time, type, step with visit, duration, and details of its payload."""
    from noetl.api.cli.display.run_board import format_duration

    visit = f" visit {event.visit}" if (event.visit or 1) > 1 else ""
    attempt = f" attempt {event.attempt}" if (event.attempt or 1) > 1 else ""
    duration = "" if event.duration_ms is None else format_duration(event.duration_ms / 1000)
    step = f"{event.step or ''}{visit}{attempt}"
    return event.at[:23], event.type, step, duration, _describe_payload(event.payload)


def _describe_payload(payload: Mapping[str, Any]) -> str:
    """Return the payload of an event as words, at most `_MAX_PAYLOAD` characters; --json has all of it.

    >>> _describe_payload({"action": "set", "error": {"type": "Failed", "message": "no"}, "targets": ["a"]})
    'action set, error Failed: no, targets a'
    """
    from noetl.executor.model.json_values import write_json as to_json
    from noetl.executor.model.worker_identity import describe_worker

    parts = []
    for name, value in payload.items():
        if value is None or value in ([], {}):
            continue
        match value:
            case str() if name == "worker":
                parts.append(f"worker {describe_worker(value)}")
            case {"type": str(type), "message": str(message)} if name == "error":
                parts.append(f"{name} {type}: {message}")
            case str():
                parts.append(f"{name} {value}")
            case [*items] if all(isinstance(item, str) for item in items):
                parts.append(f"{name} {' '.join(items)}")
            case _:
                parts.append(f"{name} {to_json(value)}")
    text = ", ".join(parts)
    return text if len(text) <= _MAX_PAYLOAD else text[: _MAX_PAYLOAD - 1] + "…"


def _all_events(runs: RunAccess, id: str) -> Iterator[EventEntry]:
    cursor = None
    while True:
        page = runs.events(id, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


@app.command("diff", no_args_is_help=True, epilog="Example: noetl runs diff 4e21aa09 last")
def diff_runs(
    first: Annotated[str, typer.Argument(metavar="A", help="The id of a run, as for `runs show`.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The id of the other run.")],
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Show what differs between two runs: playbook, input, and the visits of steps.

    Visits are compared by their state, case, attempts, error and outputs. Durations are only shown.
    """
    from noetl.api.cli.display.run_diff import format_diff

    with open_runs(store, url) as runs:
        diff = runs.compare(find_run(runs, first).id, find_run(runs, second).id)
    if json:
        write_json(diff)
    else:
        write_stdout(format_diff(diff))


@app.command("graph", no_args_is_help=True, epilog="Example: noetl runs graph ID -o run.svg")
def draw_run(
    id: IdArgument,
    format: FormatOption = None,
    out: OutOption = None,
    outline: OutlineOption = None,
    unfold: UnfoldOption = False,
    event: AtOption = None,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Draw the plan of a run, with the states of its steps and the edges that were taken."""
    from noetl.api.service.views import plan_graph

    format = choose_format(format, out)
    with open_runs(store, url) as runs:
        run = find_run(runs, id)
        plan, drawn = runs.plan(run.id), runs.drawn_run(run.id, event)
    drawing = Drawing(plan, plan_graph(plan, drawn.states), drawn, unfolded=unfold, outline=outline)
    write_drawing(draw(drawing, format), out)


@app.command("cancel", no_args_is_help=True, epilog="Example: noetl runs cancel ID")
def cancel_runs(
    ids: IdsArgument = None,
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
    """Cancel runs: abandon their work, and start nothing new. A filter selects all that have not ended."""
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    with open_runs(store, url) as runs:
        selected = select_runs(runs, RunChange.CANCEL, ids or options, is_confirmed=yes)
        change_each(selected, runs.cancel, "being cancelled", json=json, may_end=True)


@app.command("pause", no_args_is_help=True, epilog="Example: noetl runs pause --playbook nightly")
def pause_runs(
    ids: IdsArgument = None,
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With a filter: do not ask.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
    json: JsonOption = False,
) -> None:
    """Pause runs: running steps finish, and nothing new starts. `runs unpause` lets them continue.

    A filter selects runs that have not ended and are not paused.
    """
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    with open_runs(store, url) as runs:
        selected = select_runs(runs, RunChange.PAUSE, ids or options, is_confirmed=yes)
        change_each(selected, runs.pause, json=json)


@app.command("unpause", no_args_is_help=True, epilog="Example: noetl runs unpause ID")
def unpause_runs(
    ids: IdsArgument = None,
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With a filter: do not ask.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
    json: JsonOption = False,
) -> None:
    """Let paused runs continue where they were. A filter selects paused runs."""
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    with open_runs(store, url) as runs:
        selected = select_runs(runs, RunChange.UNPAUSE, ids or options, is_confirmed=yes)
        change_each(selected, runs.unpause, json=json)
        for run_id in selected:
            if runs.get(run_id).origin == "local":
                print_message(f"if its process has ended, continue it with `noetl runs resume {run_id}`")


@app.command("tag", no_args_is_help=True, epilog="Example: noetl runs tag last env=prod --remove draft")
def tag_run(
    id: IdArgument,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG…", help="Tags to add, KEY=VALUE or a name.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="TAG", help="Remove this tag, or all of this key.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Add tags to a run and remove tags, also after its end. KEY=VALUE replaces the earlier tags of its key.

    The tags of the run are printed.
    """
    from noetl.executor.model.run_tags import MAX_TAG_LENGTH, TagChange

    for tag in (*(tags or ()), *(remove or ())):
        is_text = not any("\ud800" <= character <= "\udfff" for character in tag)
        if not (is_text and 1 <= len(tag) <= MAX_TAG_LENGTH):
            raise CommandError(f"a tag must have 1 to {MAX_TAG_LENGTH} characters, in UTF-8")
    with open_runs(store, url) as runs:
        changed = runs.change_tags(find_run(runs, id).id, TagChange(tuple(tags or ()), tuple(remove or ())))
    if json:
        write_json(changed)
    else:
        write_stdout("".join(f"{tag}\n" for tag in changed.tags))


@app.command("delete", no_args_is_help=True, epilog="Example: noetl runs delete --playbook nightly")
def delete_runs(
    ids: IdsArgument = None,
    status: StatusOption = None,
    playbook: PlaybookOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Delete runs: their history, their data, and the runs that they have started.

    A filter selects all that have ended. Others are refused.
    """
    options = FilterOptions(status, playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    with open_runs(store, url) as runs:
        selected = select_runs(runs, RunChange.DELETE, ids or options, is_confirmed=yes)
        change_each(selected, runs.delete, "deleted")


app.command("resume", no_args_is_help=True, epilog="Example: noetl runs resume ID -i region=us")(resume_runs)
app.command("restart", no_args_is_help=True, epilog="Example: noetl runs restart ID --at 12")(restart_run)
app.command(
    "migrate", no_args_is_help=True, epilog="Example: noetl runs migrate --playbook nightly --to 3 --dry-run"
)(migrate_runs)


@app.command("watch", no_args_is_help=True, epilog="Example: noetl runs watch ID")
def watch_run(
    id: IdArgument,
    json: JsonOption = False,
    quiet: QuietOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Watch a run that another process executes, until it ends. Ctrl-C does not stop the run."""
    from noetl.api.cli.access.watch import WatchContext, watch_until_finished

    with open_runs(store, url) as runs:
        watch_until_finished(WatchContext(runs, json, quiet), find_run(runs, id))


@app.command(
    "answer", no_args_is_help=True, epilog="Example: noetl runs answer TOKEN -d '{\"approved\": true}'"
)
def answer_callback(
    token: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN", help="The token of the callback, or its URL. With --step: the id of the run."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="JSON",
            help="The answer. Without it the answer is null; - reads standard input.",
        ),
    ] = "null",
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Answer this step of a run, without a token.")
    ] = None,
    position: Annotated[
        str | None,
        typer.Option("--position", help="With --step: which action, if it asks several questions."),
    ] = None,
    heartbeat: Annotated[
        bool, typer.Option("--heartbeat", help="Report that the answer is still being worked on.")
    ] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Answer a step that waits in a `callback`.

    A URL is answered over HTTP. A token, or a URL with --store, is answered in the store, or in the service
    at --url. So is a step that --step names.
    """
    from noetl.api.cli.callback_answer import answer_over_http, parse_answer, token_from
    from noetl.api.service.inbox import AnswerRequest

    answer = None if heartbeat else parse_answer(data)
    if step is None and position is not None:
        raise CommandError("--position needs --step")
    if step is not None and heartbeat:
        raise CommandError("--heartbeat needs a token, and not --step")
    if step is None and store is None and url is None and "://" in token:
        answer_over_http(token, answer, heartbeat=heartbeat)
        return
    with open_runs(store, url) as runs:
        if step is None:
            runs.answer_token(token_from(token), answer, heartbeat=heartbeat)
        else:
            runs.answer_step(find_run(runs, token).id, AnswerRequest(step, answer, None, position))
