"""Runs as items: the head of a run, and its branches, which are counted in one item or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import DEADLINE, Branch, Run, RunStatus, Visit, VisitStatus, WaitKey
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs, to_bytes
from noetl.executor.stores.dynamo.visit_items import StepOf, VisitItem, VisitOrigin, event_to_list, names_of
from noetl.planner.frozen import frozen


@frozen
class BranchCounts:
    """The branches of a run: how many there are, how many have ended in a failure, how many are on the way to each join;
    and the visits that have arrived at each join. A sum over the counters of the partitions.
    """

    live: int
    failed: int
    joins: Mapping[str, int]
    arrived: Mapping[str, Sequence[str]]


def head_item(run: Run, first: Visit, index: int, spread: int, blobs: Blobs) -> Item:
    """The head of a run that begins with a visit, which is the `index`-th that it knows of."""
    parent = run.parent
    payload = {"playbook": run.playbook} | ({"resumed_from": run.resumed_from} if run.resumed_from else {})
    given = {"input": dict(run.input), "environment": dict(run.environment), "variables": dict(run.variables)}
    given = {name: value for name, value in given.items() if value}
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
        "resumed": run.resumed_from,
        "trace": run.trace,
        "deadline": run.deadline_at,
        "given": blobs.store(run.id, given),
        "spread": spread if spread != 1 else None,
        "first": [first.id, first.step, first.clock, index],
        "handed": to_bytes(dict(first.names)) if first.names else None,
        "told": to_bytes([event_to_list(Event("workflow.started", run.created_at, payload=payload))]),
    }
    return {name: value for name, value in item.items() if value is not None}


def run_of(head: Item, blobs: Blobs, counts: BranchCounts | None = None) -> Run:
    """The run of a head; without `counts` it is told as if it had the branch it began with."""
    given = blobs.load(head.get("given")) or {}
    parent = head.get("parent")
    return Run(
        id=head["pk"][2:],
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
        resumed_from=head.get("resumed"),
        trace=head.get("trace"),
        started_at=head.get("started"),
        finished_at=head.get("finished"),
        deadline_at=head.get("deadline"),
        live=1 if counts is None else counts.live,
        failed_branches=0 if counts is None else counts.failed,
        stop=RunStatus(head["stop"]) if "stop" in head else None,
        resumes=head.get("resumes", 0),
        result=blobs.load(head.get("result")),
        error=blobs.load(head.get("error")),
        errors=tuple(blobs.load(head.get("errors")) or ()),
    )


def tenant_of(head: Item) -> str:
    """Whose run it is. Heads of before have it where the index looks for it."""
    return str(head.get("owner", head["tenant"]))


def spread_of(head: Item) -> int:
    return int(head.get("spread", 1))


def is_over(head: Item) -> bool:
    return "finished" in head


def first_of(head: Item, step_of: StepOf) -> VisitItem:
    """The visit that a run begins with, as it stands before anybody claims it."""
    id, name, clock, index = head["first"]
    run_id = head["pk"][2:]
    visit = Visit(id, run_id, name, VisitStatus.READY, clock, names_of(head.get("handed")), due_at=head["at"])
    counts = {name: 1} if step_of(name).cyclic else {}
    return VisitItem(visit, VisitOrigin(entered=head["at"], index=index, counts=counts))


def deadline_of(head: Item) -> VisitItem | None:
    """The visit that is due when a run is out of time."""
    if "deadline" not in head:
        return None
    id = derived_id(DEADLINE, head.get("resumes", 0))
    run_id = head["pk"][2:]
    visit = Visit(id, run_id, DEADLINE, VisitStatus.READY, 0, {}, due_at=head["deadline"])
    return VisitItem(visit, VisitOrigin(entered=head["at"], index=head["first"][3]))


def counts_of(head: Item, counters: Sequence[Item], step_of: StepOf) -> BranchCounts:
    """What the counters say. The branch that a run begins with is counted nowhere before it first forks or ends."""
    joins = dict.fromkeys(step_of(head["first"][1]).regions, 1)
    arrived: dict[str, list[str]] = {}
    live, failed = 1, 0
    for counter in counters:
        live += counter.get("live", 0)
        failed += counter.get("failed", 0)
        for name, value in counter.items():
            kind, _, join = name.partition("#")
            if kind == "j":
                joins[join] = joins.get(join, 0) + value
            elif kind == "a":
                arrived.setdefault(join, []).extend(value)
    return BranchCounts(live, failed, joins, arrived)


class CounterDeltas:
    """What a commit adds to the counters of a run, by partition."""

    def __init__(self) -> None:
        self.added: dict[int, dict[str, int]] = {}
        self.arrivals: dict[int, dict[str, list[str]]] = {}

    def add(self, home: int, name: str, delta: int) -> None:
        found = self.added.setdefault(home, {})
        found[name] = found.get(name, 0) + delta

    def branch(self, home: int, joins: Sequence[str], delta: int) -> None:
        """Count a branch, or count it out: for the run, and for the joins it is on the way to."""
        self.add(home, "live", delta)
        for join in joins:
            self.add(home, f"j#{join}", delta)

    def arrive(self, home: int, join: str, visit_id: str) -> None:
        self.arrivals.setdefault(home, {}).setdefault(f"a#{join}", []).append(visit_id)

    def homes(self) -> list[int]:
        """The partitions whose counters change."""
        changed = {home for home, added in self.added.items() if any(added.values())}
        return sorted(changed | set(self.arrivals))

    def changes_of(self, home: int) -> tuple[dict[str, int], dict[str, list[str]]]:
        """What is added to the numbers of a counter, and to its lists."""
        added = {name: delta for name, delta in self.added.get(home, {}).items() if delta}
        return added, self.arrivals.get(home, {})


def joins_of(branches: Sequence[Branch]) -> list[str]:
    """The joins that branches arrive at."""
    return [branch.step for branch in branches if branch.is_arrival]
