"""DynamoCommits: the outcome of a visit, and what follows from it.

The outcome is one write: of the visit's item alone where the branch just goes on, else together with the counters of the
run. What follows is derived from it, so that doing it again changes nothing: a worker that died in between is made good by
whoever gets its message next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import FencedError, NotJsonError, PayloadTooLargeError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    NEVER,
    Branch,
    Commit,
    FailureState,
    Lease,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import MOST_RACES, CachedClaim, DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import CounterDeltas, joins_of, spread_of
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    decode_visit,
    entered,
    event_to_list,
    followers,
    home_of_branch,
    numbered,
    outcome,
    self_contained,
    visit_of,
)
from noetl.executor.stores.sql.rows import encode_json

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024


class DynamoCommits(DynamoContext):
    """The part of the store that commits."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        visit = commit.visit
        check_payload(commit)
        held = self.held(visit) or self._read_again(visit)
        sets = outcome(visit, commit.events if visit.finished_at is not None else (), self.blobs)
        if visit.finished_at is None and visit.due_at > now and "waits" not in held.head:
            self._note_waiting(held.head)
        record = self._write(commit, held, sets, now)
        self.let_go(visit)
        self._forget_parts(visit, held)
        self.changes.notify()
        known = held.head if commit.stop is None else None
        following = self.follow(record, now, claim_for=claim_for, known=known)
        if self.receiver is not None:
            self.receiver.finish(visit.run_id, visit.id, following)
        return following

    def _read_again(self, visit: Visit) -> CachedClaim:
        """What is known of a claim that another process has made."""
        head = self.head(visit.run_id)
        item = self.table.get(keys.visit(visit.run_id, visit.id, spread_of(head)))
        if item is None or item.get("fence") != visit.fence:
            raise _fenced(visit)
        return CachedClaim(VisitItem(visit, self.decode_origin(head, item), item), head)

    def _note_waiting(self, head: Item) -> None:
        """Let the run say that it may be waiting, before it is."""
        is_open: tuple[Condition, ...] = (PRESENT, ("finished", "absent", None))
        with suppress(ConditionFailed):
            self.table.update(Update(keys.ItemKey(head["pk"], head["sk"]), {"waits": True}, when=is_open))

    def _write(self, commit: Commit, held: CachedClaim, sets: Item, now: float) -> VisitItem:
        """Write an outcome, with everything that must be written with it; the record as it is then."""
        visit, record, head = commit.visit, held.record, held.head
        spread = spread_of(head)
        key = keys.visit(visit.run_id, visit.id, spread)
        beside: list[Write] = [
            *self._parts(commit, spread),
            *self._past(commit, spread),
            *_stop(commit, head, self),
        ]
        absorbed: set[str] = set()
        for tries in range(MOST_RACES):
            move = self._move(commit, held, absorbed, now)
            own = _own(commit, record, sets, move, now)
            when: tuple[Condition, ...] = (
                ("fence", "=", visit.fence),
                ("status", "=", VisitStatus.RUNNING.value),
            )
            writes: list[Write] = [Update(key, own, when=when), *beside, *move.writes]
            try:
                self.table.write(writes)
            except ConditionFailed as refused:
                if refused.failed[0]:
                    raise _fenced(visit) from None
                put = {one.key: one for one, failed in zip(writes, refused.failed, strict=True) if failed}
                absorbed |= {id for id, where in move.made.items() if where in put}
                if tries:
                    time.sleep(pause_seconds(min(tries, 4)))
                continue
            item = {name: value for name, value in {**record.item, **own}.items() if value is not None}
            return VisitItem(visit, record.way, item | key._asdict())
        raise StoreError(
            f"A step of run {visit.run_id} could not be committed: too many others write beside it."
        )

    def _move(self, commit: Commit, held: CachedClaim, absorbed: set[str], now: float) -> BranchWrites:
        """How the branches of a commit move, where those in `absorbed` are known to find their visit made."""
        record, head = held.record, held.head
        way, visit = record.way, commit.visit
        spread, step_of = spread_of(head), self.step_of(head["plan"])
        move = BranchWrites()
        deltas = CounterDeltas()
        width = len(commit.branches)
        homes = [home_of_branch(way.home, index, width, spread) for index in range(width)]
        if all(home == way.home for home in homes):
            deltas.add(way.home, "live", commit.branches_change)
            for join, delta in commit.counter_changes.items():
                deltas.add(way.home, f"j#{join}", delta)
        else:
            deltas.branch(way.home, step_of(visit.step).regions, -1)
            for branch, home in zip(commit.branches, homes, strict=True):
                deltas.branch(home, step_of(branch.step).regions, 1)
        if commit.failed_branches:
            deltas.add(way.home, "failed", commit.failed_branches)
        for join in joins_of(commit.branches):
            deltas.arrive(homes[[b.step for b in commit.branches].index(join)], join, visit.id)
        counters = _VisitNumbers(self, visit.run_id)
        in_turns = self.plans.header(head["plan"]).sequential
        for index, (branch, home) in enumerate(zip(commit.branches, homes, strict=True)):
            is_new = not branch.is_arrival and branch.id not in absorbed
            if branch.is_absorbed and not is_new:
                deltas.branch(home, step_of(branch.step).regions, -1)
            number = 0
            if branch.is_counted and is_new and (way.forked or width > 1):
                number = counters.next(branch, way)
            move.numbers.append(number)
            if branch.is_absorbed and is_new:
                key = keys.visit(visit.run_id, branch.id, spread)
                found, counts = numbered(branch, way, number)
                follows = VisitOrigin(
                    visit.id, (), now, index, home, counts, forked=way.forked or width > 1, line=visit.clock
                )
                made = visit_of(branch, visit.run_id, NEVER if in_turns else now, found)
                move.writes.append(Put(key, entered(made, follows)))
                move.made[branch.id] = key
        if not any(move.numbers):
            move.numbers = []
        move.writes += counters.writes()
        for home in deltas.homes():
            added, arrived = deltas.changes_of(home)
            move.writes.append(
                Update(keys.counter(visit.run_id, home), {}, {**added, "version": 1}, append=arrived)
            )
        return move

    def _parts(self, commit: Commit, spread: int) -> Iterable[Put]:
        visit = commit.visit
        if visit.progress is None:
            return
        for part in commit.batch_results:
            key = keys.loop_part(visit.run_id, visit.id, part.loop, part.first, spread)
            yield Put(key, {"body": self.blobs.store(visit.run_id, list(part.outcomes)) or b"[]"}, when=())

    def _forget_parts(self, visit: Visit, held: CachedClaim) -> None:
        """Delete the results of batches when the visit is done, or begins anew in another round."""
        may_go_on = visit.finished_at is None or visit.failure in (FailureState.OPEN, FailureState.ENDED)
        if visit.progress is None or (visit.progress.journal and may_go_on):
            return
        spread = spread_of(held.head)
        pk = keys.partition_key(visit.run_id, keys.partition_of_visit(visit.id, spread))
        found = [keys.ItemKey(item["pk"], item["sk"]) for item in self.table.query(pk, f"P#{visit.id}#")]
        self.table.delete(found)

    def _past(self, commit: Commit, spread: int) -> Iterable[Put]:
        """What has happened in a claim that ends without an outcome."""
        visit = commit.visit
        if visit.finished_at is None and commit.events:
            yield Put(
                keys.claim_events(visit.run_id, visit.id, visit.fence, spread),
                past_item(commit.events, self, visit.run_id),
                when=(),
            )

    def follow(
        self,
        record: VisitItem,
        now: float,
        *,
        again: bool = False,
        claim_for: Lease | None = None,
        known: Item | None = None,
    ) -> Visit | None:
        visit, item = record.visit, record.item
        head = self._head_for(record, None if again else known)
        header = self.plans.header(head["plan"])
        is_done = visit.finished_at is not None
        if visit.step == END:
            self.answer_parent(head, now)
            self.let_expire(head, now)
            return None
        if is_done and item.get("waited"):
            self.give_up_runs(visit.run_id, visit.id, now)
        due: list[VisitItem] = []
        is_empty = False
        if item.get("counted"):
            fired, is_empty = self.look(record, head, now, again=again)
            due += fired
        if is_done:
            step_of, spread = self.step_of(head["plan"]), spread_of(head)
            if not header.sequential:
                due += followers(record, step_of, spread, in_turns=False)
            due += self._absorbed(record, head)
        else:
            due += self._paused(record, now)
        if item.get("last"):
            due += self.end(head, now) if is_done else []
        elif "stop" in head or (visit.step == DEADLINE and is_done):
            due = self.settle_stop(visit.run_id, now)
        elif is_done:
            if header.sequential:
                due = [one for one in due if one.visit.due_at < NEVER] + self.take_turn(head, record, now)
            if is_empty:
                due += self.end(head, now)
        claimed = self._hand_on(head, due, visit, now, claim_for)
        if claimed is None and claim_for is not None and due and head is known:
            # The claim may have found the run stopping, which the head did not say yet.
            head = self.head(visit.run_id)
            due = self.settle_stop(visit.run_id, now) if "stop" in head else []
            claimed = self._hand_on(head, due, visit, now, claim_for)
        return claimed

    def _head_for(self, record: VisitItem, known: Item | None) -> Item:
        """The head of the run: as it is now where it matters, else as it was when the visit was claimed."""
        visit, item = record.visit, record.item
        just_goes_on = visit.finished_at is not None and not any(
            item.get(name) for name in ("counted", "waited", "last")
        )
        if just_goes_on and known is not None and not visit.step.startswith("@"):
            return known
        return self.head(visit.run_id)

    def _hand_on(
        self, head: Item, due: Sequence[VisitItem], own: Visit, now: float, claim_for: Lease | None
    ) -> Visit | None:
        """Claim the first of what is due, when someone wants it, and let workers know of the rest."""
        claimed: Visit | None = None
        rest: list[VisitItem] = []
        for record in due:
            is_for_us = claim_for is not None and claimed is None and record.visit.id != own.id
            if is_for_us and claim_for is not None and record.visit.due_at <= now:
                claimed = self.claim_record(record, head, claim_for, now)
                if claimed is not None:
                    continue
            rest.append(record)
        self.dispatch(head, rest, now)
        return claimed

    def _paused(self, record: VisitItem, now: float) -> list[VisitItem]:
        """A visit that goes on later, as it is due."""
        visit = record.visit
        is_woken = bool(record.item.get("awaits")) and self.wake_if_answered(visit.run_id, visit.id, now)
        return [] if is_woken else [record]

    def _absorbed(self, record: VisitItem, head: Item) -> list[VisitItem]:
        """The visits at a `join: any` that a visit has made and nobody has claimed yet."""
        if not record.item.get("next"):
            return []
        step_of = self.step_of(head["plan"])
        visit, spread = record.visit, spread_of(head)
        branches = [b for b in branches_after(visit, step_of(visit.step), step_of) if b.is_absorbed]
        if not branches:
            return []
        found = self.table.get_many([keys.visit(visit.run_id, branch.id, spread) for branch in branches])
        records = [decode_visit(visit.run_id, item, self.blobs) for item in found.values()]
        return [one for one in records if one is not None and one.way.cause == visit.id and _is_ready(one)]


