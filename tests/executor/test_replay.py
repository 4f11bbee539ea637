"""Replayed histories: what a store held after each commit of random runs, and single runs."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from noetl.api.service.step_reports import visit_state
from noetl.api.service.views import StepState
from noetl.executor.actions import catalogue
from noetl.executor.engine.replay import PastRun, RecordedHistory, replay
from noetl.executor.engine.restart import RestartPoint, begin_from_records, find_restart_state
from noetl.executor.engine.start import prefix_before, restart_from_step
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.outcome import Outcome, Suspension, error_record
from noetl.executor.model.run import (
    END,
    BatchResult,
    Claim,
    Commit,
    Lease,
    Progress,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import (
    RuleTests,
    abandon,
    build_commit,
    choose_case,
    commit_of_finally_step,
    final_status,
    find_refusal,
    stop_run_at,
    suspend,
)
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.dynamodb import upgrade
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import replace
from noetl.planner.plan import Case, Plan
from noetl.testing.run_harness import RunHarness, register_playbook
from noetl.testing.store_contract.skips import skip_steps
from tests.switch_pairs import random_sketch, write_playbook

RUNS = 100
CHUNKS = 10
MOST_COMMITS = 60
LEASE = Lease("one", 1_000_000.0)


@dataclass(frozen=True)
class Held:
    """State of a run that a store held, after a number of events."""

    events: int
    status: RunStatus
    visits: Mapping[str, tuple[Any, ...]]
    joins: Any = None
    is_stopping: bool = False


def names_carried(plan: Plan, visit: Visit, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names that later steps read: the others are known only to a replay."""
    return {name: tuple(names[name]) for name in names if name in plan.steps[visit.step].live_names}


def describe(plan: Plan, status: RunStatus, visit: Visit) -> tuple[Any, ...]:
    """Return a visit as readers see it. Between two segments, work that has begun counts as running."""
    state = visit_state(status, visit)
    if visit.status is VisitStatus.READY and visit.progress is not None and visit.started_at is not None:
        state = StepState.RUNNING
    names = {} if visit.clock >= 2**40 else names_carried(plan, visit, visit.names)
    return visit.step, visit.number, state, visit.case, visit.failure, visit.clock, names


def hold(store: Store, plan: Plan, run_id: str) -> Held:
    """Return what a store holds of a run now."""
    run = store.runs.get("default", run_id)
    assert run is not None
    visits = [visit for visit in store.runs.visits(run_id) if not is_pseudo_step(visit.step)]
    shown = {visit.id: describe(plan, run.status, visit) for visit in visits}
    joins = None
    if isinstance(store, MemoryStore):
        record = store.state.record(run_id)
        waiting = {join: sorted(arrived) for join, arrived in record.arrivals.items() if arrived}
        joins = waiting, {join: n for join, n in record.live.items() if n}, dict(record.waves), record.stack
    events = len(store.runs.events(run_id, limit=10_000))
    return Held(events, run.status, shown, joins, run.ending in (RunStatus.CANCELLED, RunStatus.TIMED_OUT))


def describe_past(plan: Plan, found: PastRun, held: Held) -> Held:
    shown = {visit.id: describe(plan, found.run.status, visit) for visit in found.visits}
    joins: Any = None
    if held.joins is not None:
        waiting = {join: sorted(branch.id for branch in arrived) for join, arrived in found.arrivals.items()}
        joins = waiting, dict(found.live), dict(found.waves), found.stack
    return Held(held.events, found.run.status, shown, joins, held.is_stopping)


def recorded_run(store: Store, plan: Plan, run_id: str) -> tuple[RecordedHistory, Sequence[Event]]:
    run = store.runs.get("default", run_id)
    assert run is not None
    recorded = RecordedHistory(run, plan, store.runs.visits_with_outputs(run_id))
    return recorded, store.runs.events(run_id, limit=10_000)


def check_replays(store: Store, plan: Plan, run_id: str, history: Sequence[Held]) -> None:
    """Check that the history leads to what the store has held, at each of its moments."""
    recorded, events = recorded_run(store, plan, run_id)
    for held in history:
        found = describe_past(plan, replay(recorded, events[: held.events]), held)
        if held.is_stopping and not held.status.is_final:
            # The stop has no event, so the visits that it parked are shown as before.
            assert ended_visits(found) == ended_visits(held)
            assert found.joins == held.joins
            continue
        assert found == held, [event.type for event in events[: held.events]]


