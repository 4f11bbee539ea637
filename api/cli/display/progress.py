"""Progress of runs on stderr: a line for each step that ends, and on a terminal the active visits below.

Log lines of playbooks appear among the lines of steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from noetl.api.cli.display.console import stderr_console
from noetl.api.cli.display.failure import (
    child_failure,
    fact_lines,
    failed_item_lines,
    failure_key,
    place_lines,
)
from noetl.api.cli.display.run_board import (
    BAR_WIDTH,
    PAUSE_EVENTS,
    ActiveVisit,
    ActivityState,
    describe_limit,
    describe_wait,
    format_countdown,
    format_duration,
    format_error,
    format_titles,
    is_run_end,
    parse_time,
)
from noetl.planner.diagnostics.terminal_text import display_width, to_printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from noetl.api.cli.display.event_follower import FollowedRun, RunEvents
from noetl.executor.model.events import Event
from noetl.executor.security.redaction import redact

_INTERNAL_STEP = "@"
_SLOW_SECONDS = 2.0
"""Duration after which a running step is announced where the terminal cannot be redrawn."""

_MAX_ACTIVE_LINES = 12
_NARROW_WIDTH = 60
_STATE_WIDTH = 50
"""Cells of a line that its name leaves to the bar, the counts and the rate."""
_MIN_NAME_WIDTH = 24
_INTERRUPT_ECHO = "^C"
"""Text that a terminal adds to the last line at Ctrl-C. A line that it wraps could not be erased."""

VisitKey = tuple[str, str, int]
"""Run id, step name and visit number."""


class ProgressDisplay:
    """A context in which the progress and the log of `followed` runs are shown.

    `file` is the playbook of the run that is not a child, as messages show it.

    On a terminal, the lines of the active visits are redrawn, unless `stop_redrawing` was called.
    """

    def __init__(
        self,
        followed: Sequence[FollowedRun] = (),
        *,
        quiet: bool = False,
        file: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._followed = followed
        self._quiet = quiet
        self._file = file
        self._clock = clock
        self._console = stderr_console()
        self._can_redraw = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._live: Live | None = None
        self._log = _LogLineHandler(self._console, logging.ERROR if quiet else logging.INFO)
        self._shown_failures: set[tuple[Any, ...]] = set()
        self._announced: set[tuple[VisitKey, ActivityState]] = set()
        self._loop_shown_at: dict[VisitKey, float] = {}
        self._transitions: dict[VisitKey, Mapping[str, Any]] = {}
        self._retry_counts: dict[VisitKey, int] = {}
        self._loop_counts: dict[VisitKey, Mapping[str, Any]] = {}
        self._failed_items: dict[VisitKey, list[Mapping[str, Any]]] = {}
        self._cached: dict[VisitKey, list[str | None]] = {}

    def __enter__(self) -> Self:
        self._log.attach()
        self.start_redrawing()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_redrawing()
        self._log.detach()

    def start_redrawing(self) -> None:
        """Redraw the lines of active visits from now on, if the terminal can."""
        if self._can_redraw:
            from rich.live import Live

            self._live = Live(
                console=self._console,
                get_renderable=self._render_active_lines,
                refresh_per_second=8,
                transient=True,
            )
            self._live.start()

    def stop_redrawing(self) -> None:
        """Remove the lines of active visits, and leave the terminal to other output."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, events: RunEvents) -> None:
        """Print the lines of new events."""
        if self._quiet:
            return
        for followed, event in events:
            for line in self._lines_of(followed, event):
                self._console.print(line)
        self._announce_slow_steps()

    def _lines_of(self, followed: FollowedRun, event: Event) -> Iterator[Text]:
        if is_run_end(event) and followed.depth:
            yield _run_end_line(followed, event)
        if event.type in PAUSE_EVENTS:
            yield _pause_line(followed, event)
        if event.step is None or event.step.startswith(_INTERNAL_STEP):
            return
        key = (followed.run.id, event.step, event.visit or 1)
        match event.type:
            case "step.transition":
                self._transitions[key] = event.payload
            case "action.retrying":
                self._retry_counts[key] = self._retry_counts.get(key, 0) + 1
            case "action.cached":
                self._cached.setdefault(key, []).append(event.payload.get("action"))
            case "loop.progress":
                self._loop_counts[key] = event.payload
                yield from self._loop_lines(followed, event, key)
            case "loop.item_failed":
                self._failed_items.setdefault(key, []).append(event.payload)
            case "step.waiting":
                if not self._can_redraw and self._announce(key, ActivityState.WAITING):
                    yield _indent(followed, _wait_line(event))
            case "step.completed" | "step.failed" | "step.retrying":
                yield from self._end_lines(followed, event, key)

    def _end_lines(self, followed: FollowedRun, event: Event, key: VisitKey) -> Iterator[Text]:
        """Yield the lines for the end of a visit or of an attempt, with what has failed in it."""
        transition, retries = self._transitions.pop(key, None), self._retry_counts.pop(key, 0)
        loop_counts, items = self._loop_counts.pop(key, None), self._failed_items.pop(key, ())
        cached = self._cached.pop(key, ())
        yield _indent(followed, visit_end_line(event, transition, retries, loop_counts, cached))
        if event.type == "step.completed":
            yield from (_indent(followed, line) for line in _forgiven_item_lines(items, loop_counts))
        elif event.type == "step.failed":
            yield from self._failure_facts(followed, event.payload.get("error"))

    def _failure_facts(self, followed: FollowedRun, error: Any) -> Iterator[Text]:
        """Yield the place of a failure and the facts about its expression, below its line."""
        from rich.text import Text

        if not error:
            return
        self._shown_failures.add((followed.run.id, *failure_key(error)))
        indent = "  " * followed.depth
        file = None if followed.depth else self._file
        child = child_failure(error)
        with_cause = child is None or not self.has_shown(*child)
        for fact in (*place_lines(error, file), *fact_lines(error, with_cause=with_cause)):
            yield Text(indent + fact, style="dim")

    def has_shown(self, run_id: str, error: Any) -> bool:
        """Return whether the failure with this error record was printed when it happened."""
        return (run_id, *failure_key(error)) in self._shown_failures

    def _loop_lines(self, followed: FollowedRun, event: Event, key: VisitKey) -> Iterator[Text]:
        """Yield the progress of a loop every few seconds, if the terminal cannot be redrawn."""
        from rich.text import Text

        now = self._clock()
        shown_at = self._loop_shown_at.setdefault(key, event.at)
        loop = followed.board.loop_of(event)
        if not self._can_redraw and loop is not None and now - shown_at >= _SLOW_SECONDS:
            self._loop_shown_at[key] = now
            yield _indent(followed, Text(f"… {to_printable(event.step or '')}  {loop.format()}"))

    def _announce_slow_steps(self) -> None:
        """Print each slow running step once, if the terminal cannot be redrawn."""
        from rich.text import Text

        if self._can_redraw:
            return
        for followed, visit in _active_visits(self._followed):
            key = (followed.run.id, visit.step, visit.visit)
            is_running = visit.state is ActivityState.RUNNING and visit.loop is None
            is_slow = is_running and self._clock() - visit.since >= _SLOW_SECONDS
            if is_slow and self._announce(key, ActivityState.RUNNING):
                self._console.print(_indent(followed, Text(f"… {to_printable(visit.step)} is running")))

    def _announce(self, key: VisitKey, state: ActivityState) -> bool:
        """Record that a state of a visit was shown. Return whether this is the first time."""
        is_new = (key, state) not in self._announced
        self._announced.add((key, state))
        return is_new

    def _render_active_lines(self) -> RenderableType:
        from rich.console import Group

        size = self._console.size
        width = size.width - len(_INTERRUPT_ECHO)
        max_lines = min(size.height - 2, _MAX_ACTIVE_LINES)
        return Group(*active_lines(self._followed, self._clock(), width, max_lines))


