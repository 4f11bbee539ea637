"""What is at work in a run at a moment, as its events tell: steps that run, that wait, that are to be tried again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from noetl.planner.diagnostics.terminal_text import visible
from noetl.planner.diagnostics.wording import listed

if TYPE_CHECKING:
    from noetl.executor.model.events import Event

_OURS = "@"
"""What the names of steps begin with that no playbook wrote."""

_FOR = {"callback": "an answer", "workflow": "another run"}
_REMEMBERED = 8
BAR = 20


class State(IntEnum):
    """How a visit stands that is not over, in the order in which they are shown."""

    RUNNING = 0
    RETRYING = 1
    WAITING = 2


@dataclass
class Counts:
    """How many items of the loop at a position are done, and how fast that goes, from when it was told lately."""

    position: str = ""
    done: int = 0
    total: int = 0
    failed: int = 0
    lately: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def take(self, at: float, done: int, total: int, failed: int) -> None:
        self.done, self.total, self.failed = done, total, failed
        self.lately.append((at, done))

    @property
    def per_second(self) -> float | None:
        """Items a second; None before that can be known."""
        if not self.lately:
            return None
        (first_at, first), (last_at, last) = self.lately[0], self.lately[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at and last > first else None

    def shown(self, bar: int = BAR) -> str:
        filled = bar * self.done // max(self.total, 1)
        failed = f", {self.failed:,} failed" if self.failed else ""
        rate = "" if self.per_second is None else f"  {pace(self.per_second)}"
        return f"{'█' * filled}{'░' * (bar - filled)} {self.done:,} of {self.total:,}{failed}{rate}"


@dataclass
class Doing:
    """A visit that is not over. `since` is when it began; `until` when it goes on, if a time will bring that about. `at_work` are the
    types of the actions that are known to be at work, by their positions.
    """

    step: str
    since: float
    visit: int = 1
    state: State = State.RUNNING
    attempt: int = 1
    until: float | None = None
    actions: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    counts: Counts | None = None
    at_work: dict[str, str] = field(default_factory=dict)

    def waits_for(self) -> str:
        """What brings a waiting visit on, but for time."""
        return listed(
            [_FOR.get(action, f"`{action}`") for action in self.actions if action != "wait"] or [""], "and"
        )


class Board:
    """The visits of one run that are not over. Read by another thread than the one that lets it take events."""

    def __init__(self) -> None:
        self._doing: dict[tuple[str, int], Doing] = {}
        self.has_ended = False
        self.starts_runs = False

    def take(self, event: Event) -> None:
        """Learn what an event tells."""
        if event.type.startswith("workflow."):
            self._doing.clear()
            self.has_ended = is_end(event)
        step = event.step
        if step is None or step.startswith(_OURS):
            return
        visit = (step, event.visit or 1)
        match event.type:
            case "step.started":
                doing = self._doing.setdefault(visit, Doing(step, event.at, visit[1]))
                doing.since = event.at if doing.state is State.RETRYING else doing.since
                doing.state, doing.until, doing.attempt = State.RUNNING, None, event.attempt or 1
                doing.at_work = {}
            case "step.waiting":
                doing = self._doing.setdefault(visit, Doing(step, event.at, visit[1]))
                doing.state, doing.until = State.WAITING, moment(event.payload.get("until"))
                doing.actions = tuple(event.payload.get("actions", ()))
                doing.retried = tuple(event.payload.get("retried", ()))
                doing.at_work = {}
                self.starts_runs |= "workflow" in doing.actions
            case "step.retrying":
                doing = self._doing.setdefault(visit, Doing(step, event.at, visit[1]))
                doing.state, doing.until = State.RETRYING, moment(event.payload.get("next_attempt_at"))
                doing.attempt = (event.attempt or 1) + 1
                doing.counts = None
            case "loop.progress":
                self._count(visit, event)
            case "action.started" | "action.retrying" | "action.completed" | "action.failed":
                self._act(visit, event)
            case "step.completed" | "step.failed":
                self._doing.pop(visit, None)

    def _act(self, visit: tuple[str, int], event: Event) -> None:
        doing = self._doing.get(visit)
        if doing is None:
            return
        # Another dictionary, as somebody else may look at this one.
        rest = {place: type for place, type in doing.at_work.items() if place != event.payload["position"]}
        begins = event.type == "action.started"
        doing.at_work = {**rest, event.payload["position"]: event.payload["action"]} if begins else rest

    def _count(self, visit: tuple[str, int], event: Event) -> None:
        doing = self._doing.get(visit)
        if doing is None:
            return
        told: Any = event.payload
        if doing.counts is None or doing.counts.position != told["position"]:
            doing.counts = Counts(told["position"])
            doing.counts.lately.append((doing.since, 0))
        doing.counts.take(event.at, told["done"], told["total"], told["failed"])

    def begin_anew(self, now: float) -> None:
        """What was at work is begun anew: the time that has passed does not count."""
        for doing in self._doing.values():
            if doing.state is State.RUNNING:
                doing.since = now
            if doing.counts is not None:
                doing.counts.lately.clear()

    def doing(self) -> list[Doing]:
        """The visits that are not over: those that run, then those that are to be tried again, then those that wait."""
        return sorted(self._doing.values(), key=lambda doing: doing.state)

    def counts(self, event: Event) -> Counts | None:
        """How far the loop has come that an event is about."""
        doing = self._doing.get((event.step or "", event.visit or 1))
        return None if doing is None else doing.counts


def is_end(event: Event) -> bool:
    """Whether a run has ended with an event."""
    return event.type.startswith("workflow.") and event.type not in ("workflow.started", "workflow.resumed")


def waiting(doing: Doing, left: str) -> str:
    """What a visit waits for, in words; `left` says how long that may take, where that is to be said."""
    what = doing.waits_for()
    if what:
        return f"waits for {what}{f', {left} left' if left else ''}"
    if doing.retried:
        again = f"tries {listed([f'`{action}`' for action in doing.retried], 'and')} again"
        return f"{again} in {left}" if left else again
    verb = "goes on" if doing.actions else "next round"
    return f"{verb} in {left}" if left else "waits"


def moment(text: str | None) -> float | None:
    """The time that an event names, in seconds since the epoch."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


def failure(error: Any) -> str:
    """A failure in one line: its type and its message."""
    return visible(f"{error['type']}: {error['message']}") if error else "failed"


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `5 m 12 s`, `2 h 3 m` or `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def countdown(seconds: float) -> str:
    """As `duration`, in whole seconds."""
    return duration(float(seconds)) if (seconds := max(round(seconds), 0)) >= 60 else f"{seconds} s"


def pace(per_second: float) -> str:
    """`1,200/s`, `3.4/s` or, of what takes long, `12/min`."""
    if per_second >= 10:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"
