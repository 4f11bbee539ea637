"""Limits of how many runs and steps are in progress at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from noetl.executor.engine import invocation, slots
from noetl.executor.engine.scope import load_scope
from noetl.executor.engine.slots import grant_stalled
from noetl.executor.errors import StoreError
from noetl.executor.model.flows import priority_of
from noetl.executor.model.gates import (
    SHARED_TENANT,
    LimitKind,
    Slot,
    SlotOwner,
    find_superseded,
    named_gate,
)
from noetl.executor.model.run import NEVER, RunStatus, VisitStatus
from noetl.executor.model.visit_transition import read_left_out
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock, RunHarness

RUNS = """
    name: import
    concurrency: {limit: 1, key: "{{ input.customer }}"}
    input: {customer: {type: string, default: acme}}
    finally: clean
    steps:
    - name: load
      run: [{action: set, set: {x: 1}}, {action: wait, seconds: 60}]
    - name: clean
      run: [{action: set, set: {cleaned: true}}]
"""
CONCURRENCY_OF_TWO = "concurrency: [{limit: 1}, {use: api, max_wait: 50s}]"
STEP = """
    name: call
    steps:
    - name: first
      run: [{action: set, set: {x: 1}}]
      rule: [{case: default, run: [limited]}]
    - name: limited
      concurrency: %s
      %s
      run: [{action: set, set: {y: 2}}, %s]
      rule: [{case: default, run: [last]}]
    - {name: last, run: [{action: set, set: {done: true}}]}
