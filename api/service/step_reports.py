"""Reports of the steps of a run, computed from its visits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from noetl.api.service.views import (
    ItemWait,
    LeftOutReport,
    LimitWait,
    LoopReport,
    QuestionReport,
    StepReport,
    StepState,
    WaitReport,
)
from noetl.executor.actions import catalogue
from noetl.executor.model.cached_results import CACHE_WAIT, WAITS_KEY
from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.gates import Slot
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import NEVER, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_summary import RunOverview, StepVisits, VisitSummary, has_started
from noetl.executor.model.visit_transition import read_left_out
from noetl.executor.stores.interface import Store
from noetl.planner.draw.run_marks import DrawnLoop

QueuedSlots: TypeAlias = Mapping[str, Slot]
"""The slots of a run that wait, or are held from a later time on, by the ids of their visits.

The empty id is that of the run.
"""


def step_reports(
    status: RunStatus,
    names: Iterable[str],
    steps: Mapping[str, StepVisits],
    queued: QueuedSlots = MappingProxyType({}),
) -> dict[str, StepReport]:
    """Return a report of the latest visit of each step, by the name of the step.

    `status` is the status of the run, `steps` the visits of its steps.
    """
    return {name: _step_report(status, steps.get(name), queued) for name in names}


def step_states(
    status: RunStatus, names: Iterable[str], steps: Mapping[str, StepVisits]
) -> dict[str, StepState]:
    """Return the state of each step as its report has it. It takes a tenth of the time of the reports."""
    return {
        name: StepState.PENDING if (visits := steps.get(name)) is None else visit_state(status, visits.latest)
        for name in names
    }


def find_queued_slots(store: Store, plans: Mapping[str, str]) -> dict[str, QueuedSlots]:
    """Return the slots of each run that wait, which are read together. Those without limits are not read.

    `plans` are the hashes of the plans of the runs, by the ids of the runs.
    """
    limited = [run_id for run_id, plan_hash in plans.items() if store.plans.header(plan_hash).has_limits]
    found = store.gates.queued_slots(limited, store.clock()) if limited else {}
    return {run_id: {slot.owner.visit_id: slot for slot in found.get(run_id, ())} for run_id in plans}


def has_waiting_step(overview: RunOverview) -> bool:
    """Return whether the latest visit of a step of a run waits."""
    return any(visits.latest.status is VisitStatus.WAITING for visits in overview.steps.values())


def _step_report(status: RunStatus, visits: StepVisits | None, queued: QueuedSlots) -> StepReport:
    if visits is None:
        return StepReport(status=StepState.PENDING, visits=0, attempt=0, case=None, error=None)
    visit = visits.latest
    return StepReport(
        status=visit_state(status, visit),
        visits=visits.started,
        attempt=visit.attempt if has_started(visit) else 0,
        case=visit.case,
        error=visit.error,
        waiting_for=visit_waits(visit, queued) if visit_state(status, visit) is StepState.WAITING else None,
        left_out=None if (reason := read_left_out(visit)) is None else LeftOutReport.from_reason(reason),
        loops=_paused_loops(visit) or None,
    )


def visit_state(run_status: RunStatus, visit: VisitSummary | Visit) -> StepState:
    """Return the status of a visit as clients see it: `ready` and `parked` are internal."""
    match visit.status:
        case VisitStatus.READY:
            return StepState.PENDING
        case VisitStatus.PARKED:
            if run_status is RunStatus.PAUSED:
                return _state_before_pause(visit)
            return StepState.CANCELLED if run_status is RunStatus.CANCELLED else StepState.PENDING
        case status:
            return StepState(status.value)


def _state_before_pause(visit: VisitSummary | Visit) -> StepState:
    """Return the status of a visit that its paused run has parked."""
    if visit.error is not None:
        return StepState.RETRYING
    is_suspended = any("memory" in entry or WAITS_KEY in entry for entry in _journal(visit).values())
    return StepState.WAITING if is_suspended else StepState.PENDING


def visit_waits(visit: VisitSummary | Visit, queued: QueuedSlots = MappingProxyType({})) -> WaitReport:
    """Return what resumes a waiting visit: a time, answers, ends of child runs, retries, or a slot."""
    until = timestamp(visit.due_at) if visit.due_at < NEVER else None
    slot = queued.get(visit.id) or queued.get("")
    if slot is None:
        return WaitReport(until=until, **_waits(_journal(visit)))
    place = None if slot.is_held else slot.queued_before
    limit = LimitWait(limit=slot.limit, key=slot.value, queued_before=place)
    return WaitReport(until=until, actions=[], workflows=[], limit=limit)


def item_waits(journal: Mapping[str, Any]) -> ItemWait:
    """Return what resumes an item of a loop that waits, from the journal entries of its actions."""
    return ItemWait(**_waits(journal))


def _waits(journal: Mapping[str, Any]) -> dict[str, Any]:
    cache_waits = {CACHE_WAIT} if any(WAITS_KEY in entry for entry in journal.values()) else set[str]()
    entries = [
        (position, entry)
        for position, entry in journal.items()
        if "action" in entry and WAITS_KEY not in entry
    ]
    suspended = [(position, entry) for position, entry in entries if "memory" in entry]
    questions = [_find_question(position, entry) for position, entry in suspended]
    return {
        "actions": sorted({entry["action"] for _, entry in suspended} | cache_waits),
        "workflows": [run for _, entry in suspended if (run := _find_child_run(entry)) is not None],
        "retried": sorted({entry["action"] for _, entry in entries if "memory" not in entry}) or None,
        "questions": [question for question in questions if question is not None] or None,
    }


def _find_question(position: str, entry: Mapping[str, Any]) -> QuestionReport | None:
    """Return what a suspended action asks a person, or None."""
    declaration = catalogue().get(entry["action"])
    if declaration is None or declaration.question is None:
        return None
    question = declaration.question(entry["memory"])
    return None if question is None else QuestionReport(position=position, **question)


def _find_child_run(entry: Mapping[str, Any]) -> str | None:
    """Return the id of the run that a suspended action waits for, if it waits for one."""
    declaration = catalogue().get(entry["action"])
    if declaration is None or declaration.child_run is None:
        return None
    return declaration.child_run(entry["memory"])


def count_loops(events: Iterable[Event], paused: Iterable[LoopReport]) -> list[LoopReport]:
    """Return the progress of the loops of a visit, from its events and from the loops that have paused."""
    loops: dict[str, LoopReport] = {}
    for event in events:
        if event.type == "step.started":
            loops.clear()  # Another attempt repeats what is not committed.
        elif event.type == "loop.progress":
            loops[event.payload["position"]] = LoopReport(**event.payload)
    for loop in paused:
        latest = loops.get(loop.position)
        if latest is None or latest.done <= loop.done:
            loops[loop.position] = loop
    return list(loops.values())


def drawn_loops(steps: Mapping[str, StepReport]) -> dict[str, DrawnLoop]:
    """Return the items of the loops of each step that has counts of them, by the name of the step."""
    return {
        name: DrawnLoop(
            done=sum(loop.done for loop in step.loops),
            failed=sum(loop.failed for loop in step.loops),
            total=sum(loop.total for loop in step.loops),
        )
        for name, step in steps.items()
        if step.loops
    }


def find_left_out_steps(steps: Mapping[str, StepReport]) -> frozenset[str]:
    """Return the names of the steps that have succeeded without their work."""
    return frozenset(name for name, step in steps.items() if step.left_out is not None)


def _paused_loops(visit: VisitSummary) -> list[LoopReport]:
    """Return the progress of the paused loops of an unfinished visit. Skip loops inside items of a loop."""
    if visit.finished_at is not None:
        return []
    journal = _journal(visit)
    loops = []
    for position, entry in journal.items():
        if "next" in entry and "[" not in position:
            prefix = f"{position}#"
            items = [item for item_position, item in journal.items() if item_position.startswith(prefix)]
            outcomes = [Outcome.from_list(item["done"]) for item in items if "done" in item]
            loops.append(
                LoopReport(
                    position=position,
                    done=entry["next"] + len(outcomes),
                    failed=entry["failed"] + sum(outcome.failed for outcome in outcomes),
                    total=entry["total"],
                )
            )
    return loops


def _journal(visit: VisitSummary | Visit) -> Mapping[str, Any]:
    return {} if visit.progress is None else visit.progress.journal