def active_lines(followed: Iterable[FollowedRun], now: float, width: int, max_lines: int) -> list[Text]:
    """Return the active visits of runs and of their children: `max_lines` lines of `width` cells at most."""
    from rich.text import Text

    rows = list(_active_visits(followed))
    shown_rows = rows if len(rows) <= max_lines else rows[: max(max_lines - 1, 0)]
    lines = [_indent(run, _active_line(visit, now, width)) for run, visit in shown_rows]
    if len(shown_rows) < len(rows):
        lines.append(Text(f"  and {len(rows) - len(shown_rows)} more", style="dim"))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def _active_visits(followed_runs: Iterable[FollowedRun]) -> Iterator[tuple[FollowedRun, ActiveVisit]]:
    for followed in followed_runs:
        yield from ((followed, visit) for visit in followed.board.active_visits())
        yield from _active_visits(list(followed.children))


def _active_line(visit: ActiveVisit, now: float, width: int) -> Text:
    from rich.text import Text

    step = _cut_name(visit.step, width)
    remaining = "" if visit.until is None else format_countdown(visit.until - now)
    match visit.state:
        case ActivityState.WAITING:
            wait = f"  {describe_wait(visit, remaining)}{format_titles(visit.titles)}"
            return Text.assemble(("◷ ", "yellow"), step, (wait, "dim"))
        case ActivityState.RETRYING:
            return Text.assemble(("↻ ", "yellow"), step, (f"  attempt {visit.attempt} in {remaining}", "dim"))
        case ActivityState.RUNNING if visit.loop is not None:
            bar_width = BAR_WIDTH if width >= _NARROW_WIDTH else BAR_WIDTH // 2
            return Text.assemble(("▶ ", "cyan"), step, f"  {visit.loop.format(bar_width)}")
        case ActivityState.RUNNING:
            attempt = f"  attempt {visit.attempt}" if visit.attempt > 1 else ""
            actions = "".join(
                f"  {to_printable(type)}" for type in dict.fromkeys(visit.running_actions.values())
            )
            details = f"  {_format_elapsed(now - visit.since)}{attempt}{actions}"
            return Text.assemble(("▶ ", "cyan"), step, (details, "dim"))