"""
NOTHING = "{action: set, set: {z: 3}}"


@pytest.fixture(autouse=True)
def consistent(store: SqliteStore) -> Iterator[None]:
    """The invariant of gates holds at the end of each test."""
    yield
    assert store.maintenance.check_consistency() == []


def step_text(limit: str = "1", key: str = "", work: str = NOTHING) -> str:
    return STEP % (limit, key, work)


class Runs:
    """Runs of one playbook that share a store and a clock."""

    def __init__(self, store: Store, text: str, count: int = 2, **input: Any) -> None:
        self.clock = FakeClock(1_000_000.0)
        self.store = store
        self.harnesses = [RunHarness(store, text, input, clock=self.clock) for _ in range(count)]

    def __iter__(self) -> Iterator[RunHarness]:
        return iter(self.harnesses)

    def waits(self, harness: RunHarness) -> list[tuple[str, Any, int]]:
        """Return the limit, the key and the number ahead of each slot of a run that waits."""
        slots = self.store.gates.slots_of(harness.id)
        return [(slot.limit, slot.value, slot.queued_before) for slot in slots if not slot.is_held]

    def units(self) -> list[tuple[str, int, int]]:
        """Return the name of each own limit in use, and how many units are held and how many slots wait."""
        gates, _ = self.store.gates.find(self.harnesses[0].tenant, named=False)
        return [(gate.limit, gate.held, gate.waiting) for gate in gates]


def holds_unit(harness: RunHarness) -> bool:
    """Return whether a run holds a unit of a limit."""
    return any(slot.is_held for slot in harness.store.gates.slots_of(harness.id))


def execute_all(harness: RunHarness) -> None:
    """Execute the visits that are due now. A second later they have another place in a queue."""
    while harness.execute_next(chained=True):
        pass
    harness.clock.now += 1


def limit_visit(harness: RunHarness, step: str = "limited") -> Any:
    (visit,) = [visit for visit in harness.store.runs.visits(harness.id) if visit.step == step]
    return visit


class TestLimitKeys:
    @pytest.mark.parametrize("limit", ["concurrency: {limit: 1", "rate: {limit: 9, per: 1m"])
    @pytest.mark.parametrize("key", [r"\\ud800", r"a\\0b", r"\\u001b[1m"])
    def test_a_key_may_be_any_text(self, store: SqliteStore, limit: str, key: str) -> None:
        text = f"""
            steps:
            - name: a
              {limit}, key: "{{{{ '{key}' }}}}"}}
              run: [{{action: set, set: {{x: 1}}}}]
        """
        (harness,) = Runs(store, text, count=1)
        assert harness.finish().run.status is RunStatus.SUCCEEDED

    def test_names_with_full_stops_share_no_limit(self, store: SqliteStore) -> None:
        held = RunHarness(
            store, "name: a.b\nconcurrency: 1\nsteps: [{name: c, run: [{action: wait, seconds: 60}]}]"
        )
        execute_all(held)
        step = "name: a\nsteps: [{name: b, concurrency: 1, run: [{action: set, set: {x: 1}}]}]"
        other = RunHarness(store, step, clock=held.clock)
        execute_all(other)
        assert other.status == "succeeded"


class TestRuns:
    def test_a_run_waits_for_the_end_of_the_one_before(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS, count=3)
        first, second, third = runs
        for harness in runs:
            execute_all(harness)
        assert runs.waits(second) == [("import", "acme", 0)]
        assert runs.waits(third) == [("import", "acme", 1)]
        assert runs.units() == [("import", 1, 2)]
        (waiting,) = [event for event in third.events if event.type == "step.waiting"]
        assert waiting.payload == {
            "until": None,
            "actions": [],
            "limit": "import",
            "key": "acme",
            "queued_before": 1,
        }
        assert not second.execute_next()
        first.finish()
        assert first.run.result == {"x": 1, "cleaned": True}
        assert (runs.waits(second), runs.waits(third)) == ([], [("import", "acme", 0)])
        second.finish()
        third.finish()
        assert [harness.status for harness in runs] == ["succeeded"] * 3
        assert runs.units() == []

    def test_each_value_of_a_key_is_counted_apart(self, store: SqliteStore) -> None:
        first = RunHarness(store, RUNS, {"customer": "a"})
        second = RunHarness(store, RUNS, {"customer": "b"}, clock=first.clock)
        execute_all(first)
        execute_all(second)
        assert [slot.is_held for slot in store.gates.slots_of(second.id)] == [True]
        assert (first.finish().status, second.finish().status) == ("succeeded", "succeeded")

    def test_a_queued_run_that_is_cancelled_ends_at_once(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)
        store.runs.stop(second.id, RunStatus.CANCELLED, runs.clock())
        assert second.finish().status == "cancelled"
        assert limit_visit(second, "clean").status is VisitStatus.SUCCEEDED
        assert runs.units() == [("import", 1, 0)]
        assert first.finish().status == "succeeded"

    def test_a_queue_goes_on_after_the_clock_went_back(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        execute_all(first)
        execute_all(second)
        runs.clock.advance(-3600)
        runs.harnesses.append(RunHarness(store, RUNS, clock=runs.clock))
        execute_all(runs.harnesses[-1])
        assert runs.units() == [("import", 1, 2)]
        order = []
        for _ in runs:
            (holder,) = [harness for harness in runs if holds_unit(harness)]
            order.append(holder)
            store.runs.stop(holder.id, RunStatus.CANCELLED, runs.clock())
            assert holder.finish().status == "cancelled"
        assert order[0] is first
        assert {harness.id for harness in order} == {harness.id for harness in runs}
        assert runs.units() == []
        # The time of the cancelled runs did not pass meanwhile.
        assert runs.clock() < 1_000_000.0

    def test_the_next_run_starts_if_its_predecessor_is_cancelled(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)
        store.runs.stop(first.id, RunStatus.CANCELLED, runs.clock())
        assert first.finish().status == "cancelled"
        assert runs.waits(second) == []
        assert second.finish().status == "succeeded"

    def test_a_resumed_run_waits_again(self, store: SqliteStore) -> None:
        failing = RUNS.replace("{action: wait, seconds: 60}", "{action: fail, message: no}")
        first = RunHarness(store, failing).finish()
        assert first.status == "failed"
        second = RunHarness(store, RUNS, clock=first.clock)
        execute_all(second)
        first.resume()
        execute_all(first)
        (slot,) = store.gates.slots_of(first.id)
        assert not slot.is_held
        second.finish()
        assert first.finish().status == "failed"

    def test_a_paused_run_keeps_its_unit_and_a_queued_one_asks_again(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)
        store.pauses.pause(second.id, runs.clock())
        first.finish()
        store.pauses.unpause(second.id, runs.clock())
        assert second.finish().status == "succeeded"

    @pytest.mark.parametrize("entry", ["when_full: queue", "max_queued: 2"])
    def test_a_paused_run_is_passed_over_and_keeps_its_place(self, any_store: Store, entry: str) -> None:
        text = runs_with(entry)
        first, second, third = runs = Runs(any_store, text, count=3)
        for harness in runs:
            execute_all(harness)
        any_store.pauses.pause(second.id, runs.clock())
        first.finish()
        assert [holds_unit(harness) for harness in runs] == [False, False, True]
        later = [RunHarness(any_store, text, clock=runs.clock) for _ in range(2)]
        for harness in later:
            execute_all(harness)
        any_store.pauses.unpause(second.id, runs.clock())
        execute_all(second)
        assert [runs.waits(harness) for harness in (second, *later)] == [
            [("import", "acme", place)] for place in range(3)
        ]
        (_, again) = [event for event in second.events if event.type == "step.waiting"]
        assert again.payload["queued_before"] == 0
        third.finish()
        assert holds_unit(second)
        for harness in (second, *later):
            assert harness.finish().status == "succeeded"
        assert any_store.maintenance.check_consistency() == []

    def test_a_paused_run_at_a_free_limit_goes_on_at_once(self, any_store: Store) -> None:
        runs = Runs(any_store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)
        any_store.pauses.pause(second.id, runs.clock())
        first.finish()
        assert runs.units() == []
        any_store.pauses.unpause(second.id, runs.clock())
        assert second.finish().status == "succeeded"

    def test_the_longest_wait_counts_in_a_pause(self, any_store: Store) -> None:
        text = runs_with("max_wait: 70s")
        first, second, third = runs = Runs(any_store, text, count=3)
        for harness in runs:
            execute_all(harness)
        any_store.pauses.pause(second.id, runs.clock())
        first.finish()
        execute_all(third)
        runs.clock.advance(30)
        any_store.pauses.unpause(second.id, runs.clock())
        assert second.finish().status == "skipped"

    def test_a_second_limit_has_a_wait_of_its_own(self, any_store: Store) -> None:
        api = named_gate("default", "api")
        any_store.gates.set_limit(api, LimitKind.RUNS, 1)
        text = RUNS.replace('concurrency: {limit: 1, key: "{{ input.customer }}"}', CONCURRENCY_OF_TWO)
        first, second = runs = Runs(any_store, text)
        for harness in runs:
            execute_all(harness)
        assert runs.waits(second) == [("import", None, 0)]
        first.finish()
        any_store.gates.set_limit(api, LimitKind.RUNS, 0)
        arrived_at = runs.clock()
        execute_all(second)
        (slot,) = [slot for slot in any_store.gates.slots_of(second.id) if not slot.is_held]
        assert (slot.limit, slot.queued_at) == ("api", arrived_at)
        assert second.events[-1].payload["limit"] == "api"

    @pytest.mark.parametrize("option", ["max_queued: 1", "when_full: cancel_oldest", "max_wait: 70s"])
    def test_a_paused_run_keeps_its_place_at_its_second_limit(self, any_store: Store, option: str) -> None:
        first, second, third = runs = Runs(any_store, two_limits(option), count=3)
        for harness in (first, second):
            execute_all(harness)
        if option.startswith("when_full"):
            assert second.run.stop is None and first.run.stop is not None
        queued_at = any_store.gates.slots_of(second.id)[-1].queued_at
        any_store.pauses.pause(second.id, runs.clock())
        first.finish()
        execute_all(third)
        fourth = RunHarness(any_store, two_limits(option), clock=runs.clock)
        if not option.startswith("when_full"):
            execute_all(fourth)
        any_store.pauses.unpause(second.id, runs.clock())
        execute_all(second)
        assert (third.run.stop, second.status) == (None, RunStatus.WAITING)
        slot = any_store.gates.slots_of(second.id)[-1]
        assert (slot.is_held, slot.queued_at, slot.queued_before) == (False, queued_at, 0)
        assert third.finish().status == second.finish().status == "succeeded"
        assert any_store.maintenance.check_consistency() == []

    def test_a_run_that_has_waited_at_its_first_limit_may_be_refused_at_its_second(
        self, any_store: Store
    ) -> None:
        text = two_limits("max_queued: 1").replace("limit: 9", 'limit: 1, key: "{{ input.customer }}"')
        first, second = runs = Runs(any_store, text)
        of_b, of_c = [
            RunHarness(any_store, text, {"customer": name}, clock=runs.clock) for name in ("b", "c")
        ]
        for harness in (first, second, of_b):
            execute_all(harness)
        first.finish()
        execute_all(of_c)
        assert second.finish().status == "skipped"

    def test_the_deadline_of_a_run_counts_while_it_waits(self, store: SqliteStore) -> None:
        runs = Runs(store, RUNS.replace("name: import", "name: import\n    timeout: 30s"))
        first, second = runs
        for harness in runs:
            execute_all(harness)
        assert second.finish().status == "timed_out"
        assert runs.units() == [("import", 1, 0)]
        assert first.finish().status == "timed_out"


def two_limits(option: str) -> str:
    """Return the text of `RUNS` with a wide limit and one of a single unit, which has an option."""
    entry = f'{{limit: 1, key: "{{{{ 1 + 1 }}}}", {option}}}' if option else "{limit: 1}"
    return RUNS.replace(
        'concurrency: {limit: 1, key: "{{ input.customer }}"}', f"concurrency: [{{limit: 9}}, {entry}]"
    )


def runs_with(entry: str) -> str:
    """Return the text of `RUNS` with more in its limit."""
    return RUNS.replace('customer }}"}', f'customer }}}}", {entry}}}')


@pytest.fixture(params=["memory", "sqlite"])
def any_store(request: pytest.FixtureRequest, store: SqliteStore) -> Store:
    """A store in memory, or the one in a file."""
    return store if request.param == "sqlite" else MemoryStore()


class TestSkippedRuns:
    """Runs that a limit of their playbook refuses."""

    def test_a_run_at_a_full_limit_performs_nothing(self, any_store: Store) -> None:
        first, second = runs = Runs(any_store, runs_with("when_full: skip"))
        execute_all(first)
        assert second.finish().status == "skipped"
        assert (second.result, second.error_types) == (None, ["RunSkipped"])
        assert [visit.step for visit in second.visits] == ["load"]
        assert second.visit("load").saved == {}
        assert second.events[-1].type == "workflow.skipped"
        assert second.events[-1].payload == {
            "status": "skipped",
            "reason": "limit `import` of `acme` is full",
        }
        assert runs.units() == [("import", 1, 0)]
        assert first.finish().status == "succeeded"
        assert RunHarness(any_store, runs_with("when_full: skip")).finish().status == "succeeded"
        assert any_store.maintenance.check_consistency() == []

    def test_a_resumed_run_waits(self, any_store: Store) -> None:
        first, second = runs = Runs(any_store, runs_with("when_full: skip"))
        execute_all(first)
        second.finish().resume()
        execute_all(second)
        assert runs.waits(second) == [("import", "acme", 0)]
        first.finish()
        assert second.finish().result == {"x": 1, "cleaned": True}

    def test_a_run_that_has_waited_too_long_is_skipped(self, any_store: Store) -> None:
        first, second = runs = Runs(any_store, runs_with("max_wait: 30s"))
        execute_all(first)
        assert second.finish().status == "skipped"
        reason = "no unit of limit `import` became free within 30 s"
        assert second.events[-1].payload["reason"] == reason
        assert runs.units() == [("import", 1, 0)]

    def test_a_resumed_run_that_has_waited_too_long_fails(self, store: SqliteStore) -> None:
        first, second = Runs(store, runs_with("max_wait: 30s"))
        execute_all(first)
        second.finish().resume()
        assert (second.finish().status, second.error_types) == ("failed", ["LimitTimeout"])
        assert second.visit("clean").status is VisitStatus.SUCCEEDED

    def test_a_run_that_finds_its_queue_full_is_skipped(self, any_store: Store) -> None:
        first, second, third = runs = Runs(any_store, runs_with("max_queued: 1"), count=3)
        execute_all(first)
        execute_all(second)
        assert third.finish().status == "skipped"
        reason = "limit `import` of `acme` is full, and its queue of 1 as well"
        assert third.events[-1].payload["reason"] == reason
        execute_all(third.resume())
        assert runs.waits(third) == [("import", "acme", 1)]

    @pytest.mark.parametrize("option", ["when_full: skip", "max_queued: 1"])
    def test_a_run_with_a_rate_is_skipped_for_its_limit(self, any_store: Store, option: str) -> None:
        text = runs_with(option).replace("finally:", "rate: {limit: 100, per: 1m}\n    finally:")
        first, second, third = Runs(any_store, text, count=3)
        execute_all(first)
        if option != "when_full: skip":
            execute_all(second)
        assert third.finish().status == "skipped"
        assert third.events[-1].payload["reason"].startswith("limit `import` of `acme` is full")

    def test_it_gives_back_what_it_holds_at_other_limits(self, store: SqliteStore) -> None:
        text = runs_with("max_wait: 1h").replace("concurrency: {", "concurrency: [{")
        text = text.replace("max_wait: 1h}", "max_wait: 1h}, {use: api, when_full: skip}]")
        store.gates.set_limit(named_gate("default", "api"), LimitKind.RUNS, 0)
        (harness,) = runs = Runs(store, text, count=1)
        assert harness.finish().status == "skipped"
        assert (runs.units(), harness.events[-1].payload["reason"]) == ([], "limit `api` is full")


class TestCancelOldest:
    """The newest runs have the places of a limit."""

    TEXT = runs_with("when_full: cancel_oldest")

    def test_a_run_that_was_passed_over_cancels_no_newer_one(self, any_store: Store) -> None:
        first, second = runs = Runs(any_store, self.TEXT)
        for harness in runs:
            execute_all(harness)
        any_store.pauses.pause(second.id, runs.clock())
        assert first.finish().status == "cancelled"
        newer = RunHarness(any_store, self.TEXT, clock=runs.clock)
        execute_all(newer)
        assert holds_unit(newer)
        any_store.pauses.unpause(second.id, runs.clock())
        execute_all(second)
        assert newer.run.stop is None
        assert [harness.finish().status for harness in (newer, second)] == ["succeeded"] * 2

    def test_the_newest_run_takes_the_place_of_the_oldest(self, any_store: Store) -> None:
        first, second = runs = Runs(any_store, self.TEXT)
        execute_all(first)
        execute_all(second)
        assert first.run.stop is RunStatus.CANCELLED
        assert runs.waits(second) == [("import", "acme", 0)]
        assert first.finish().status == "cancelled"
        assert first.run.error is not None
        message = f"the newer run {second.id} takes the place at limit `import` of `acme`"
        assert (first.run.error["type"], first.run.error["message"]) == ("RunSuperseded", message)
        assert first.visit("clean").status is VisitStatus.SUCCEEDED
        assert second.finish().status == "succeeded"
        assert runs.units() == []

    def test_a_queued_run_is_cancelled_before_a_newer_one(self, any_store: Store) -> None:
        harnesses = Runs(any_store, self.TEXT, count=4)
        for harness in harnesses:
            execute_all(harness)
        *older, newest = harnesses
        assert [harness.finish().status for harness in older] == ["cancelled"] * 3
        assert newest.finish().status == "succeeded"

    def test_as_many_runs_stay_as_there_are_places(self, store: SqliteStore) -> None:
        runs = Runs(store, self.TEXT.replace("limit: 1", "limit: 2"), count=3)
        for harness in runs:
            execute_all(harness)
        assert [harness.finish().status for harness in runs] == ["cancelled", "succeeded", "succeeded"]

    def test_a_crash_before_the_cancel_repeats_it(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs = Runs(store, self.TEXT)
        execute_all(first)

        def die(*_: Any) -> None:
            raise StoreError("The store is away.")

        with monkeypatch.context() as patch:
            patch.setattr(slots, "find_superseded", die)
            with pytest.raises(StoreError):
                second.execute_next()
        assert (first.run.stop, len(runs.waits(second))) == (None, 1)
        runs.clock.now += LEASE_SECONDS + 1
        execute_all(second)
        assert first.run.stop is RunStatus.CANCELLED

    def test_a_run_that_has_ended_meanwhile_is_left_alone(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = runs = Runs(store, self.TEXT)
        ended = RunHarness(
            store, runs_with("when_full: skip").replace("name: import", "name: other")
        ).finish()
        execute_all(first)
        monkeypatch.setattr(slots, "find_superseded", lambda *_: [ended.id, "unknown"])
        execute_all(second)
        assert ended.status == "succeeded"
        assert runs.waits(second) == [("import", "acme", 0)]

    def test_a_run_cancels_only_older_ones(self) -> None:
        gate = named_gate("default", "api")
        held, early, late = (
            Slot(gate, SlotOwner(run), "api", 1, queued_at, held_at=held_at)
            for run, queued_at, held_at in (("r1", 1.0, 1.0), ("r2", 2.0, None), ("r3", 3.0, None))
        )
        found = [held, late, early]
        assert find_superseded(found, late, 1, ()) == ["r1", "r2"]
        assert find_superseded(found, late, 1, {"r1"}) == ["r2"]
        assert find_superseded(found, late, 1, {"r1", "r2"}) == []
        assert find_superseded(found, late, 2, ()) == ["r1"]
        assert find_superseded(found, late, 3, ()) == []
        assert find_superseded(found, early, 1, ()) == ["r1"]
        assert find_superseded(found, early, 1, {"r2"}) == []


class TestSteps:
    def test_a_visit_waits_for_another_run(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text(work="{action: wait, seconds: 60}"))
        first, second = runs
        claim = self.claim_limited(first)
        execute_all(second)
        assert runs.waits(second) == [("call.limited", None, 0)]
        assert limit_visit(second).due_at == NEVER
        first.executor().execute(claim)
        # A suspended visit gives its unit back.
        assert runs.waits(second) == []
        assert limit_visit(second).due_at == runs.clock()
        assert (second.finish().status, first.finish().status) == ("succeeded", "succeeded")
        assert runs.units() == []

    @staticmethod
    def claim_limited(harness: RunHarness) -> Any:
        """Claim the limited visit, and let it ask for its slot without performing its work."""
        assert harness.execute_next()
        claim = harness.claim()
        assert claim is not None
        step = harness.store.plans.step(claim.run.plan_hash, claim.visit.step)
        executor = harness.executor()
        admission = executor._ask_for_slots(claim, step, load_scope(harness.store, claim, step), None)
        assert all(slot.is_held for slot in admission.slots)
        return claim

    def test_a_visit_that_waits_too_long_fails(self, store: SqliteStore) -> None:
        text = step_text("{limit: 1, max_wait: 1m}", "retry: {attempts: 2, delay: 10s, jitter: false}")
        runs = Runs(store, text)
        first, second = runs
        self.claim_limited(first)
        queued_at = runs.clock()
        execute_all(second)
        assert limit_visit(second).due_at == queued_at + 60
        second.finish()
        assert (second.status, second.error_types) == ("failed", ["LimitTimeout"])
        assert "no unit of limit `call.limited` became free within 60 s" in str(second.run.error)
        # Two attempts of a minute each, and the delay between them.
        assert runs.clock() >= queued_at + 130
        assert runs.units() == [("call.limited", 1, 0)]

    def test_the_delay_of_a_retry_holds_no_unit(self, store: SqliteStore) -> None:
        work = '{action: shell, command: "test {{ step.attempt }} = 2"}'
        runs = Runs(store, step_text("1", "retry: {attempts: 2, delay: 1h}", work), count=1)
        (first,) = runs
        execute_all(first)
        assert limit_visit(first).status is VisitStatus.RETRYING
        assert runs.units() == []
        assert first.finish().status == "succeeded"

    def test_a_lost_worker_loses_no_unit(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text())
        first, second = runs
        self.claim_limited(first)
        execute_all(second)
        runs.clock.now += LEASE_SECONDS + 1
        assert runs.units() == [("call.limited", 1, 1)]
        assert (first.finish().status, second.finish().status) == ("succeeded", "succeeded")

    def test_a_wait_at_a_limit_does_not_count_in_the_timeout_of_the_step(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text("1", "timeout: 30s"))
        first, second = runs
        self.claim_limited(first)
        execute_all(second)
        runs.clock.now += 3600
        assert first.finish().status == "succeeded"
        assert second.finish().status == "succeeded"
        assert [harness.visit("limited").attempt for harness in runs] == [1, 1]

    def test_a_visit_that_is_given_up_gives_its_unit_back(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text())
        first, second = runs
        self.claim_limited(first)
        execute_all(second)
        for _ in range(10):
            runs.clock.now += LEASE_SECONDS + 1
            if first.claim() is None:
                break
        first.finish()
        assert (first.status, first.error_types) == ("failed", ["WorkerLost"])
        assert second.finish().status == "succeeded"

    def test_a_stale_worker_takes_no_unit(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text(), count=1)
        (first,) = runs
        assert first.execute_next()
        stale = first.claim()
        assert stale is not None
        runs.clock.now += LEASE_SECONDS + 1
        assert first.finish().status == "succeeded"
        assert first.executor().execute(stale) is None
        assert runs.units() == []

    def test_a_loop_is_no_wider_than_the_limit(self, store: SqliteStore) -> None:
        loop = 'loop: {items: "{{ [1, 2, 3, 4] }}", concurrency: 4}'
        runs = Runs(store, step_text("2", loop), count=1)
        (first,) = runs
        self.claim_limited(first)
        assert runs.units() == [("call.limited", 2, 0)]
        runs.clock.now += LEASE_SECONDS + 1
        assert first.finish().status == "succeeded"

    @pytest.mark.parametrize("of_step", [False, True])
    def test_parallel_items_share_the_place_of_their_visit(self, store: SqliteStore, of_step: bool) -> None:
        loop, units = "loop: {items: [1, 2], concurrency: 2}", 2 if of_step else 1
        key = f"parallel: true\n      {loop}" if of_step else "parallel: true"
        work = NOTHING if of_step else f"{{action: set, set: {{z: 3}}, {loop}}}"
        runs = Runs(store, step_text("9", key, work), count=1)
        (first,) = runs
        self.claim_limited(first)
        assert runs.units() == [("call.limited", units, 0)]
        runs.clock.now += LEASE_SECONDS + 1
        assert first.finish().status == "succeeded"

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("{{ [1] }}", "`concurrency[0].key` must be a text, a number or a Boolean, not a list"),
            ("{{ 'x' * 1025 }}", "`concurrency[0].key` has 1,025 bytes; it may have 1,024"),
        ],
    )
    def test_a_wrong_key_fails_the_step(self, store: SqliteStore, key: str, message: str) -> None:
        limit = f'{{limit: 1, key: "{key}"}}'
        harness = RunHarness(store, step_text(limit)).finish()
        assert (harness.status, harness.error_types) == ("failed", ["ParameterError"])
        assert message in str(harness.run.error)


class TestOperatorLimits:
    def test_a_step_uses_a_limit_which_an_operator_changes(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text("{use: api}"))
        key = named_gate(next(iter(runs)).tenant, "api")
        store.gates.set_limit(key, LimitKind.STEPS, 0)
        for harness in runs:
            execute_all(harness)
        assert [runs.waits(harness) for harness in runs] == [[("api", None, 0)], [("api", None, 1)]]
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        assert grant_stalled(store) == 1
        assert [harness.finish().status for harness in runs] == ["succeeded", "succeeded"]
        assert store.gates.remove_limit(key)

    def test_a_limit_of_all_tenants_comes_before_that_of_the_tenant(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text("{use: api}"))
        first, second = runs
        key, shared = named_gate(first.tenant, "api"), named_gate(SHARED_TENANT, "api")
        store.gates.set_limit(key, LimitKind.STEPS, 0)
        execute_all(first)
        # The first run waits in the queue of its tenant when the operator makes the shared limit.
        store.gates.set_limit(shared, LimitKind.STEPS, 0)
        execute_all(second)
        assert [slot.gate for harness in runs for slot in store.gates.slots_of(harness.id)] == [key, shared]
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        assert grant_stalled(store) == 1
        runs.clock.now = store.clock() + 1
        execute_all(first)
        assert runs.waits(first) == [("api", None, 1)]
        store.gates.set_limit(shared, LimitKind.STEPS, 1)
        assert grant_stalled(store) == 1
        assert [harness.finish().status for harness in (second, first)] == ["succeeded", "succeeded"]
        assert store.gates.remove_limit(key) and store.gates.remove_limit(shared)

    def test_an_unknown_limit_fails_the_step(self, store: SqliteStore) -> None:
        harness = RunHarness(store, step_text("{use: api}")).finish()
        assert (harness.status, harness.error_types) == ("failed", ["ParameterError"])
        assert "unknown limit `api`; an operator makes it with `noetl limits set`" in str(harness.run.error)

    def test_own_limits_come_before_those_of_operators(self, store: SqliteStore) -> None:
        runs = Runs(store, step_text("[{use: api}, {limit: 1}]"))
        key = named_gate(next(iter(runs)).tenant, "api")
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        first, second = runs
        TestSteps.claim_limited(first)
        execute_all(second)
        assert runs.waits(second) == [("call.limited", None, 0)]
        runs.clock.now += LEASE_SECONDS + 1
        assert [harness.finish().status for harness in runs] == ["succeeded", "succeeded"]


class TestFullLimitsThatSkip:
    """A limit with `when_full: skip`. The first limit queues or has units."""

    TEXT = """
        name: call
        steps:
        - name: limited
          concurrency: LIMITS
          run: [{action: set, set: {y: 2}}, {action: http, url: "http://127.0.0.1:9", if: "{{ false }}"}]
          rule:
          - {case: "{{ result.skipped and y is undefined }}", run: [left_out]}
        - {name: left_out, run: [{action: set, set: {left_out: true}}]}
    """

    @pytest.mark.parametrize(
        "limits", ["{use: api, when_full: skip}", "[{limit: 1}, {use: api, when_full: skip}]"]
    )
    def test_the_step_succeeds_without_it(self, store: SqliteStore, limits: str) -> None:
        runs = Runs(store, self.TEXT.replace("LIMITS", limits), count=1)
        (harness,) = runs
        store.gates.set_limit(named_gate(harness.tenant, "api"), LimitKind.STEPS, 0)
        assert harness.finish().status == "succeeded"
        assert harness.run.result == {"left_out": True}
        assert (runs.units(), store.gates.slots_of(harness.id)) == ([], [])
        (skipped,) = (event for event in harness.events if event.type == "step.skipped")
        assert skipped.payload == {"limit": "api"}
        assert read_left_out(harness.visit("limited")) == {"limit": "api"}

    def test_a_rate_of_the_step_is_not_named(self, store: SqliteStore) -> None:
        text = self.TEXT.replace("LIMITS", "{use: zoo, when_full: skip}\n          rate: {limit: 9, per: 1m}")
        (harness,) = Runs(store, text, count=1)
        store.gates.set_limit(named_gate(harness.tenant, "zoo"), LimitKind.STEPS, 0)
        assert harness.finish().status == "succeeded"
        assert read_left_out(harness.visit("limited")) == {"limit": "zoo"}

    def test_a_case_that_waits_keeps_the_reason(self, store: SqliteStore) -> None:
        text = """
            name: call
            steps:
            - name: limited
              concurrency: {use: api, when_full: skip}
              run: [{action: set, set: {y: 2}}]
              rule: [{case: default, run: [{action: wait, seconds: 1}]}]
            """
        runs = Runs(store, text, count=1)
        (harness,) = runs
        store.gates.set_limit(named_gate(harness.tenant, "api"), LimitKind.STEPS, 0)
        execute_all(harness)
        assert read_left_out(harness.visit("limited")) is None
        store.gates.set_limit(named_gate(harness.tenant, "api"), LimitKind.STEPS, 1)
        assert harness.finish().status == "succeeded"
        assert read_left_out(harness.visit("limited")) == {"limit": "api"}

    def test_a_step_that_fails_later_is_not_left_out(self, store: SqliteStore) -> None:
        text = """
            name: call
            steps:
            - name: limited
              concurrency: {use: api, when_full: skip}
              run: [{action: set, set: {y: 2}}]
              rule: [{case: "{{ y > 1 }}", run: [after]}, {case: "{{ error is defined }}", run: [after]}]
            - {name: after, run: [{action: log, message: x}]}
            """
        (harness,) = Runs(store, text, count=1)
        store.gates.set_limit(named_gate(harness.tenant, "api"), LimitKind.STEPS, 0)
        assert harness.finish().visit("limited").error is not None
        assert read_left_out(harness.visit("limited")) is None

    def test_a_step_with_a_free_unit_performs_it(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT.replace("LIMITS", "{limit: 1, when_full: skip}"))
        assert harness.finish().run.result == {"y": 2}

    def test_work_that_has_begun_waits(self, store: SqliteStore) -> None:
        text = """
            name: call
            steps:
            - name: limited
              concurrency: {use: api, when_full: skip}
              run: [{action: set, set: {y: 2}}, {action: wait, seconds: 60}, {action: set, set: {z: 3}}]
            """
        runs = Runs(store, text, count=1)
        (harness,) = runs
        key = named_gate(harness.tenant, "api")
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        execute_all(harness)
        store.gates.set_limit(key, LimitKind.STEPS, 0)
        runs.clock.now += 61
        execute_all(harness)
        assert runs.waits(harness) == [("api", None, 0)]
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        assert grant_stalled(store) == 1
        assert harness.finish().run.result == {"y": 2, "z": 3}


class TestCrashes:
    def test_a_grant_that_was_lost_is_made_later(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)
        monkeypatch.setattr(invocation, "grant_next", lambda *_: None)
        first.finish()
        assert runs.waits(second) == [("import", "acme", 0)]
        assert grant_stalled(store) == 1
        assert grant_stalled(store) == 0
        assert second.finish().status == "succeeded"

    def test_a_store_that_is_away_after_a_commit_ends_no_worker(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        runs = Runs(store, RUNS)
        first, second = runs
        for harness in runs:
            execute_all(harness)

        def grant(*_: Any) -> int:
            raise StoreError("The store is away.")

        with monkeypatch.context() as patch:
            patch.setattr(store.gates, "grant", grant)
            assert first.finish().status == "succeeded"
        messages = {record.getMessage() for record in caplog.records if record.name == "noetl.executor"}
        assert messages == {"what waits for a limit gets it later: The store is away."}
        assert grant_stalled(store) == 1
        assert second.finish().status == "succeeded"


FINALLY = """
    name: clean
    finally: last
    steps:
    - {name: first, run: [{action: set, set: {x: 1}}]}
    - name: last
      %s
      concurrency: {use: closed%s}
      run: [{action: set, set: {y: 2}}]
