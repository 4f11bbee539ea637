"""The attempts of a visit with their actions, its rule and its lines, as its events tell them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from noetl.api.service.data_views import (
    ActionReport,
    AttemptReport,
    CachedReport,
    GuardReport,
    LogLine,
)
from noetl.api.service.views import LeftOutReport, LoopReport, StepState
from noetl.executor.model.events import Event, timestamp
from noetl.planner.plan import Step

_ITEM = re.compile(r"\[(\d+)\]")
_ENDS = {
    "action.completed": StepState.SUCCEEDED,
    "action.failed": StepState.FAILED,
    "action.retrying": StepState.RETRYING,
}
_ENDS_OF_ATTEMPT = ("step.completed", "step.failed", "step.retrying")


def list_attempts(events: Iterable[Event], state: StepState) -> list[AttemptReport]:
    """Return the attempts of a visit, in order. `state` is the status of the visit.

    A last action without an end has this status. An earlier one is `cancelled`: its worker has died, or its
    run was cancelled.
    """
    attempts: list[_AttemptBuilder] = []
    for event in events:
        if event.type == "step.started" or not attempts:
            attempts.append(_AttemptBuilder(event))
        attempts[-1].add(event)
    for attempt in attempts:
        attempt.close(state if attempt is attempts[-1] else StepState.CANCELLED)
    return [attempt.report() for attempt in attempts]


def find_left_out(events: Sequence[Event]) -> LeftOutReport | None:
    """Return why the last attempt has succeeded without its work, or None."""
    for event in reversed(events):
        if event.type == "step.skipped":
            return LeftOutReport.from_reason(event.payload)
        if event.type in ("step.started", "step.failed"):
            return None
    return None


class _AttemptBuilder:
    """An attempt, whose events are added in their order."""

    def __init__(self, event: Event) -> None:
        self._members: dict[str, Any] = {
            "attempt": event.attempt or 1,
            "worker": event.payload.get("worker"),
            "started_at": timestamp(event.at) if event.type == "step.started" else None,
            "finished_at": None,
            "error": None,
        }
        self._actions: list[dict[str, Any]] = []
        self._open: dict[str, dict[str, Any]] = {}
        self._loops: dict[str, LoopReport] = {}

    def add(self, event: Event) -> None:
        payload = event.payload
        if event.type == "action.started":
            self._start(event)
        elif event.type in _ENDS:
            action = self._open.pop(payload["position"], None) or self._start(event)
            seconds = event.duration_seconds
            action["status"] = _ENDS[event.type]
            action["duration_ms"] = None if seconds is None else round(seconds * 1000, 3)
            action["error"], action["wait_seconds"] = payload.get("error"), payload.get("wait_seconds")
            self._open.pop(payload["position"], None)
        elif event.type == "action.cached":
            self._add_cached(event)
        elif event.type == "loop.progress":
            counts = {name: payload[name] for name in ("position", "done", "failed", "total")}
            self._loops[payload["position"]] = LoopReport(**counts)
        elif event.type in _ENDS_OF_ATTEMPT:
            self._members |= {"finished_at": timestamp(event.at), "error": payload.get("error")}

    def _add_cached(self, event: Event) -> None:
        """Add an action that was not performed, or mark the attempt if none of its work was."""
        origin = CachedReport(**{name: event.payload[name] for name in ("run", "age_seconds", "key")})
        if "action" not in event.payload:
            self._members["cached"] = origin
            return
        action = self._start(event)
        action |= {"status": StepState.SUCCEEDED, "cached": origin}
        del self._open[event.payload["position"]]

    def _start(self, event: Event) -> dict[str, Any]:
        """Add an action. An earlier one at its position, which has no end, was cancelled."""
        payload = event.payload
        if (earlier := self._open.get(payload["position"])) is not None:
            earlier["status"] = StepState.CANCELLED
        action = {
            "action": payload["action"],
            "position": payload["position"],
            "status": StepState.RUNNING,
            "started_at": timestamp(event.at),
            "duration_ms": None,
            "input": payload.get("input"),
            "cut": payload.get("cut"),
        }
        self._actions.append(action)
        self._open[payload["position"]] = action
        return action

    def close(self, state: StepState) -> None:
        """Set the status of the actions that have no end."""
        is_active = state in (StepState.RUNNING, StepState.WAITING, StepState.RETRYING)
        for action in self._open.values():
            action["status"] = state if is_active else StepState.CANCELLED

    def report(self) -> AttemptReport:
        actions = [ActionReport(**action) for action in self._actions]
        return AttemptReport(**self._members, actions=actions, loops=list(self._loops.values()) or None)


def find_transition(events: Sequence[Event], step: Step) -> tuple[list[GuardReport], list[str]]:
    """Return the guards that were evaluated last, and the steps to which the case leads."""
    for event in reversed(events):
        if event.type in ("step.transition", "step.failed"):
            guards = [
                GuardReport(case=entry["case"], guard=_guard_of(step, entry["case"]), value=entry["value"])
                for entry in event.payload.get("guards", ())
            ]
            if guards or event.type == "step.transition":
                return guards, list(event.payload.get("targets", ()))
    return [], []


def _guard_of(step: Step, case: int) -> str | None:
    return step.cases[case].guard if case < len(step.cases) else None


def to_log_line(event: Event) -> LogLine:
    """Return the line of an event `action.log`."""
    payload = event.payload
    items = _ITEM.findall(payload["position"])
    return LogLine(
        id=event.id,
        logged_at=timestamp(event.at),
        step=event.step,
        visit=event.visit,
        attempt=event.attempt,
        action=payload["action"],
        position=payload["position"],
        item=int(items[-1]) + 1 if items else None,
        stream=payload["stream"],
        level=payload.get("level"),
        text=payload["text"],
        fields=payload.get("fields"),
        cut=payload.get("cut"),
    )
