"""The transitions of one visit outside an attempt, as pure functions: entry, claim, lease, park, resume.

Problem: every store must claim, release, park and reopen visits by the same rules, whatever its database is.

Algorithm: each function takes a visit and returns it as the store must write it. The status comes from the
table of `visit_states`. The store adds only the condition under which it writes: that the visit is still as
it was read. `noetl.executor.model.transition` has the transitions that end an attempt.

Cost: constant.

Limits: times and fences come from the caller. A claim of a visit that is not due is not refused here; stores
ask `is_due`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.errors import FencedError
from noetl.executor.model.events import Event
from noetl.executor.model.finished_items import forget_items
from noetl.executor.model.run import Branch, Commit, Lease, Progress, Visit, VisitStatus
from noetl.executor.model.run_summary import VisitSummary
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.visit_states import ACTIVE, WAKEABLE, VisitTrigger, next_status
from noetl.planner.frozen import replace

MAX_CLAIMS = 5
"""A visit that was claimed more often without an outcome fails."""

MAX_CLAIMS_OF_RULE = 3
"""How many more claims may perform the case of its rule for this failure."""

SKIP = "skip"
"""The journal key of a visit whose work a resume leaves out."""

LEFT_OUT = "left_out"
"""The journal key of a visit that has succeeded without its work. Its value is that of `describe_skip`."""

ALL_ITEMS = "all_items"
"""The member of a mark of a resume with which a visit does all items of its failed loops again."""

MAX_AHEAD_SECONDS = 1.0
"""How long before its due time a worker may claim the visit that it has suspended. It holds its thread."""

MAX_LEASE_SECONDS = 2 * 3600.0
"""Longest time until the end of a lease, even if two clocks differ by an hour."""


def enter_step(
    branch: Branch, run_id: str, due_at: float, number: int = 1, *, is_stopping: bool = False
) -> Visit:
    """Return the visit that a branch makes as it enters a step: ready, or parked if the run stops or pauses.

    >>> enter_step(Branch("v1", "a", clock=1, names={}), "r1", due_at=5.0).status.value
    'ready'
    """
    trigger = VisitTrigger.ENTER_STOPPING if is_stopping else VisitTrigger.ENTER
    return Visit(
        branch.id,
        run_id,
        branch.step,
        next_status(None, trigger),
        branch.clock,
        branch.names,
        number=number,
        due_at=due_at,
    )


def is_requested_for(commit: Commit, claimed: Visit | None) -> bool:
    """Return whether a commit makes its requests for slots for the visit that it has claimed.

    A visit that a join enters has an id of its own. All new visits of its step request the same.
    """
    if claimed is None or not commit.branches:
        return False
    branch = commit.branches[0]
    if branch.is_arrival:
        return claimed.step == branch.step and claimed.claims == 1
    return claimed.id == branch.id


def is_due(visit: Visit, now: float) -> bool:
    """Return whether a worker may claim the visit."""
    return visit.status in ACTIVE and visit.due_at <= now


def is_waiting(visit: Visit) -> bool:
    """Return whether an active visit waits for a time or an answer."""
    return visit.status in (VisitStatus.RETRYING, VisitStatus.WAITING)


def claim(visit: Visit, lease: Lease, now: float) -> Visit:
    """Return the visit as a worker claims it. Its fence grows, so earlier claims are lost.

    The attempt and its segment keep the times at which they were first claimed.

    >>> visit = enter_step(Branch("v1", "a", clock=1, names={}), "r1", due_at=5.0)
    >>> claimed = claim(visit, Lease("w1", seconds=30.0), now=6.0)
    >>> claimed.status.value, claimed.fence, claimed.claims, claimed.due_at, claimed.started_at
    ('running', 1, 1, 36.0, 6.0)
    """
    return replace(
        visit,
        status=next_status(visit.status, VisitTrigger.CLAIM),
        claims=visit.claims + 1,
        fence=visit.fence + 1,
        worker=lease.worker,
        due_at=now + lease.seconds,
        started_at=now if visit.started_at is None else visit.started_at,
        segment_started_at=now if visit.segment_started_at is None else visit.segment_started_at,
    )


def seconds_until_start(claimed: Visit, now: float) -> float:
    """Return how long the worker of a claim must wait before it executes a visit that it has claimed ahead.

    >>> visit = enter_step(Branch("v1", "a", clock=1, names={}), "r1", due_at=5.2)
    >>> claimed = claim(visit, Lease("w1", seconds=30.0), now=5.2)
    >>> round(seconds_until_start(claimed, now=5.0), 6), seconds_until_start(claimed, now=6.0)
    (0.2, 0.0)
    """
    begins_at = now if claimed.segment_started_at is None else claimed.segment_started_at
    return min(max(begins_at - now, 0.0), MAX_AHEAD_SECONDS)


def start_events(before: Visit, claimed: Visit) -> tuple[Event, ...]:
    """Return the event `step.started` if a claim starts an attempt, or no event.

    A claim that continues a suspended attempt, or repeats one after a lost claim, starts none.
    """
    if before.started_at is not None or is_pseudo_step(claimed.step):
        return ()
    return (started_event(claimed),)


def started_event(claimed: Visit) -> Event:
    """Return the event of the attempt that a claim has started."""
    payload = {"worker": claimed.worker}
    started_at = claimed.started_at or 0.0
    return Event("step.started", started_at, claimed.step, claimed.number, claimed.attempt, payload=payload)


def is_held(visit: Visit, fence: int) -> bool:
    """Return whether the claim with this fence is held, so that its worker may write."""
    return visit.status is VisitStatus.RUNNING and visit.fence == fence


def claim_lost(visit: Visit) -> FencedError:
    """Return the error of a write whose claim is lost."""
    return FencedError(f"the claim of step `{visit.step}` is lost")


def is_endless(visit: Visit, now: float) -> bool:
    """Return whether a visit is claimed for longer than any lease: the clock of its worker was ahead."""
    return visit.status is VisitStatus.RUNNING and visit.due_at > now + MAX_LEASE_SECONDS


def renew(visit: Visit, until: float) -> Visit:
    """Return a claimed visit with a lease that ends at `until`."""
    return replace(visit, status=next_status(visit.status, VisitTrigger.RENEW), due_at=until)


def release(visit: Visit, now: float, *, counts: bool) -> Visit:
    """Return a claimed visit that its worker gives up: due at once, with a fence that refuses later writes.

    If `counts` is false, the claim does not count as an attempt to execute the visit.
    """
    return replace(
        visit,
        status=next_status(visit.status, VisitTrigger.RELEASE),
        due_at=now,
        fence=visit.fence + 1,
        claims=visit.claims - (0 if counts else 1),
        worker=None,
    )


def end_lease(visit: Visit, now: float) -> Visit:
    """Return a claimed visit of a dead worker: due at once."""
    return replace(visit, status=next_status(visit.status, VisitTrigger.END_LEASE), due_at=now)


def park(visit: Visit) -> Visit:
    """Return a visit as its stopping or paused run parks it. A time that it waits for is kept."""
    return replace(visit, status=next_status(visit.status, VisitTrigger.PARK))


def revoke_claim(before: Visit, claimed: Visit, now: float) -> Visit:
    """Return the visit of a claim that is undone, because its run was stopping or paused.

    `before` is the visit before the claim. Its fence has grown, so the claim is lost.
    """
    status = next_status(claimed.status, VisitTrigger.REVOKE)
    due_at = now if before.status is VisitStatus.READY else before.due_at
    return replace(before, status=status, due_at=due_at, fence=claimed.fence)


def wake(visit: Visit, now: float) -> Visit:
    """Return a visit after the answer of one of its waits has arrived.

    A suspended visit is due at once, a parked visit when its run resumes. Any other visit is unchanged; a
    running visit finds the answer when it is suspended.
    """
    if visit.status not in WAKEABLE:
        return visit
    return replace(visit, status=next_status(visit.status, VisitTrigger.WAKE), due_at=now)


def unpark(visit: Visit, now: float) -> Visit:
    """Return a parked visit of a run that does not stop, as the sweep repairs it."""
    return replace(visit, status=next_status(visit.status, VisitTrigger.UNPARK), due_at=now)


def unpause(visit: Visit, now: float) -> Visit:
    """Return a parked visit of a run that was paused, as it was before, and due at once if its time has come.

    A visit without progress that is due later is the first one of a run with `debounce`.

    >>> parked = park(enter_step(Branch("v1", "a", clock=1, names={}), "r1", due_at=5.0))
    >>> [(visit.status.value, visit.due_at) for visit in (unpause(parked, now=4.0), unpause(parked, now=8.0))]
    [('ready', 5.0), ('ready', 8.0)]
    """
    if visit.error is not None:
        trigger = VisitTrigger.UNPAUSE_RETRYING
    else:
        is_suspended = visit.due_at > now and visit.progress is not None
        trigger = VisitTrigger.UNPAUSE_WAITING if is_suspended else VisitTrigger.UNPAUSE
    return replace(visit, status=next_status(visit.status, trigger), due_at=max(visit.due_at, now))


def reopen(visit: Visit, now: float) -> Visit | None:
    """Return the visit as a resume of its run continues it, or None if it stays as it is.

    Parked visits and visits with an unhandled failure continue, with their first attempt. A parked visit
    that still waits for a time or an answer goes on waiting. A parked visit with an error was to be retried,
    which happens at once.
    """
    is_parked = visit.status is VisitStatus.PARKED
    if not is_parked and not visit.has_ended_branch:
        return None
    is_suspended = is_parked and visit.due_at > now and visit.progress is not None and visit.error is None
    trigger = VisitTrigger.REOPEN_SUSPENDED if is_suspended else VisitTrigger.REOPEN
    return replace(
        visit,
        status=next_status(visit.status, trigger),
        attempt=1,
        claims=0,
        started_at=None,
        segment_started_at=None,
        finished_at=None,
        due_at=visit.due_at if is_suspended else now,
        case=None,
        error=None,
        failure=None,
    )


def mark_skipped(visit: Visit, skip: Mapping[str, Any], resumes: int) -> Visit:
    """Return a visit that has failed or is parked, whose work the next resume leaves out.

    `skip` has its result, and who requests it. A later resume performs the work again: `resumes` counts them.
    With `all_items`, the work is performed, with all items of its failed loops.
    """
    if skip.get(ALL_ITEMS):
        return forget_items(visit)
    progress = Progress(journal={SKIP: {**skip, "resumes": resumes}})
    return replace(visit, progress=progress, due_at=0.0)


def read_skip(visit: Visit, resumes: int) -> Mapping[str, Any] | None:
    """Return the result with which the work of a visit is left out, and who requests it, or None."""
    entry = None if visit.progress is None else visit.progress.journal.get(SKIP)
    return entry if entry is not None and entry["resumes"] == resumes else None


def describe_skip(skip: Mapping[str, Any]) -> dict[str, Any]:
    """Return why the work of a visit is left out, as its event and its journal have it.

    >>> describe_skip({"result": 1, "by": "ann", "resumes": 1}), describe_skip({"result": 1, "by": None})
    ({'by': 'ann'}, {})
    """
    return {"by": skip["by"]} if skip.get("by") is not None else {}


def step_skipped(visit: Visit, reason: Mapping[str, Any], now: float) -> Event:
    """Return the event of a visit whose work is left out, for a reason of `describe_skip` or a full limit."""
    return Event("step.skipped", now, visit.step, visit.number, visit.attempt, payload=dict(reason))


def mark_left_out(progress: Progress | None, reason: Mapping[str, Any]) -> Progress:
    """Return the progress of a visit that has succeeded without its work."""
    kept = progress or Progress()
    return replace(kept, journal={**kept.journal, LEFT_OUT: dict(reason)})


def read_left_out(visit: Visit | VisitSummary) -> Mapping[str, Any] | None:
    """Return why a visit has succeeded without its work, or None."""
    return None if visit.progress is None else visit.progress.journal.get(LEFT_OUT)


def finish_end(visit: Visit, now: float) -> Visit:
    """Return the claimed visit of `@end` after it has ended its run."""
    return replace(visit, status=next_status(visit.status, VisitTrigger.SUCCEED), finished_at=now)


def discards_batch_results(visit: Visit) -> bool:
    """Return whether a commit of a suspended visit makes the batch results of its loops superfluous.

    They are when the visit is done, or when it starts another round. A visit with an unhandled failure may
    be resumed, so it keeps them.
    """
    if visit.progress is None:
        return False
    may_continue = visit.finished_at is None or visit.has_ended_branch
    return not visit.progress.journal or not may_continue
