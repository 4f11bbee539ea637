"""The state of a run as it was at an event, by a replay of its history.

Problem: a store keeps the present state of a run. To understand a run, a person must see an earlier one. It
has the places of branches, what waited at joins, and the values of names.

Algorithm: event sourcing (Fowler 2005). A new run is created in a store in memory. Each event is applied to
it as the commit, pause or resume that has written the event. So joins, counters and branches follow from the
code that production uses, and nothing is decided here. Ids of visits follow from their causes, so replayed
visits have the ids of the recorded ones. Records supply what events leave out: which names a visit has saved.

In the replay, a branch carries all names that it had, also those that no later step reads.

Cost: linear in the events up to the event, some 0.1 ms for each commit. No I/O.

Limits: a cancel and a deadline have no event until the run ends, so the visits that they park are shown as
before. No event says when a suspended visit is claimed again: it waits until its next event. Between two
batches of a loop, a step counts as running. Input and result from before a resume are not kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from datetime import datetime
from itertools import islice
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.branch_stack import BranchStack
from noetl.executor.model.consistent_cut import cut_at_start
from noetl.executor.model.continued_run import continue_records
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.outcome import Choice, Outcome, Suspension
from noetl.executor.model.run import (
    END,
    NEVER,
    Branch,
    Claim,
    Commit,
    ErrorRecord,
    FailureState,
    Lease,
    Progress,
    Run,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_transition import begin_run
from noetl.executor.model.special_visits import end_visit, is_pseudo_step
from noetl.executor.model.transition import (
    abandon,
    build_commit,
    commit_of_finally_step,
    stop_run_at,
    suspend,
)
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import claim, enter_step, unpark
from noetl.executor.stores.memory.state import shown_run
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan, Step

_STOPS = (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMED_OUT, RunStatus.SKIPPED)
_SUSPENDED = {"replayed": {"memory": None}}
"""Journal of a suspended visit. Events do not have it, and no more is known than that an action waits."""


@frozen
class RecordedHistory:
    """Records of a run as its store has them now: its plan, and its visits with their outputs."""

    run: Run
    plan: Plan
    visits: Sequence[Visit]


@frozen
class PastRun:
    """A run as it was after an event.

    `visits` are in the order of their creation, without outputs and pseudo-steps. `names` of a visit and of
    an arrived branch are all names that it had, with the visits that saved them. `arrivals` are the branches
    that wait at joins. Of each join, `live` is how many branches could still reach it, and `waves` how often
    it had fired. `waits` has what an event says of each suspended visit, `entered_at` when each visit was
    created. `stack` is that of a run in sequential mode.
    """

    run: Run
    visits: Sequence[Visit]
    arrivals: Mapping[str, Sequence[Branch]] = field(default_factory=dict)
    live: Mapping[str, int] = field(default_factory=dict)
    waves: Mapping[str, int] = field(default_factory=dict)
    waits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    entered_at: Mapping[str, float] = field(default_factory=dict)
    stack: BranchStack | None = None

    @property
    def active(self) -> list[Visit]:
        """Visits at which a branch stood, also those with a failure that stopped the run."""
        return [
            visit
            for visit in self.visits
            if visit.status not in FINISHED or visit.failure is FailureState.OPEN
        ]


def replay(recorded: RecordedHistory, events: Iterable[Event]) -> PastRun:
    """Return a run as it was after the last of `events`, the first ones of its history.

    Raises:
        RejectedError: `no_past`, if its branches moved by rules that this version does not have.
    """
    replayed = _Replay(recorded)
    for event in events:
        replayed.apply(event)
    return replayed.build()


class _Replay:
    """A run in a store in memory, to which events are applied in their order."""

    def __init__(self, recorded: RecordedHistory) -> None:
        if recorded.plan.header.is_superseded:
            message = f"run {recorded.run.id} was performed by an earlier version of NoETL, in another order"
            raise RejectedError("no_past", f"{message}; its earlier states cannot be shown")
        self.recorded = recorded
        self.by_id = {visit.id: visit for visit in recorded.visits}
        self.ids = {(visit.step, visit.number): visit.id for visit in recorded.visits}
        self.plan = _with_all_names(recorded)
        self.store = MemoryStore()
        self.store.state.plans[recorded.run.plan_hash] = self.plan
        self.id = recorded.run.id
        self.create()
        self.record = self.store.state.record(self.id)
        self.places: dict[tuple[str, int], list[str]] = defaultdict(list)
        self.indexed = 0
        self.cases: dict[str, int | None] = {}
        self.waits: dict[str, Mapping[str, Any]] = {}
        self.index_visits()

    def create(self) -> None:
        """Create the run as it was before its first event."""
        run, first, copied = _begin(self.recorded)
        if run.resumed_from is None or first.id == derived_id("from", run.resumed_from, first.step):
            self.store.runs.create(run, first, history=copied)
            return
        visits = [_without_values(visit) for visit in self.recorded.visits]
        records = cut_at_start(RunRecords(run, visits), self.plan)
        self.store.runs.create_continued(continue_records(records, self.plan, run))

    def build(self) -> PastRun:
        record = self.record
        return PastRun(
            shown_run(record),
            [visit for visit in record.visits.values() if not is_pseudo_step(visit.step)],
            {join: tuple(arrived.values()) for join, arrived in record.arrivals.items() if arrived},
            {join: number for join, number in record.live.items() if number},
            dict(record.waves),
            self.waits,
            dict(record.entered_at),
            record.stack,
        )

    def apply(self, event: Event) -> None:
        if event.step is None:
            self.apply_to_run(event)
        else:
            self.apply_to_visit(event, self.find_running(event))
        self.index_visits()

    def apply_to_run(self, event: Event) -> None:
        if event.type == "workflow.paused":
            with suppress(RejectedError):  # It was ending.
                self.store.pauses.pause(self.id, event.at)
        elif event.type == "workflow.unpaused":
            self.store.pauses.unpause(self.id, event.at)
        elif event.type == "workflow.resumed":
            self.store.runs.resume(self.id, event.at, deadline_at=None, values={})
            self.places.clear()  # The visits of the end of the run are deleted.
            self.indexed = 0
        elif "status" in event.payload:
            self.end(RunStatus(event.payload["status"]), event.at)

    def apply_to_visit(self, event: Event, visit: Visit) -> None:
        if event.type == "step.transition":
            self.cases[visit.id] = event.payload["case"]
        elif event.type == "step.waiting":
            self.waits[visit.id] = event.payload
            due_at = _read_time(event.payload["until"], NEVER)
            self.commit(suspend(visit, Suspension(Progress(journal=_SUSPENDED), due_at), event.at), event.at)
        elif event.type == "step.retrying":
            outcome = Outcome(False, None, event.payload["error"])
            retry_at = _read_time(event.payload["next_attempt_at"], event.at)
            self.finish(visit, Choice(outcome, failed=True, retry_at=retry_at), outcome, event.at)
        elif event.type == "step.completed":
            outcome = Outcome(saved=self.saved_by(visit))
            choice = Choice(outcome, failed=False, case=self.cases.get(visit.id))
            self.finish(visit, choice, outcome, event.at)
        elif event.type == "step.failed":
            self.fail(visit, event)

    def fail(self, visit: Visit, event: Event) -> None:
        """Apply a failure. If no case handled it, its step says whether the run stops."""
        failed = Outcome(False, None, event.payload["error"])
        step, recorded = self.plan.steps[visit.step], self.by_id.get(visit.id)
        if event.payload["handled"]:
            choice = Choice(failed, failed=True, case=self.cases.get(visit.id))
            self.finish(visit, choice, Outcome(saved=self.saved_by(visit)), event.at)
        elif recorded is not None and recorded.failure is FailureState.OPEN and not step.is_finally_step:
            self.commit(stop_run_at(step, visit, failed, event.at), event.at)
        else:
            self.finish(visit, Choice(failed, failed=True), failed, event.at)

    def finish(self, visit: Visit, choice: Choice, outcome: Outcome, now: float) -> None:
        """End an attempt with the outcome of its last work."""
        commit = build_commit(self.plan.steps.__getitem__, visit, choice, outcome, now)
        self.cases.pop(visit.id, None)
        self.commit(commit, now)

    def commit(self, commit: Commit, now: float) -> None:
        is_finally_step = self.plan.steps[commit.visit.step].is_finally_step
        self.store.queue.commit(commit_of_finally_step(commit) if is_finally_step else commit, now)

    def saved_by(self, visit: Visit) -> dict[str, None]:
        """Return the names that a visit has saved. Their values are read where they are shown."""
        recorded = self.by_id.get(visit.id)
        return {} if recorded is None else dict.fromkeys(recorded.saved)

    def find_running(self, event: Event) -> Visit:
        """Return the visit of an event, as a worker performs it."""
        visit = self.find_visit(event)
        attempt = event.attempt or visit.attempt
        if visit.status is VisitStatus.PARKED:
            visit = unpark(visit, event.at)
        if visit.status is not VisitStatus.RUNNING and visit.status not in FINISHED:
            visit = claim(visit, Lease(str(event.payload.get("worker") or ""), 0.0), event.at)
            self.record.run = begin_run(self.record.run, event.at)
            self.waits.pop(visit.id, None)
        visit = replace(visit, attempt=attempt)
        self.record.put(visit)
        return visit

    def find_visit(self, event: Event) -> Visit:
        """Return the visit of an event.

        A join that fires again after a resume has the same number. Then the recorded times decide.
        """
        step, number = event.step or "", event.visit or 1
        known = [self.record.visits[id] for id in self.places[step, number]]
        open_visits = [visit for visit in known if visit.status not in FINISHED]
        is_start = event.type == "step.started"
        fitting = [visit for visit in open_visits if (visit.started_at is None) is is_start]
        if fitting:
            return next((visit for visit in fitting if self.is_recorded_at(visit, event)), fitting[0])
        if known:
            return (open_visits or known)[-1]
        if self.plan.steps[step].is_finally_step:
            return self.begin_finally_step(event.at)
        return self.enter_early(step, number, event.at)

    def is_recorded_at(self, visit: Visit, event: Event) -> bool:
        """Return whether the record of a visit has the time of an event as that of its start or its end."""
        recorded = self.by_id.get(visit.id)
        return recorded is not None and event.at in (recorded.started_at, recorded.finished_at)

    def begin_finally_step(self, now: float) -> Visit:
        """Stop the run, which has no event, and return the visit of its finally step."""
        is_latest = self.record.run.resumes == self.recorded.run.resumes
        stop = self.recorded.run.stop if is_latest else None
        self.stop(stop if stop in _STOPS else RunStatus.CANCELLED, now)
        finally_step = self.plan.header.finally_step
        return next(visit for visit in reversed(self.record.visits.values()) if visit.step == finally_step)

    def enter_early(self, step: str, number: int, now: float) -> Visit:
        """Return a visit whose cause has its event later in the history: processes write side by side."""
        id = self.ids.get((step, number), derived_id("replayed", step, number))
        recorded = self.by_id.get(id)
        clock, names = (0, {}) if recorded is None else (recorded.clock, recorded.names)
        if recorded is not None:
            self.record.arrivals.pop(step, None)
        visit = enter_step(Branch(id, step, clock, names), self.id, now, number)
        self.record.put(visit)
        return visit

    def stop(self, status: RunStatus, now: float) -> None:
        """Stop the run, and abandon the work of its running visits."""
        for visit in self.record.find_active():
            if visit.status is VisitStatus.RUNNING and not is_pseudo_step(visit.step):
                self.record.put(abandon(visit).visit)
        self.store.runs.stop(self.id, status, now)

    def end(self, status: RunStatus, now: float) -> None:
        run = self.record.run
        if status in _STOPS:
            self.stop(status, now)
        ends = [visit for visit in self.record.visits.values() if visit.step == END]
        last = claim((ends or [end_visit(run.id, run.resumes, now)])[-1], Lease("", 0.0), now)
        self.record.put(last)
        self.record.run = begin_run(self.record.run, now)
        result, errors = self.find_result()
        self.store.queue.finish(Claim(self.record.run, last), RunEnding(status, result, errors), now)

    def find_result(self) -> tuple[Any, Sequence[ErrorRecord]]:
        """Return result and errors of the end of the run, which are kept up to a resume."""
        recorded, run = self.recorded.run, self.record.run
        if recorded.resumes == run.resumes and recorded.status.is_final:
            return recorded.result, recorded.errors
        return None, () if run.error is None else (run.error,)

    def index_visits(self) -> None:
        """Index new visits by step and number, and give them their recorded numbers.

        Processes that write side by side count in any order.
        """
        visits = self.record.visits
        if len(visits) == self.indexed:
            return
        for visit in list(islice(visits.values(), self.indexed, None)):
            recorded = self.by_id.get(visit.id)
            if recorded is not None and recorded.number != visit.number:
                self.record.put(replace(visit, number=recorded.number))
            self.places[visit.step, visits[visit.id].number].append(visit.id)
        self.indexed = len(visits)


def _begin(recorded: RecordedHistory) -> tuple[Run, Visit, list[Visit]]:
    """Return a run as it was created, its first visit, and the visits that it has from an earlier run.

    A run that continues another one with all branches has no first visit.
    """
    run, start = recorded.run, recorded.plan.header.start
    ids = {derived_id("from", run.resumed_from, step) for step in recorded.plan.steps}
    ids |= {derived_id("start", start)} if run.resumed_from is None else set()
    first = next((visit for visit in recorded.visits if visit.id in ids), None)
    if first is None:
        first = Visit(derived_id("start", start), run.id, start, VisitStatus.READY, clock=1, names={})
    copied = _copied_visits(run, recorded.visits, first)
    first = replace(first, clock=max((visit.clock for visit in copied), default=0) + 1)
    created = replace(
        run,
        status=RunStatus.QUEUED,
        parent=None,
        root=None,
        started_at=None,
        finished_at=None,
        deadline_at=None,
        live=1,
        failed_branches=0,
        stop=None,
        resumes=0,
        result=None,
        error=None,
        errors=(),
    )
    begun = Branch(first.id, first.step, first.clock, first.names)
    return created, enter_step(begun, run.id, run.created_at), [_without_values(visit) for visit in copied]


def _copied_visits(run: Run, visits: Sequence[Visit], first: Visit) -> list[Visit]:
    """Return the visits that a run has from an earlier run: they had ended before it was created."""
    if run.resumed_from is None:
        return []
    return [
        visit
        for visit in visits
        if visit.clock < first.clock and visit.finished_at is not None and visit.finished_at <= run.created_at
    ]


def _without_values(visit: Visit) -> Visit:
    return replace(visit, saved=dict.fromkeys(visit.saved), result=None, failures=())


def _with_all_names(recorded: RecordedHistory) -> Plan:
    """Return the plan with steps to which branches carry all of their names.

    At a `join: any`, the dominator is a name only where it was one, because ids of visits follow from it.
    """
    steps = recorded.plan.steps
    names = {name for step in steps.values() for name in step.saves}
    names |= {name for visit in recorded.visits for name in visit.saved}
    everything = frozenset(names | {f"steps.{step}" for step in steps})

    def widen(step: Step) -> Step:
        dominator = f"steps.{step.join.dominator}" if step.join is not None else ""
        is_left_out = step.join is not None and step.join.mode == "any" and dominator not in step.live_names
        return replace(step, live_names=everything - {dominator} if is_left_out else everything)

    return Plan(recorded.plan.header, {name: widen(step) for name, step in steps.items()}, {})


def _read_time(text: str | None, default: float) -> float:
    return default if text is None else datetime.fromisoformat(text).timestamp()
