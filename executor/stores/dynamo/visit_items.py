"""Visits as items: what was written of them, and what follows from it.

A visit that follows another one in a chain has no item before it is claimed: the record of its cause says everything
about it. So a step of a chain writes one item, and whoever reads a run derives the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from noetl.executor.model.events import Event
from noetl.executor.model.run import END, NEVER, Branch, FailureState, Pointers, Progress, Visit, VisitStatus
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs, from_bytes, to_bytes
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION
from noetl.planner.frozen import frozen
from noetl.planner.plan import Step

ACTIVE = (VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING, VisitStatus.RUNNING)

StepOf = Callable[[str], Step]


@frozen
class VisitOrigin:
    """How a visit came to be, and what its branch brings along.

    `cause` is the visit before it ("" at the beginning of a run), or `causes` those that came together; `index` its place
    among those that came to be with it at `entered`. `home` is the partition whose counter counts the branch. `counts` are
    the visits of steps that can be visited again, as far as the run had not `forked`. `line` is the clock of the
    visit whose commit made it.
    """

    cause: str = ""
    causes: tuple[str, ...] = ()
    entered: float = 0.0
    index: int = 0
    home: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    forked: bool = False
    line: int = 0


@frozen
class VisitItem:
    """A visit, its way, and the item it was read from, if it has one."""

    visit: Visit
    way: VisitOrigin
    item: Item = field(default_factory=dict)

    @property
    def is_written(self) -> bool:
        return bool(self.item)

    @property
    def order(self) -> tuple[float, bool, int, bool, int, str]:
        """Where it stands among the visits of its run, in the order they came to be."""
        return (self.way.entered, self.visit.step == END, *self.place)

    @property
    def place(self) -> tuple[int, bool, int, str]:
        """Where it stands among those that came to be at the same time."""
        way = self.way
        return (way.line, not way.causes, way.index, self.visit.id)

    @property
    def is_fresh(self) -> bool:
        """Whether no attempt at it was ever begun since it became due."""
        return self.visit.claims == 0 and self.visit.started_at is None


def decode_visit(
    run_id: str, item: Item, blobs: Blobs, derived: VisitItem | None = None, *, whole: bool = True
) -> VisitItem | None:
    """The record of an item, with what was saved if it is to be `whole`; `derived` is what follows from its cause. None when
    that is needed and not known.
    """
    if "clock" not in item and derived is None:
        return None
    told = blobs.load(item.get("told")) or {}
    gave = (blobs.load(item.get("gave")) or {}) if whole else {}
    clock, names, number, way = (
        (item["clock"], names_of(item.get("names")), item.get("number", 1), decode_origin(item))
        if "clock" in item or derived is None
        else (derived.visit.clock, derived.visit.names, derived.visit.number, derived.way)
    )
    progress = told.get("p")
    visit = Visit(
        id=item["sk"][2:],
        run_id=run_id,
        step=item["step"],
        status=VisitStatus(item["status"]),
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
        saved=gave.get("s", {}),
        result=gave.get("r"),
        case=item.get("case"),
        error=told.get("e"),
        failure=FailureState(item["failure"]) if "failure" in item else None,
        progress=None if progress is None else Progress(*progress),
    )
    return VisitItem(visit, way, item)


def decode_origin(item: Item) -> VisitOrigin:
    counts = item.get("counts")
    return VisitOrigin(
        cause=item.get("cause", ""),
        causes=tuple(item.get("causes", ())),
        entered=item["entered"],
        index=item.get("index", 0),
        home=item.get("home", 0),
        counts={} if counts is None else from_bytes(counts),
        forked=item.get("forked", False),
        line=item.get("line", 0),
    )


def names_of(packed: bytes | None) -> Pointers:
    return {} if packed is None else {name: (clock, id) for name, (clock, id) in from_bytes(packed).items()}


def self_contained(visit: Visit, way: VisitOrigin) -> dict[str, Any]:
    """The attributes of an item that tell of a visit what otherwise follows from its cause."""
    return {
        "step": visit.step,
        "clock": visit.clock,
        "number": visit.number if visit.number != 1 else None,
        "names": to_bytes(dict(visit.names)) if visit.names else None,
        "cause": way.cause or None,
        "causes": list(way.causes) or None,
        "entered": way.entered,
        "index": way.index or None,
        "home": way.home or None,
        "counts": to_bytes(dict(way.counts)) if way.counts else None,
        "forked": way.forked or None,
        "line": way.line or None,
    }


def entered(visit: Visit, way: VisitOrigin) -> dict[str, Any]:
    """The item of a visit that nobody has claimed yet."""
    return self_contained(visit, way) | {"status": visit.status.value, "due": visit.due_at}


def outcome(visit: Visit, events: Sequence[Event], blobs: Blobs) -> dict[str, Any]:
    """The attributes that tell what became of a claim of a visit. None stands for what is not there any more."""
    told = {
        "e": visit.error,
        "h": [event_to_list(event) for event in events] or None,
        "p": None if visit.progress is None else [visit.progress.round, dict(visit.progress.journal)],
    }
    gave = {"s": dict(visit.saved) or None, "r": visit.result}
    return {
        "status": visit.status.value,
        "attempt": visit.attempt if visit.attempt != 1 else None,
        "claims": visit.claims,
        "due": visit.due_at,
        "started": visit.started_at,
        "piece": visit.segment_started_at,
        "finished": visit.finished_at,
        "case": visit.case,
        "failure": None if visit.failure is None else visit.failure.value,
        "told": blobs.store(visit.run_id, {name: value for name, value in told.items() if value is not None}),
        "gave": blobs.store(visit.run_id, {name: value for name, value in gave.items() if value is not None}),
    }


def event_to_list(event: Event) -> list[Any]:
    return [
        event.type,
        event.at,
        event.step,
        event.visit,
        event.attempt,
        event.duration_seconds,
        dict(event.payload),
    ]


def followers(record: VisitItem, step_of: StepOf, spread: int, *, in_turns: bool) -> list[VisitItem]:
    """The visits that follow one that is done, as they stand before anybody claims them: without those of a `join: any`,
    which have items, and arrivals at joins, which are no visits.

    Where branches go one after another (`in_turns`), they wait for their turn.
    """
    visit, way, item = record.visit, record.way, record.item
    if not item.get("next"):
        return []
    branches = branches_after(visit, step_of(visit.step), step_of)
    numbers = dict(zip((b.id for b in branches), item.get("numbers", ()), strict=False))
    found = []
    for index, branch in enumerate(branches):
        if branch.is_arrival or branch.is_absorbed:
            continue
        number, counts = numbered(branch, way, numbers.get(branch.id, 0))
        follows = VisitOrigin(
            cause=visit.id,
            entered=item["at"],
            index=index,
            home=home_of_branch(way.home, index, len(branches), spread),
            counts=counts,
            forked=way.forked or len(branches) > 1,
            line=visit.clock,
        )
        due_at = NEVER if in_turns else item["at"]
        found.append(VisitItem(visit_of(branch, visit.run_id, due_at, number), follows))
    return found


def visit_of(branch: Branch, run_id: str, due_at: float, number: int = 1) -> Visit:
    """The visit that a branch makes at a step."""
    return Visit(
        branch.id,
        run_id,
        branch.step,
        VisitStatus.READY,
        branch.clock,
        branch.names,
        number=number,
        due_at=due_at,
    )


def numbered(branch: Branch, way: VisitOrigin, number: int) -> tuple[int, Mapping[str, int]]:
    """The number of the visit that a branch makes, and the counts it brings along: given where the run has forked, else
    one more than the branch has counted.
    """
    if not branch.is_counted:
        return 1, way.counts
    if number:
        return number, way.counts
    number = way.counts.get(branch.step, 0) + 1
    return number, {**way.counts, branch.step: number}


def home_of_branch(home: int, index: int, width: int, spread: int) -> int:
    """In which partition a branch of a fork is counted: neighbours together, in that of their parent first."""
    if spread == 1 or width == 1:
        return home
    each = max(BRANCHES_PER_PARTITION, -(-width // spread))
    return (home + index // each) % spread


def as_ready(visit: Visit, **changes: Any) -> Visit:
    return replace(visit, status=VisitStatus.READY, **changes)
