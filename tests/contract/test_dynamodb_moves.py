"""Switches of runs in DynamoDB in several transactions: interrupted ones, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import pytest

from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.run import RunStatus, VisitStatus
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import Put, Update
from noetl.executor.stores.dynamo.plan_moves import HOLD_SECONDS, begin_move, hold_visits, settle_move
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.switch_writes import PlanMove
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract import SwitchesContract
from noetl.testing.store_contract.operations import failed_checks, run_contents, succeed
from noetl.testing.store_contract.switches import (
    CORRECTED,
    QUESTION,
    RIGHT,
    WAITING,
    WRONG,
    build_wide,
    execute_until_it_waits,
    held_state,
    switch,
    undo,
)
from tests.aws import Client
from tests.aws_faults import DENIED, faulty_table
from tests.contract.test_dynamodb_switches import prepare_failed, prepare_waiting

FAILED_WHILE_IT_WAITS = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: wait, seconds: 3600}], rule: [{case: default, run: [d]}]}
    - {name: c, run: [{action: shell, command: ["false"]}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {y: 1}}]}
"""
RENAMED = WRONG.replace('["false"]', '["true"]').replace("name: b", "name: r").replace("[b, c]", "[r, c]")
WIDE = build_wide(150)
WIDE_CORRECTED = WIDE.replace("message: met", "message: corrected")
WRITES = frozenset({"UpdateItem", "TransactWriteItems"})
SWITCHES = "noetl.executor.stores.dynamo.switches"


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    del aws
    upgrade("noetl")
    return DynamoStore("noetl")


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each switch take several transactions."""
    monkeypatch.setattr(PlanMove, "is_small", False)


@pytest.mark.usefixtures("moving")
class TestMoves(SwitchesContract):
    @pytest.fixture
    def store(self, aws: Client) -> Iterator[DynamoStore]:
        upgrade("noetl")
        opened = DynamoStore("noetl")
        yield opened
        opened.close()


def prepare_begun(store: DynamoStore) -> RunHarness:
    """Start a run whose branches have no item yet."""
    harness = RunHarness(store, WRONG, {"m": "a"}, origin="service")
    assert harness.execute_next()
    return harness


def switch_again(harness: RunHarness, text: str) -> None:
    if harness.run.plan_hash == compile_text(text).hash:
        return
    if "moving_since" in head_of(harness):
        with pytest.raises(RejectedError, match="another request changes the plan") as refused:
            switch(harness, text)
        assert refused.value.reason == "busy"
    harness.clock.advance(HOLD_SECONDS)
    assert switch(harness, text).run is not None


def wait(harness: RunHarness, text: str) -> None:
    del text
    harness.clock.advance(HOLD_SECONDS)


def sweep(harness: RunHarness, text: str) -> None:
    del text
    for _ in range(2):
        harness.clock.advance(HOLD_SECONDS + 300)
        harness.store.maintenance.sweep(harness.clock())
    assert "moving_since" not in head_of(harness) or harness.run.status.is_final


def pause(harness: RunHarness, text: str) -> None:
    del text
    if not harness.run.status.is_final:
        harness.store.pauses.pause(harness.id, harness.clock())
        assert "moving_since" not in head_of(harness)
        harness.store.pauses.unpause(harness.id, harness.clock())


def resume(harness: RunHarness, text: str) -> None:
    del text
    if harness.run.status.is_final or "reopening" in head_of(harness):
        harness.resume()
        assert "moving_since" not in head_of(harness)


def head_of(harness: RunHarness) -> Item:
    assert isinstance(harness.store, DynamoStore)
    return harness.store.context.heads.read(harness.id)


def allow(requests: int, *, only_writes: bool = False) -> Callable[[str], str | None]:
    """Return a fault that refuses each request after the first ones."""
    left = iter(range(requests))

    def refuse(operation: str) -> str | None:
        if only_writes and operation not in WRITES:
            return None
        return None if next(left, None) is not None else DENIED

    return refuse


def try_to_switch(harness: RunHarness, text: str, fault: Callable[[str], str | None]) -> bool:
    """Switch a run with faults, and return whether the switch was interrupted."""
    harness.store.plans.save(compile_text(text))
    with faulty_table(fault):
        try:
            switch(harness, text)
        except StoreError:
            return True
    return False


class InterruptedMove(NamedTuple):
    """A run whose switch to `text` is interrupted, its result in each plan, and how it continues.

    A switch that stops at a read leaves the items of one that stops at the next write. So it stops at reads
    only in one way of each run.
    """

    prepare: Callable[[DynamoStore], RunHarness]
    text: str
    results: list[object]
    recover: Callable[[RunHarness, str], None]
    only_writes: bool


@pytest.mark.usefixtures("moving")
@pytest.mark.parametrize(
    "interruption",
    [
        InterruptedMove(prepare_failed, RIGHT, [None, {"sum": 3}], switch_again, only_writes=False),
        InterruptedMove(prepare_failed, RIGHT, [None, {"sum": 3}], resume, only_writes=True),
        InterruptedMove(prepare_failed, RIGHT, [None, {"sum": 3}], sweep, only_writes=True),
        InterruptedMove(prepare_waiting, CORRECTED, [{"y": 1}, {"y": 42}], wait, only_writes=False),
        InterruptedMove(prepare_waiting, CORRECTED, [{"y": 1}, {"y": 42}], sweep, only_writes=True),
        InterruptedMove(prepare_waiting, CORRECTED, [{"y": 1}, {"y": 42}], pause, only_writes=True),
        InterruptedMove(prepare_begun, RIGHT, [None, {"sum": 3}], wait, only_writes=False),
        InterruptedMove(prepare_begun, RIGHT, [None, {"sum": 3}], switch_again, only_writes=True),
    ],
)
def test_an_interrupted_move_leaves_the_run_on_one_of_the_plans(
    store: DynamoStore, interruption: InterruptedMove
) -> None:
    """Stop the switch at each of its requests in turn, and continue the run in several ways."""
    prepare, text, results, recover, only_writes = interruption
    seen = set()
    for allowed in count():
        harness = prepare(store)
        before = held_state(harness)
        is_interrupted = try_to_switch(harness, text, allow(allowed, only_writes=only_writes))
        is_moved = harness.run.plan_hash != harness.plan.hash
        seen.add((is_moved, "moving_since" in head_of(harness)))
        if not is_moved:
            # Fences have grown where a visit is held, and nothing else has.
            assert held_state(harness) == before
        recover(harness, text)
        is_moved = harness.run.plan_hash != harness.plan.hash
        if not harness.run.status.is_final or is_moved:
            assert harness.finish().result == results[is_moved], allowed
        assert set(harness.visit_counts.values()) == {1}
        if not is_interrupted:
            assert failed_checks(store) == []
            assert seen == {(False, False), (False, True), (True, True), (True, False)}
            return


def test_an_interrupted_move_of_a_wide_run(store: DynamoStore) -> None:
    """Stop a switch of 150 branches at each of its writes in turn."""
    new, seen = compile_text(WIDE_CORRECTED), []
    for allowed in count(1):
        harness = RunHarness(store, WIDE)
        assert harness.execute_next()
        is_interrupted = try_to_switch(harness, WIDE_CORRECTED, allow(allowed, only_writes=True))
        is_moved = harness.run.plan_hash == new.hash
        seen.append(is_moved)
        records = store.switches.read(harness.id, harness.clock())
        assert (harness.run.live, len(records.visits)) == (150, 151)
        assert {visit.clock > 2 for visit in records.visits if records.is_live(visit)} == {is_moved}
        harness.clock.advance(HOLD_SECONDS)
        if not is_moved:
            assert switch(harness, WIDE_CORRECTED).run is not None
        assert harness.execute_next()
        assert "moving_since" not in head_of(harness)
        assert failed_checks(store) == []
        if not is_interrupted:
            break
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    harness.finish()
    assert (harness.status, harness.visit_counts.get("c")) == (RunStatus.FAILED, None)
    right = WIDE_CORRECTED.replace('["false"]', '["true"]')
    assert switch(harness, right).run is not None
    assert (harness.finish().status, harness.visit_counts["c"]) == (RunStatus.SUCCEEDED, 1)
    assert len(harness.visits) == 152


class Meanwhile:
    """An action that happens once while the visits of a run are held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
        self._actions = [action]
        monkeypatch.setattr(f"{SWITCHES}.hold_visits", self._hold_and_act)

    def _hold_and_act(self, *arguments: Any) -> bool:
        is_held = hold_visits(*arguments)
        while self._actions:
            self._actions.pop()()
        return is_held


