"""A new run that starts at a step of a finished run, with the names that were known there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine.restart import RestartPoint, find_restart_state, recover_names
from noetl.executor.engine.start import correct_input, prefix_before, restart_from_step
from noetl.executor.errors import RejectedError
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.frozen import replace
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.continued_runs import restart
from noetl.testing.store_contract.switches import switch

CHAIN = """
    output: {all: "{{ [a, b, c] }}", seen: "{{ steps.one.result.a }}"}
    steps:
    - {name: one, run: [{action: set, set: {a: "{{ input.start }}"}}], rule: [{case: default, run: [two]}]}
    - {name: two, run: [{action: set, set: {b: "{{ a + 1 }}"}}], rule: [{case: default, run: [three]}]}
    - name: three
      run:
      - {action: fail, message: no, if: "{{ input.bad }}"}
      - {action: set, set: {c: "{{ a + b + steps.two.visits }}"}}
"""


SWITCHED = """
    steps:
    - {name: one, run: [{action: set, set: {a: 1}}], rule: [{case: default, run: [two]}]}
    - {name: two, run: [{action: fail, message: no}], rule: [{case: default, run: [three]}]}
    - {name: three, run: [{action: set, set: {c: "{{ a }}"}}]}
    output: {c: "{{ c | default(0) }}"}
