"""The contract of runs that continue another run with several branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.replay import RecordedHistory, replay
from noetl.executor.engine.restart import (
    RestartPoint,
    begin_from_records,
    begin_in_plan,
    find_past_state,
    find_restart_state,
)
from noetl.executor.engine.switching import SwitchRequest
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.special_visits import has_given_visit
from noetl.executor.stores.interface import Store
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.fixtures import ContractFixtures

FORK = """
    input: {{bad: {{type: boolean, default: true}}}}
    output: {{left: "{{{{ a }}}}", right: "{{{{ b }}}}", sum: "{{{{ total }}}}"}}
    steps:
    - {{name: fork, rule: [{{case: default, run: [{targets}]}}]}}
    - {{name: a1, run: [{{action: set, set: {{a: 1}}}}], rule: [{{case: default, run: [a2]}}]}}
    - name: a2
      run: [{{action: set, set: {{a: "{{{{ a + 1 }}}}"}}}}]
      rule: [{{case: default, run: [meet]}}]
    - name: b1
      run: [{{action: set, set: {{b: 5}}}}]
      rule: [{{case: default, run: [b2]}}]
    - name: b2
      run:
      - {{action: fail, message: "no", if: "{{{{ input.bad }}}}"}}
      - {{action: set, set: {{b: "{{{{ b + 1 }}}}"}}}}
      rule: [{{case: default, run: [meet]}}]
    {more}
    - name: meet
      run: [{{action: set, set: {{total: "{{{{ a + b }}}}"}}}}]
"""
CYCLE = """
    variables: {n: 0}
    steps:
    - {name: top, run: [{action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [left, right]}]}
    - {name: left, run: [{action: set, set: {x: "{{ n }}"}}], rule: [{case: default, run: [meet]}]}
    - {name: right, run: [{action: set, set: {y: "{{ n }}"}}], rule: [{case: default, run: [meet]}]}
    - name: meet
      max_visits: 5
      rule: [{case: "{{ n < 3 }}", run: [top]}, {case: default, run: [last]}]
    - {name: last, run: [{action: set, set: {all: "{{ [n, x, y] }}"}}]}
