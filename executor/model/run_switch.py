"""The transition of a run to another plan, as a pure function, with its events.

Problem: a switch changes a run that has failed, one that waits and one that is paused. In every store they
must continue in the same way, or be refused with the same sentence.

Algorithm: `noetl.executor.model.plan_switch` computes the run in its new plan. A run that has ended is
resumed by the same transition as without a switch. Visits of a paused run stay parked. Those of any other
run stay as they are.

Cost: linear in the visits that continue.

Limits: whether the run may continue is judged before (`noetl.planner.continuation.judge`). A store writes the
result only if the records of the run are still those that were judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.plan_switch import CarriedRun
from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_transition import is_resumable, resume_run, run_resumed
from noetl.executor.model.visit_transition import park, reopen
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header


@frozen
class SwitchTarget:
    """The plan of a run that continues, and values that depend on it.

    Attributes:
        plan_hash: the hash of the new plan.
        version: the version of the playbook, if it has one.
        source: the path of its file, for a run of a local file.
        environment: the environment, evaluated for the input of the run.
        variables: the first values of all variables.
        note: what the history says of the switch: who requested it, the map, the names that were given, and
            the notices of the verdict.
    """

    plan_hash: str
    version: str | None = None
    source: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


@frozen
class SwitchedRun:
    """A run in its new plan, as a store writes it. The visits of `carried` are those that change."""

    run: Run
    carried: CarriedRun
    events: tuple[Event, ...]

    @property
    def must_end(self) -> bool:
        """True if no branch is left, so that only `finally` and `output` follow."""
        return self.run.live == 0


def check_switchable(run: Run, header: Header) -> None:
    """Check that a run may be judged: it has not succeeded, and it is not ending.

    `header` is that of its plan.

    Raises:
        RejectedError: `not_resumable`, `payload_lost`, `ending`.
    """
    is_resumable(replace(run, stop=None) if run.is_paused else run, header)
    if not run.status.is_final and run.ending is not None:
        raise RejectedError("ending", f"run {run.id} is ending; wait for its end, and resume it then")


def switch_run(records: RunRecords, carried: CarriedRun, target: SwitchTarget, now: float) -> SwitchedRun:
    """Return the run as it continues in its new plan, with the events that say so."""
    run = records.run
    changed = Event("workflow.migrated", now, payload=_describe(run, target))
    variables = {**target.variables, **run.variables}
    if run.status.is_final:
        values = {"input": carried.input, "environment": target.environment}
        continued = resume_run(run, carried.deadline_at, values)
        visits = tuple(reopen(visit, now) or visit for visit in carried.visits)
        events: tuple[Event, ...] = (changed, run_resumed(continued, now))
    else:
        continued = replace(
            run, input=carried.input, environment=target.environment, deadline_at=carried.deadline_at
        )
        known = {visit.id for visit in records.visits}
        visits = tuple(
            park(visit) if run.is_paused and visit.id not in known and _is_ready(visit) else visit
            for visit in carried.visits
        )
        events = (changed,)
    continued = replace(
        continued,
        plan_hash=target.plan_hash,
        version=target.version,
        source=target.source,
        variables=variables,
        live=carried.live,
    )
    return SwitchedRun(continued, replace(carried, visits=visits), events)


def is_same_state(judged: RunRecords, current: RunRecords) -> bool:
    """Return whether the records of a run are still those that were judged. Saved values never change."""
    return (
        _without_outputs(judged) == _without_outputs(current)
        and {step: {b.id for b in arrived} for step, arrived in judged.arrivals.items()}
        == {step: {b.id for b in arrived} for step, arrived in current.arrivals.items()}
        and judged.waves == current.waves
    )


def _without_outputs(records: RunRecords) -> tuple[Run, list[Visit]]:
    run = replace(records.run, tags=())
    return run, [replace(visit, saved={}, result=None, failures=()) for visit in records.visits]


def _is_ready(visit: Visit) -> bool:
    return visit.status is VisitStatus.READY


def _describe(run: Run, target: SwitchTarget) -> dict[str, Any]:
    """Return what the event of a switch says."""
    plans = {"from": run.plan_hash, "to": target.plan_hash}
    versions = {"from_version": run.version, "to_version": target.version}
    return {**plans, **versions, **target.note}
