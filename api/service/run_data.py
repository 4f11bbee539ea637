"""The service of the data of runs: what steps received, did, saved and wrote, and the input and text of runs.

Problem: to repair a run, a person must see the data of one visit of one step. The run may have thousands of
visits, and values of megabytes.

Algorithm: the visit, its outputs and its events are read and combined. The value that a name had before is
that of the visit to which the pointer of the branch leads. Values are shown up to a length.

Cost: one read of the visit without its outputs, and one of its events. Two more for the outputs of the visit,
and for those before it.

Limits: a store may have no times of a long run with parallel branches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.api.service.data_views import (
    MAX_SHOWN_CHARACTERS,
    LogLine,
    LogPage,
    RunDetails,
    RunInput,
    RunSource,
    SavedValue,
    StepData,
)
from noetl.api.service.errors import NotFoundError
from noetl.api.service.graph_views import RunGraph
from noetl.api.service.headlines import Headline, describe_run, summarize_report
from noetl.api.service.overviews import ReadRun
from noetl.api.service.runs import RunService
from noetl.api.service.step_reports import (
    count_loops,
    drawn_loops,
    find_left_out_steps,
    find_queued_slots,
    visit_state,
    visit_waits,
)
from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import JoinReport, RunEntry, RunReport, StepReport, StepState, WaitReport
from noetl.api.service.visit_history import find_left_out, find_transition, list_attempts, to_log_line
from noetl.executor.engine.run_events import read_events
from noetl.executor.model.durations import Durations, measure, visit_intervals
from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.json_values import begin_and_measure
from noetl.executor.model.large_json import read_large_json
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.run_filter import RunFilter, fold_case
from noetl.executor.model.run_summary import RunSummary, StartedVisit
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.stores.damage import RUN_DAMAGED
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.draw.chart import calls_playbook
from noetl.planner.draw.run_marks import DrawnRun
from noetl.planner.frozen import frozen
from noetl.planner.plan import Step

LINES_PER_PAGE = 1000
MAX_CHILD_RUNS = 20
"""The most child runs of a visit that its data have."""
MAX_READ_CHILD_RUNS = 200
"""The most child runs of a run among which those of a visit are found."""
MAX_SCANNED_EVENTS = 10_000
"""How many events a page of the log is taken from. A page may have fewer lines than its limit."""

_LOOP_EVENTS = ("step.started", "loop.progress")
"""The events that `count_loops` needs."""


@frozen
class ShownVisit:
    """A visit of a run, the same with its outputs, and its events, as they are at the time `now`."""

    run: Run
    found: StartedVisit
    complete: Visit
    events: Sequence[Event]
    now: float

    def measure(self) -> Durations:
        """Return the durations of the visit. Time in the queue counts from its creation in this run."""
        created_at, visit = self.run.created_at, self.found.visit
        entered_at = created_at if visit.clock <= 1 else self.found.entered_at
        ready_at = None if entered_at is None else max(entered_at, created_at)
        return measure(visit_intervals(visit, self.events, ready_at, self.now))


@frozen
class RunDataService:
    """The data of the runs of one tenant."""

    context: TenantContext
    runs: RunService

    def details(self, run_id: str) -> RunDetails:
        """Return a run at a glance.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        report, run = self.report(run_id), self.runs.summary(run_id)
        return self.at_a_glance(report, run, self._measure_run(run, report), self.context.clock())

    def at_a_glance(
        self, report: RunReport, run: RunSummary, durations: Durations | None, now: float
    ) -> RunDetails:
        """Return a run at a glance, from its report, its summary and its times."""
        seconds = None
        if run.started_at is not None:
            seconds = (run.finished_at or now) - run.started_at
        return RunDetails(
            **{
                name: value
                for name, value in vars(report).items()
                if name not in ("steps", "progress", "error")
            },
            headline=describe_run(report),
            plan_hash=run.plan_hash,
            tags=run.tags,
            duration_ms=_to_milliseconds(seconds),
            **_to_members(durations),
            steps=report.steps,
            progress=report.progress,
            error=report.error,
        )

    def report(self, run_id: str) -> RunReport:
        """Return the status of a run, with the counts of the loops of each step, also of ended ones.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        overview = self.runs.overview(run_id)
        report = self.runs.describe(overview)
        steps = dict(report.steps)
        if overview.damage is None:
            for name in self.context.loop_steps(overview.summary.plan_hash):
                if steps[name].visits:
                    number = overview.steps[name].latest.number
                    events = self.context.store.visits.events(run_id, name, number, _LOOP_EVENTS)
                    loops = count_loops(events, steps[name].loops or ()) or None
                    steps[name] = StepReport(**{**vars(steps[name]), "loops": loops})
        return RunReport(**{**vars(report), "steps": steps})

    def with_graph(
        self, details: RunDetails, drawing: bytes | None, problem: str | None, cursor: str | None
    ) -> RunDetails:
        """Return the details of a run with its drawing as JSON, or with the problem if it has none."""
        added: dict[str, Any] = {"cursor": cursor, "graph_problem": problem}
        if drawing is not None:
            drawn = read_large_json(drawing.decode())
            reachable, joins = drawn["reachable"], drawn["joins"]
            added["graph"] = RunGraph(**drawn["graph"])
            added["steps"] = {
                name: StepReport(
                    **vars(report),
                    reachable=reachable.get(name),
                    join=JoinReport(**joins[name]) if name in joins else None,
                )
                for name, report in details.steps.items()
            }
        return RunDetails(**{**vars(details), **added})

    def drawn_run(self, run_id: str, *, counts_visits: bool = True) -> tuple[str, DrawnRun]:
        """Return the hash of the plan of a run, and what a drawing shows of the run.

        With `counts_visits`, it reads all visits and the counts of loops. Without, it knows only the states.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        if not counts_visits:
            overview = self.runs.overview(run_id)
            run, states = overview.summary, self.runs.step_states(overview)
            return run.plan_hash, DrawnRun(states, status=run.status.value, id=run.id)
        summary = self.runs.summary(run_id)
        return summary.plan_hash, draw_visits(self.report(run_id), self.context.store.runs.visits(summary.id))

    def headline(self, run_id: str, read: ReadRun | None = None) -> Headline:
        """Return the headline of a run of a list, from what was read of it if it was.

        It is empty if the run was deleted.
        """
        try:
            if read is not None:
                return summarize_report(self.runs.outline(read.overview, read.queued))
            return summarize_report(self.runs.outline(self.runs.overview(run_id)))
        except NotFoundError:
            return Headline()  # It was deleted after the list was read.

    def input(self, run_id: str) -> RunInput:
        """Return the input of a run.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.runs.get(run_id)
        return RunInput(workflow_id=run.id, input=run.input)

    def source(self, run_id: str) -> RunSource:
        """Return the text of the playbook of a run.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run, plan = self.runs.get(run_id), self.runs.plan(run_id)
        return RunSource(
            workflow_id=run.id,
            playbook=run.playbook,
            version=run.version,
            plan_hash=run.plan_hash,
            file=run.source,
            source=plan.source,
        )

    def log(
        self,
        run_id: str,
        step: str | None = None,
        after: str | None = None,
        limit: int = LINES_PER_PAGE,
        *,
        text: str = "",
    ) -> LogPage:
        """Return one page of the lines that a run, or one step of it, has written, those after an event.

        Lines without `text` are left out. `next_cursor` is null if the store has no further events yet.

        Raises:
            NotFoundError: the tenant has no such run, or the run has no such step.
            RejectedError: `invalid_cursor`.
        """
        run = self.runs.summary(run_id)
        if step is not None:
            self.check_step(run.plan_hash, step)
        lines: list[LogLine] = []
        scanned, wanted = 0, fold_case(text)
        for event in read_events(self.context.store, run.id, after):
            if len(lines) == limit or scanned == MAX_SCANNED_EVENTS:
                return LogPage(items=lines, next_cursor=after, last_event=after)
            scanned, after = scanned + 1, event.id
            if event.type != "action.log" or step not in (None, event.step):
                continue
            line = to_log_line(event)
            if wanted in fold_case(line.text):
                lines.append(line)
        return LogPage(items=lines, next_cursor=None, last_event=after)

    def step(
        self, run_id: str, name: str, number: int | None = None, *, is_complete: bool = False
    ) -> StepData:
        """Return a visit of a step with its data: the visit with this number, or the latest.

        With `is_complete`, the result and the saved values are not cut.

        Raises:
            NotFoundError: the tenant has no such run, the run has no such step, or the step no such visit.
        """
        run = self.runs.get(run_id)
        found = self.find_visit(run, name, number)
        (complete,) = self.context.store.runs.visits_with_outputs(run.id, [found.visit.id])
        events = self.context.store.visits.events(run.id, name, found.visit.number)
        shown = ShownVisit(run, found, complete, events, self.context.clock())
        return self.describe_visit(shown, math.inf if is_complete else MAX_SHOWN_CHARACTERS)

    def find_visit(self, run: Run | RunSummary, name: str, number: int | None = None) -> StartedVisit:
        """Return a visit of a step without its outputs.

        Raises:
            NotFoundError: the run has no such step, or the step no such visit.
        """
        self.check_step(run.plan_hash, name)
        found = self.context.store.visits.find(run.id, name, number)
        if found is None:
            self.runs.summary(run.id)  # The run may have been deleted meanwhile.
            latest = self.context.store.visits.find(run.id, name)
            problem = (
                "has not started" if latest is None else f"has no visit {number}; it has {latest.started}"
            )
            raise NotFoundError(f"step `{abbreviate(name)}` of run `{run.id}` {problem}")
        return found

    def check_step(self, plan_hash: str, name: str) -> None:
        """Check that the plan with this hash has a step.

        Raises:
            NotFoundError: it has none.
        """
        names = self.context.step_names(plan_hash)
        if name not in names:
            hint = did_you_mean(name, names)
            raise NotFoundError(f"unknown step `{abbreviate(name)}`" + (f"; {hint}" if hint else ""))

    def _measure_run(self, run: RunSummary, report: RunReport) -> Durations | None:
        """Return the durations of a run, or None if it is damaged or the store would read too many visits."""
        is_damaged = report.error is not None and report.error["type"] == RUN_DAMAGED
        if is_damaged:
            return None
        times = self.context.store.visits.times(run.id, run.created_at, self.context.clock())
        return None if times is None else times.durations

    def describe_visit(self, shown_visit: ShownVisit, length: float) -> StepData:
        """Return a visit with its data. Values are cut to a length, in characters of JSON."""
        run, visit, complete = shown_visit.run, shown_visit.found.visit, shown_visit.complete
        events = shown_visit.events
        step = self.context.store.plans.step(run.plan_hash, visit.step)
        state = visit_state(run.status, visit)
        guards, targets = find_transition(events, step)
        shown, cut = cut_values({"result": complete.result, "failures": list(complete.failures)}, length)
        seconds = None
        if visit.started_at is not None:
            seconds = (visit.finished_at or shown_visit.now) - visit.started_at
        return StepData(
            workflow_id=run.id,
            step=visit.step,
            line=step.line,
            visit=visit.number,
            visits=shown_visit.found.started,
            status=state,
            attempt=visit.attempt,
            started_at=timestamp(visit.started_at),
            finished_at=timestamp(visit.finished_at),
            duration_ms=_to_milliseconds(seconds),
            **_to_members(shown_visit.measure()),
            error=visit.error,
            waiting_for=self._describe_wait(run, visit),
            left_out=find_left_out(events) if state is StepState.SUCCEEDED else None,
            case=visit.case,
            guards=guards,
            targets=targets,
            result=shown["result"],
            saved=self._describe_saved(run, complete, length),
            failures=shown["failures"] if "failures" not in cut else [],
            attempts=list_attempts(events, state),
            lines=[to_log_line(event) for event in events if event.type == "action.log"],
            cut=cut or None,
            child_runs=self._find_child_runs(shown_visit, step),
        )

    def _describe_wait(self, run: Run, visit: Visit) -> WaitReport | None:
        if visit.status is not VisitStatus.WAITING:
            return None
        return visit_waits(visit, find_queued_slots(self.context.store, {run.id: run.plan_hash})[run.id])

    def _find_child_runs(self, shown: ShownVisit, step: Step) -> list[RunEntry] | None:
        """Return the latest runs that a visit has started and waits for, or None if it can start none."""
        if not any(calls_playbook(work, self.context.compiler.catalogue) for work in step.run):
            return None
        run, visit_id = shown.run, shown.found.visit.id
        wanted = RunFilter(tenant=run.tenant, parent=run.id, limit=MAX_READ_CHILD_RUNS)
        children, _ = self.context.store.runs.find(wanted)
        started = [
            child
            for child in children
            if child.parent and child.parent.visit_id == visit_id and child.created_at <= shown.now
        ]
        return [RunEntry.from_summary(child) for child in started[:MAX_CHILD_RUNS]]

    def _describe_saved(self, run: Run, visit: Visit, length: float) -> list[SavedValue]:
        """Return the values that a visit saved, with those that the names had in its branch before."""
        before = {**run.input, **run.variables, **self._values_before(run, visit)}
        saved = []
        for name, value in visit.saved.items():
            members = {"value": value, **({"before": before[name]} if name in before else {})}
            shown, cut = cut_values(members, length)
            saved.append(SavedValue(name=name, **shown, cut=cut or None))
        return saved

    def _values_before(self, run: Run, visit: Visit) -> dict[str, Any]:
        holders = {name: visit.names[name][1] for name in visit.saved if name in visit.names}
        ids = sorted(set(holders.values()) - {visit.id})
        visits = self.context.store.runs.visits_with_outputs(run.id, ids) if ids else []
        outputs = {visit.id: visit.saved for visit in visits}
        return {
            name: outputs[holder][name] for name, holder in holders.items() if name in outputs.get(holder, {})
        }