"""


class TestFinallySteps:
    """A finally step at a limit of an operator that lets nothing start."""

    @pytest.mark.parametrize(
        ("timeout", "max_wait", "seconds"),
        [
            ("", "", 300),
            ("timeout: 20s", "", 20),
            ("", ", max_wait: 5s", 5),
            ("timeout: 20s", ", max_wait: 1h", 20),
        ],
    )
    def test_it_waits_no_longer_than_it_may_take(
        self, store: SqliteStore, timeout: str, max_wait: str, seconds: float
    ) -> None:
        store.gates.set_limit(named_gate("default", "closed"), LimitKind.STEPS, 0)
        harness = RunHarness(store, FINALLY % (timeout, max_wait), clock=FakeClock(1_000_000.0)).finish()
        assert (harness.status, harness.error_types) == ("failed", ["LimitTimeout"])
        assert harness.clock() == 1_000_000.0 + seconds
        assert store.gates.stalled(10) == []

    @pytest.mark.parametrize("work", ["{action: fail, message: no}", "{action: wait, seconds: 1h}"])
    @pytest.mark.parametrize("limit", ["concurrency: {use: closed}", "rate: {limit: 1, per: 1m}"])
    def test_it_waits_in_a_run_that_stops(self, store: SqliteStore, work: str, limit: str) -> None:
        """The run has failed, or its time is over."""
        gate = named_gate("default", "closed")
        store.gates.set_limit(gate, LimitKind.STEPS, 0)
        text = FINALLY % ("", "")
        text = text.replace("{action: set, set: {x: 1}}", work).replace("concurrency: {use: closed}", limit)
        text, clock = text.replace("name: clean", "name: clean\n    timeout: 5s"), FakeClock(1_000_000.0)
        for _ in range(2):
            harness = RunHarness(store, text, clock=clock)
            execute_all(harness)
            clock.advance(6)
            execute_all(harness)
        assert [visit.status for visit in harness.visits if visit.step == "last"] == ["waiting"]
        store.gates.set_limit(gate, LimitKind.STEPS, 2)
        grant_stalled(store)
        assert harness.finish().status in ("failed", "timed_out")
        assert [visit.status for visit in harness.visits if visit.step == "last"] == ["succeeded"]


ORDERED = """
    name: call
    input: {p: {default: 0}, s: {default: 0}, team: {default: x}}
    priority: "{{ input.p }}"
    steps:
    - name: limited
      PRIORITY
      concurrency: {use: closed, fair: "{{ input.team }}"}
      run: [{action: set, set: {y: 2}}]