def ended_visits(held: Held) -> dict[str, tuple[Any, ...]]:
    ends = (StepState.SUCCEEDED, StepState.FAILED)
    return {id: visit for id, visit in held.visits.items() if visit[2] in ends}


def random_plan(rng: random.Random) -> Plan:
    """Return the plan of a random playbook, with all modes of joins, cycles, and at times a finally step."""
    while True:
        sketch = random_sketch(rng)
        for step in sketch.values():
            step["reads"] = []
            if rng.random() < 0.2:
                step["join"] = rng.choice(("any", "each"))
        playbook = json.loads(write_playbook(sketch, rng.choice(("abort", "continue"))))
        if rng.random() < 0.3:
            playbook["mode"] = "sequential"
        if rng.random() < 0.2:
            playbook["finally"] = "last"
            playbook["steps"].append({"name": "last", "run": [{"action": "log", "message": "end"}]})
        for step in playbook["steps"]:
            if rng.random() < 0.3:
                step["retry"] = 2
            if step.get("rule") and rng.random() < 0.3:
                step["rule"].insert(0, {"case": "error", "run": step["rule"][-1]["run"]})
        plan = compile_playbook(json.dumps(playbook), catalogue()).plan
        if plan is not None:
            return plan


@dataclass
class RandomRun:
    """A run whose claims, outcomes, pauses, cancels and resumes are drawn. `history` is what a store held."""

    store: Store
    plan: Plan
    rng: random.Random
    claims: list[Claim] = field(default_factory=list)
    history: list[Held] = field(default_factory=list)
    resumes: int = 0
    play: RunHarness = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.play = self.play or RunHarness(self.store, self.plan, {"m": "x"})
        self.id, self.clock = self.play.id, self.play.clock
        self.keep()

    def keep(self) -> None:
        self.history.append(hold(self.store, self.plan, self.id))

    def perform(self) -> None:
        """Perform steps until the run has ended for good, or has been long."""
        for _ in range(MOST_COMMITS):
            self.clock.advance(self.rng.choice((0.5, 1.0, 20.0)))
            if self.play.status.is_final and not self.resume():
                break
            self.act()
            self.keep()

    def act(self) -> None:
        chance, id, now = self.rng.random(), self.id, self.clock()
        if self.play.status is RunStatus.PAUSED and (chance < 0.4 or not self.claims):
            self.store.pauses.unpause(id, now)
        elif chance < 0.04:
            with suppress(RejectedError):
                self.store.pauses.pause(id, now)
        elif chance < 0.06:
            self.store.runs.stop(id, self.rng.choice((RunStatus.CANCELLED, RunStatus.TIMED_OUT)), now)
        elif self.claims and chance < 0.6:
            self.commit(self.claims.pop(self.rng.randrange(len(self.claims))))
        else:
            self.claim()

    def resume(self) -> bool:
        if self.play.status is RunStatus.SUCCEEDED or self.resumes == 2 or self.rng.random() < 0.3:
            return False
        self.resumes += 1
        self.claims.clear()
        self.play.resume()
        self.keep()
        return True

    def claim(self) -> None:
        """Claim a visit. Suspended work goes on at once, because its claim has no event."""
        claimed = self.store.queue.claim(self.play.queue, LEASE, self.clock())
        if claimed is None:
            self.clock.advance(100.0)
        elif claimed.visit.step == END:
            run = self.play.run
            status = final_status(run.ending, run.failed_branches)
            self.store.queue.finish(claimed, RunEnding(status, {"n": 1}, []), self.clock())
        elif claimed.visit.progress is not None:
            self.commit(claimed)
        else:
            self.claims.append(claimed)

    def commit(self, claimed: Claim) -> None:
        commit, now = self.decide(claimed), self.clock()
        if self.plan.steps[commit.visit.step].is_finally_step:
            commit = commit_of_finally_step(commit)
        lease = LEASE if self.rng.random() < 0.5 else None
        following = self.store.queue.commit(commit, now, lease).following
        if following is not None and following.step == END:
            self.store.queue.release(following, now, counts=False)
        elif following is not None:
            self.claims.append(Claim(self.play.run, following))
        elif commit.batch_results:
            self.claim_until(commit.visit.id)

    def claim_until(self, visit_id: str) -> None:
        """Claim visits up to the one that has ended a batch, whose pause has no event."""
        while True:
            claimed = self.store.queue.claim(self.play.queue, LEASE, self.clock())
            assert claimed is not None
            self.claims.append(claimed)
            if claimed.visit.id == visit_id:
                return

    def decide(self, claimed: Claim) -> Commit:
        """Return the commit of a drawn outcome."""
        visit, rng, now = claimed.visit, self.rng, self.clock()
        step, chance = self.plan.steps[visit.step], rng.random()
        run = self.play.run
        if run.ending is RunStatus.CANCELLED and chance < 0.5 and not step.is_finally_step:
            return abandon(visit)
        if chance < 0.2 and visit.progress is None and find_refusal(step, visit) is None:
            journal = {"run.0": {"action": "wait", "memory": None}}
            return suspend(visit, Suspension(Progress(journal=journal), now + 15.0), now)
        if 0.2 < chance < 0.25 and visit.progress is None and run.stop is None and not step.is_finally_step:
            batch = BatchResult("run.0", 0, [])
            return suspend(visit, Suspension(Progress(journal={"run.0": {}}), 0.0, {}, (batch,)), now)
        refused = find_refusal(step, visit)
        is_failure = refused is not None or chance > 0.8
        error = refused or error_record(visit, "Failed", "no", retryable=rng.random() < 0.5)
        saved = {name: f"{visit.step} {visit.number}" for name in step.saves if rng.random() < 0.8}
        outcome = Outcome(False, None, error) if is_failure else Outcome(saved=saved)

        def test(case: Case, _: Outcome) -> bool:
            return rng.random() < 0.5

        choice = choose_case(step, visit, outcome, RuleTests(test, lambda _: True), now)
        return build_commit(self.plan.steps.__getitem__, visit, choice, choice.outcome, now)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_history_leads_to_what_the_store_held(chunk: int, tmp_path: Path) -> None:
    for seed in range(chunk, RUNS, CHUNKS):
        rng = random.Random(seed)
        store: Store = MemoryStore() if seed % 2 else SqliteStore(str(tmp_path / f"{seed}.db"))
        run = RandomRun(store, random_plan(rng), rng)
        run.perform()
        check_replays(store, run.plan, run.id, run.history)
        store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_run_that_continues_another_one_is_replayed(kind: str, tmp_path: Path) -> None:
    continued = 0
    for seed in (*range(200, 230), 578):
        rng = random.Random(seed)
        store: Store = MemoryStore() if kind == "memory" else SqliteStore(str(tmp_path / f"{seed}.db"))
        run = RandomRun(store, random_plan(rng), rng)
        run.perform()
        restarted = restart(run)
        if restarted is not None:
            continued += 1
            later = RandomRun(store, run.plan, rng, play=restarted)
            later.perform()
            check_replays(store, later.plan, later.id, later.history)
        store.close()
    assert continued > 5