@pytest.mark.usefixtures("moving")
class TestMeanwhile:
    def test_no_visit_is_claimed(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = prepare_begun(store)
        claims: list[object] = []
        Meanwhile(monkeypatch, lambda: claims.append(harness.claim()))
        assert switch(harness, RIGHT).run is not None
        assert claims == [None]
        assert harness.finish().result == {"sum": 3}

    def test_late_commit_is_refused(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = RunHarness(store, WAITING)
        claim = harness.claim()
        assert claim is not None
        harness.clock.advance(3600)
        outcomes: list[object] = []
        Meanwhile(monkeypatch, lambda: outcomes.append(harness.executor().execute(claim)))
        assert switch(harness, CORRECTED).run is not None
        assert outcomes == [None]
        assert harness.visit_counts == {"a": 1}
        assert harness.finish().result == {"y": 42}

    def test_commit_before_its_visit_is_held(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Execute a step after the head says that the run is to move. The switch is judged again."""
        harness = prepare_begun(store)

        def begin_and_execute(*arguments: Any) -> Item | None:
            head = begin_move(*arguments)
            monkeypatch.setattr(f"{SWITCHES}.begin_move", begin_move)
            assert harness.execute_next()
            return head

        monkeypatch.setattr(f"{SWITCHES}.begin_move", begin_and_execute)
        assert switch(harness, RIGHT).run is not None
        assert harness.finish().result == {"sum": 3}
        assert set(harness.visit_counts.values()) == {1}

    def test_second_switch_is_refused(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = prepare_waiting(store)
        other = CORRECTED.replace("41", "1")

        def switch_too() -> None:
            with pytest.raises(RejectedError, match="another request changes the plan"):
                switch(harness, other)

        Meanwhile(monkeypatch, switch_too)
        assert switch(harness, CORRECTED).run is not None
        assert harness.finish().result == {"y": 42}

    def test_second_switch_wins_over_a_slow_one(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness = prepare_waiting(store)
        other = CORRECTED.replace("41", "1")

        def switch_later() -> None:
            harness.clock.advance(HOLD_SECONDS)
            assert switch(harness, other).run is not None

        Meanwhile(monkeypatch, switch_later)
        assert switch(harness, CORRECTED).run is not None
        changes = [event for event in harness.events if event.type == "workflow.migrated"]
        assert [event.payload["from"] for event in changes] == [harness.plan.hash, compile_text(other).hash]
        assert harness.finish().result == {"y": 42}

    def test_stop_wins(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = prepare_begun(store)
        Meanwhile(monkeypatch, lambda: store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock()))
        with pytest.raises(RejectedError, match="ending"):
            switch(harness, RIGHT)
        assert harness.finish().status is RunStatus.CANCELLED
        assert "moving_since" not in head_of(harness)
        harness.resume()
        assert harness.finish().status is RunStatus.FAILED
        assert failed_checks(store) == []

    def test_pause_wins(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = prepare_waiting(store)
        Meanwhile(monkeypatch, lambda: store.pauses.pause(harness.id, harness.clock()))
        assert switch(harness, CORRECTED).run is not None
        assert harness.status is RunStatus.PAUSED
        store.pauses.unpause(harness.id, harness.clock())
        assert harness.finish().result == {"y": 42}

    def test_resume_wins(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = prepare_failed(store)
        Meanwhile(monkeypatch, harness.resume)
        assert switch(harness, RIGHT).run is not None
        types = [event.type for event in harness.events if event.type.startswith("workflow")]
        assert types[1:] == ["workflow.failed", "workflow.resumed", "workflow.migrated"]
        assert harness.finish().result == {"sum": 3}

    def test_answer_is_kept(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        harness = RunHarness(store, QUESTION, origin="service")
        execute_until_it_waits(harness)
        ((open_wait,), _) = store.waits.find_open(harness.tenant)
        Meanwhile(
            monkeypatch,
            lambda: store.waits.answer_wait(open_wait.key, None, {"n": 1}, harness.clock()),
        )
        assert switch(harness, QUESTION.replace("{{ 1 }}", "{{ 2 }}")).run is not None
        assert harness.visit("ask").due_at == harness.clock()
        assert harness.finish().result["y"] == 2
        assert failed_checks(store) == []

    def test_parked_visit_that_became_due_is_due(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Let a child run end for which a visit of a failed run has waited."""
        harness = RunHarness(store, FAILED_WHILE_IT_WAITS, origin="service").finish()
        visit, now = harness.visit("b"), harness.clock()
        assert (harness.status, visit.status) == (RunStatus.FAILED, VisitStatus.PARKED)
        wakeups = Wakeups(store.context)
        Meanwhile(monkeypatch, lambda: wakeups.make_due(harness.id, visit.id, now))
        assert switch(harness, FAILED_WHILE_IT_WAITS.replace('["false"]', '["true"]')).run is not None
        assert harness.visit("b").due_at == now < visit.due_at
        assert harness.finish().status is RunStatus.SUCCEEDED
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}
        assert failed_checks(store) == []

    def test_undo_after_a_move_that_was_given_up(self, store: DynamoStore) -> None:
        harness = prepare_waiting(store)
        before = held_state(harness)
        assert switch(harness, CORRECTED).run is not None
        with faulty_table(fail_at_commit_point()), pytest.raises(StoreError):
            undo(harness)
        harness.clock.advance(HOLD_SECONDS)
        undo(harness)
        assert held_state(harness) == before
        assert harness.finish().result == {"y": 1}

    def test_renamed_step_that_is_done(self, store: DynamoStore) -> None:
        harness = prepare_failed(store)
        assert switch(harness, RENAMED, renamed={"b": "r"}).run is not None
        assert harness.visit("r").finished_at is not None
        assert harness.finish().result == {"sum": 3}


def fail_at_commit_point() -> Callable[[str], str | None]:
    """Return a fault that refuses the second transaction: the one that changes the plan."""
    transactions = count()

    def refuse(operation: str) -> str | None:
        return DENIED if operation == "TransactWriteItems" and next(transactions) == 1 else None

    return refuse


@pytest.mark.usefixtures("moving")
def test_move_that_another_process_has_settled(store: DynamoStore) -> None:
    """Settle a move twice by the same head, and once after the run was deleted."""
    harness = prepare_waiting(store)
    store.plans.save(compile_text(CORRECTED))
    with faulty_table(fail_at_commit_point()), pytest.raises(StoreError):
        switch(harness, CORRECTED)
    head, now = head_of(harness), harness.clock()
    assert not settle_move(store.context, head, now)
    for _ in range(2):
        assert settle_move(store.context, head, now, is_forced=True)
        assert "moving_since" not in head_of(harness)
    assert harness.finish().result == {"y": 1}
    store.context.table.delete([keys.head(harness.id)])
    assert settle_move(store.context, head, now, is_forced=True)


def test_too_many_joins_are_refused(store: DynamoStore) -> None:
    harness = RunHarness(store, WIDE)
    harness.execute_next()
    table = store.context.table
    for number in range(100):
        table.write([Put(keys.join(harness.id, f"j{number}"), {"wave": 1})])
    before = run_contents(store, harness.run)
    with pytest.raises(RejectedError, match="more joins, steps on cycles or values") as refused:
        switch(harness, WIDE_CORRECTED)
    assert refused.value.reason == "busy"
    assert run_contents(store, harness.run) == before
    assert "moving_since" not in head_of(harness)


def test_claim_lets_go_of_a_visit_that_was_left_behind(store: DynamoStore) -> None:
    """Claim a visit that is held although its run no longer moves: the process has died in between."""
    harness = RunHarness(store, WAITING)
    assert harness.claim() is not None
    harness.clock.advance(3600)
    key = next(keys.visit(harness.id, visit.id, 1) for visit in harness.visits)
    due = harness.visits[0].due_at
    store.context.table.update(Update(key, {"fence": 2, "moving": 1, "moved": [1, due, [], ["clock"], [70]]}))
    store.context.table.update(Update(keys.head(harness.id), {"moving": 1}))
    claim = harness.claim()
    assert claim is not None
    assert (claim.visit.fence, claim.visit.clock) == (2, 1)
    store.queue.commit(succeed(store, claim, saved={"x": 1}), harness.clock())
    assert switch(harness, CORRECTED).run is not None
    assert head_of(harness)["era"] == 2
    assert harness.finish().result == {"y": 42}
