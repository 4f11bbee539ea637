"""Runs that start at an event of another run: random runs from each of their events, and single runs."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.replay import RecordedHistory, replay
from noetl.executor.engine.restart import begin_from_records, find_past_state
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.compile import compile_playbook
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness
from tests.executor.test_replay import check_replays, perform_and_hold, random_plan

RUNS = 50
CHUNKS = 5


def restart_at(play: RunHarness, length: int) -> RunHarness:
    """Return a new run that starts after the first events of a run that has ended."""
    recorded = RecordedHistory(play.run, play.plan, play.store.runs.visits_with_outputs(play.id))
    records = find_past_state(recorded, replay(recorded, play.events[:length]))
    created = play.store.runs.create_continued(begin_from_records(records, play.plan, {}, play.clock()))
    again: RunHarness = object.__new__(RunHarness)
    vars(again).update(vars(play))
    again.id, again.queue = created.id, created.queue
    return again


def failing_plan(rng: random.Random) -> Plan:
    """Return the plan of a random playbook, in which some steps may fail."""
    while True:
        playbook = json.loads(random_plan(rng).source)
        if rng.random() < 0.4:
            for step in rng.sample(playbook["steps"], 2):
                step["run"].append({"action": "fail", "message": "no"})
        plan = compile_playbook(json.dumps(playbook), catalogue()).plan
        if plan is not None:
            return plan


def read_result(play: RunHarness) -> Any:
    """Return the result of a run without the ids of runs in it."""
    return re.sub("[0-9a-f]{24}", "", json.dumps(play.result, sort_keys=True))


def check_restart(play: RunHarness, length: int, *, is_replayed: bool) -> str:
    """Check that a run from an event ends as the run itself, and return how the start went."""
    play.clock.advance(100)
    try:
        again = restart_at(play, length)
    except RejectedError as refusal:
        return refusal.reason
    play.clock.advance(100)
    if is_replayed:
        check_replays(again.store, again.plan, again.id, perform_and_hold(again))
    again.finish()
    assert read_result(again) == read_result(play)
    assert again.visit_counts == play.visit_counts
    if again.status is not play.status:  # A branch that had failed before stays ended.
        assert (again.status, play.status) == (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS)
    assert play.store.maintenance.check_consistency() == []
    return "started"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_run_from_any_event_ends_as_the_run_itself(chunk: int, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(chunk, RUNS, CHUNKS):
        rng = random.Random(seed)
        store: Store = MemoryStore() if seed % 3 else SqliteStore(str(tmp_path / f"{seed}.db"))
        play = RunHarness(store, failing_plan(rng), {"m": rng.choice("ab")}).finish()
        length = len(play.events)
        replayed = rng.randrange(length)
        counts.update(
            check_restart(play, place, is_replayed=place == replayed) for place in range(1, length + 1)
        )
        store.close()
    assert counts["started"] > sum(counts.values()) / 2
    assert set(counts) <= {"started", "nothing_left", "inside_region"}


DIAMOND = """
    input: {ok: {type: boolean, default: false}}
    on_error: continue
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - name: b
      run: [{action: fail, if: "{{ not input.ok }}", message: no}]
      rule: [{case: default, run: [d]}]
    - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
"""


def place_of(play: RunHarness, moment: str) -> int:
    """Return how many events there are up to the first one with this type and step."""
    return [f"{event.type} {event.step}" for event in play.events].index(moment) + 1


class TestStartsAtEvents:
    def test_an_earlier_attempt_is_left_before_a_resume(self) -> None:
        play = RunHarness(MemoryStore(), DIAMOND).finish()
        assert play.status == "completed_with_errors"
        play.clock.advance(10)
        play.resume(ok=True).finish()
        assert play.status == "succeeded"
        play.clock.advance(10)
        before = restart_at(play, place_of(play, "step.failed b")).finish()
        assert before.visit("b").has_ended_branch is False
        assert before.status == "succeeded"
        later = restart_at(play, place_of(play, "workflow.resumed None")).finish()
        assert later.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 2}

    def test_a_cancelled_run_goes_on_where_its_branches_stood(self) -> None:
        text = "steps: [{name: a, run: [{action: wait, seconds: 60}, {action: set, set: {x: 1}}]}]"
        play = RunHarness(MemoryStore(), text)
        play.execute_next()
        play.store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        play.finish()
        for length in range(1, len(play.events) + 1):
            again = restart_at(play, length).finish()
            assert (again.status, again.result) == ("succeeded", {"x": 1})

    def test_a_step_that_began_before_the_end_of_its_cause_is_not_begun_twice(self) -> None:
        play = RunHarness(MemoryStore(), DIAMOND, {"ok": True}).finish()
        recorded = RecordedHistory(play.run, play.plan, play.store.runs.visits_with_outputs(play.id))
        late = [event for event in play.events if event.step == "a" and event.type == "step.completed"]
        until = place_of(play, "step.started b")
        state = replay(recorded, [event for event in play.events[:until] if event not in late])
        with pytest.raises(
            RejectedError, match="step `b` was recorded before the end of step `a`"
        ) as refusal:
            find_past_state(recorded, state)
        assert refusal.value.reason == "no_past"

    def test_values_that_are_lost_are_named(self) -> None:
        play = RunHarness(MemoryStore(), DIAMOND, {"ok": True}).finish()
        visits = [
            replace(visit, lost_payload="object 1") if visit.step == "a" else visit
            for visit in play.store.runs.visits_with_outputs(play.id)
        ]
        recorded = RecordedHistory(play.run, play.plan, visits)
        state = replay(recorded, play.events[: place_of(play, "step.started b")])
        with pytest.raises(RejectedError, match="object 1") as refusal:
            find_past_state(recorded, state)
        assert refusal.value.reason == "payload_lost"
