"""Visits as items: what is stored of a visit, and what follows from it.

Problem: a step of a chain should cost one item. The commit of a visit determines the visits that follow it.
Writing them as well would store the same twice, and would need a transaction.

Algorithm: event sourcing for one step. A visit that follows in a chain has no item before it is claimed. Its
id, clock and names are derived from the item of its cause by the same pure function that the commit used.
The first claim creates its item. A finished visit stores its own derived values, so it can be read without
its cause.

Cost: one item for each visit. A reader of a run derives the visits that have no item.

Limits: a `join: any` and a fired join write the item of their visit at once, since several causes lead to it.

Attributes of a visit item (their names are stored, and never change):

| name | content |
| --- | --- |
| `status`, `due`, `fence`, `claims`, `attempt`, `worker` | as in `Visit` |
| `started`, `piece`, `finished` | times: start of the attempt, start of the segment, end of the visit |
| `told` | metadata of the outcome, a blob: `e` error, `h` events, `p` progress (round, journal, counts) |
| `gave` | outputs, a blob: `s` saved names, `r` result, `f` few failed items of a loop, `n` as below |
| `fails` | failed items of a loop, if their JSON is long: its parts, or an object and the ends of its parts |
| `saves` | names of the saved values, if these are in the bucket |
| `case`, `failure` | index of the case that was taken; what the failure did to the branch |
| `begun` | list of starts of attempts: fence, time, worker, attempt |
| `awaits` | ids of the waits that the suspended visit waits for |
| `paused` | while it waits: the partition of the counter that counts it, and the names of the numbers there |
| `wakes` | while it waits long: a partition of the index `due`; the range key of this index is `due` |
| `step`, `clock`, `number`, `names` | values that follow from the cause; `names` are the pointers, a blob |
| `cause`, `causes`, `index`, `home`, `counts` | as in `VisitOrigin` |
| `entered`, `forked`, `line` | `entered_at`, `has_forked`, `parent_clock` of `VisitOrigin` |
| `at` | time of the commit |
| `next`, `numbers` | number of branches that follow; numbers of their visits in a run that has forked |
| `begins` | in sequential mode, id of the visit that begins next |
| `waited`, `counted`, `last` | flags of the commit: may have children, changed counters, is finally step |
| `resumes` | the resume count of the run, for the visits that end it |
| `spent` | times of the run up to the last commit, see `carried_times.py` |
| `era` | how often the run had changed its plan when the visit was finished or changed its plan, if ever |
| `moving`, `moved` | while the run changes its plan: what the visit is in that plan, see `plan_moves.py` |
| `history` | set if the visit was copied from the run that this run continues |
| `expires` | time from which the item may be deleted |

A result that is also a saved value is stored once: `n` is the name of the value, or "" for all saved names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.errors import PayloadLostError
from noetl.executor.model.durations import QUEUED
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import find_saved_result, take_saved_result
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import (
    END,
    Branch,
    FailureState,
    Pointers,
    Progress,
    Visit,
    VisitStatus,
)
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.transition import branches_after
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.damage import decoding
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import PART_CHARACTERS, Blobs, from_bytes, is_in_bucket, to_bytes
from noetl.executor.stores.dynamo.expressions import Condition
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step

VISIT_ATTRIBUTES = (
    "pk", "sk", "status", "due", "fence", "claims", "attempt", "worker", "started", "piece", "finished",
    "told", "saves", "case", "failure", "begun", "awaits", "paused", "wakes", "step", "clock", "number",
    "names", "cause", "causes", "index", "home", "counts", "entered", "forked", "line", "at", "next",
    "numbers", "begins", "waited", "counted", "last", "resumes", "spent", "history", "era",
    "moving", "moved",
)  # fmt: skip
"""Attributes of a visit without its outputs, which may be long."""

StepOf = Callable[[str], Step]
"""Function from the name of a step to the step."""


@frozen
class VisitOrigin:
    """The cause of a visit, and what its branch carries.

    `cause` is the id of the visit before it ("" at the start of a run); `causes` are the visits that a join
    has merged. `entered_at` is when it was created, and `index` its place among the visits that were created
    with it. `home` is the partition whose counter counts the branch. `counts` are the visits of steps on
    cycles, which the branch counts until the run `has_forked`. `parent_clock` is the clock of the visit
    whose commit created it. `spent` are the times of the run up to its creation, as an item stores them.
    """

    cause: str = ""
    causes: tuple[str, ...] = ()
    entered_at: float = 0.0
    index: int = 0
    home: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    has_forked: bool = False
    parent_clock: int = 0
    spent: Sequence[float] = ()


@frozen
class CommitTime:
    """The time of a commit, and the times of the run up to it, as an item stores them."""

    now: float
    spent: Sequence[float] = ()

    @property
    def spent_before_next(self) -> Sequence[float]:
        """The times of the run that the visit after the commit carries. It is in the queue."""
        return spent_before_next(self.spent)


@frozen
class VisitItem:
    """A visit, its origin, and the attributes of its item, which are empty for a derived visit."""

    visit: Visit
    origin: VisitOrigin
    attributes: Item = field(default_factory=dict)

    @property
    def is_written(self) -> bool:
        """True if the visit has an item."""
        return bool(self.attributes)

    @property
    def sort_key(self) -> tuple[float, bool, int, bool, int, str]:
        """Place among the visits of its run, in the order of creation."""
        return (self.origin.entered_at, self.visit.step == END, *self.sibling_key)

    @property
    def sibling_key(self) -> tuple[int, bool, int, str]:
        """Place among the visits that were created at the same time."""
        origin = self.origin
        return (origin.parent_clock, not origin.causes, origin.index, self.visit.id)


@decoding()
def decode_visit(
    run_id: str, item: Item, blobs: Blobs, derived: VisitItem | None = None, *, with_outputs: bool = True
) -> VisitItem | None:
    """Return the visit of an item, or None if its origin is neither stored nor given by `derived`.

    `derived` is the visit as it follows from its cause. Without `with_outputs`, result and failures are left
    out if they are in the bucket, and saved names have the value None. So have those that were deleted.
    """
    if "clock" not in item and derived is None:
        return None
    needs_outputs = with_outputs or not ("saves" in item and is_in_bucket(item.get("gave")))
    metadata, lost_outcome = _load_or_lose(blobs, item.get("told"))
    outputs, lost_outputs = _load_or_lose(blobs, item.get("gave") if needs_outputs else None)
    failures = tuple(outputs.get("f", ()))
    lost_failures = None
    if with_outputs and "fails" in item:
        failures, lost_failures = _load_failures(blobs, item["fails"])
    if lost_outputs is not None or not needs_outputs:
        outputs = {"s": dict.fromkeys(item.get("saves", ()))}
    clock, names, number, origin = (
        (item["clock"], decode_pointers(item.get("names")), item.get("number", 1), decode_origin(item))
        if "clock" in item or derived is None
        else (derived.visit.clock, derived.visit.names, derived.visit.number, derived.origin)
    )
    progress, status, saved = metadata.get("p"), VisitStatus(item["status"]), outputs.get("s", {})
    lost = lost_outcome or lost_outputs or lost_failures
    visit = Visit(
        id=item["sk"][2:],
        run_id=run_id,
        step=item["step"],
        status=status,
        clock=clock,
        names=names,
        number=number,
        attempt=item.get("attempt", 1),
        claims=item.get("claims", 0),
        fence=item.get("fence", 0),
        worker=item.get("worker"),
        due_at=item["due"],
        started_at=item.get("started"),
        segment_started_at=item.get("piece"),
        finished_at=item.get("finished"),
        saved=saved,
        result=take_saved_result(outputs["n"], saved) if "n" in outputs else outputs.get("r"),
        failures=failures,
        case=item.get("case"),
        error=metadata.get("e"),
        failure=FailureState(item["failure"]) if "failure" in item else None,
        progress=None if progress is None else Progress(*progress),
    )
    if lost is not None:
        message = f"the data of visit {number} of step `{visit.step}` is lost: {lost}"
        error = visit.error
        if lost_outcome is not None and status is VisitStatus.FAILED:
            error = error_record(visit, "PayloadLost", message)
        visit = replace(visit, lost_payload=message, error=error)
    elif derived is not None and derived.visit.lost_payload is not None and visit.finished_at is None:
        visit = replace(visit, lost_payload=derived.visit.lost_payload)
    return VisitItem(visit, origin, item)


def _load_or_lose(blobs: Blobs, stored: bytes | None) -> tuple[dict[str, Any], str | None]:
    """Return the value of a blob, and None. Return {} and the reason if the value was deleted."""
    try:
        return blobs.load(stored) or {}, None
    except PayloadLostError as problem:
        return {}, str(problem)


def _load_failures(blobs: Blobs, stored: Sequence[bytes | int]) -> tuple[tuple[Any, ...], str | None]:
    """Return the failed items of a visit, and None. Return () and the reason if they were deleted."""
    try:
        return tuple(json.loads(blobs.load_parts(stored))), None
    except PayloadLostError as problem:
        return (), str(problem)


def decode_lease(run_id: str, visit_id: str, item: Item) -> Visit:
    """Return a visit with the attributes on which a claim depends, but without clock, names and outcome."""
    return Visit(
        id=visit_id,
        run_id=run_id,
        step=item["step"],
        status=VisitStatus(item["status"]),
        clock=0,
        names={},
        attempt=item.get("attempt", 1),
        claims=item.get("claims", 0),
        fence=item.get("fence", 0),
        worker=item.get("worker"),
        due_at=item["due"],
        started_at=item.get("started"),
        segment_started_at=item.get("piece"),
    )


def decode_suspended(run_id: str, item: Item, number: int, blobs: Blobs) -> Visit:
    """Return a visit with its progress, but without clock, names and outputs. `number` is that of the visit.

    The progress is None if it was deleted.
    """
    metadata, _ = _load_or_lose(blobs, item.get("told"))
    progress = metadata.get("p")
    lease = decode_lease(run_id, item["sk"][2:], item)
    return replace(lease, number=number, progress=None if progress is None else Progress(*progress))


def decode_origin(item: Item) -> VisitOrigin:
    """Return the origin that an item stores."""
    counts = item.get("counts")
    return VisitOrigin(
        cause=item.get("cause", ""),
        causes=tuple(item.get("causes", ())),
        entered_at=item["entered"],
        index=item.get("index", 0),
        home=item.get("home", 0),
        counts={} if counts is None else from_bytes(counts),
        has_forked=item.get("forked", False),
        parent_clock=item.get("line", 0),
    )


@decoding()
def decode_pointers(packed: bytes | None) -> Pointers:
    """Return the pointers that an item stores in `names`."""
    return {} if packed is None else {name: (clock, id) for name, (clock, id) in from_bytes(packed).items()}


def without_outputs(visit: Visit) -> Visit:
    """Return a visit without the names that it saved, its result and its failures."""
    return replace(visit, saved={}, result=None, failures=())


def encode_origin(visit: Visit, origin: VisitOrigin) -> dict[str, Any]:
    """Return the attributes of a visit that otherwise follow from its cause."""
    return {
        "step": visit.step,
        "clock": visit.clock,
        "number": visit.number if visit.number != 1 else None,
        "names": to_bytes(dict(visit.names)) if visit.names else None,
        "cause": origin.cause or None,
        "causes": list(origin.causes) or None,
        "entered": origin.entered_at,
        "index": origin.index or None,
        "home": origin.home or None,
        "counts": to_bytes(dict(origin.counts)) if origin.counts else None,
        "forked": origin.has_forked or None,
        "line": origin.parent_clock or None,
    }


def encode_unclaimed(visit: Visit, origin: VisitOrigin) -> dict[str, Any]:
    """Return the item of a visit that no worker has claimed yet."""
    state = {"status": visit.status.value, "due": visit.due_at, "spent": list(origin.spent) or None}
    return encode_origin(visit, origin) | state


def encode_outcome(visit: Visit, events: Sequence[Event], blobs: Blobs) -> dict[str, Any]:
    """Return the attributes of the outcome of a claim. A value None removes the attribute.

    Those whose values were lost stay unchanged.
    """
    attributes = {
        "status": visit.status.value,
        "attempt": visit.attempt if visit.attempt != 1 else None,
        "claims": visit.claims,
        "due": visit.due_at,
        "started": visit.started_at,
        "piece": visit.segment_started_at,
        "finished": visit.finished_at,
        "case": visit.case,
        "failure": None if visit.failure is None else visit.failure.value,
    }
    if visit.lost_payload is not None:
        return attributes
    metadata = {
        "e": visit.error,
        "h": [encode_event(event) for event in events] or None,
        "p": None if visit.progress is None else encode_progress(visit.progress),
    }
    failures = encode_json(list(visit.failures)) if visit.failures else ""
    is_long = len(failures) > PART_CHARACTERS
    saved_result = find_saved_result(visit.result, visit.saved)
    outputs = {
        "s": dict(visit.saved) or None,
        "r": visit.result if saved_result is None else None,
        "n": saved_result,
        "f": None if is_long else list(visit.failures) or None,
    }
    stored_outputs = blobs.store(visit.run_id, _without_none(outputs))
    return attributes | {
        "told": blobs.store(visit.run_id, _without_none(metadata)),
        "gave": stored_outputs,
        "fails": blobs.store_parts(visit.run_id, failures) if is_long else None,
        "saves": sorted(visit.saved) if is_in_bucket(stored_outputs) else None,
    }


def encode_progress(progress: Progress) -> list[Any]:
    """Return the stored form of the progress of a visit."""
    return [progress.round, dict(progress.journal), *([dict(progress.counts)] if progress.counts else [])]


def encode_event(event: Event) -> list[Any]:
    """Return the stored form of an event."""
    return [
        event.type,
        event.at,
        event.step,
        event.visit,
        event.attempt,
        event.duration_seconds,
        dict(event.payload),
    ]


def derive_followers(cause: VisitItem, step_of: StepOf, spread: int) -> list[VisitItem]:
    """Return the visits that follow a finished visit, as they are before a worker claims them.

    Visits at a `join: any` are left out, since they have items. Arrivals at joins are no visits. In
    sequential mode, the visit that begins next has an item.
    """
    visit, origin, attributes = cause.visit, cause.origin, cause.attributes
    if not attributes.get("next"):
        return []
    branches = branches_after(visit, step_of(visit.step), step_of)
    numbers = dict(zip((branch.id for branch in branches), attributes.get("numbers", ()), strict=False))
    followers = []
    for index, branch in enumerate(branches):
        if branch.is_arrival or branch.is_absorbed:
            continue
        number, counts = number_visit(branch, origin, numbers.get(branch.id, 0))
        follower_origin = VisitOrigin(
            cause=visit.id,
            entered_at=attributes["at"],
            index=index,
            home=home_of_branch(origin.home, index, len(branches), spread),
            counts=counts,
            has_forked=origin.has_forked or len(branches) > 1,
            parent_clock=visit.clock,
            spent=spent_before_next(attributes.get("spent", ())) if len(branches) == 1 else (),
        )
        follower = enter_step(branch, visit.run_id, attributes["at"], number)
        if (
            visit.lost_payload is not None
            and is_in_bucket(attributes.get("gave"))
            and "saves" not in attributes
        ):
            # An earlier version has stored the item, so the names that the follower may read are lost.
            follower = replace(follower, lost_payload=visit.lost_payload)
        followers.append(VisitItem(follower, follower_origin))
    return followers


def spent_before_next(spent: Sequence[float]) -> Sequence[float]:
    """Return the times that the only visit after a commit carries. It is in the queue."""
    return (*spent[:4], QUEUED) if spent else ()


def number_visit(branch: Branch, origin: VisitOrigin, number: int) -> tuple[int, Mapping[str, int]]:
    """Return the number of the visit that a branch creates, and the counts that the branch carries on.

    `number` comes from the table if the run has forked, and is 0 otherwise. Then the branch counts itself.
    """
    if not branch.is_counted:
        return 1, origin.counts
    if number:
        return number, origin.counts
    number = origin.counts.get(branch.step, 0) + 1
    return number, {**origin.counts, branch.step: number}


def home_of_branch(home: int, index: int, width: int, spread: int) -> int:
    """Return the partition that counts a branch of a fork of `width` branches.

    Neighbours share a partition, and the first ones that of their parent.

    >>> [home_of_branch(1, index, 64, 4) for index in (0, 15, 16, 63)]
    [1, 1, 2, 0]
    """
    if spread == 1 or width == 1:
        return home
    branches_per_partition = max(BRANCHES_PER_PARTITION, -(-width // spread))
    return (home + index // branches_per_partition) % spread


def counted_pause(item: Item | None) -> tuple[int, dict[str, int]] | None:
    """Return the partition of the counter that counts a visit as waiting, and what its claim adds there."""
    if item is None or "paused" not in item:
        return None
    home, *names = item["paused"]
    return home, dict.fromkeys(names, -1)


def is_held(fence: int) -> tuple[Condition, ...]:
    """Return the condition that a visit is claimed with this fence."""
    return (("fence", "=", fence), ("status", "=", VisitStatus.RUNNING.value))


def is_unchanged(visit: Visit) -> tuple[Condition, ...]:
    """Return the condition that a visit has the status and the fence with which it was read."""
    return (("status", "=", visit.status.value), ("fence", "absent or =", visit.fence))


def encode_events_item(events: Sequence[Event], blobs: Blobs, run_id: str) -> Item:
    """Return the item of events of a claim; `told` is its stored attribute name."""
    return {"told": blobs.store(run_id, [encode_event(event) for event in events])}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