"""


def restart_from(harness: RunHarness, step: str, **given: Any) -> RunHarness:
    """Return a new run that starts at a step of this one."""
    store = harness.store
    visits = store.runs.visits_with_outputs(harness.id)
    plan = store.plans.get(harness.run.plan_hash)
    header = plan.header
    prefix = prefix_before(plan.steps[step], harness.run, visits, header.finally_step)
    if plan.hash != harness.plan.hash:
        prefix = recover_names(prefix, plan, visits)
    run, first, history = restart_from_step(header, prefix, given, now=harness.clock())
    store.runs.create(run, first, history=history)
    again = object.__new__(RunHarness)
    again.store, again.plan, again.clock, again.capabilities = (
        store,
        harness.plan,
        harness.clock,
        harness.capabilities,
    )
    again.id, again.tenant, again.queue = run.id, run.tenant, run.queue
    return again


def test_a_restarted_run_has_the_names_from_before_the_step(store: SqliteStore) -> None:
    harness = RunHarness(store, CHAIN, {"start": 1, "bad": True}).finish()
    again = restart_from(harness, "three", bad=False).finish()
    assert (again.status, again.result) == ("succeeded", {"all": [1, 2, 4], "seen": 1})
    assert (again.run.resumed_from, again.id != harness.id) == (harness.id, True)
    assert again.events[0].payload == {"playbook": "play", "resumed_from": harness.id}
    assert [e.step for e in again.events if e.type == "step.started"] == ["three"]
    assert harness.run.status == "failed"


def test_names_saved_after_the_step_are_dropped(store: SqliteStore) -> None:
    harness = RunHarness(store, CHAIN, {"start": 1, "bad": False}).finish()
    again = restart_from(harness, "two", start=5).finish()
    assert again.result == {"all": [1, 2, 4], "seen": 1}
    assert [visit.step for visit in again.visits] == ["one", "two", "three"]


def test_a_name_that_an_earlier_version_did_not_read_is_kept(store: SqliteStore) -> None:
    """Start at a step that was done in a version which did not read the name any more."""
    harness = RunHarness(store, SWITCHED).finish()
    fixed = SWITCHED.replace("{action: fail, message: no}", "{action: log, message: done}")
    unread = fixed.replace('{action: set, set: {c: "{{ a }}"}}', "{action: fail, message: no}")
    assert switch(harness, unread).run is not None
    harness.finish()
    assert harness.visit("two").names == {}
    assert switch(harness, fixed).run is not None
    assert harness.finish().result == {"c": 1}
    for step in ("two", "three"):
        assert restart_from(harness, step).finish().result == {"c": 1}


def test_an_input_that_the_last_version_does_not_have_is_left_out(store: SqliteStore) -> None:
    """Resume a run, and start from one of its steps, after a version with one more input."""
    more = SWITCHED.replace("steps:", "input: {more: {type: integer, default: 5}}\n    steps:")
    harness = RunHarness(store, SWITCHED).finish()
    for text in (more, SWITCHED):
        assert switch(harness, text).run is not None
        harness.finish()
    assert harness.run.input == {"more": 5}
    header = store.plans.header(harness.run.plan_hash)
    assert correct_input(header, harness.run, {})["input"] == {}
    fixed = SWITCHED.replace("{action: fail, message: no}", "{action: log, message: done}")
    assert switch(harness, fixed).run is not None
    assert harness.finish().result == {"c": 1}
    assert restart_from(harness, "two").finish().result == {"c": 1}


def test_an_unvisited_step_has_the_names_of_all_versions(store: SqliteStore) -> None:
    harness = RunHarness(store, SWITCHED).finish()
    more = SWITCHED.replace("{action: fail, message: no}", "{action: log, message: done}").replace(
        "output:", "- {name: four, run: [{action: set, set: {c: 4}}]}\n    output:"
    )
    more = more.replace("run: [three]", "run: [three]}, {case: '{{ false }}', run: [four]")
    assert switch(harness, more).run is not None
    assert harness.finish().result == {"c": 1}
    assert restart_from(harness, "four").finish().result == {"c": 4}


def test_a_run_can_restart_from_its_first_step(store: SqliteStore) -> None:
    harness = RunHarness(store, CHAIN, {"start": 1, "bad": False}).finish()
    assert restart_from(harness, "one", start=5).finish().result == {"all": [5, 6, 12], "seen": 5}


def test_a_run_can_restart_from_an_unvisited_step(store: SqliteStore) -> None:
    text = """
        steps:
        - {name: one, run: [{action: set, set: {a: 1}}], rule: [{case: "{{ input.x }}", run: [two]}]}
        - {name: two, run: [{action: set, set: {b: "{{ a + 1 }}"}}]}
    """
    harness = RunHarness(store, text, {"x": False}).finish()
    assert restart_from(harness, "two").finish().result == {"a": 1, "b": 2}


def test_a_restarted_run_can_be_resumed(store: SqliteStore, tmp_path: Path) -> None:
    harness = RunHarness(store, CHAIN, {"start": 1, "bad": True}).finish()
    again = restart_from(harness, "three").finish()
    assert again.error_types == ["Failed"]
    assert again.resume(bad=False).finish().result["all"] == [1, 2, 4]


def test_a_restarted_run_counts_visits_from_one(store: SqliteStore) -> None:
    text = """
        variables: {n: 0}
        steps:
        - {name: top, run: [{action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [fork]}]}
        - {name: fork, rule: [{case: default, run: [left, right]}]}
        - {name: left, rule: [{case: default, run: [meet]}]}
        - {name: right, rule: [{case: default, run: [meet]}]}
        - {name: meet, max_visits: 3, rule: [{case: default, run: [top]}, {case: error, run: []}]}
    """
    harness = RunHarness(store, text).finish()
    again = restart_from(harness, "top").finish()
    assert (harness.result, again.result) == ({"n": 4}, {"n": 7})


@pytest.mark.parametrize("step", ["left", "right"])
def test_a_run_cannot_restart_inside_a_region(store: SqliteStore, step: str) -> None:
    text = """
        steps:
        - {name: fork, rule: [{case: default, run: [left, right]}]}
        - {name: left, rule: [{case: default, run: [meet]}]}
        - {name: right, rule: [{case: default, run: [meet]}]}
        - {name: meet, run: [{action: log, message: met}]}
    """
    harness = RunHarness(store, text).finish()
    with pytest.raises(RejectedError, match="`meet`") as found:
        restart_from(harness, step)
    assert found.value.reason == "inside_region"
    assert restart_from(harness, "meet").finish().visit_counts == {
        "fork": 1,
        "left": 1,
        "right": 1,
        "meet": 1,
    }
    assert restart_from(harness, "fork").finish().status == "succeeded"


def test_an_unfinished_run_cannot_restart(store: SqliteStore) -> None:
    with pytest.raises(RejectedError) as found:
        restart_from(RunHarness(store, CHAIN, {"start": 1, "bad": True}), "two")
    assert found.value.reason == "not_ended"


def test_failures_of_ended_branches_are_not_repeated(store: SqliteStore) -> None:
    text = """
        on_error: continue
        steps:
        - {name: one, rule: [{case: default, run: [bad, good]}]}
        - {name: bad, run: [{action: fail, message: no}]}
        - {name: good, run: [{action: set, set: {a: 1}}], rule: [{case: default, run: [end]}]}
        - {name: end, run: [{action: set, set: {b: "{{ a }}"}}]}
    """
    harness = RunHarness(store, text).finish()
    assert harness.status == "completed_with_errors"
    again = restart_from(harness, "end").finish()
    assert (again.status, again.result) == ("succeeded", {"a": 1, "b": 1})


def test_a_run_cannot_restart_from_the_finally_step(store: SqliteStore) -> None:
    text = """
        finally: last
        steps: [{name: a, run: [{action: set, set: {x: {}}}]}, {name: last, run: [{action: log, message: x}]}]
    """
    harness = RunHarness(store, text).finish()
    with pytest.raises(RejectedError, match="is the finally step") as found:
        restart_from(harness, "last")
    assert found.value.reason == "unknown_step"


def test_empty_results_are_kept(store: SqliteStore) -> None:
    text = """
        steps:
        - {name: a, run: [{action: set, set: {}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {x: "{{ steps.a.result }}"}}]}
    """
    harness = RunHarness(store, text).finish()
    assert restart_from(harness, "b").finish().result == harness.result == {"x": {}}


def test_names_of_a_failed_branch_are_unknown_after_a_restart(store: SqliteStore) -> None:
    text = """
        on_error: continue
        steps:
        - {name: one, rule: [{case: default, run: [bad, good]}]}
        - name: bad
          run: [{action: set, set: {x: 1}}, {action: wait, seconds: 1}, {action: fail, message: no}]
        - {name: good, run: [{action: wait, seconds: 5}], rule: [{case: default, run: [end]}]}
        - {name: end, run: [{action: set, set: {b: "{{ x is defined }}"}}]}
    """
    harness = RunHarness(store, text).finish()
    assert restart_from(harness, "end").finish().result == harness.result == {"b": False}


FORK = """
    on_error: {on_error}
    input: {{bad: {{type: boolean, default: true}}}}
    steps:
    - {{name: first, run: [{{action: set, set: {{x: 1}}}}], rule: [{{case: default, run: [fork]}}]}}
    - {{name: fork, rule: [{{case: default, run: [left, right]}}]}}
    - name: left
      run: [{{action: set, set: {{a: "{{{{ x }}}}"}}}}]
      rule: [{{case: default, run: [meet]}}]
    - name: right
      run: [{{action: fail, message: "no", if: "{{{{ input.bad }}}}"}}, {{action: set, set: {{b: 2}}}}]
      rule: [{{case: default, run: [meet]}}]
    - {{name: meet, run: [{{action: set, set: {{all: "{{{{ [a, b | default(0)] }}}}"}}}}]}}
