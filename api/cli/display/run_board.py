"""Projection of a run's events: the visits that are active now, and the progress of their loops."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from noetl.executor.model.cached_results import CACHE_WAIT
from noetl.executor.model.events import DEBOUNCED_EVENT
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.diagnostics.wording import join_words

if TYPE_CHECKING:
    from noetl.executor.model.events import Event

_INTERNAL_STEP = "@"
"""First character of the names of internal steps, which no playbook contains."""

_SAMPLE_COUNT = 8
"""Latest counts of a loop from which its rate is computed."""

BAR_WIDTH = 20


class ActivityState(IntEnum):
    """State of an active visit. Visits are shown in the order of these values."""

    RUNNING = 0
    RETRYING = 1
    WAITING = 2


@dataclass
class LoopCounter:
    """Progress of the loop at a position, and its rate over the latest samples of (time, items done)."""

    position: str = ""
    done: int = 0
    total: int = 0
    failed: int = 0
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLE_COUNT))

    def update(self, time: float, done: int, total: int, failed: int) -> None:
        """Record the counts at a time."""
        self.done, self.total, self.failed = done, total, failed
        self.samples.append((time, done))

    @property
    def per_second(self) -> float | None:
        """Items per second, or None if the samples do not suffice."""
        if not self.samples:
            return None
        (first_at, first_done), (last_at, last_done) = self.samples[0], self.samples[-1]
        if last_at <= first_at or last_done <= first_done:
            return None
        return (last_done - first_done) / (last_at - first_at)

    def format(self, bar_width: int = BAR_WIDTH) -> str:
        """Return a progress bar with the counts and the rate."""
        filled = bar_width * self.done // max(self.total, 1)
        bar = "█" * filled + "░" * (bar_width - filled)
        failed = f", {self.failed:,} failed" if self.failed else ""
        rate = "" if self.per_second is None else f"  {format_rate(self.per_second)}"
        return f"{bar} {self.done:,} of {self.total:,}{failed}{rate}"


@dataclass
class ActiveVisit:
    """A visit that has not ended.

    `since` is the time of its start. `until` is the time at which it continues, if it is known.
    `running_actions` are the types of the running actions by their positions. `titles` are what waiting
    actions ask persons. `limit` says in words for which limit it waits.
    """

    step: str
    since: float
    visit: int = 1
    state: ActivityState = ActivityState.RUNNING
    attempt: int = 1
    until: float | None = None
    actions: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    limit: str = ""
    loop: LoopCounter | None = None
    running_actions: dict[str, str] = field(default_factory=dict)

    def awaited(self) -> str:
        """Return words for what the visit waits for, or an empty text if it waits only for a time."""
        if self.limit:
            return self.limit
        words = filter(None, map(_describe_awaited, self.actions))
        return join_words([*words] or [""], "and")


def _describe_awaited(action: str) -> str:
    """Return what an action of this type waits for, in words; an empty text if it is only a time."""
    from noetl.executor.actions import catalogue

    declaration = catalogue().get(action)
    if action == CACHE_WAIT:
        return "the same work of another run"
    return f"`{action}`" if declaration is None or declaration.awaits is None else declaration.awaits


def _waits_for_run(action: str) -> bool:
    from noetl.executor.actions import catalogue

    declaration = catalogue().get(action)
    return declaration is not None and declaration.child_run is not None


PAUSE_EVENTS = ("workflow.paused", "workflow.unpaused")
"""The events of a pause. Running visits go on in it, and waiting ones keep their waits."""

_SWITCH_EVENT = "workflow.migrated"
"""The event of a run that continues in another version. Its visits go on, some with other steps."""


class RunBoard:
    """The active visits of one run.

    One thread applies events while another thread reads. So a value that both use is replaced, not changed.
    """

    def __init__(self) -> None:
        self._visits: dict[tuple[str, int], ActiveVisit] = {}
        self.has_ended = False
        self.starts_runs = False

    def apply(self, event: Event) -> None:
        """Update the board with an event of the run."""
        if event.type == _SWITCH_EVENT:
            self._rename_steps(event.payload.get("renamed", {}))
        elif event.type.startswith("workflow.") and event.type not in (*PAUSE_EVENTS, DEBOUNCED_EVENT):
            self._visits.clear()
            self.has_ended = is_run_end(event)
        if event.step is None or event.step.startswith(_INTERNAL_STEP):
            return
        key = (event.step, event.visit or 1)
        match event.type:
            case "step.started":
                visit = self._visits.setdefault(key, ActiveVisit(event.step, event.at, key[1]))
                visit.since = event.at if visit.state is ActivityState.RETRYING else visit.since
                visit.state, visit.until, visit.attempt = ActivityState.RUNNING, None, event.attempt or 1
                visit.running_actions = {}
            case "step.waiting":
                self._suspend(key, event)
            case "step.retrying":
                visit = self._visits.setdefault(key, ActiveVisit(event.step, event.at, key[1]))
                visit.state = ActivityState.RETRYING
                visit.until = parse_time(event.payload.get("next_attempt_at"))
                visit.attempt = (event.attempt or 1) + 1
                visit.loop = None
            case "loop.progress":
                self._count_items(key, event)
            case "action.started" | "action.retrying" | "action.completed" | "action.failed":
                self._update_actions(key, event)
            case "step.completed" | "step.failed":
                self._visits.pop(key, None)

    def _suspend(self, key: tuple[str, int], event: Event) -> None:
        visit = self._visits.setdefault(key, ActiveVisit(key[0], event.at, key[1]))
        visit.state, visit.until = ActivityState.WAITING, parse_time(event.payload.get("until"))
        visit.actions = tuple(event.payload.get("actions", ()))
        visit.retried = tuple(event.payload.get("retried", ()))
        visit.titles = tuple(event.payload.get("titles", ()))
        visit.limit = describe_limit(event.payload)
        visit.running_actions = {}
        self.starts_runs |= any(map(_waits_for_run, visit.actions))

    def _update_actions(self, key: tuple[str, int], event: Event) -> None:
        visit = self._visits.get(key)
        if visit is None:
            return
        position, action = event.payload["position"], event.payload["action"]
        # A new dictionary, because another thread may be iterating over the old one.
        other_actions = {place: type for place, type in visit.running_actions.items() if place != position}
        is_start = event.type == "action.started"
        visit.running_actions = {**other_actions, position: action} if is_start else other_actions

    def _count_items(self, key: tuple[str, int], event: Event) -> None:
        visit = self._visits.get(key)
        if visit is None:
            return
        counts: Any = event.payload
        if visit.loop is None or visit.loop.position != counts["position"]:
            visit.loop = LoopCounter(counts["position"])
            visit.loop.samples.append((visit.since, 0))
        visit.loop.update(event.at, counts["done"], counts["total"], counts["failed"])

    def restart_clocks(self, now: float) -> None:
        """Measure the running visits from `now`, because a resume repeats their work."""
        for visit in self._visits.values():
            if visit.state is ActivityState.RUNNING:
                visit.since = now
            if visit.loop is not None:
                visit.loop.samples.clear()

    def _rename_steps(self, renamed: Mapping[str, str]) -> None:
        """Give visits the names that their steps have in another version."""
        visits = {}
        for (step, number), visit in self._visits.items():
            visit.step = renamed.get(step, step)
            visits[visit.step, number] = visit
        self._visits = visits

    def active_visits(self) -> list[ActiveVisit]:
        """Return the visits that have not ended: running, then retrying, then waiting ones."""
        return sorted(self._visits.values(), key=lambda visit: visit.state)

    def loop_of(self, event: Event) -> LoopCounter | None:
        """Return the progress of the loop that an event reports."""
        visit = self._visits.get((event.step or "", event.visit or 1))
        return None if visit is None else visit.loop


def is_run_end(event: Event) -> bool:
    """Return whether the event ends its run."""
    not_final = ("workflow.started", "workflow.resumed", DEBOUNCED_EVENT, _SWITCH_EVENT, *PAUSE_EVENTS)
    return event.type.startswith("workflow.") and event.type not in not_final


def describe_wait(visit: ActiveVisit, remaining: str) -> str:
    """Return words for what a visit waits for. `remaining` is the time until it continues, or empty."""
    awaited = visit.awaited()
    if awaited:
        return f"waits for {awaited}{f', {remaining} left' if remaining else ''}"
    if visit.retried:
        retries = f"retries {join_words([f'`{action}`' for action in visit.retried], 'and')}"
        return f"{retries} in {remaining}" if remaining else retries
    verb = "continues" if visit.actions else "next round"
    return f"{verb} in {remaining}" if remaining else "waits"


def describe_limit(payload: Mapping[str, Any]) -> str:
    """Return words for the limit of an event or a report of a wait, or an empty text if it names none.

    >>> describe_limit({"limit": "api", "key": "acme", "queued_before": 2})
    'limit `api` of `acme`, 2 ahead'
    >>> describe_limit({"limit": "api", "queued_before": 0})
    'limit `api`, next'
    >>> describe_limit({"limit": "api", "queued_before": None})
    'limit `api`'
    """
    if payload.get("limit") is None:
        return ""
    key = "" if payload.get("key") is None else f" of `{to_printable(payload['key'])}`"
    place = f"{payload['queued_before']:,} ahead" if payload["queued_before"] else "next"
    name = f"limit `{to_printable(payload['limit'])}`{key}"
    if payload["queued_before"] is None:
        return name
    return f"{name}, {place}"


def describe_left_out(reason: Mapping[str, Any]) -> str:
    """Return words for the report of a step whose work was left out.

    >>> describe_left_out({"limit": "api", "key": "acme"})
    'was left out, because limit `api` of `acme` was full'
    >>> describe_left_out({"requester": "ann"}), describe_left_out({})
    ('was left out, with a result that ann gave', 'was left out, with a result that a resume gave')
    """
    if reason.get("limit") is None:
        return f"was left out, with a result that {to_printable(reason.get('requester') or 'a resume')} gave"
    key = "" if reason.get("key") is None else f" of `{to_printable(reason['key'])}`"
    return f"was left out, because limit `{to_printable(reason['limit'])}`{key} was full"


def format_titles(titles: Iterable[str]) -> str:
    """Return the end of a line about a wait: what it asks persons.

    >>> format_titles(["Pay?", "Ship?"]), format_titles([])
    (': Pay? Ship?', '')
    """
    text = " ".join(map(to_printable, titles))
    return f": {text}" if text else ""


def parse_time(text: str | None) -> float | None:
    """Return the seconds since the epoch of a time in an event.

    >>> parse_time("1970-01-01T00:00:01Z")
    1.0
    """
    return None if text is None else datetime.fromisoformat(text).timestamp()


def format_error(error: Any) -> str:
    """Return the type and the message of an error record as one line."""
    return to_printable(f"{error['type']}: {error['message']}") if error else "failed"


def format_duration(seconds: float) -> str:
    """Format a duration with at most two units.

    >>> [format_duration(seconds) for seconds in (0.012, 3.44, 312, 7380, 273_600)]
    ['12 ms', '3.4 s', '5 m 12 s', '2 h 3 m', '3 d 4 h']
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def format_countdown(seconds: float) -> str:
    """Format a duration in whole seconds. A negative duration is 0 s."""
    seconds = max(round(seconds), 0)
    return format_duration(float(seconds)) if seconds >= 60 else f"{seconds} s"


def format_rate(per_second: float) -> str:
    """Format a rate of items.

    >>> [format_rate(rate) for rate in (1234.5, 3.44, 0.2)]
    ['1,234/s', '3.4/s', '12.0/min']
    """
    if per_second >= 10:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"
