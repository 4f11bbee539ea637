"""The way back from a switch: the state that a run had before it, as a pure function on its records.

Problem: a run was switched to the wrong plan. Nothing has happened since, and it must be as it was before. A
switch keeps no copy of what it replaces.

Algorithm: the event of a switch keeps a hash of the replaced state, and the names of inputs and variables.
The way back is computed as a switch is: from the visits, all of which were done in the earlier plan. The
result is taken only if its hash is that of the replaced state. So nothing is guessed.

The hash covers live visits with their pointers, what waits at joins, and how often joins have fired. Fences
and due times are part of it. So a claim or an answer since the switch is noticed, also if it has no event.

Cost: linear in the visits times the names of the run.

Limits: a switch that has resumed an ended run, or has replaced values of inputs, has no way back. A resume
drops the errors of the visits that it continues, the visits of the end, the result and the waits of a parent.
And workers claim these visits at once, so there is hardly a moment in which nothing was done. The
environment is evaluated again. Clocks and fences of live visits grow further.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.events import NOTIFICATION_EVENT, Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.plan_switch import UNDONE_STEP, CarriedRun, carry, count_given
from noetl.executor.model.run import Branch, Pointers, Run, Visit
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.special_visits import SWITCH_STEP
from noetl.planner.continuation.switch_state import Switch, rename_pointers
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan, canonical_json

SWITCHED = "workflow.migrated"
"""The type of the event of a switch, and of its undoing."""

_HARMLESS = frozenset({"workflow.paused", "workflow.unpaused", NOTIFICATION_EVENT})
_FENCES = 2
"""By how much the fence of a live visit has grown after a switch and the way back."""


@frozen
class ReplacedRun:
    """A run as it was before a switch. `records` are those of the run, with the names of the earlier plan."""

    records: RunRecords
    carried: CarriedRun


def describe_replaced(records: RunRecords, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the event of a switch keeps of the state before it, or None if there is no way back."""
    run = records.run
    if run.status.is_final or given.keys() & run.input.keys():
        return None
    live = [visit for visit in records.visits if records.is_live(visit)]
    return {
        "state": _hash_state(live, records.arrivals, records.waves),
        "input": sorted(run.input),
        "variables": sorted(run.variables),
        "values": count_given(records.visits),
        "deadline_at": run.deadline_at,
        "source": run.source,
    }


def find_last_switch(run_id: str, events: Iterable[Event]) -> Event:
    """Return the event of the switch that can be undone: nothing was done or answered since.

    The events are read one by one, because a history may be larger than the memory.

    Raises:
        RejectedError: `not_switched`; `gone_on`.
    """
    switch, following, has_progressed = None, None, False
    for event in events:
        if event.type == SWITCHED:
            switch, following, has_progressed = event, None, False
        elif switch is not None:
            following = following or event.type
            has_progressed = has_progressed or event.type not in _HARMLESS
    if switch is None or "undoes" in switch.payload:
        raise RejectedError("not_switched", f"run {run_id} has no switch to another version that stands")
    if "undo" not in switch.payload:
        raise _refuse_without_record(run_id, switch, following)
    if has_progressed:
        raise _refuse_late(run_id)
    return switch


def _refuse_without_record(run_id: str, switch: Event, following: str | None) -> RejectedError:
    """Return the refusal to undo a switch whose event keeps nothing of the state before it.

    `following` is the type of the next event.
    """
    if following == "workflow.resumed":
        message = f"run {run_id} had ended before its switch, which has resumed it: its failures are not kept"
    else:
        message = f"values of the input of run {run_id} were replaced by its switch, and are not kept"
    version = switch.payload.get("from_version")
    named = "the earlier version" if version is None else f"version `{version}`"
    return RejectedError("gone_on", f"{message}; let it continue in {named} with `playbook`")