def restart(run: RandomRun) -> RunHarness | None:
    """Start a run at a drawn visit of a run that has ended, or return None if that is not possible."""
    visits = run.store.runs.visits_with_outputs(run.id)
    run.clock.advance(1000)
    step = run.rng.choice(visits).step
    if not run.play.status.is_final or run.plan.header.sequential or run.plan.steps[step].is_finally_step:
        return None
    point = RestartPoint(run.play.run, run.plan, visits, step)
    records, state = find_restart_state(point)
    if not may_continue(run.plan, run.plan, state, Switch(), catalogue()).is_yes:
        return None
    continued = begin_from_records(records, run.plan, {}, run.clock())
    created = run.store.runs.create_continued(continued)
    run.clock.advance(1000)
    play = RunHarness(run.store, run.plan, {"m": "x"}, clock=run.clock)
    run.store.runs.stop(play.id, RunStatus.CANCELLED, run.clock())
    play.id, play.queue = created.id, created.queue
    return play


CHILD = """
    name: child
    steps:
    - {name: rest, run: [{action: wait, seconds: 5}, {action: set, set: {n: 1}}]}
"""
EVERYTHING = """
    input: {ok: {type: boolean, default: false}}
    variables: {round: 0}
    on_error: continue
    finally: last
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c, d]}]}
    - name: b
      run: [{action: workflow, playbook: child, as: found}]
      rule: [{case: default, run: [meet]}]
    - name: c
      loop: {items: [1, 2, 3, 4], batch: 2}
      run: [{action: wait, seconds: 1}]
      rule: [{case: default, run: [meet]}]
    - name: d
      run: [{action: fail, if: "{{ not input.ok }}", message: not yet}]
      rule: [{case: default, run: [first, meet]}]
    - {name: first, join: any, run: [{action: set, set: {z: 1}}], rule: [{case: default, run: [meet]}]}
    - name: meet
      max_visits: 3
      run: [{action: set, set: {round: "{{ round + 1 }}"}}]
      rule: [{case: "{{ round < 3 }}", run: [meet]}, {case: error, run: []}]
    - {name: last, run: [{action: wait, seconds: 2}]}
"""


