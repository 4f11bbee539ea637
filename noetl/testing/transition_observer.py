"""An observer of the visits of a store: each change must be a transition of the table.

Problem: stores change visits in their own way, with SQL or with requests to a service. Hold all of them to
the table `TRANSITIONS` of `executor/model/visit_states.py`.

Algorithm: take a snapshot of all visits before and after each call of the store, and compare. A row of the
table explains a change if it has the status before and the status after. The other fields must be those
that the pure function of the row computes. An entry of `COMBINED` explains a call that makes two transitions
at once.

Cost: two reads of all visits of all known runs for each call.

Limits: only what a reader of the store sees between two calls is compared. The visits of `@end` and
`@deadline` and of the finally step may vanish, because a resume deletes them in some stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noetl.executor.model.run import Branch, Lease, Visit, VisitStatus
from noetl.executor.model.visit_states import COMBINED, TRANSITIONS, VisitTrigger
from noetl.executor.model.visit_transition import (
    claim,
    end_lease,
    enter_step,
    park,
    release,
    renew,
    reopen,
    unpark,
    unpause,
    wake,
)

Table = Mapping[VisitStatus | None, Mapping[VisitTrigger, VisitStatus]]
"""A table of transitions."""

Row = tuple[VisitStatus | None, VisitTrigger]
"""The key of an entry of the table: status before (None: no visit), and trigger."""


def rows_of(table: Table) -> list[Row]:
    """Return the keys of all entries of a table."""
    return [(before, trigger) for before, triggers in table.items() for trigger in triggers]


def table_without(row: Row) -> dict[VisitStatus | None, dict[VisitTrigger, VisitStatus]]:
    """Return the table without one row."""
    return {
        before: {trigger: after for trigger, after in triggers.items() if (before, trigger) != row}
        for before, triggers in TRANSITIONS.items()
    }


@dataclass(frozen=True)
class VisitChange:
    """A change of one visit in one call of the store. `before` is None if the call has created the visit."""

    call: str
    before: Visit | None
    after: Visit

    def __str__(self) -> str:
        before = "no visit" if self.before is None else self.before.status.value
        return f"`{self.call}` changed `{self.after.step}` from {before} to {self.after.status.value}"


def _is_entered(_: None, after: Visit) -> bool:
    branch = Branch(after.id, after.step, after.clock, after.names)
    is_stopping = after.status is VisitStatus.PARKED
    return after == enter_step(branch, after.run_id, after.due_at, after.number, is_stopping=is_stopping)


def _has_new_claim(before: Visit | None, after: Visit) -> bool:
    """Return whether the claim of a visit is new, whatever else has changed with it."""
    fence, claims = (0, 0) if before is None else (before.fence, before.claims)
    return after.fence > fence and after.claims > claims and after.started_at is not None


def _is_claimed(before: Visit, after: Visit) -> bool:
    lease = Lease(after.worker or "", 0.0)
    now = after.segment_started_at or 0.0
    return replace(claim(before, lease, now), due_at=after.due_at) == after


def _is_released(before: Visit, after: Visit) -> bool:
    return any(release(before, after.due_at, counts=counts) == after for counts in (False, True))


def _is_outcome(before: Visit, after: Visit) -> bool:
    return after.fence == before.fence and after.finished_at is not None and after.attempt == before.attempt


def _is_suspension(before: Visit, after: Visit) -> bool:
    keeps_start = after.started_at is not None and after.started_at == before.started_at
    # What waits for a slot may have made no progress yet.
    keeps_progress = after.progress is not None or before.progress is None
    return after.fence == before.fence and after.claims == 0 and keeps_progress and keeps_start


def _is_abandoned(before: Visit, after: Visit) -> bool:
    return after.fence == before.fence and (after.claims, after.started_at) == (0, None)


def _is_parked(before: Visit, after: Visit) -> bool:
    # A claim that crossed the stop may have raised the fence. A visit that gives back its place at a limit is
    # due at once.
    parked = replace(park(before), fence=after.fence, due_at=min(before.due_at, after.due_at))
    return parked == after and after.fence >= before.fence


def _is_reopened(before: Visit, after: Visit) -> bool:
    # A visit that goes on waiting keeps its due time, which is later than the time of the resume.
    is_suspended = after.status is VisitStatus.WAITING
    now = before.due_at - 1 if is_suspended else after.due_at
    reopened = reopen(before, now)
    # In sequential mode, it sees what was saved since it has begun.
    carried = None if reopened is None else replace(reopened, clock=after.clock, names=after.names)
    return carried == after and after.clock >= before.clock


def _is_unpaused(before: Visit, after: Visit) -> bool:
    # A visit that goes on waiting keeps its due time, which is later than the end of the pause.
    times = (after.due_at, before.due_at - 1)
    return any(unpause(before, now) == after for now in times)


_ALLOWED: Mapping[VisitTrigger, Callable[[Any, Visit], bool]] = {
    VisitTrigger.ENTER: _is_entered,
    VisitTrigger.ENTER_STOPPING: _is_entered,
    VisitTrigger.CLAIM: _is_claimed,
    VisitTrigger.RENEW: lambda before, after: (
        renew(before, after.due_at) == after and after.due_at > before.due_at
    ),
    VisitTrigger.RELEASE: _is_released,
    VisitTrigger.END_LEASE: lambda before, after: (
        end_lease(before, after.due_at) == after and after.due_at < before.due_at
    ),
    VisitTrigger.SUCCEED: _is_outcome,
    VisitTrigger.FAIL: lambda before, after: _is_outcome(before, after) and after.failure is not None,
    VisitTrigger.RETRY: lambda before, after: after.attempt == before.attempt + 1 and after.claims == 0,
    VisitTrigger.SUSPEND: _is_suspension,
    VisitTrigger.YIELD: _is_suspension,
    VisitTrigger.ABANDON: _is_abandoned,
    VisitTrigger.REVOKE: _is_abandoned,
    VisitTrigger.WAKE: lambda before, after: (
        wake(before, after.due_at) == after and after.due_at < before.due_at
    ),
    VisitTrigger.PARK: _is_parked,
    VisitTrigger.REOPEN: _is_reopened,
    VisitTrigger.REOPEN_SUSPENDED: _is_reopened,
    VisitTrigger.UNPARK: lambda before, after: unpark(before, after.due_at) == after,
    VisitTrigger.UNPAUSE: _is_unpaused,
    VisitTrigger.UNPAUSE_WAITING: _is_unpaused,
    VisitTrigger.UNPAUSE_RETRYING: _is_unpaused,
}
"""For each trigger, whether its pure function makes this change of a visit.

