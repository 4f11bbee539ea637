"""The service of earlier states: a run as it was at an event of its history.

Problem: to understand a run, a person must see where its branches stood at an earlier moment, and which names
had which values. The store has only the present state, and the history.

Algorithm: the events up to the moment are replayed (`noetl.executor.engine.replay`). Names lead to the visits
that saved them. Visits keep what they have saved, so values come from the present records.

Cost: one read of the plan, one of all visits with their outputs, and one of all events. A history of 10,000
events takes about a second.

Limits: values are shown up to a length. The input is that of now, which a resume may have corrected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from noetl.api.service.data_views import MAX_SHOWN_CHARACTERS, RunDetails, StepData
from noetl.api.service.errors import NotFoundError
from noetl.api.service.past_views import MAX_PAST_CHARACTERS, PastBranch, PastJoin, PastName, PastState
from noetl.api.service.restarts import check_same_plan
from noetl.api.service.run_data import RunDataService, ShownVisit, cut_values, draw_visits
from noetl.api.service.runs import RunService
from noetl.api.service.step_reports import count_loops, visit_state
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import EventEntry, StepReport, StepState, WaitReport
from noetl.api.service.visit_history import find_left_out
from noetl.executor.engine.replay import PastRun, RecordedHistory, replay
from noetl.executor.engine.run_events import read_events
from noetl.executor.errors import RejectedError
from noetl.executor.model.branch_stack import ForkFrame
from noetl.executor.model.durations import Durations, begin_times, extend_times
from noetl.executor.model.events import Event
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.run_summary import (
    RunOverview,
    StartedVisit,
    has_started,
    latest_visits,
    summarize,
)
from noetl.executor.model.transition import names_after
from noetl.executor.model.visit_states import ACTIVE, FINISHED
from noetl.executor.stores.cursors import read_event_id
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.draw.run_marks import DrawnRun
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan

_MAX_DIGITS = 9


@frozen
class PastMoment:
    """A run, and its state after one of its events.

    `recorded` is the run as it is now. `events` are those up to the moment, and `count` is the number of all.
    """

    recorded: RecordedHistory
    state: PastRun
    events: Sequence[Event]
    count: int

    @property
    def time(self) -> float:
        return self.events[-1].at

    @property
    def run(self) -> Run:
        return self.state.run

    @property
    def plan(self) -> Plan:
        return self.recorded.plan

    def events_of(self, visit: Visit) -> list[Event]:
        """Return the events of a visit up to the moment."""
        return [event for event in self.events if (event.step, event.visit) == (visit.step, visit.number)]

    def holders(self) -> dict[str, tuple[int, str]]:
        """Return the visit that saved each name last, of all that the run had saved."""
        names: dict[str, tuple[int, str]] = {}
        ended = [
            visit for visit in self.state.visits if visit.status in FINISHED and not visit.has_ended_branch
        ]
        for visit in sorted(ended, key=lambda visit: (visit.clock, visit.id)):
            names.update(
                {name: (visit.clock, visit.id) for name in names_after(visit) if name in visit.saved}
            )
            names[f"steps.{visit.step}"] = (visit.clock, visit.id)
        return names


@frozen
class PastRunService:
    """The earlier states of the runs of one tenant."""

    context: TenantContext
    runs: RunService
    data: RunDataService

    def find(self, run_id: str, place: str) -> PastMoment:
        """Return a run after an event: `place` is the id of the event, or its number from 1.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `unknown_event`; `no_past`.
        """
        run = self.runs.get(run_id)
        events = list(read_events(self.context.store, run.id))
        visits = self.context.store.runs.visits_with_outputs(run.id)
        check_same_plan(run.id, events, visits, "its earlier states cannot be shown")
        length = _find_length(run.id, events, place)
        recorded = RecordedHistory(run, self.runs.plan(run.id), visits)
        shown = events[:length]
        return PastMoment(recorded, replay(recorded, shown), shown, len(events))

    def details(self, moment: PastMoment) -> RunDetails:
        """Return a run at a glance, as it was, with its branches, joins and names."""
        run, state = moment.run, moment.state
        overview = RunOverview(summarize(run), run.error, latest_visits(state.visits))
        report = self.runs.describe(overview)
        latest = {visit.step: visit for visit in state.visits}
        steps = {
            name: _complete_report(moment, report_of_step, latest.get(name))
            for name, report_of_step in report.steps.items()
        }
        details = self.data.at_a_glance(
            type(report)(**{**vars(report), "steps": steps}),
            replace(summarize(run), tags=moment.recorded.run.tags),
            _measure(moment),
            moment.time,
        )
        added = {"cursor": moment.events[-1].id, "moment": _describe_state(moment)}
        return RunDetails(**{**vars(details), **added})

    def drawn_run(self, moment: PastMoment) -> tuple[str, DrawnRun]:
        """Return the hash of the plan of a run, and what a drawing shows of the run as it was."""
        return moment.run.plan_hash, draw_visits(self.details(moment), moment.state.visits)

    def step(
        self, moment: PastMoment, name: str, number: int | None = None, *, is_complete: bool = False
    ) -> StepData:
        """Return a visit of a step with its data, as far as it had come.

        Raises:
            NotFoundError: the run has no such step, or the step had no such visit.
        """
        visit = self.find_visit(moment, name, number)
        recorded = next((found for found in moment.recorded.visits if found.id == visit.id), None)
        complete = visit
        if recorded is not None and _has_outputs(visit):
            complete = replace(
                visit, saved=recorded.saved, result=recorded.result, failures=recorded.failures
            )
        started = sum(has_started(found) for found in moment.state.visits if found.step == name)
        found = StartedVisit(visit, started, moment.state.entered_at.get(visit.id))
        shown = ShownVisit(moment.run, found, complete, moment.events_of(visit), moment.time)
        data = self.data.describe_visit(shown, math.inf if is_complete else MAX_SHOWN_CHARACTERS)
        waits = _describe_wait(moment, visit)
        return StepData(**{**vars(data), "waiting_for": waits})

    def find_visit(self, moment: PastMoment, name: str, number: int | None) -> Visit:
        """Return a visit of a step that had started.

        Raises:
            NotFoundError: the run has no such step, or the step had no such visit.
        """
        self.data.check_step(moment.run.plan_hash, name)
        started = [visit for visit in moment.state.visits if visit.step == name and has_started(visit)]
        found = [visit for visit in started if number in (None, visit.number)]
        if not found:
            problem = f"had no visit {number}" if started else "had not started"
            raise NotFoundError(
                f"step `{abbreviate(name)}` of run `{moment.run.id}` {problem} at event {len(moment.events)}"
            )
        return found[-1]


def _find_length(run_id: str, events: Sequence[Event], place: str) -> int:
    """Return how many events there are up to an event, by its id or its number.

    Raises:
        RejectedError: `unknown_event`, with the range of the events.
    """
    problem = f"the run has no event {abbreviate(place)}"
    if place.isascii() and place.isdecimal() and len(place) <= _MAX_DIGITS:
        if 1 <= int(place) <= len(events):
            return int(place)
    else:
        for number, event in enumerate(events, start=1):
            if event.id == place:
                return number
        try:
            read_event_id(run_id, place)
        except RejectedError as error:
            problem = str(error)
    shown = f"1 to {len(events):,}" if events else "none yet"
    ids = f" ({events[0].id} to {events[-1].id})" if events else ""
    raise RejectedError("unknown_event", f"{problem}; its events are {shown}{ids}")


def _has_outputs(visit: Visit) -> bool:
    """Return whether a visit had the outputs that its record has now: later attempts have changed others."""
    return visit.status in FINISHED and not visit.has_ended_branch


def _complete_report(moment: PastMoment, report: StepReport, visit: Visit | None) -> StepReport:
    """Return the report of a step with what only events say: its wait, why it was left out, its counts."""
    if visit is None:
        return report
    events = moment.events_of(visit)
    members: dict[str, Any] = {"loops": count_loops(events, ()) or None}
    members["waiting_for"] = _describe_wait(moment, visit)
    members["left_out"] = find_left_out(events) if report.status is StepState.SUCCEEDED else None
    return StepReport(**{**vars(report), **members})


def _describe_wait(moment: PastMoment, visit: Visit) -> WaitReport | None:
    """Return what a visit waited for. Events have no ids of child runs, and of questions only the titles."""
    payload = moment.state.waits.get(visit.id)
    if payload is None or visit.status is not VisitStatus.WAITING:
        return None
    return WaitReport(
        until=payload["until"], actions=payload["actions"], workflows=[], retried=payload.get("retried")
    )


def _measure(moment: PastMoment) -> Durations:
    active = [visit for visit in moment.state.visits if visit.status in ACTIVE]
    times = begin_times(moment.run.created_at)
    return extend_times(times, moment.events, active, len(moment.events), moment.time).durations


def _describe_state(moment: PastMoment) -> PastState:
    state = moment.state
    arrived = [branch for branches in state.arrivals.values() for branch in branches]
    branches = [_describe_branch(moment, visit) for visit in state.active]
    branches += [_branch("arrived", branch.step) for branch in arrived]
    branches += [_branch("queued", step) for step in _queued_steps(moment)]
    pointers = [visit.names for visit in state.active] + [branch.names for branch in arrived]
    expected = dict(state.live) if state.stack is None else dict(state.stack.waited_for)
    waves = state.waves if state.stack is None else state.stack.waves
    waiting = {join: len(found) for join, found in state.arrivals.items()}
    waiting |= dict.fromkeys(() if state.stack is None else state.stack.arrived, 1)
    joins = {
        join: PastJoin(arrived=waiting.get(join, 0), expected=expected.get(join, 0), fired=waves.get(join, 0))
        for join in moment.plan.steps
        if waiting.get(join) or expected.get(join) or waves.get(join)
    }
    return PastState(
        number=len(moment.events),
        events=moment.count,
        event=EventEntry.from_event(moment.events[-1]),
        branches=branches,
        joins=joins,
        names=list(_describe_names(moment, pointers)),
    )


def _branch(kind: Literal["arrived", "queued"], step: str) -> PastBranch:
    return PastBranch(step=step, kind=kind, visit=None, status=None)


def _describe_branch(moment: PastMoment, visit: Visit) -> PastBranch:
    state = visit_state(moment.run.status, visit)
    return PastBranch(step=visit.step, kind="visit", visit=visit.number, status=state)


def _queued_steps(moment: PastMoment) -> Iterator[str]:
    """Yield the steps that the branches of a run in sequential mode enter when they get their turn."""
    for frame in reversed(() if moment.state.stack is None else moment.state.stack.frames):
        if isinstance(frame, ForkFrame):
            yield from moment.plan.steps[frame.step].cases[frame.case].targets[frame.index :]
        else:
            yield frame.step


def _describe_names(
    moment: PastMoment, pointers: Sequence[Mapping[str, tuple[int, str]]]
) -> Iterator[PastName]:
    """Yield the values of names, of each branch or of the run after its end, by name."""
    held: dict[tuple[str, str | None], list[int]] = {}
    for place, names in enumerate(pointers):
        for name in {*names, *moment.run.variables}:
            held.setdefault((name, names[name][1] if name in names else None), []).append(place)
    if not pointers:
        held = {(name, holder[1]): [] for name, holder in moment.holders().items()}
        held |= {(name, None): [] for name in moment.run.variables if name not in moment.holders()}
    visits = {visit.id: visit for visit in moment.recorded.visits}
    for (name, holder), branches in sorted(held.items(), key=lambda entry: (entry[0][0], entry[1])):
        if not name.startswith("steps."):
            yield _describe_name(moment.run, name, visits.get(holder or ""), branches)


def _describe_name(run: Run, name: str, holder: Visit | None, branches: Sequence[int]) -> PastName:
    saved: Mapping[str, Any] = run.variables if holder is None else holder.saved
    problem = run.lost_payload if holder is None else holder.lost_payload
    if problem is None and name not in saved:
        problem = "the visit that saved it is not kept"
    shown, cut = cut_values({name: None if problem else saved[name]}, MAX_PAST_CHARACTERS)
    return PastName(
        name=name,
        value=shown[name],
        step=None if holder is None else holder.step,
        visit=None if holder is None else holder.number,
        branches=branches,
        cut=cut.get(name),
        problem=problem,
    )
