"""Runs as items: the head of a run, and the counters of its branches.

Problem: a fork, an end and an arrival change the number of branches, and many branches do so at the same
time.

Algorithm: a sharded counter. Source: Amazon DynamoDB Developer Guide, "write sharding". Each partition of a
run has a counter item, and a branch is counted in its home partition. Only the sum over all partitions has a
meaning. A branch leaves the counter that it entered, so none is negative.

Cost: one counter item in the transaction of a fork, an end or an arrival. A step of a chain changes none.

Limits: the first branch of a run is counted in no item; `sum_counters` adds it.

Attributes of a counter: `live` and `failed` are numbers of branches. `paused` is the number of visits that
wait for a time or an answer, and `ending` is that of the finally step. `long` is the number of those that
wait longer than a message can be delayed. `j#JOIN` is the number of branches on
the way to a join, `a#JOIN` the list of arrivals, and `l#JOIN` the set of clocks. `stack` is a blob, and
`version` counts the changes of branches.

Attributes of a head (their names are stored, and never change): `tenant` and `open` are index partitions.
`created` is the sort key of the indexes, and `owner` is the tenant. `at`, `started`, `finished` and
`deadline` are times. `given` is a blob of input, environment and variables. `first` is the first visit: id,
step, clock, index; `handed` are its pointers. `told` is a blob of the events of the run. `waits` is set if an
earlier version has suspended a visit, `reopening` while a resume is not complete. `key` is the partition key
of the idempotency key, and `requests` lists those of resumes. `held` is set while the run is paused,
and `alone` if by a request of its own.
`shifts` lists the begins and ends of pauses, and notifications that were not delivered: type of the event,
time, and the values of its payload. `plan` is the hash of the plan, and `resumed` is `Run.resumed_from`.
`skips` is a blob of the visits whose work the last resume leaves out. `spread` is the number of partitions if
it is not 1. `expires` is the time to live. `damage` says why the run was set aside. `era` is the number of
the plan of the run, if it has changed its plan. Then all branches are in the counters, and what was written
under an earlier plan leads to no visit.
`debounced` is the key of the starts that may join the run while it has not begun. `starts` is how many share
the run, if there are several.
`moving` and `moving_since` are the number and the begin of a change in several transactions.
`trigger` is JSON. Others are named as in `Run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from noetl.executor.errors import PayloadLostError
from noetl.executor.model.events import NOTIFICATION_EVENT, Event
from noetl.executor.model.run import Branch, ErrorRecord, Run, RunStatus, Visit, WaitKey
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.run_transition import run_started, shown_status
from noetl.executor.model.special_visits import deadline_visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.damage import decoding
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs, to_bytes
from noetl.executor.stores.dynamo.expressions import PRESENT, Put, Update
from noetl.executor.stores.dynamo.visit_items import (
    StepOf,
    VisitItem,
    VisitOrigin,
    decode_pointers,
    derive_followers,
    encode_event,
)
from noetl.executor.stores.sql.rows import decode_json
from noetl.planner.frozen import frozen

SUMMARY_ATTRIBUTES = (
    "pk", "sk", "tenant", "owner", "created", "at", "playbook", "version", "plan", "status", "origin",
    "queue", "tags", "folder", "parent", "resumed", "started", "finished", "stop", "held", "resumes",
    "deadline", "first", "handed", "spread", "waits", "error", "damage", "era", "trigger",
    "starts",
)  # fmt: skip
"""Attributes of a head without payloads: those of a summary, and those from which its visits follow."""

_SHIFT_FIELDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {NOTIFICATION_EVENT: ("channel", "event", "notification", "reason")}
)
"""The names in the payloads of events in `shifts`. Those of pauses have `by`."""


def put_request(run: Run, idempotency: tuple[str, str]) -> Put:
    """Return the write of the item of an idempotency key, which must be absent."""
    name, request_hash = idempotency
    item = {"run": run.id, "tenant": run.tenant, "request": request_hash}
    return Put(keys.idempotency(run.tenant, name), item)


@frozen
class BranchCounts:
    """The branches of a run, summed over its counters.

    `live` is their number, `failed` the number that ended in an unhandled failure. `joins` is the number
    that can still reach each join, and `arrivals` are the ids of the visits whose branches wait at each
    join.
    """

    live: int
    failed: int
    joins: Mapping[str, int]
    arrivals: Mapping[str, Sequence[str]]

    @property
    def joins_to_fire(self) -> list[str]:
        """Joins that have arrivals and that no branch can reach any more, sorted."""
        return sorted(join for join, ids in self.arrivals.items() if ids and self.joins.get(join, 0) <= 0)


def linked_keys(item: Item) -> list[keys.ItemKey]:
    """Return the keys of items outside the partitions of a run that an item in them leads to."""
    requests = [keys.ItemKey(item["joined"], "I")] if "joined" in item else []
    return [*map(keys.token, item.get("tokens", ())), *requests]


def encode_head(run: Run, first: Visit, index: int, spread: int, blobs: Blobs) -> Item:
    """Return the head of a new run; `index` is the place of its first visit among the visits of the run."""
    parent = run.parent
    item = {
        "tenant": keys.shard(run.tenant, run.id),
        "owner": run.tenant,
        "created": keys.creation_sort_key(run.created_at, run.id),
        "open": keys.open_shard(run.queue, run.id),
        "at": run.created_at,
        "playbook": run.playbook,
        "version": run.version,
        "plan": run.plan_hash,
        "status": run.status.value,
        "origin": run.origin,
        "queue": run.queue,
        "tags": list(run.tags) or None,
        "folder": run.folder,
        "source": run.source,
        "parent": None if parent is None else [parent.run_id, parent.visit_id, parent.id],
        "depth": run.depth or None,
        "root": run.root,
        "resumed": run.resumed_from,
        "trace": run.trace,
        "deadline": run.deadline_at,
        "trigger": None if run.trigger is None else encode_json(dict(run.trigger)),
        "debounced": None if run.debounce is None else run.debounce.key,
        "given": encode_given(run, blobs),
        "spread": spread if spread != 1 else None,
        "first": [first.id, first.step, first.clock, index],
        "handed": to_bytes(dict(first.names)) if first.names else None,
        "told": to_bytes([encode_event(run_started(run))]),
    }
    return {name: value for name, value in item.items() if value is not None}


def encode_given(run: Run, blobs: Blobs) -> bytes | None:
    """Return the blob of the input, the environment and the variables of a run; empty ones are left out."""
    given = {"input": dict(run.input), "environment": dict(run.environment), "variables": dict(run.variables)}
    return blobs.store(run.id, {name: value for name, value in given.items() if value})


@decoding()
def decode_run(head: Item, blobs: Blobs, counts: BranchCounts | None = None) -> Run:
    """Return the run of a head; without `counts`, it has one branch. Values that were deleted are empty."""
    given, lost_given = _load_or_lose(head, "given", "input", blobs)
    result, lost_result = _load_or_lose(head, "result", "result", blobs)
    error, lost_error = _load_or_lose(head, "error", "error", blobs)
    errors, lost_errors = _load_or_lose(head, "errors", "errors", blobs)
    given, parent = given or {}, head.get("parent")
    # The result of a run that has ended is not silently null.
    lost = [_lost_record(message) for message in (lost_result, lost_errors) if message is not None]
    return Run(
        id=run_id_of(head),
        tenant=tenant_of(head),
        playbook=head["playbook"],
        version=head.get("version"),
        plan_hash=head["plan"],
        status=RunStatus(head["status"]),
        origin=head["origin"],
        queue=head["queue"],
        input=given.get("input", {}),
        environment=given.get("environment", {}),
        variables=given.get("variables", {}),
        tags=tuple(head.get("tags", ())),
        folder=head.get("folder"),
        created_at=head["at"],
        source=head.get("source"),
        parent=None if parent is None else WaitKey(*parent),
        depth=head.get("depth", 0),
        root=head.get("root"),
        resumed_from=head.get("resumed"),
        trace=head.get("trace"),
        started_at=head.get("started"),
        finished_at=head.get("finished"),
        deadline_at=head.get("deadline"),
        live=1 if counts is None else counts.live,
        failed_branches=0 if counts is None else counts.failed,
        stop=stop_of(head),
        resumes=head.get("resumes", 0),
        result=result,
        error=error if lost_error is None else _lost_record(lost_error),
        errors=(*(errors or ()), *lost),
        lost_payload=lost_given,
        trigger=decode_json(head.get("trigger")),
        starts=int(head.get("starts", 1)),
    )


def _load_or_lose(head: Item, attribute: str, noun: str, blobs: Blobs) -> tuple[Any, str | None]:
    """Return a value of a head, and None. Return None and the reason if the value was deleted."""
    try:
        return blobs.load(head.get(attribute)), None
    except PayloadLostError as problem:
        return None, f"the {noun} of the run is lost: {problem}"


def _lost_record(message: str) -> ErrorRecord:
    return ErrorRecord(
        type="PayloadLost",
        message=message,
        action=None,
        step=None,
        attempt=1,
        retryable=False,
        status=None,
        details=None,
    )


def decode_summary(head: Item, status: RunStatus) -> RunSummary:
    """Return the summary of the run of a head with SUMMARY_ATTRIBUTES, and with a status."""
    parent = head.get("parent")
    return RunSummary(
        id=run_id_of(head),
        tenant=tenant_of(head),
        playbook=head["playbook"],
        version=head.get("version"),
        plan_hash=head["plan"],
        status=status,
        origin=head["origin"],
        queue=head["queue"],
        tags=tuple(head.get("tags", ())),
        folder=head.get("folder"),
        parent=None if parent is None else WaitKey(*parent),
        resumed_from=head.get("resumed"),
        created_at=head["at"],
        started_at=head.get("started"),
        finished_at=head.get("finished"),
        stop=stop_of(head),
        resumes=head.get("resumes", 0),
        trigger=decode_json(head.get("trigger")),
        starts=int(head.get("starts", 1)),
    )


def run_id_of(head: Item) -> str:
    """Return the id of the run of a head."""
    return str(head["pk"][2:])


def tenant_of(head: Item) -> str:
    """Return the tenant of a run. Heads of versions without `owner` have it in `tenant`."""
    return str(head.get("owner", head["tenant"]))


def spread_of(head: Item) -> int:
    """Return the number of partitions of a run."""
    return int(head.get("spread", 1))


def era_of(item: Item) -> int:
    """Return how often the run of a head had changed its plan, or when a visit or a counter was written."""
    return int(item.get("era", 0))


def has_ended(head: Item) -> bool:
    """Return whether a run has ended."""
    return "finished" in head


def is_paused(head: Item) -> bool:
    """Return whether a run is paused. A stop replaces the pause, and leaves `held` as it is."""
    return "held" in head and "stop" not in head and not has_ended(head)


def starts_nothing(head: Item) -> bool:
    """Return whether no visit of a branch may start, because the run stops or is paused."""
    return "stop" in head or is_paused(head)


def stop_of(head: Item) -> RunStatus | None:
    """Return `Run.stop` of a run."""
    if "stop" in head:
        return RunStatus(head["stop"])
    return RunStatus.PAUSED if is_paused(head) else None


def encode_shift(event: Event) -> list[Any]:
    """Return the event of a pause or of a notification as `shifts` has it."""
    names = _SHIFT_FIELDS.get(event.type, ("by",))
    return [event.type, event.at, *(event.payload[name] for name in names if name in event.payload)]


def decode_shift(shift: Sequence[Any]) -> Event:
    """Return the event that `encode_shift` was given."""
    type, time, *values = shift
    return Event(type, time, payload=dict(zip(_SHIFT_FIELDS.get(type, ("by",)), values, strict=False)))


def appending_update(run_id: str, event: Event) -> Update:
    """Return the write that appends an event to `shifts` of a run, which must exist."""
    return Update(keys.head(run_id), append={"shifts": [encode_shift(event)]}, when=(PRESENT,))


def derive_initial_visits(head: Item, step_of: StepOf) -> list[VisitItem]:
    """Return the visits of a run that follow from no other visit.

    If the run has changed its plan, its first visit has an item.
    """
    first = () if era_of(head) else (derive_first_visit(head, step_of),)
    deadline = derive_deadline_visit(head)
    return [*first, *(() if deadline is None else (deadline,))]


def derive_next_visits(head: Item, cause: VisitItem, step_of: StepOf) -> list[VisitItem]:
    """Return the visits that follow a finished visit, unless the run has changed its plan since."""
    if era_of(cause.attributes) != era_of(head):
        return []
    return derive_followers(cause, step_of, spread_of(head))


def derive_first_visit(head: Item, step_of: StepOf) -> VisitItem:
    """Return the first visit of a run, as it is before a worker claims it."""
    id, name, clock, index = head["first"]
    branch = Branch(id, name, clock, decode_pointers(head.get("handed")))
    visit = enter_step(branch, run_id_of(head), head["at"])
    counts = {name: 1} if step_of(name).cyclic else {}
    return VisitItem(visit, VisitOrigin(entered_at=head["at"], index=index, counts=counts))


def derive_deadline_visit(head: Item) -> VisitItem | None:
    """Return the visit that is due when the time of a run is over, or None for a run without a deadline."""
    if "deadline" not in head:
        return None
    visit = deadline_visit(run_id_of(head), head.get("resumes", 0), head["deadline"])
    return VisitItem(visit, VisitOrigin(entered_at=head["at"], index=head["first"][3]))


def sum_counters(head: Item, counters: Sequence[Item], step_of: StepOf) -> BranchCounts:
    """Return the sum of the counters of a run, and of its first branch, which no counter includes.

    If the run has changed its plan, the counters include all branches.
    """
    joins = dict.fromkeys(first_regions(head, step_of), 1)
    arrivals: dict[str, list[str]] = {}
    live, failed = uncounted_branches(head), 0
    for counter in counters:
        live += counter.get("live", 0)
        failed += counter.get("failed", 0)
        for name, value in counter.items():
            kind, _, join = name.partition("#")
            if kind == "j":
                joins[join] = joins.get(join, 0) + value
            elif kind == "a":
                arrivals.setdefault(join, []).extend(value)
    return BranchCounts(live, failed, joins, arrivals)


def uncounted_branches(head: Item) -> int:
    """Return the number of branches of a run that no counter includes: its first one, or none."""
    return 0 if era_of(head) else 1


def first_regions(head: Item, step_of: StepOf) -> Sequence[str]:
    """Return the joins that the branch can reach that no counter includes."""
    return step_of(head["first"][1]).regions if uncounted_branches(head) else ()


def status_of(head: Item, counters: Sequence[Item]) -> RunStatus:
    """Return the status of a run that readers see: `paused`, or `waiting` if all of its active visits wait.

    A branch that waits at a join has no active visit. In sequential mode, only one branch has. The visits of
    a stopping run are parked or end; only its finally step may wait.
    """
    status, stop = RunStatus(head["status"]), stop_of(head)
    paused = sum(counter.get("paused", 0) for counter in counters)
    if stop is RunStatus.PAUSED or any(counter.get("ending", 0) > 0 for counter in counters):
        return shown_status(status, stop, 1, 1)
    if stop is not None or has_ended(head) or paused <= 0:
        return status
    if any("stack" in counter for counter in counters):
        return shown_status(status, stop, 1, 1)
    arrived = sum(len(value) for counter in counters for name, value in counter.items() if name[:2] == "a#")
    live = uncounted_branches(head) + sum(counter.get("live", 0) for counter in counters)
    # The counters and the head are not read as of one moment.
    return shown_status(status, stop, max(live - arrived, paused), paused)


class CounterDeltas:
    """Changes of the counters of a run, by partition."""

    def __init__(self) -> None:
        self.added: dict[int, dict[str, int]] = {}
        self.arrivals: dict[int, dict[str, list[str]]] = {}
        self.left_clocks: dict[int, dict[str, frozenset[int]]] = {}

    def add(self, home: int, name: str, delta: int) -> None:
        """Add to a number of a counter."""
        numbers = self.added.setdefault(home, {})
        numbers[name] = numbers.get(name, 0) + delta

    def count_branch(self, home: int, joins: Sequence[str], delta: int) -> None:
        """Add `delta` to the number of branches of the run, and of those that can reach the joins."""
        self.add(home, "live", delta)
        for join in joins:
            self.add(home, f"j#{join}", delta)

    def add_arrival(self, home: int, join: str, visit_id: str) -> None:
        """Add the arrival of a branch, which the visit before the join has sent."""
        self.arrivals.setdefault(home, {}).setdefault(f"a#{join}", []).append(visit_id)

    def leave(self, home: int, joins: Iterable[str], clock: int) -> None:
        """Record the clock of a branch that joins waited for, unless it is 0.

        DynamoDB cannot take the greater of two numbers without a condition. So the clocks are a set, which is
        small, because branches have few different clocks.
        """
        for join in joins if clock else ():
            self.left_clocks.setdefault(home, {})[f"l#{join}"] = frozenset([clock])

    def homes(self) -> list[int]:
        """Return the partitions whose counters change."""
        changed = {home for home, added in self.added.items() if any(added.values())}
        return sorted(changed | self.arrivals.keys() | self.left_clocks.keys())

    def changes_of(self, home: int) -> tuple[dict[str, int | frozenset[int]], dict[str, list[str]]]:
        """Return what is added to the numbers and sets of a counter, and to its lists."""
        added = {name: delta for name, delta in self.added.get(home, {}).items() if delta}
        return {**added, **self.left_clocks.get(home, {})}, self.arrivals.get(home, {})


def arrival_joins(branches: Sequence[Branch]) -> list[str]:
    """Return the joins at which branches arrive."""
    return [branch.step for branch in branches if branch.is_arrival]


def append_event(head: Item, event: Event, blobs: Blobs) -> bytes:
    """Return the events of a run with one more, as its head stores them."""
    events = blobs.load_if_kept(head.get("told")) or []
    return blobs.store(run_id_of(head), [*events, encode_event(event)]) or b"[]"
