"""Debounce: starts that follow each other soon make one run, which has the input of the last of them.

Problem: a source reports each of many small changes, but the work is needed only once for all of them. Starts
arrive at several processes at the same time, and a worker may begin the run at that moment.

Algorithm: a trailing-edge debounce with a longest wait, kept as a record of the store. The first start of a
key makes a run whose first visit is due later. A start that finds this run pending joins it: it replaces the
input, and moves the due time. A run is pending until its first visit is claimed. One transaction finds the
run, decides by these functions, and writes. So a start joins before the claim, or makes another run.

| call | what it decides |
| --- | --- |
| `is_pending` | whether a start may still join a run |
| `join_run` | the run with the input of a newer start |
| `Postponement.due_at` | when the first visit is due |
| `debounced_event` | what the history has of the starts of a run that begins |

All functions are pure.

Cost: a start takes one read and one write more than without `debounce`.

Limits: `run.id` in `environment` and `variables` is the id that the last start would have had. The tags and
the trace of a run are those of its first start.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.events import DEBOUNCED_EVENT, Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.postponement import Postponement
from noetl.executor.model.run import Run, RunStatus, Visit, VisitStatus
from noetl.executor.model.special_visits import START_CLOCK
from noetl.planner.debounce import Debounce
from noetl.planner.frozen import replace
from noetl.planner.plan import Header

MAX_KEY_BYTES = 1024
"""How long the key of a start may be, as UTF-8."""


def postpone_start(debounce: Debounce, run: Run, value: str | None) -> Postponement:
    """Return how a start waits. `value` is that of the key of its playbook, or None without a key.

    Starts of different plans share no run, because a run keeps its plan.
    """
    parts: Sequence[str] = () if value is None else (ascii(value),)
    key = derived_id("debounce", run.tenant, run.playbook, run.plan_hash, run.queue, *parts)
    return Postponement(key, debounce.wait_seconds, debounce.max_seconds)


def is_pending(run: Run, first: Visit, start: Run) -> bool:
    """Return whether `start` may join a run whose first visit is `first`. A resumed run has begun.

    A run that was switched to another plan has the key of the plan before.
    """
    has_begun = run.status is not RunStatus.QUEUED or run.stop is not None or run.resumes > 0
    is_unclaimed = first.status is VisitStatus.READY and first.claims == 0 and first.started_at is None
    return not has_begun and is_unclaimed and run.plan_hash == start.plan_hash


def join_run(pending: Run, start: Run) -> Run:
    """Return a pending run with the input of a newer start. `debounce` says that the start has joined it."""
    return replace(
        pending,
        input=start.input,
        environment=start.environment,
        variables=start.variables,
        trigger=start.trigger,
        debounce=start.debounce,
        starts=pending.starts + 1,
    )


def debounced_event(run: Run, claimed: Visit, now: float) -> Event | None:
    """Return the event of a run that begins with this visit and has several starts, or None.

    A run has one such event, however many starts have joined it. One whose worker is lost may have another.
    """
    is_begin = claimed.clock == START_CLOCK and claimed.progress is None and claimed.attempt == 1
    if run.starts == 1 or run.resumes or not is_begin:
        return None
    return Event(DEBOUNCED_EVENT, now, payload={"starts": run.starts})


def request_of_firing(run: Run, header: Header, start_key: str | None) -> tuple[str, str] | None:
    """Return the idempotency key of a firing and the hash of its request, or None if its id is enough.

    `header` is that of its plan, and `start_key` that of its advance. With `debounce`, a run that does not
    wait has the key, too. Otherwise the same firing could join another run later.
    """
    if header.debounce is not None:
        return identify_firing(run.id)
    return None if start_key is None else (f"\x1fstart {start_key}", "")


def identify_firing(firing_id: str) -> tuple[str, str]:
    """Return the idempotency key of a firing that may join a run, and the hash of its request.

    No client can send such a key, because a header holds no control characters.
    """
    return f"\x1ffiring {firing_id}", ""