The statuses are those of the table. The outcomes of an attempt depend on its work, so they are compared only
in part.
"""

_OTHER_CALLS = {
    "unpause": (VisitTrigger.UNPARK, VisitTrigger.REOPEN, VisitTrigger.REOPEN_SUSPENDED),
    "resume": (VisitTrigger.UNPAUSE, VisitTrigger.UNPAUSE_WAITING, VisitTrigger.UNPAUSE_RETRYING),
    "sweep": (VisitTrigger.UNPAUSE,),
}
"""For some calls, triggers of other calls that may change a visit in the same way."""


def explanations(change: VisitChange, table: Table = TRANSITIONS) -> set[tuple[VisitTrigger, ...]]:
    """Return the triggers that explain a change: one, or two that a store may combine.

    Only a commit parks what it has suspended. A claim may enter `@end` first, if its run is stopping.
    """
    before, after = change.before, change.after
    status = None if before is None else before.status
    single = {
        (trigger,)
        for trigger, status_after in table.get(status, {}).items()
        if status_after is after.status
        and trigger not in _OTHER_CALLS.get(change.call, ())
        and _ALLOWED[trigger](before, after)
    }
    combined = {
        (first, second)
        for first, second in COMBINED
        if (second is VisitTrigger.CLAIM or change.call == "commit")
        and (middle := table.get(status, {}).get(first)) is not None
        and table.get(middle, {}).get(second) is after.status
        and (second is not VisitTrigger.CLAIM or _has_new_claim(before, after))
    }
    return {*single, *combined}


@dataclass
class TransitionObserver:
    """A record of the changes of all visits of a store, call by call.

    `visits_of` returns the visits of a run as the store has them now.
    """

    visits_of: Callable[[str], Sequence[Visit]]
    table: Table = field(default_factory=lambda: TRANSITIONS)
    changes: list[VisitChange] = field(default_factory=list)
    _known: dict[str, dict[str, Visit]] = field(default_factory=dict)

    def add_run(self, run_id: str) -> None:
        """Observe a run from now on. Its visits are new."""
        self._known.setdefault(run_id, {})

    def observe(self, call: str) -> None:
        """Record what has changed since the last snapshot, as a change by `call`."""
        for run_id, known in self._known.items():
            visits = {visit.id: visit for visit in self.visits_of(run_id)}
            for id, visit in visits.items():
                earlier = known.get(id)
                if earlier is None or _state(earlier) != _state(visit):
                    self.changes.append(VisitChange(call, earlier, visit))
            self._known[run_id] = visits

    def unexplained(self) -> list[str]:
        """Return the changes that no transition of the table explains."""
        return [str(change) for change in self.changes if not explanations(change, self.table)]

    def observed_rows(self) -> set[Row]:
        """Return the rows of the table by which single transitions were made."""
        return {
            (None if change.before is None else change.before.status, triggers[0])
            for change in self.changes
            for triggers in explanations(change, self.table)
            if len(triggers) == 1
        }

    def observed_combinations(self) -> set[tuple[VisitTrigger, ...]]:
        """Return the pairs of transitions that calls may have combined."""
        return {
            triggers
            for change in self.changes
            for triggers in explanations(change, self.table)
            if len(triggers) == 2
        }


def _state(visit: Visit) -> tuple[object, ...]:
    """Return what a transition changes: status, due time, fence, claims, attempt and times."""
    return (
        visit.status, visit.due_at, visit.fence, visit.claims, visit.attempt, visit.started_at,
        visit.finished_at,
    )  # fmt: skip


class ObservedStore:
    """A store whose visits an observer compares before and after each call.

    The parts that change visits are wrapped, too.
    """

    def __init__(self, store: Any, observer: TransitionObserver) -> None:
        self._store = store
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name in ("runs", "pauses", "queue", "waits", "maintenance"):
            return ObservedStore(attribute, self._observer)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            result = attribute(*args, **options)
            if name == "create":
                self._observer.add_run(result.id)
            self._observer.observe(name)
            return result

        return call


def observe_store(store: Any, table: Table = TRANSITIONS) -> tuple[Any, TransitionObserver]:
    """Return the store, wrapped, and the observer of its visits."""
    observer = TransitionObserver(store.runs.visits, table)
    return ObservedStore(store, observer), observer