def _cut_name(name: str, width: int) -> str:
    """Return the name of a step, cut so that the rest of its line has place in `width` cells."""
    from rich.cells import set_cell_size

    shown, limit = to_printable(name), max(width - _STATE_WIDTH, _MIN_NAME_WIDTH)
    if display_width(shown) <= limit:
        return shown
    return set_cell_size(shown, limit - 1).rstrip() + "…"


def _format_elapsed(seconds: float) -> str:
    return f"{max(seconds, 0.0):.1f} s" if seconds < 60 else format_duration(seconds)


class _LogLineHandler(logging.Handler):
    """A handler that prints log records on a console whose last lines may be redrawn."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console
        self._logger = logging.getLogger("noetl")
        self._previous_level = self._logger.level

    def attach(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(self.level)

    def detach(self) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._previous_level)

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        error = record.exc_info[1] if record.exc_info else None
        reason = f": {type(error).__name__}: {error}" if error is not None else ""
        fields = getattr(record, "fields", None)
        values = (
            "".join(f"  {name}={value}" for name, value in fields.items()) if isinstance(fields, dict) else ""
        )
        labels = getattr(record, "labels", None)
        step = labels.get("step") if isinstance(labels, dict) else None
        origin = f"{step}: " if step is not None else ""
        text = to_printable(redact(f"{origin}{level}{record.getMessage()}{reason}{values}"))
        for line in self._wrap(text):
            self._console.print(f"│ {line}")

    def _wrap(self, text: str) -> Iterable[str]:
        """Return the lines of a text, broken between words on a terminal."""
        from rich.text import Text

        if not self._console.is_terminal:
            return (text,)
        width = max(self._console.width - len("│ "), 1)
        return (line.plain.rstrip() for line in Text(text).wrap(self._console, width))


def _indent(followed: FollowedRun, line: Text) -> Text:
    """Indent the line of a step by the depth of its run, and add the playbook of a child run."""
    from rich.text import Text

    if not followed.depth:
        return line
    sign, rest = line[:2], line[2:]
    playbook = f"{to_printable(followed.run.playbook)}: "
    return Text.assemble("  " * followed.depth, sign, (playbook, "dim"), rest)


_SIGNS_OF_ENDS = {"succeeded": ("✓ ", "green"), "skipped": ("⊘ ", "dim")}
"""The signs of child runs that have not failed, with their styles."""


def _run_end_line(followed: FollowedRun, event: Event) -> Text:
    """Return the line for the end of a child run."""
    from rich.text import Text

    status = event.payload.get("status", event.type.removeprefix("workflow."))
    sign = _SIGNS_OF_ENDS.get(status, ("✗ ", "red"))
    shown_status = "" if status == "succeeded" else f"  {status}"
    duration = f"  {format_duration(event.duration_seconds or 0.0)}"
    name = to_printable(followed.run.playbook)
    details = (f"{duration}  run {followed.run.id}", "dim")
    return Text.assemble("  " * followed.depth, sign, name, shown_status, details)


def _pause_line(followed: FollowedRun, event: Event) -> Text:
    """Return the line for the begin or the end of a pause."""
    from rich.text import Text

    caller = f" by {to_printable(str(event.payload['by']))}" if "by" in event.payload else ""
    is_pause = event.type == "workflow.paused"
    words = (
        f"paused{caller}; `noetl runs unpause {followed.run.id}` lets it continue"
        if is_pause
        else f"continues{caller}"
    )
    return Text.assemble("  " * followed.depth, (f"{to_printable(followed.run.playbook)} {words}", "yellow"))


def visit_end_line(
    event: Event,
    transition: Mapping[str, Any] | None = None,
    retries: int = 0,
    loop_counts: Mapping[str, Any] | None = None,
    cached: Sequence[str | None] = (),
) -> Text:
    """Return the line for the end of a visit or of an attempt.

    `transition` is the payload of the transition to the next steps. `retries` counts the retries of actions.
    `loop_counts` is the payload of the latest progress of its loop. `cached` has the actions whose results
    came from the cache, and None if that of the step did.
    """
    from rich.text import Text

    step = to_printable(event.step or "")
    attempt = f"  attempt {event.attempt}" if (event.attempt or 1) > 1 else ""
    duration = f"  {format_duration(event.duration_seconds)}" if event.duration_seconds is not None else ""
    shown_retries = f"  {retries} {'retry' if retries == 1 else 'retries'}" if retries else ""
    details = (
        f"{duration}{attempt}{shown_retries}{_format_items(loop_counts)}{_format_cached(cached)}",
        "dim",
    )
    error = event.payload.get("error")
    targets = _format_targets(transition)
    match event.type:
        case "step.completed":
            return Text.assemble(("✓ ", "green"), step, details, targets)
        case "step.failed":
            return Text.assemble(("✗ ", "red"), step, details, ("  " + format_error(error), "red"), targets)
        case "step.retrying":
            next_at = parse_time(event.payload.get("next_attempt_at"))
            retry = "" if next_at is None else f"; retry in {format_duration(max(next_at - event.at, 0.0))}"
            return Text.assemble(("↻ ", "yellow"), step, details, f"  {format_error(error)}{retry}")
        case _:
            return Text.assemble(("⊘ ", "dim"), step, "  is skipped")


def _forgiven_item_lines(
    payloads: Sequence[Mapping[str, Any]], loop_counts: Mapping[str, Any] | None
) -> Iterator[Text]:
    """Yield lines with the failed items of a loop that continued, from the payloads of their events.

    `loop_counts` is the payload of the latest progress of the loop.
    """
    from rich.text import Text

    items = [{"error": payload["error"], "value": str(payload["item"]["value"])} for payload in payloads]
    failed = max(len(items), 0 if loop_counts is None else loop_counts["failed"])
    for line in failed_item_lines(items, failed):
        yield Text.assemble((line, "red" if line.startswith("  ✗") else "dim"))


def _format_items(loop_counts: Mapping[str, Any] | None) -> str:
    if loop_counts is None:
        return ""
    failed = f", {loop_counts['failed']:,} failed" if loop_counts["failed"] else ""
    done, total = loop_counts["done"], loop_counts["total"]
    partial = f"{done:,} of " if done < total else ""
    return f"  {partial}{total:,} item{'s' * (total != 1)}{failed}"


def _format_cached(actions: Sequence[str | None]) -> str:
    """Return words for the work whose results came from the cache.

    >>> _format_cached([None]), _format_cached(["http"]), _format_cached([])
    ('  from the cache', '  1 action from the cache', '')
    """
    if not actions or None in actions:
        return "  from the cache" if actions else ""
    return f"  {len(actions):,} action{'s' * (len(actions) != 1)} from the cache"


def _format_targets(transition: Mapping[str, Any] | None) -> str:
    targets = (transition or {}).get("targets") or ()
    return f"  → {', '.join(map(to_printable, targets))}" if targets else ""


def _wait_line(event: Event) -> Text:
    from rich.text import Text

    actions, retried = tuple(event.payload.get("actions", ())), tuple(event.payload.get("retried", ()))
    limit = describe_limit(event.payload)
    visit = ActiveVisit(event.step or "", event.at, actions=actions, retried=retried, limit=limit)
    wait = describe_wait(visit, "")
    until = event.payload.get("until")
    time_text = f" {'until' if actions or not retried else 'at'} {until[:19]}Z" if until else ""
    titles = format_titles(event.payload.get("titles", ()))
    return Text.assemble(("◷ ", "yellow"), to_printable(event.step or ""), f"  {wait}{time_text}{titles}")
