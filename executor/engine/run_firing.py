"""The firing of triggers that await the end of runs of another playbook.

Problem: the process that ends a run may die before it has started the runs that await this.

Algorithm: the end of a run writes an entry of the outbox (see `noetl.executor.model.outbox`). Each trigger
that awaits the playbook is fired, and then the entry is removed. The key of a firing names the run and its
ending. So an entry that is performed twice starts each run once, and a run that is resumed and ends again
fires again. An entry that is postponed names the triggers that were fired, so their records stay as they are.
After PERFORM_SECONDS the entry is due again at once, and continues after the last trigger. So other tenants
need not wait for thousands of triggers.

Cost: one read of the triggers, and one of the ended run with its result, for each performance.

Limits: the triggers that are live when the entry is performed are fired, which is about a second after the
end of the run. A run whose result was deleted meanwhile, or that was resumed, fires without its result.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.engine.trial import try_trigger
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.outbox import PERFORM_SECONDS, POSTPONE_SECONDS, OutboxEntry, postpone_entry
from noetl.executor.model.run import Run
from noetl.executor.model.triggers import (
    PAUSED_REASON,
    Advance,
    FiringOutcome,
    LiveTrigger,
    new_firing,
    record_firing,
)
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace
from noetl.planner.trigger_sources import RunEnd

View = Mapping[str, Any]
"""The values that templates read under `trigger`."""


def perform_run_end(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Fire the triggers that await the end of a run. Return whether the entry was removed or postponed.

    It is postponed if a trigger cannot be fired now. The others are fired first.

    Raises:
        StoreError: the store cannot be reached, or the run cannot be read.
    """
    fired = {tuple(names) for names in entry.record.get("fired", ())}
    awaiting = store.triggers.awaiting(entry.tenant, entry.record["playbook"])
    left = [trigger for trigger in awaiting if _names_of(trigger) not in fired]
    last = tuple(entry.record.get("last") or ())
    triggers = [trigger for trigger in left if _names_of(trigger) > last]
    view = _view_entry(store, entry) if triggers else {}
    ends_at = time.monotonic() + PERFORM_SECONDS
    for trigger in triggers:
        if _try_to_fire(store, trigger, entry, view, now):
            fired.add(_names_of(trigger))
        if trigger is not triggers[-1] and time.monotonic() >= ends_at:
            return store.outbox.change(entry, _note(postpone_entry(entry, now), fired, _names_of(trigger)))
    if all(_names_of(trigger) in fired for trigger in left):
        return store.outbox.change(entry, None)
    return store.outbox.change(entry, _note(postpone_entry(entry, now + POSTPONE_SECONDS), fired, ()))


def _names_of(trigger: LiveTrigger) -> tuple[str, ...]:
    return trigger.playbook, trigger.name


def _note(entry: OutboxEntry, fired: Iterable[tuple[str, ...]], last: tuple[str, ...]) -> OutboxEntry:
    """Return an entry with the triggers that were fired, and the last one that was tried in this round."""
    changes = {"fired": sorted(map(list, fired)), "last": list(last)}
    return replace(entry, record={**entry.record, **changes})


def view_run(run: Run) -> dict[str, Any]:
    """Return what templates read under `trigger` for the end of a run."""
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "result": run.result,
        "error": run.error,
    }


def end_key(run_id: str, ending: int) -> str:
    """Return the key of the firings at an ending of a run: the number of its resumes before that."""
    return f"{run_id} {ending}"


def read_ended_run(store: Store, trigger: LiveTrigger, run_id: str) -> Run:
    """Return an ended run of the playbook that a trigger awaits.

    Raises:
        RejectedError: `invalid_input`, if there is no such run, or if it has not ended.
    """
    run = store.runs.get(trigger.tenant, run_id)
    if run is None or run.playbook != trigger.awaits:
        message = (
            f"trigger `{trigger.name}` awaits runs of `{trigger.awaits}`, and `{run_id}` is none of them"
        )
        raise RejectedError("invalid_input", message)
    if not run.status.is_final:
        raise RejectedError("invalid_input", f"run {run_id} has not ended; wait for its end")
    return run


def _view_entry(store: Store, entry: OutboxEntry) -> dict[str, Any]:
    record = entry.record
    run = store.runs.get(entry.tenant, record["run_id"])
    if run is not None and run.status.is_final and run.resumes == record["ending"]:
        return view_run(run)
    return {
        "workflow_id": record["run_id"],
        "status": record["status"],
        "result": None,
        "error": None,
    }


def _try_to_fire(store: Store, trigger: LiveTrigger, entry: OutboxEntry, view: View, now: float) -> bool:
    """Fire a trigger, and return False if it must be tried again.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    with try_trigger(trigger) as trial:
        firer = read_firer(store, trigger, now)
        if firer is not None:
            _fire(firer, entry, view)
    return trial.problem is None


def _fire(firer: Firer, entry: OutboxEntry, view: View) -> None:
    source, record = firer.declared.source, entry.record
    if not isinstance(source, RunEnd) or record["status"] not in source.statuses:
        return
    advance = Advance(firer.trigger, firer.trigger)
    # The records of a firing that is performed again have the same time, so that they are one record.
    firing = new_firing(firer.trigger, end_key(record["run_id"], record["ending"]), entry.created_at)
    firing = replace(firing, ended_run=record["run_id"])
    try:
        firing = firer.with_key(firing, view)
    except ActionError as problem:
        firer.write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
        return
    if firer.trigger.is_paused:
        firer.write(record_firing(advance, firing, FiringOutcome.MISSED, PAUSED_REASON))
    else:
        firer.fire(firing, view, advance)