"""


class TestOrderOfQueues:
    """The order of what waits for a limit that lets nothing start."""

    @pytest.fixture(autouse=True)
    def _limit(self, store: SqliteStore) -> None:
        store.gates.set_limit(named_gate("default", "closed"), LimitKind.STEPS, 0)

    @staticmethod
    def queue(store: SqliteStore, text: str, *inputs: dict[str, Any], **options: Any) -> list[int]:
        """Return the numbers of runs in the order in which they wait."""
        clock = FakeClock(1_000_000.0)
        harnesses = [RunHarness(store, text, given, clock=clock, **options) for given in inputs]
        for harness in harnesses:
            execute_all(harness)
            clock.now += 1
        slots = [slot for harness in harnesses for slot in store.gates.slots_of(harness.id)]
        assert not any(slot.is_held for slot in slots)
        return [slot.queued_before for slot in slots]

    def test_a_priority_overtakes(self, store: SqliteStore) -> None:
        text = ORDERED.replace("PRIORITY\n", "\n")
        assert self.queue(store, text, {"p": -1}, {}, {"p": 2.5}) == [2, 1, 0]

    def test_a_step_has_its_own_priority(self, store: SqliteStore) -> None:
        text = ORDERED.replace("PRIORITY", 'priority: "{{ input.s }}"')
        assert self.queue(store, text, {"p": 9}, {"s": 1}, {"s": 2, "p": -9}) == [2, 1, 0]
        constant = ORDERED.replace("PRIORITY", "priority: 3")
        (slot, *_), _ = store.gates.slots_at(named_gate("default", "closed"))
        assert self.queue(store, constant, {"team": "y"}, {"team": "y", "p": 9}) == [1, 3]
        assert slot.rank == slot.queued_at - 2 * 60

    def test_flows_alternate(self, store: SqliteStore) -> None:
        text = ORDERED.replace("PRIORITY\n", "\n")
        teams = [{"team": team} for team in ("x", "x", "x", 5, True)]
        assert self.queue(store, text, *teams) == [2, 3, 4, 0, 1]
        slots, _ = store.gates.slots_at(named_gate("default", "closed"))
        assert [slot.flow for slot in slots] == ["5", "true", "x", "x", "x"]

    def test_flows_of_a_shared_limit_belong_to_tenants(self, store: SqliteStore) -> None:
        shared = named_gate(SHARED_TENANT, "closed")
        store.gates.set_limit(shared, LimitKind.STEPS, 0)
        text = ORDERED.replace("PRIORITY\n", "\n")
        for tenant in ("a", "b", "a"):
            execute_all(RunHarness(store, text, clock=FakeClock(1_000_000.0), tenant=tenant))
        assert [slot.flow for slot in store.gates.slots_at(shared)[0]] == ["a", "a", "b"]

    def test_a_tenant_with_many_flows_has_no_more_turns_at_a_shared_limit(self, store: SqliteStore) -> None:
        store.gates.set_limit(named_gate(SHARED_TENANT, "closed"), LimitKind.STEPS, 0)
        text = ORDERED.replace("PRIORITY\n", "\n")
        clock = FakeClock(1_000_000.0)
        for team in "vwxyz":
            execute_all(RunHarness(store, text, {"team": team}, clock=clock, tenant="a"))
        other = RunHarness(store, text, clock=clock, tenant="b")
        execute_all(other)
        (slot,) = store.gates.slots_of(other.id)
        assert slot.queued_before == 1

    def test_runs_of_a_backfill_come_last(self, store: SqliteStore) -> None:
        text = step_text("{use: closed}")
        key = named_gate("default", "closed")
        for trigger in ({"backfill": "b"}, {"name": "t"}, None):
            execute_all(RunHarness(store, text, clock=FakeClock(1_000_000.0), trigger=trigger))
        ranks = [slot.rank - slot.queued_at for slot in store.gates.slots_at(key)[0]]
        assert ranks == [0.0, 0.0, 600.0]

    def test_runs_have_the_priority_of_their_playbook(self, store: SqliteStore) -> None:
        text = RUNS.replace(
            "name: import", 'name: import\n    priority: "{{ environment.p }}"\n    environment: {p: 4}'
        )
        runs = Runs(store, text)
        for harness in runs:
            execute_all(harness)
        slots = [store.gates.slots_of(harness.id)[0] for harness in runs]
        assert [slot.rank for slot in slots] == [slot.queued_at - 4 * 60 for slot in slots]

    def test_the_finally_step_is_first(self, store: SqliteStore) -> None:
        harness = RunHarness(store, FINALLY % ("priority: -10", ""), clock=FakeClock(1_000_000.0))
        for _ in range(3):
            execute_all(harness)
        (slot,) = store.gates.slots_of(harness.id)
        assert (slot.rank, slot.flow) == (0.0, "clean")
        harness.finish()

    @pytest.mark.parametrize(
        ("priority", "described"),
        [("11", "11"), ("-10.5", "-10.5"), ("1e9", "another number"), ("'5'", "text"), ("true", "true")],
    )
    def test_a_wrong_priority_fails_the_step(self, store: SqliteStore, priority: str, described: str) -> None:
        text = ORDERED.replace("PRIORITY", f'priority: "{{{{ {priority} }}}}"')
        harness = RunHarness(store, text).finish()
        assert (harness.status, harness.error_types) == ("failed", ["ParameterError"])
        assert f"`priority` must be a number from -10 to 10, not {described}" in str(harness.run.error)

    def test_a_wrong_flow_fails_the_step(self, store: SqliteStore) -> None:
        text = ORDERED.replace("PRIORITY\n", "\n")
        harness = RunHarness(store, text, {"team": [1]}).finish()
        assert (harness.status, harness.error_types) == ("failed", ["ParameterError"])
        assert "`concurrency[0].fair` must be a text, a number or a Boolean" in str(harness.run.error)


FOLLOWING = """
    name: call
    %s
    input: {customer: {type: string, default: acme}}
    steps:
    - name: first
      run: [{action: set, set: {x: a, w: [1, 2, 3]}}]
      rule: [{case: default, run: [second]}]
    - name: second
      concurrency: {limit: 3}
      run: [{action: set, set: {y: b}}]
      rule: [{case: default, run: [limited]}]
    - name: limited
      %s
      run: [{action: set, set: {z: 1}}]
      rule: [{case: default, run: [last]}]
    - {name: last, run: [{action: set, set: {done: true}}]}