"""


def test_a_run_that_began_at_one_step_restarts_on_one_of_several_branches(store: SqliteStore) -> None:
    harness = RunHarness(store, FORK.format(on_error="abort")).finish()
    again = restart_from(harness, "fork").finish()
    assert again.status == "failed"
    third = restart(again, "right", bad=False).finish()
    assert (third.status, third.result["all"]) == ("succeeded", [1, 2])
    assert third.visit_counts == dict.fromkeys(["first", "fork", "left", "right", "meet"], 1)


def test_a_run_whose_join_fired_again_restarts_on_one_of_several_branches(store: SqliteStore) -> None:
    harness = RunHarness(store, FORK.format(on_error="continue")).finish()
    assert (harness.status, harness.result["all"]) == ("completed_with_errors", [1, 0])
    harness.resume(bad=False).finish()
    assert harness.visit_counts["meet"] == 2
    for step in ("left", "right"):
        again = restart(harness, step).finish()
        assert (again.status, again.result["all"]) == ("succeeded", [1, 2])
        assert again.visit_counts["meet"] == 1


def test_a_run_cannot_restart_on_a_branch_that_it_has_not_visited(store: SqliteStore) -> None:
    text = FORK.format(on_error="abort").replace("run: [left, right]", "run: [right, left]")
    harness = RunHarness(store, text)
    harness.execute_next()
    harness.execute_next()
    harness.execute_next()
    assert harness.finish().status == "failed"
    visits = [visit for visit in store.runs.visits_with_outputs(harness.id) if visit.step != "left"]
    with pytest.raises(RejectedError, match="has not visited step `left`") as refusal:
        find_restart_state(RestartPoint(harness.run, harness.plan, visits, "left"))
    assert refusal.value.reason == "inside_region"


def test_a_run_that_has_lost_a_payload_cannot_restart_on_one_of_several_branches(store: SqliteStore) -> None:
    harness = RunHarness(store, FORK.format(on_error="abort")).finish()
    visits = [
        replace(visit, lost_payload="it was deleted") for visit in store.runs.visits_with_outputs(harness.id)
    ]
    with pytest.raises(RejectedError, match="it was deleted") as refusal:
        find_restart_state(RestartPoint(harness.run, harness.plan, visits, "right"))
    assert refusal.value.reason == "payload_lost"