def perform_and_hold(play: RunHarness) -> list[Held]:
    """Execute a run visit by visit, and return what the store held after each."""
    held = [hold(play.store, play.plan, play.id)]
    while not play.status.is_final:
        if not play.execute_next():
            due = play.store.queue.next_due(play.queue)
            assert due is not None
            play.clock.now = max(play.clock.now, due)
        held.append(hold(play.store, play.plan, play.id))
    return held


@pytest.mark.parametrize("kind", ["memory", "sqlite", "dynamodb"])
def test_an_executed_run_is_replayed(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A run has a child run, batches, waits, a cycle, modes of joins, a failure and a resume."""
    store: Store
    if kind == "dynamodb":
        request.getfixturevalue("aws")
        upgrade("noetl")
        store = DynamoStore(DynamoTable("noetl"))
    else:
        store = MemoryStore() if kind == "memory" else SqliteStore(str(tmp_path / "runs.db"))
    register_playbook(store, CHILD)
    play = RunHarness(store, EVERYTHING)
    history = perform_and_hold(play)
    assert play.status == "completed_with_errors"
    play.resume(ok=True)
    history += perform_and_hold(play)
    assert play.status == "succeeded"
    assert len(history) > 25
    check_replays(store, play.plan, play.id, history)
    store.close()


DIAMOND = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: c, run: [{action: set, set: {unread: 3}}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
"""


def replayed(play: RunHarness, *types: str) -> PastRun:
    """Return a run after the first of its events with these types and steps, such as `step.completed b`."""
    recorded, events = recorded_run(play.store, play.plan, play.id)
    last = next(place for place, event in enumerate(events) if f"{event.type} {event.step}" in types)
    return replay(recorded, events[: last + 1])


def steps_of(found: PastRun) -> dict[str, str]:
    return {visit.step: visit.status.value for visit in found.visits}


SKIPPED = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - name: b
      run:
      - {action: file, read: missing.json, format: json, as: page}
      - {action: set, set: {y: "{{ page.rows }}"}}
      rule: [{case: default, run: [d]}]
    - {name: c, run: [{action: wait, seconds: 5}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
"""
CACHED = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
    - name: b
      cache: {key: "{{ x }}", ttl: 1d, skip_effects: true}
      run: [{action: shell, command: "echo 7", as: y}]
      rule: [{case: default, run: [c]}]
    - {name: c, run: [{action: set, set: {z: "{{ y.stdout }}"}}]}
"""


def test_a_run_with_a_skipped_step_is_replayed(store: SqliteStore) -> None:
    play = RunHarness(store, SKIPPED, folder=Path.cwd())
    history = perform_and_hold(play)
    assert play.status == "failed"
    skip_steps(play, b={"rows": 2})
    history += perform_and_hold(play)
    assert (play.status, play.visit("d").status) == ("succeeded", "succeeded")
    check_replays(store, play.plan, play.id, history)


def test_a_run_with_a_cached_result_is_replayed(store: SqliteStore) -> None:
    first = RunHarness(store, CACHED, folder=Path.cwd()).finish()
    assert first.status == "succeeded"
    play = RunHarness(store, CACHED, clock=first.clock, folder=Path.cwd())
    history = perform_and_hold(play)
    assert "action.cached" in play.event_types()
    check_replays(store, play.plan, play.id, history)


class TestSingleRuns:
    def test_a_branch_has_names_that_nothing_reads_later(self, store: SqliteStore) -> None:
        play = RunHarness(store, DIAMOND).finish()
        found = replayed(play, "step.completed c")
        assert steps_of(found) == {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "ready"}
        (at_join,) = found.active
        assert set(at_join.names) == {"x", "y", "unread", "steps.a", "steps.b", "steps.c"}
        assert "unread" not in play.visit("d").names

    def test_branches_wait_at_a_join(self, store: SqliteStore) -> None:
        found = replayed(RunHarness(store, DIAMOND).finish(), "step.completed b")
        (arrived,) = found.arrivals["d"]
        assert (set(arrived.names), found.live) == ({"x", "y", "steps.a", "steps.b"}, {"d": 1})
        assert [visit.step for visit in found.active] == ["c"]

    def test_a_history_without_an_event_leads_to_another_state(self, store: SqliteStore) -> None:
        play = RunHarness(store, DIAMOND)
        history = perform_and_hold(play)
        recorded, events = recorded_run(store, play.plan, play.id)
        damaged = [event for event in events if (event.type, event.step) != ("step.completed", "b")]
        found = replay(recorded, damaged)
        assert describe_past(play.plan, found, history[-1]) != history[-1]

    def test_events_of_processes_side_by_side_may_be_in_another_order(self, store: SqliteStore) -> None:
        play = RunHarness(store, DIAMOND)
        history = perform_and_hold(play)
        recorded, events = recorded_run(store, play.plan, play.id)
        late = [event for event in events if event.step == "c" and event.type != "step.started"]
        start = next(place for place, event in enumerate(events) if event.step == "d")
        earlier = [event for event in events if event not in late]
        at_d = next(place for place, event in enumerate(earlier) if event.step == "d") + 1
        found = replay(recorded, [*earlier[:at_d], *late, *earlier[at_d:]])
        assert start
        assert describe_past(play.plan, found, history[-1]).visits == history[-1].visits

    def test_a_restarted_run_begins_with_the_visits_of_the_earlier_run(self, store: SqliteStore) -> None:
        earlier = RunHarness(store, DIAMOND).finish()
        earlier.clock.advance(10)
        visits = store.runs.visits_with_outputs(earlier.id)
        prefix = prefix_before(earlier.plan.steps["d"], earlier.run, visits, None)
        run, first, copied = restart_from_step(earlier.plan.header, prefix, {}, now=earlier.clock())
        store.runs.create(run, first, history=copied)
        earlier.clock.advance(10)
        later = RunHarness(store, DIAMOND, clock=earlier.clock)
        later.id, later.queue = run.id, run.queue
        history = perform_and_hold(later)
        check_replays(store, later.plan, later.id, history)
        assert steps_of(replayed(later, "workflow.started None"))["d"] == "ready"

    @pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.TIMED_OUT])
    def test_a_stop_is_known_from_the_finally_step(self, store: SqliteStore, status: RunStatus) -> None:
        text = """
            finally: last
            steps:
            - {name: a, run: [{action: wait, seconds: 100}]}
            - {name: last, run: [{action: log, message: end}]}
        """
        play = RunHarness(store, text)
        play.execute_next()
        store.runs.stop(play.id, status, play.clock())
        play.finish()
        found = replayed(play, "step.started last")
        assert (steps_of(found), found.run.stop) == ({"a": "parked", "last": "running"}, status)
        recorded, events = recorded_run(store, play.plan, play.id)
        assert replay(recorded, events).run == replace(play.run, queue=found.run.queue)

    def test_a_failure_stops_a_run_although_its_step_continues(self, store: SqliteStore) -> None:
        play = RunHarness(
            store, "on_error: continue\nsteps:\n- {name: a, run: [{action: log, message: x}]}\n"
        )
        claimed = play.claim()
        assert claimed is not None
        outcome = Outcome(False, None, error_record(claimed.visit, "Odd", "no"))
        store.queue.commit(
            stop_run_at(play.plan.steps["a"], claimed.visit, outcome, play.clock()), play.clock()
        )
        found = replayed(play, "step.failed a")
        assert (found.run.stop, [visit.step for visit in found.active]) == (RunStatus.FAILED, ["a"])

    def test_an_earlier_result_is_not_kept(self, store: SqliteStore) -> None:
        text = """
            input: {ok: {type: boolean, default: false}}
            steps: [{name: a, run: [{action: fail, if: "{{ not input.ok }}", message: no}]}]
            output: {value: 1}
        """
        play = RunHarness(store, text).finish().resume(ok=True).finish()
        found = replayed(play, "workflow.failed None")
        assert found.run.error is not None
        assert (found.run.status, found.run.result, found.run.error["message"]) == ("failed", None, "no")

    def test_a_run_of_an_earlier_version_has_no_past(self, store: SqliteStore) -> None:
        play = RunHarness(store, f"mode: sequential\n{dedent(DIAMOND)}")
        superseded = Plan(replace(play.plan.header, format=1), play.plan.steps, {})
        with pytest.raises(RejectedError, match="its earlier states cannot be shown"):
            replay(RecordedHistory(play.run, superseded, []), [])