"""


def join_after_fork(limited: str, top: str = "") -> str:
    """Return a playbook whose last step joins two branches. It has texts in that step, and at the top."""
    return f"""
name: fork
{top}
steps:
- {{name: first, run: [{{action: log, message: a}}], rule: [{{case: default, run: [left, right]}}]}}
- {{name: left, run: [{{action: set, set: {{x: 1}}}}], rule: [{{case: default, run: [both]}}]}}
- {{name: right, run: [{{action: set, set: {{y: 1}}}}], rule: [{{case: default, run: [both]}}]}}
- {{name: both, join: all, {limited}, run: [{{action: log, message: a}}]}}
"""


class TestFollowingVisits:
    """Visits that the commit before them claims, with their slots."""

    @pytest.mark.parametrize(
        ("limits", "requesting"),
        [
            ("concurrency: 1", []),
            ("concurrency: [{limit: 2}, {use: api}]", []),
            ("concurrency: {limit: 1, key: '{{ input.customer }}'}", []),
            ("concurrency: {limit: 1, key: '{{ y }}', fair: '{{ customer }}'}", []),
            ("concurrency: {limit: 1, key: '{{ x }}'}", ["limited"]),
            ("concurrency: {limit: 1, key: '{{ step.visit }}'}", ["limited"]),
            ("concurrency: {limit: 2}\n      loop: {items: '{{ w }}', concurrency: 3}", []),
            ("concurrency: 1\n      priority: '{{ 3 if y else 0 }}'", []),
            ("concurrency: 1\n      rate: {limit: 5, per: 1m}", ["limited"]),
            ("rate: [{limit: 5, per: 1m}, {limit: 9, per: 1h}]", ["limited"]),
            ("rate: {limit: 5, per: 1m}", []),
            ("rate: {use: calls}", []),
            ("rate: {limit: 5, per: 1m, key: '{{ y }}'}", []),
            ("rate: {limit: 5, per: 1m, key: '{{ x }}'}", ["limited"]),
            ("on_error: continue", []),
        ],
    )
    @pytest.mark.parametrize("of_run", ["", "concurrency: 2"])
    def test_one_holds_its_slots_if_its_keys_are_known(
        self,
        store: SqliteStore,
        monkeypatch: pytest.MonkeyPatch,
        limits: str,
        requesting: list[str],
        of_run: str,
    ) -> None:
        store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, 1)
        store.gates.set_limit(named_gate("default", "calls"), LimitKind.STEPS, 1, per=60.0)
        harness = RunHarness(store, FOLLOWING % (of_run, limits))
        assert list(spy_on_requests(store, monkeypatch, harness)) == requesting

    def test_a_wrong_key_fails_the_step(self, store: SqliteStore) -> None:
        harness = RunHarness(store, FOLLOWING % ("", "concurrency: {limit: 1, key: '{{ [y] }}'}"))
        assert harness.finish().status == "failed"
        assert harness.run.error is not None
        assert harness.run.error["step"] == "limited"

    def test_one_waits_at_a_full_gate(self, store: SqliteStore) -> None:
        runs = Runs(
            store, FOLLOWING % ("", "concurrency: [{limit: 2}, {limit: 1, key: '{{ input.customer }}'}]")
        )
        first, second = runs
        stop_before(first, "limited")
        execute_all(second)
        assert [(slot.limit, slot.is_held) for slot in store.gates.slots_of(second.id)] == [
            ("call.limited", True),
            ("call.limited", False),
        ]
        assert (first.finish().status, second.finish().status) == ("succeeded", "succeeded")
        assert runs.units() == []

    def test_one_whose_worker_is_lost_keeps_its_slots(self, store: SqliteStore) -> None:
        harness = RunHarness(store, FOLLOWING % ("", "concurrency: 1"))
        stop_before(harness, "limited")
        assert [slot.limit for slot in store.gates.slots_of(harness.id)] == ["call.limited"]
        harness.clock.advance(LEASE_SECONDS + 1)
        assert harness.finish().status == "succeeded"

    def test_a_store_that_takes_no_slots_is_asked(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(store.queue), "takes_slots", False)
        harness = RunHarness(store, FOLLOWING % ("", "concurrency: 1"))
        assert list(spy_on_requests(store, monkeypatch, harness)) == ["second", "limited"]

    @pytest.mark.parametrize(
        ("limits", "requesting"),
        [
            ("concurrency: 1", []),
            ("concurrency: [{limit: 1}, {use: api}]", []),
            ("concurrency: {limit: 1, key: '{{ x }}'}", ["right"]),
        ],
    )
    def test_the_further_branches_behind_a_fork_ask_if_a_template_decides(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, limits: str, requesting: list[str]
    ) -> None:
        store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, 1)
        text = """
            name: fork
            steps:
            - name: first
              run: [{action: set, set: {x: 1}}]
              rule: [{case: default, run: [left, right]}]
            - name: left
              concurrency: {limit: 1, key: '{{ x }}'}
              run: [{action: set, set: {l: 1}}]
              rule: [{case: default, run: [both]}]
            - name: right
              LIMITS
              run: [{action: set, set: {r: 1}}]
              rule: [{case: default, run: [both]}]
            - {name: both, join: all, concurrency: 1, run: [{action: set, set: {b: 1}}]}
        """
        harness = RunHarness(store, text.replace("LIMITS", limits))
        assert list(spy_on_requests(store, monkeypatch, harness)) == requesting

    def test_a_further_branch_takes_no_part_of_its_slots(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that finds a full gate asks for all of its slots."""
        text = """
            name: fork
            steps:
            - {name: first, run: [{action: log, message: a}], rule: [{case: default, run: [left, right]}]}
            - {name: left, run: [{action: log, message: b}]}
            - {name: right, concurrency: [{limit: 1}, {use: api}], run: [{action: log, message: c}]}
        """
        key = named_gate("default", "api")
        store.gates.set_limit(key, LimitKind.STEPS, 0)
        harness = RunHarness(store, text)
        execute_all(harness)
        assert [slot.is_held for slot in store.gates.slots_of(harness.id)] == [True, False]
        store.gates.set_limit(key, LimitKind.STEPS, 1)
        assert grant_stalled(store) == 1
        assert harness.finish().status == "succeeded"

    def test_one_behind_a_join_asks_if_its_key_has_a_template(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another branch may save the name that the key reads."""
        text = join_after_fork("concurrency: {limit: 1, key: '{{ y }}'}")
        assert list(spy_on_requests(store, monkeypatch, RunHarness(store, text))) == ["both"]

    def test_a_priority_that_is_a_template_delays_no_rate(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limited = "rate: {limit: 5, per: 1m}, priority: '{{ y }}'"
        text = join_after_fork(limited, "priority: '{{ 1 + 1 }}'")
        assert list(spy_on_requests(store, monkeypatch, RunHarness(store, text))) == []


FIRST = """
    name: call
    %s
    steps:
    - {name: first, run: [{action: log, message: a}], rule: [{case: default, run: [second]}], %s}
    - {name: second, concurrency: 3, run: [{action: log, message: a}]}
"""


class TestFirstVisits:
    """First visits of runs, whose claims take the slots of the run or of the visit."""

    @pytest.mark.parametrize(
        ("of_run", "of_step", "requesting"),
        [
            ("", "concurrency: 1", []),
            ("", "concurrency: [{limit: 2}, {use: api}]", []),
            ("", "concurrency: 1, priority: 3", []),
            ("", "concurrency: 1, priority: '{{ 3 }}'", ["first"]),
            ("", "concurrency: {limit: 1, key: '{{ step.visit }}'}", ["first"]),
            ("", "concurrency: {limit: 1, fair: '{{ step.visit }}'}", ["first"]),
            ("", "rate: {limit: 5, per: 1m}", []),
            ("", "rate: {limit: 5, per: 1m}, loop: {items: [1], batch: 1}", ["first"]),
            ("", "concurrency: 1, rate: {limit: 5, per: 1m}", ["first"]),
            ("", "concurrency: 2, loop: {items: [1, 2, 3], concurrency: 3}", []),
            ("concurrency: 1", "", []),
            ("rate: {limit: 5, per: 1m}", "", []),
            ("concurrency: 1\n    priority: '{{ 1 }}'", "", ["first"]),
            ("concurrency: 1", "concurrency: 1", ["first"]),
        ],
    )
    def test_one_asks_if_a_template_or_several_rates_decide(
        self,
        store: SqliteStore,
        monkeypatch: pytest.MonkeyPatch,
        of_run: str,
        of_step: str,
        requesting: list[str],
    ) -> None:
        store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, 1)
        harness = RunHarness(store, FIRST % (of_run, of_step))
        assert list(spy_on_requests(store, monkeypatch, harness)) == requesting

    @pytest.mark.parametrize(
        ("of_run", "of_step"),
        [
            ("concurrency: 1\n    priority: 5", ""),
            ("priority: 5", "concurrency: 1"),
            ("priority: 1", "concurrency: 1, priority: 5"),
        ],
    )
    def test_its_slot_shows_its_priority(self, store: SqliteStore, of_run: str, of_step: str) -> None:
        harness = RunHarness(store, FIRST % (of_run, of_step))
        assert harness.claim() is not None
        (slot,) = store.gates.slots_of(harness.id)
        assert slot.is_held
        assert priority_of(slot.queued_at, slot.rank) == 5.0

    @pytest.mark.parametrize("is_shared", [True, False])
    def test_one_asks_if_a_limit_is_hidden(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_shared: bool
    ) -> None:
        """Ask once: after this, the process knows that all tenants share the limit."""
        for tenant in ("default", *([SHARED_TENANT] if is_shared else [])):
            store.gates.set_limit(named_gate(tenant, "api"), LimitKind.STEPS, 1)
        text = FIRST % ("", "concurrency: {use: api}")
        with monkeypatch.context() as patch:
            requesting = list(spy_on_requests(store, patch, RunHarness(store, text)))
        assert requesting == (["first"] if is_shared else [])
        assert list(spy_on_requests(store, monkeypatch, RunHarness(store, text))) == []

    @pytest.mark.parametrize(
        ("limits", "requesting"),
        [
            ("concurrency: 1", []),
            ("concurrency: [{limit: 1}, {use: api}]", []),
            ("rate: {limit: 5, per: 1m}", []),
            ("concurrency: {limit: 1, key: '{{ run.id }}'}", ["first", "left", "right"]),
        ],
    )
    def test_a_run_of_which_a_slot_is_held_takes_no_second_one(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, limits: str, requesting: list[str]
    ) -> None:
        """Each branch is claimed by itself. It asks only if a template decides at which gate."""
        store.gates.set_limit(named_gate("default", "api"), LimitKind.RUNS, 1)
        text = f"""
            name: fork
            {limits}
            steps:
            - name: first
              run: [{{action: log, message: a}}]
              rule: [{{case: default, run: [left, right]}}]
            - {{name: left, run: [{{action: log, message: b}}]}}
            - {{name: right, run: [{{action: log, message: c}}]}}
        """
        harness, steps = RunHarness(store, text), record_requests(store, monkeypatch)
        for _ in range(3):
            assert harness.execute_next()
            assert len(store.gates.slots_of(harness.id)) == (2 if "use" in limits else 1)
        assert steps == requesting
        assert harness.finish().status == "succeeded"


def spy_on_requests(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, harness: RunHarness
) -> Iterator[str]:
    """Finish a run, and yield the steps of the claims that have asked for slots."""
    steps = record_requests(store, monkeypatch)
    assert harness.finish().status == "succeeded"
    yield from steps


def record_requests(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the steps of the claims are added that ask for slots from now on."""
    acquire, steps = store.gates.acquire, list[str]()

    def note(claim: Any, *rest: Any) -> Any:
        steps.append(claim.visit.step)
        return acquire(claim, *rest)

    monkeypatch.setattr(store.gates, "acquire", note)
    return steps


def stop_before(harness: RunHarness, step: str) -> None:
    """Execute following visits up to the claim of a step, whose worker is lost."""
    claim = harness.claim()
    while claim is not None and claim.visit.step != step:
        claim = harness.executor().execute(claim)
    assert claim is not None