def restore(plan: Plan, records: RunRecords, event: Event, now: float) -> ReplacedRun:
    """Return a run in its earlier plan `plan`, exactly as it was before the switch of an event.

    Raises:
        RejectedError: `gone_on`, if it has gone on since, or the switch had changed more than can be undone.
    """
    kept = event.payload["undo"]
    renamed = {new: old for old, new in event.payload.get("renamed", {}).items()}
    earlier = _rename_records(plan, records, renamed, derived_id(SWITCH_STEP, kept["values"]))
    earlier = replace(earlier, run=_restore_values(earlier, kept))
    carried = replace(carry(plan, plan, earlier, Switch(), now), deadline_at=kept["deadline_at"])
    live = [replace(visit, fence=visit.fence - _FENCES) for visit in carried.visits]
    waves = {join: wave for join, (_, wave) in carried.joins.items()}
    if _hash_state(live, carried.arrivals, waves) != kept["state"]:
        raise _refuse_late(records.run.id)
    finished = tuple(
        visit
        for visit, before in zip(earlier.visits, records.visits, strict=True)
        if visit.step != before.step and not records.is_live(before)
    )
    return ReplacedRun(earlier, replace(carried, visits=(*finished, *carried.visits)))


def _refuse_late(run_id: str) -> RejectedError:
    message = f"run {run_id} has gone on since its switch to another version"
    return RejectedError("gone_on", f"{message}; let it continue in the earlier version with `playbook`")


def _restore_values(records: RunRecords, kept: Mapping[str, Any]) -> Run:
    """Return the run without the inputs and variables that the switch has added."""
    run = records.run
    return replace(
        run,
        input={name: value for name, value in run.input.items() if name in kept["input"]},
        variables={name: value for name, value in run.variables.items() if name in kept["variables"]},
    )


def _rename_records(plan: Plan, records: RunRecords, renamed: Mapping[str, str], given_id: str) -> RunRecords:
    """Return records with the steps of the plan before a switch, and without the values given for it."""

    def rename(step: str) -> str:
        return renamed.get(step, step)

    def restore_names(names: Pointers) -> Pointers:
        kept = {name: pointer for name, pointer in names.items() if pointer[1] != given_id}
        return rename_pointers(kept, renamed)

    def restore_visit(visit: Visit) -> Visit:
        if visit.id == given_id:
            return replace(visit, step=UNDONE_STEP)
        step = rename(visit.step)
        if not records.is_live(visit):
            return replace(visit, step=step)
        is_counted = step not in plan.steps or plan.steps[step].cyclic
        number = visit.number if is_counted else 1
        return replace(visit, step=step, names=restore_names(visit.names), number=number)

    def restore_branch(branch: Branch) -> Branch:
        return replace(branch, step=rename(branch.step), names=restore_names(branch.names))

    return replace(
        records,
        visits=[restore_visit(visit) for visit in records.visits],
        arrivals={
            rename(join): tuple(map(restore_branch, arrived)) for join, arrived in records.arrivals.items()
        },
        waves={rename(join): wave for join, wave in records.waves.items()},
    )


def _hash_state(
    live: Iterable[Visit], arrivals: Mapping[str, Sequence[Branch]], waves: Mapping[str, int]
) -> str:
    """Return the hash of where the branches of a run stand, and of what each has."""
    live_rows = sorted(
        [
            visit.id,
            visit.step,
            visit.number,
            visit.fence,
            visit.attempt,
            None if visit.progress is None else str(visit.due_at),
            _list_names(visit.names),
        ]
        for visit in live
    )
    arrived = sorted(
        [join, branch.id, _list_names(branch.names)]
        for join, branches in arrivals.items()
        for branch in branches
    )
    fired = sorted([join, wave] for join, wave in waves.items() if wave)
    return hashlib.sha256(canonical_json([live_rows, arrived, fired]).encode()).hexdigest()[:32]


def _list_names(names: Pointers) -> list[list[Any]]:
    return sorted([name, clock, holder] for name, (clock, holder) in names.items())
