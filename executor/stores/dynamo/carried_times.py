"""The times of a run that has not forked: each visit carries those of the run before it.

Problem: the times of a run follow from all of its events, which are in the items of its visits. A reader
would read every visit, and a checkpoint of its own would be another write for each step.

Algorithm: prefix sums along the branch. A commit adds its own segment to the times that the visit carries.
It writes the sums into the item that it writes anyway. The visit that follows begins there. While
one visit is active at a time, the latest one has the times of the run.

Cost: about 40 bytes in the item of each visit, and no request.

Limits: branches of a fork overlap, so the visits after a fork carry none, except in sequential mode. Nor do
the visits of a run that an earlier version has begun.

The attribute `spent` of a visit is a list. It has the seconds of work, of waiting and in the queue, and the
time up to which they are measured. Then the state of the visit follows if it has not ended, and until when it
waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from noetl.executor.model.durations import Durations, RunTimes, begin_segment, begin_times, extend_times
from noetl.executor.model.events import Event
from noetl.executor.model.run import Commit, Visit, VisitStatus
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.caches import CachedClaim
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.run_items import decode_shift
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem

_DIGITS = 6


def measure_commit(context: DynamoContext, commit: Commit, claim: CachedClaim, now: float) -> Sequence[float]:
    """Return what a commit writes of the times of the run: the attribute `spent`, or () if it has none."""
    # Damaged times must not stop the run.
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        before = _times_before(claim.head, claim.item)
        if before is not None:
            visit, is_finished = commit.visit, commit.visit.finished_at is not None
            begun_at = claim.item.visit.segment_started_at or now
            segment = begin_segment(visit, begun_at)
            events = [*run_events(context, claim.head, before.until), segment, *commit.events]
            until = max(event.at for event in events) if is_finished else now
            return _encode(extend_times(before, events, () if is_finished else [visit], 0, until), visit)
    return ()


def current_times(
    context: DynamoContext, snapshot: RunSnapshot, last_events: Iterable[Event], now: float
) -> RunTimes | None:
    """Return the times of a run up to `now`, or None if its latest visit does not carry any.

    `last_events` are the events of the finally step, whose visit carries none.
    """
    head = snapshot.head
    visits = [
        item
        for item in snapshot.current_items
        if context.is_branch_visit(item.visit, head) and "history" not in item.attributes
    ]
    if not visits:
        return None
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        before = _times_before(head, visits[-1])
        if before is not None:
            active = [item.visit for item in snapshot.active_items]
            events = [*run_events(context, head, before.until), *last_events]
            return extend_times(before, events, active, 0, now)
    return None


def _times_before(head: Item, item: VisitItem) -> RunTimes | None:
    """Return the times of a run up to the last commit of a visit, or up to its creation if it has none."""
    visit = item.visit
    spent = item.attributes.get("spent", item.origin.spent)
    if spent:
        work, waiting, queued, until, *state = spent
        due_at = state[1] if len(state) > 1 else None
        active = {(visit.step, visit.number): (int(state[0]), due_at)} if state else {}
        return RunTimes(Durations(work, waiting, queued), until, 0, active)
    is_suspended = visit.progress is not None or visit.status in (VisitStatus.WAITING, VisitStatus.RETRYING)
    has_committed = visit.finished_at is not None or is_suspended or visit.attempt > 1
    has_committed = has_committed or (head.get("resumes", 0) > 0 and "fence" in item.attributes)
    # A run that continues another one may begin with several branches.
    is_first = visit.id == head["first"][0] and not item.origin.has_forked
    return begin_times(head["at"]) if is_first and not has_committed else None


def _encode(times: RunTimes, visit: Visit) -> Sequence[float]:
    sums = times.durations
    state = times.active.get((visit.step, visit.number), ())
    seconds = (round(value, _DIGITS) for value in (sums.work, sums.waiting, sums.queued))
    return [*seconds, times.until, *(value for value in state if value is not None)]


def run_events(context: DynamoContext, head: Item, after: float) -> Iterable[Event]:
    """Return the events of the run itself after a time: its pauses, its ends and its resumes.

    A pause at this time came after the commit, since it does not end any work.
    """
    pauses = [event for shift in head.get("shifts", ()) if (event := decode_shift(shift)).at >= after]
    encoded = context.blobs.load_if_kept(head.get("told")) or ()
    return [*pauses, *(event for fields in encoded if (event := Event(*fields)).at > after)]