"""


def fork(branches: int = 0) -> str:
    """Return a playbook that forks to two chains, and to further branches."""
    names = [f"c{index}" for index in range(branches)]
    steps = "".join(
        f"\n    - {{name: {name}, run: [{{action: set, set: {{{name}: 1}}}}],"
        " rule: [{case: default, run: [meet]}]}"
        for name in names
    )
    return FORK.format(targets=", ".join(["a1", "b1", *names]), more=steps.strip())


def restart(harness: RunHarness, step: str, *, drops_siblings: bool = False, **given: Any) -> RunHarness:
    """Return a new run that starts at a step of an ended run, with the branches next to it."""
    visits = harness.store.runs.visits_with_outputs(harness.id)
    point = RestartPoint(harness.run, harness.plan, visits, step, drops_siblings)
    records, state = find_restart_state(point)
    verdict = may_continue(harness.plan, harness.plan, state, Switch(), catalogue())
    assert verdict.is_yes, verdict
    return begin(harness, records, given)


def restart_at(harness: RunHarness, length: int, **given: Any) -> RunHarness:
    """Return a new run that starts after the first events of an ended run."""
    recorded = RecordedHistory(harness.run, harness.plan, harness.store.runs.visits_with_outputs(harness.id))
    state = replay(recorded, harness.events[:length])
    return begin(harness, find_past_state(recorded, state), given)


def begin(harness: RunHarness, records: RunRecords, given: Mapping[str, Any]) -> RunHarness:
    """Return a new run that starts at a state of another one."""
    continued = begin_from_records(records, harness.plan, given, harness.clock())
    return hold(harness, harness.store.runs.create_continued(continued), harness.plan)


def restart_in(harness: RunHarness, point: RestartPoint, plan: Plan, switch: Switch) -> RunHarness | None:
    """Return a new run in another plan that starts at a step of an ended run, or None if it may not."""
    records, state = find_restart_state(point)
    if not may_continue(harness.plan, plan, state, switch, catalogue()).is_yes:
        return None
    harness.store.plans.save(plan)
    request = SwitchRequest(plan, switch, version="2", source="corrected.yaml")
    continued = begin_in_plan(records, harness.plan, request, harness.clock())
    return hold(harness, harness.store.runs.create_continued(continued), plan)


def correct_and_restart(
    harness: RunHarness, step: str, text: str, switch: Switch | None = None
) -> RunHarness | None:
    """Return a new run of a corrected text that starts at a step of an ended run, or None if it may not."""
    visits = harness.store.runs.visits_with_outputs(harness.id)
    point = RestartPoint(harness.run, harness.plan, visits, step)
    return restart_in(harness, point, compile_text(text), switch or Switch())


def hold(harness: RunHarness, run: Run, plan: Plan) -> RunHarness:
    """Return the harness of another run in the store of this one."""
    again: RunHarness = object.__new__(RunHarness)
    vars(again).update(vars(harness))
    again.id, again.queue, again.plan = run.id, run.queue, plan
    return again


class ContinuedRunsContract(ContractFixtures):
    """The contract of runs that continue another run with several branches."""

    def test_a_failed_branch_is_done_again_next_to_one_that_has_arrived(self, store: Store) -> None:
        harness = RunHarness(store, fork()).finish()
        assert harness.status == "failed"
        again = restart(harness, "b2", bad=False)
        store.maintenance.delete_run(harness.tenant, harness.id)
        again.finish()
        assert (again.status, again.result) == ("succeeded", {"left": 2, "right": 6, "sum": 8})
        started = [event.step for event in again.events if event.type == "step.started"]
        assert started.count("b2") == 1
        assert not {"b1", "fork"} & set(started)
        assert again.visit_counts == dict.fromkeys(["fork", "a1", "a2", "b1", "b2", "meet"], 1)
        assert store.maintenance.check_consistency() == []

    @pytest.mark.parametrize("step", ["a1", "a2", "b1", "b2", "meet", "fork"])
    def test_a_branch_is_done_again_after_the_join(self, store: Store, step: str) -> None:
        harness = RunHarness(store, fork(), {"bad": False}).finish()
        again = restart(harness, step)
        assert again.run.resumed_from == harness.id
        assert store.maintenance.check_consistency() == []
        again.finish()
        assert (again.status, again.result) == ("succeeded", harness.result)
        assert again.visit_counts == harness.visit_counts

    def test_more_than_a_hundred_branches(self, store: Store) -> None:
        harness = RunHarness(store, fork(130), {"bad": False}).finish()
        again = restart(harness, "a2")
        run = again.run
        assert (run.live, len(again.visits)) == (132, len(harness.visits) - 1)
        again.finish()
        assert (again.status, again.result) == ("succeeded", harness.result)

    @pytest.mark.parametrize("step", ["left", "right", "top", "meet"])
    def test_a_branch_within_a_cycle(self, store: Store, step: str) -> None:
        harness = RunHarness(store, CYCLE).finish()
        again = restart(harness, step).finish()
        assert again.result["all"] == [3, 3, 3]
        assert again.visit_counts == harness.visit_counts
        assert [visit.number for visit in again.visits if visit.step == step] == [1, 2, 3]

    def test_siblings_can_be_dropped(self, store: Store) -> None:
        text = """
            on_error: continue
            steps:
            - {name: fork, rule: [{case: default, run: [a, b]}]}
            - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [meet]}]}
            - {name: b, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [meet]}]}
            - {name: meet, run: [{action: set, set: {z: "{{ y | default(0) }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        again = restart(harness, "a", drops_siblings=True)
        assert again.run.live == 1
        again.finish()
        assert (again.status, again.result) == ("succeeded", {"x": 1, "y": 1, "z": 0})
        # A run that was continued can be continued once more.
        third = restart(again, "a").finish()
        assert (third.status, third.visit_counts) == ("succeeded", again.visit_counts)

    def test_a_continued_run_can_be_continued(self, store: Store) -> None:
        harness = RunHarness(store, fork()).finish()
        again = restart(harness, "b2").finish()
        assert again.status == "failed"
        third = restart(again, "b1", bad=False).finish()
        assert (third.status, third.result) == ("succeeded", {"left": 2, "right": 6, "sum": 8})

    def test_a_continued_run_can_be_resumed(self, store: Store) -> None:
        again = restart(RunHarness(store, fork()).finish(), "b1").finish()
        assert again.status == "failed"
        again.resume(bad=False).finish()
        assert again.result == {"left": 2, "right": 6, "sum": 8}

    @pytest.mark.parametrize(
        "moment",
        ["step.started a1", "step.completed a2", "step.failed b2", "step.started b2", "step.completed fork"],
    )
    def test_a_run_starts_at_an_event_of_another_one(self, store: Store, moment: str) -> None:
        harness = RunHarness(store, fork()).finish()
        places = [f"{event.type} {event.step}" for event in harness.events]
        again = restart_at(harness, places.index(moment) + 1, bad=False)
        ended = [place.split() for place in places[: places.index(moment) + 1]]
        done = {step for type, step in ended if type == "step.completed"}
        assert again.run.resumed_from == harness.id
        assert store.maintenance.check_consistency() == []
        store.maintenance.delete_run(harness.tenant, harness.id)
        again.finish()
        assert (again.status, again.result) == ("succeeded", {"left": 2, "right": 6, "sum": 8})
        assert again.visit_counts == dict.fromkeys(["fork", "a1", "a2", "b1", "b2", "meet"], 1)
        started = {event.step for event in again.events if event.type == "step.started"}
        assert started == {"fork", "a1", "a2", "b1", "b2", "meet"} - done

    def test_a_run_starts_at_an_event_within_a_cycle(self, store: Store) -> None:
        harness = RunHarness(store, CYCLE).finish()
        places = [f"{event.type} {event.step} {event.visit}" for event in harness.events]
        for moment in ("step.completed left 2", "step.started meet 2", "step.started right 3"):
            again = restart_at(harness, places.index(moment) + 1).finish()
            assert again.result == harness.result
            assert again.visit_counts == harness.visit_counts

    def test_a_branch_is_done_again_in_another_plan(self, store: Store) -> None:
        harness = RunHarness(store, fork()).finish()
        text = fork().replace('- {action: fail, message: "no", if: "{{ input.bad }}"}', "", 1)
        again = correct_and_restart(harness, "b2", text.replace("a + b }}", "10 * (a + b) }}"))
        assert again is not None
        assert (again.run.resumed_from, again.run.plan_hash) == (harness.id, again.plan.hash)
        assert (again.run.version, again.run.source) == ("2", "corrected.yaml")
        assert store.maintenance.check_consistency() == []
        store.maintenance.delete_run(harness.tenant, harness.id)
        again.finish()
        assert (again.status, again.result) == ("succeeded", {"left": 2, "right": 6, "sum": 80})
        assert {event.step for event in again.events if event.type == "step.started"} == {"b2", "meet"}
        assert has_given_visit(store.runs.visits_with_outputs(again.id))
        assert store.maintenance.check_consistency() == []

    def test_another_plan_has_other_names_and_reads_given_values(self, store: Store) -> None:
        harness = RunHarness(store, fork()).finish()
        text = fork().replace('- {action: fail, message: "no", if: "{{ input.bad }}"}', "", 1)
        text = text.replace("b2", "again").replace("b1", "before")
        text = text.replace("name: fork", "name: split, run: [{action: set, set: {c: 1}}]")
        text = text.replace("a + b }}", "a + b + c }}")
        renamed = {"b2": "again", "b1": "before", "fork": "split"}
        assert correct_and_restart(harness, "b2", text, Switch(renamed)) is None
        again = correct_and_restart(harness, "b2", text, Switch(renamed, {"c": 100, "bad": False}))
        assert again is not None
        again.finish()
        assert (again.status, again.result) == ("succeeded", {"left": 2, "right": 6, "sum": 108})
        assert again.visit_counts == dict.fromkeys(["split", "a1", "a2", "before", "again", "meet"], 1)
        assert again.run.input == {"bad": False}
        assert store.maintenance.check_consistency() == []

    def test_steps_that_another_plan_lacks_are_kept_in_the_history(self, store: Store) -> None:
        harness = RunHarness(store, fork(), {"bad": False}).finish()
        text = "\n".join(line for line in fork().splitlines() if "name: a1," not in line)
        again = correct_and_restart(
            harness, "meet", text.replace("[a1, b1]", "[a2, b1]").replace("a + 1", "2")
        )
        assert again is not None
        assert again.finish().result == harness.result
        assert again.visit_counts == dict.fromkeys(["fork", "a1", "a2", "b1", "b2", "meet"], 1)
        assert store.maintenance.check_consistency() == []

    def test_a_join_of_another_plan_fires_when_the_run_starts(self, store: Store) -> None:
        harness = RunHarness(store, fork(), {"bad": False}).finish()
        again = correct_and_restart(harness, "meet", fork().replace("a + b }}", "a - b }}"))
        assert again is not None
        assert [visit.step for visit in again.visits if visit.finished_at is None] == ["meet"]
        assert again.finish().result == {"left": 2, "right": 6, "sum": -4}
        resumable = correct_and_restart(
            RunHarness(store, fork()).finish(), "b1", fork().replace('"no"', '"wrong"')
        )
        assert resumable is not None
        assert resumable.finish().status == "failed"
        assert resumable.resume(bad=False).finish().result["sum"] == 8

    def test_a_request_with_a_key_starts_one_run(self, store: Store) -> None:
        harness = RunHarness(store, fork(), {"bad": False}).finish()
        point = RestartPoint(harness.run, harness.plan, store.runs.visits_with_outputs(harness.id), "a1")
        records, _ = find_restart_state(point)
        first, second = (begin_from_records(records, harness.plan, {}, 5.0) for _ in range(2))
        created = store.runs.create_continued(first, ("key", "hash"))
        assert store.runs.create_continued(second, ("key", "hash")).id == created.id == first.run.id
        assert store.runs.get("default", second.run.id) is None
        with pytest.raises(RejectedError) as refusal:
            store.runs.create_continued(
                replace(second, run=replace(second.run, id="other")), ("key", "another hash")
            )
        assert refusal.value.reason == "idempotency_key_reused"
        assert store.runs.get("default", "other") is None

    def test_a_sequential_run_is_refused(self, store: Store) -> None:
        harness = RunHarness(store, "    mode: sequential\n" + CYCLE.removeprefix("\n")).finish()
        with pytest.raises(RejectedError, match="one at a time") as refusal:
            restart(harness, "left")
        assert refusal.value.reason == "inside_region"