def draw_visits(report: RunReport | RunDetails, all_visits: Sequence[Visit]) -> DrawnRun:
    """Return what a drawing shows of a run, from its report and its visits in the order of their creation."""
    visits: Counter[str] = Counter()
    taken: Counter[tuple[str, int]] = Counter()
    last_visits: dict[str, int] = {}
    last_taken: dict[tuple[str, int], int] = {}
    for place, visit in enumerate(all_visits):
        visits[visit.step] += 1
        last_visits[visit.step] = place
        if visit.status in FINISHED and not visit.has_ended_branch:
            case = visit.step, -1 if visit.case is None else visit.case
            taken[case] += 1
            last_taken[case] = place
    states = {name: step.status for name, step in report.steps.items()}
    loops = drawn_loops(report.steps)
    left_out, id = find_left_out_steps(report.steps), report.workflow_id
    return DrawnRun(
        states, taken, visits, report.status.value, id, last_visits, last_taken, loops, left_out=left_out
    )


def cut_values(
    values: Mapping[str, Any], length: float = MAX_SHOWN_CHARACTERS
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values, of which long ones are replaced by the beginning of their text, and their lengths.

    >>> cut_values({"n": 1, "rows": "abcdef"}, 4)
    ({'n': 1, 'rows': 'abcd'}, {'rows': 8})
    """
    shown: dict[str, Any] = {}
    cut: dict[str, int] = {}
    for name, value in values.items():
        if length == math.inf:
            shown[name] = value
            continue
        text, total = begin_and_measure(value, int(length))
        if total <= length:
            shown[name] = value
        else:
            shown[name], cut[name] = value[: int(length)] if isinstance(value, str) else text, total
    return shown, cut


def _to_members(durations: Durations | None) -> dict[str, Any]:
    """Return the members of a view: `work_ms`, `waiting_ms` and `queued_ms`, which may be null.

    >>> _to_members(Durations(work=0.5, waiting=0.0, queued=0.0))
    {'work_ms': 500.0, 'waiting_ms': 0.0, 'queued_ms': 0.0}
    """
    names = ("work", "waiting", "queued")
    if durations is None:
        return {f"{name}_ms": None for name in names}
    return {f"{name}_ms": round(getattr(durations, name) * 1000, 3) for name in names}


def _to_milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(seconds, 0.0) * 1000, 3)