def _own(commit: Commit, record: VisitItem, sets: Item, move: BranchWrites, now: float) -> Item:
    """What a commit changes of the visit's own item."""
    visit = commit.visit
    own: Item = {**sets, "awaits": list(commit.awaits) or None}
    if visit.finished_at is not None:
        own |= self_contained(visit, record.way)
        own |= {
            "at": now,
            "next": len(commit.branches) or None,
            "numbers": move.numbers or None,
            "waited": commit.may_have_children or None,
            "counted": bool(move.writes) or None,
            "last": commit.is_finally or None,
        }
    # What is not there need not be removed.
    return {name: value for name, value in own.items() if value is not None or name in record.item}


class BranchWrites:
    """The writes by which branches move; the visits among them that may be there already; the numbers of those that follow."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.made: dict[str, keys.ItemKey] = {}
        self.numbers: list[int] = []


class _VisitNumbers:
    """The numbers that visits of steps get in a run that has forked: each once, whoever counts at the same time."""

    def __init__(self, core: DynamoContext, run_id: str) -> None:
        self._core = core
        self._run_id = run_id
        self._counted: dict[str, tuple[int, int]] = {}

    def next(self, branch: Branch, way: VisitOrigin) -> int:
        if branch.step not in self._counted:
            item = self._core.table.get(keys.visit_count(self._run_id, branch.step)) or {}
            self._counted[branch.step] = (item.get("visits", 0), 0)
        before, more = self._counted[branch.step]
        self._counted[branch.step] = (before, more + 1)
        return int(way.counts.get(branch.step, 0) + before + more + 1)

    def writes(self) -> list[Write]:
        found: list[Write] = []
        for step, (before, more) in self._counted.items():
            condition: Condition = ("visits", "=", before) if before else ("visits", "absent", None)
            key = keys.visit_count(self._run_id, step)
            found.append(Update(key, {"visits": before + more}, when=(condition,)))
        return found


def past_item(events: Sequence[Event], core: DynamoContext, run_id: str) -> Item:
    return {"told": core.blobs.store(run_id, [event_to_list(event) for event in events])}


def check_payload(commit: Commit) -> None:
    """Raises NotJsonError where what is to be kept is not data that JSON can say, and PayloadTooLargeError where it is longer
    than a store takes.
    """
    visit = commit.visit
    kept = [
        dict(visit.saved) or None,
        visit.result,
        None if visit.progress is None else [visit.progress.round, dict(visit.progress.journal)],
        *(list(part.outcomes) for part in commit.batch_results),
    ]
    try:
        length = sum(len(encode_json(value)) for value in kept if value is not None)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJsonError(f"what the step gives is not plain data: {error}") from None
    if length > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(f"the step saves more than {MAX_PAYLOAD_BYTES:,} bytes")


def numbers_for(
    core: DynamoContext, run_id: str, branch: Branch, way: VisitOrigin
) -> tuple[int, list[Write]]:
    """The number of a visit of a step in a run that has forked, and the write that takes it."""
    numbers = _VisitNumbers(core, run_id)
    return numbers.next(branch, way), numbers.writes()


def _stop(commit: Commit, head: Item, core: DynamoContext) -> Iterable[Update]:
    if commit.stop is not None:
        error = core.blobs.store(commit.visit.run_id, commit.error)
        keep = {"stop": commit.stop.value} | ({} if error is None else {"error": error})
        yield Update(keys.ItemKey(head["pk"], head["sk"]), keep=keep)


def _fenced(visit: Visit) -> FencedError:
    return FencedError(f"the claim of step `{visit.step}` has been lost")


def _is_ready(record: VisitItem) -> bool:
    return record.visit.status is VisitStatus.READY
