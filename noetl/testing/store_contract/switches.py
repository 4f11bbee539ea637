"""The contract of switches: a run continues in another plan, whole, or stays as it is."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.switching import PlanSwitcher, SwitchOutcome, SwitchRequest
from noetl.executor.errors import RejectedError
from noetl.executor.model.plan_switch import UNDONE_STEP, carry
from noetl.executor.model.run import NEVER, RunStatus, VisitStatus
from noetl.executor.model.run_switch import SwitchTarget, switch_run
from noetl.executor.model.special_visits import SWITCH_STEP
from noetl.executor.stores.interface import Store
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import failed_checks, run_contents

WRONG = """
    input: {m: string}
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: c, run: [{action: shell, command: ["false"]}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
    output: {sum: "{{ sum }}"}
"""
RIGHT = WRONG.replace('["false"]', '["true"]')
WAITING = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: wait, seconds: 60}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: set, set: {y: "{{ x }}"}}]}
    output: {y: "{{ y }}"}
"""
OUTPUT = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
    output: {sum: "{{ sum.no }}"}
"""
SLOW = """
    steps:
    - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
    - name: c
      run: [{action: wait, seconds: 60}, {action: set, set: {z: 3}}]
      rule: [{case: default, run: [d]}]
    - {name: d, run: [{action: set, set: {sum: "{{ x + y + z }}"}}]}
    output: {sum: "{{ sum }}"}
"""
QUESTION = """
    steps:
    - {name: ask, run: [{action: callback, as: said}], rule: [{case: default, run: [use]}]}
    - {name: use, run: [{action: set, set: {y: "{{ 1 }}"}}]}
"""
CORRECTED = WAITING.replace("{{ x }}", "{{ x + 41 }}")


def judge(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
    """Return the verdict on a switch."""
    return may_continue(old, new, state, switch, catalogue())


def switch(harness: RunHarness, text: str, **options: Any) -> SwitchOutcome:
    """Let a run continue in another playbook, and return what has become of it."""
    plan = compile_text(text)
    harness.store.plans.save(plan)
    skips = options.pop("skips", {})
    request = SwitchRequest(plan, Switch(**options), caller="ann", skips=skips)
    return PlanSwitcher(harness.store, harness.clock, judge).switch(harness.id, request)


def execute_until_it_waits(harness: RunHarness) -> None:
    """Execute all visits that are due."""
    while harness.execute_next():
        pass


def undo(harness: RunHarness) -> None:
    """Let a run be as it was before its last switch."""
    PlanSwitcher(harness.store, harness.clock, judge).undo(harness.id, "ann")


def held_state(harness: RunHarness) -> Any:
    """Return what a store holds of a run, without what a switch and its undoing leave grown."""
    records = harness.store.switches.read(harness.id, harness.clock())
    visits = [
        replace(visit, clock=0, fence=0) if records.is_live(visit) else visit
        for visit in records.visits
        if visit.step not in (SWITCH_STEP, UNDONE_STEP)
    ]
    arrivals = {
        join: sorted((branch.id, sorted(branch.names.items())) for branch in arrived)
        for join, arrived in records.arrivals.items()
    }
    return records.run, sorted(visits, key=lambda visit: visit.id), arrivals, records.waves


def build_wide(width: int) -> str:
    """Return a playbook with a fork of `width` branches, of which the last one fails, and their join."""
    names = [f"b{number}" for number in range(width)]
    commands = [*["{action: log, message: done}"] * (width - 1), '{action: shell, command: ["false"]}']
    lines = ["steps:", f"- {{name: a, rule: [{{case: default, run: [{', '.join(names)}]}}]}}"]
    lines += [
        f"- {{name: {name}, run: [{command}], rule: [{{case: default, run: [c]}}]}}"
        for name, command in zip(names, commands, strict=True)
    ]
    return "\n".join([*lines, "- {name: c, run: [{action: log, message: met}]}"])


class SwitchesContract(ContractFixtures):
    """Tests of switches to other plans."""

    @pytest.mark.parametrize(("width", "executed"), [(150, 1), (150, 60), (400, 1)])
    def test_wide_run_continues(self, store: Store, width: int, executed: int) -> None:
        text = build_wide(width)
        harness = RunHarness(store, text)
        for _ in range(executed):
            assert harness.execute_next()
        new = compile_text(text.replace("message: met", "message: corrected"))
        assert switch(harness, text.replace("message: met", "message: corrected")).run is not None
        records = store.switches.read(harness.id, harness.clock())
        live = [visit for visit in records.visits if records.is_live(visit)]
        assert (records.run.plan_hash, records.run.live) == (new.hash, width)
        assert len(live) == width - (executed - 1)
        assert {len(arrived) for arrived in records.arrivals.values()} == ({executed - 1} - {0})
        assert {visit.fence for visit in live} == {1}
        assert failed_checks(store) == []
        for _ in range(3):
            assert harness.execute_next()
        assert sum(visit.finished_at is not None for visit in harness.visits) == executed + 3

    def test_failed_run_continues_with_a_join_under_way(self, store: Store) -> None:
        harness = RunHarness(store, WRONG, {"m": "a"}).finish()
        assert harness.status is RunStatus.FAILED
        outcome = switch(harness, RIGHT)
        assert outcome.run is not None
        assert outcome.run.plan_hash == compile_text(RIGHT).hash
        harness.finish()
        assert (harness.status, harness.result) == (RunStatus.SUCCEEDED, {"sum": 3})
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}
        types = [event.type for event in harness.events if event.type.startswith("workflow")]
        assert types == [
            "workflow.started",
            "workflow.failed",
            "workflow.migrated",
            "workflow.resumed",
            "workflow.completed",
        ]
        assert failed_checks(store) == []

    def test_failed_step_is_skipped_in_the_new_plan(self, store: Store) -> None:
        harness = RunHarness(store, WRONG, {"m": "a"}).finish()
        read = "{action: file, read: missing.json, format: json, as: page}"
        read = f"{read}, {{action: set, set: {{x: '{{{{ page.n }}}}'}}}}"
        corrected = WRONG.replace('{action: shell, command: ["false"]}', read)
        before = run_contents(store, harness.run)
        with pytest.raises(RejectedError, match=r"has no `page.n`, which `set` reads"):
            switch(harness, corrected, skips={"c": [1]})
        with pytest.raises(RejectedError, match="has neither failed nor stopped"):
            switch(harness, corrected, skips={"b": 1})
        assert run_contents(store, harness.run) == before
        assert switch(harness, corrected, skips={"c": {"n": 40}}).run is not None
        harness.finish()
        assert (harness.status, harness.result) == (RunStatus.SUCCEEDED, {"sum": 42})
        (skipped,) = (event for event in harness.events if event.type == "step.skipped")
        assert (skipped.step, skipped.payload) == ("c", {"by": "ann"})
        assert failed_checks(store) == []

    def test_waiting_run_goes_on_waiting(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        execute_until_it_waits(harness)
        due_at = harness.visit("b").due_at
        outcome = switch(harness, CORRECTED)
        assert outcome.run is not None
        assert outcome.run.status is RunStatus.RUNNING
        waiting = harness.visit("b")
        assert (waiting.status, waiting.due_at) == (VisitStatus.WAITING, due_at)
        assert failed_checks(store) == []
        assert harness.finish().result == {"y": 42}
        (event,) = [event for event in harness.events if event.type == "workflow.migrated"]
        assert (event.payload["by"], event.payload["from"]) == ("ann", harness.plan.hash)

    def test_paused_run_stays_paused(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        harness.execute_next()
        store.pauses.pause(harness.id, harness.clock())
        outcome = switch(harness, CORRECTED)
        assert outcome.run is not None
        assert harness.run.status is RunStatus.PAUSED
        assert harness.claim() is None
        store.pauses.unpause(harness.id, harness.clock())
        assert harness.finish().result == {"y": 42}

    def test_run_with_a_claimed_visit_is_refused(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        assert harness.claim() is not None
        before = run_contents(store, harness.run)
        outcome = switch(harness, CORRECTED)
        assert [reason.code for reason in outcome.verdict.reasons] == ["NC101"]
        assert outcome.run is None
        assert run_contents(store, harness.run) == before

    def test_commit_of_a_lost_claim_is_refused_after_the_switch(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        claim = harness.claim()
        assert claim is not None
        harness.clock.advance(3600)
        assert switch(harness, CORRECTED).run is not None
        assert harness.executor().execute(claim) is None
        assert harness.visit_counts == {"a": 1}
        assert harness.finish().result == {"y": 42}

    def test_run_that_has_changed_since_the_verdict_is_not_written(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        new = compile_text(CORRECTED)
        store.plans.save(new)
        judged = store.switches.read(harness.id, harness.clock())
        carried = carry(harness.plan, new, judged, Switch(), harness.clock())
        switched = switch_run(judged, carried, SwitchTarget(new.hash), harness.clock())
        harness.execute_next()
        before = run_contents(store, harness.run)
        assert store.switches.write(judged, switched) is None
        assert run_contents(store, harness.run) == before

    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_output_is_evaluated_again(self, store: Store, mode: str) -> None:
        text = f"mode: {mode}\n{dedent(OUTPUT)}"
        harness = RunHarness(store, text).finish()
        assert harness.status is RunStatus.COMPLETED_WITH_ERRORS
        outcome = switch(harness, text.replace("{{ sum.no }}", "{{ summ }}"))
        assert [required.name for required in outcome.verdict.required] == ["summ"]
        assert harness.status is RunStatus.COMPLETED_WITH_ERRORS
        assert switch(harness, text.replace("{{ sum.no }}", "{{ sum + 1 }}")).run is not None
        harness.finish()
        assert (harness.status, harness.result) == (RunStatus.SUCCEEDED, {"sum": 4})
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}
        assert failed_checks(store) == []

    def test_output_reads_given_values(self, store: Store) -> None:
        ended = RunHarness(store, OUTPUT).finish()
        open_ = RunHarness(store, WAITING)
        execute_until_it_waits(open_)
        corrected = WAITING.replace("{{ y }}", "{{ more }}")
        assert switch(open_, corrected, given={"more": 5}).run is not None
        assert open_.finish().result == {"y": 5}
        corrected = OUTPUT.replace("{{ sum.no }}", "{{ sum + more }}")
        assert [required.name for required in switch(ended, corrected).verdict.required] == ["more"]
        refused = switch(ended, corrected, given={"more": 5, "sum": 6})
        assert [reason.code for reason in refused.verdict.reasons] == ["NC118"]
        assert switch(ended, corrected, given={"more": 5}).run is not None
        assert ended.finish().result == {"sum": 8}

    def test_finally_is_done_again(self, store: Store) -> None:
        text = f"finally: last\n{dedent(OUTPUT)}".replace("{{ sum.no }}", "{{ sum }}")
        text = text.replace("output:", "- {name: last, run: [{action: fail, message: no}]}\noutput:")
        harness = RunHarness(store, text).finish()
        assert harness.status is RunStatus.FAILED
        outcome = switch(harness, text.replace("{action: fail, message: no}", "{action: log, message: bye}"))
        assert [notice.code for notice in outcome.verdict.notices] == ["NC151"]
        harness.finish()
        assert (harness.status, harness.result) == (RunStatus.SUCCEEDED, {"sum": 3})
        assert failed_checks(store) == []

    def test_cancelled_run_without_a_branch_is_refused(self, store: Store) -> None:
        harness = RunHarness(store, OUTPUT)
        for _ in range(4):
            harness.execute_next()
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        outcome = switch(harness, OUTPUT.replace("{{ sum.no }}", "{{ sum }}"))
        assert [reason.code for reason in outcome.verdict.reasons] == ["NC111"]

    def test_given_values_are_read(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        execute_until_it_waits(harness)
        text = CORRECTED.replace(
            "{name: a, run: [{action: set, set: {x: 1}}]", "{name: a, run: [{action: set, set: {x: 1, k: 1}}]"
        )
        text = text.replace("{{ x + 41 }}", "{{ x + k }}")
        refused = switch(harness, text)
        assert [required.name for required in refused.verdict.required] == ["k"]
        assert switch(harness, text, given={"k": 6}).run is not None
        assert harness.finish().result == {"y": 7}
        without_output = 'output: {y: "{{ y }}"}'
        harness = RunHarness(store, WAITING.replace(without_output, ""))
        execute_until_it_waits(harness)
        assert switch(harness, text.replace(without_output, ""), given={"k": 6}).run is not None
        assert harness.finish().result == {"k": 6, "x": 1, "y": 7}

    def test_records_say_that_a_run_had_another_plan(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        execute_until_it_waits(harness)
        assert not store.switches.read(harness.id, 1.0).had_other_plans
        assert switch(harness, CORRECTED).run is not None
        assert store.switches.read(harness.id, 1.0).had_other_plans

    def test_renamed_step_keeps_its_visit(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        execute_until_it_waits(harness)
        visit = harness.visit("b")
        text = CORRECTED.replace("name: b", "name: pause").replace("run: [b]", "run: [pause]")
        assert switch(harness, text).run is None
        assert switch(harness, text, renamed={"b": "pause"}).run is not None
        assert (harness.visit("pause").id, harness.visit("pause").due_at) == (visit.id, visit.due_at)
        assert visit.due_at < NEVER
        assert harness.finish().result == {"y": 42}
        assert failed_checks(store) == []

    @pytest.mark.parametrize(
        ("edits", "options"),
        [
            ([("x + 41", "x + 1")], {}),
            ([("name: b", "name: pause"), ("run: [b]", "run: [pause]")], {"renamed": {"b": "pause"}}),
            ([("x + 41", "k + 41")], {"given": {"k": 6}}),
            ([("x + 41", "v + 41"), ("steps:", "variables: {v: 1}\n    timeout: 1h\n    steps:")], {}),
            ([("steps:", "input: {i: integer}\n    steps:"), ("x + 41", "i + 41")], {"given": {"i": 6}}),
            ([("steps:", "mode: sequential\n    steps:")], {}),
        ],
        ids=["reads", "renamed", "given", "added", "input", "mode"],
    )
    def test_a_switch_is_undone(self, store: Store, edits: Any, options: dict[str, Any]) -> None:
        text = CORRECTED
        for old, new in edits:
            text = text.replace(old, new, 1)
        if "k + 41" in text:
            text = text.replace("set: {x: 1}", "set: {x: 1, k: 1}")
        harness = RunHarness(store, WAITING, source="play.yaml")
        execute_until_it_waits(harness)
        before = held_state(harness)
        assert switch(harness, text, **options).run is not None
        assert held_state(harness) != before
        PlanSwitcher(store, harness.clock, judge).undo(harness.id, is_dry_run=True)
        assert held_state(harness) != before
        undo(harness)
        assert held_state(harness) == before
        first, second = (event for event in harness.events if event.type == "workflow.migrated")
        assert (second.payload["undoes"], second.payload["by"]) == (first.id, "ann")
        with pytest.raises(RejectedError, match="no switch to another version") as refusal:
            undo(harness)
        assert refusal.value.reason == "not_switched"
        assert harness.finish().result == {"y": 1}
        assert failed_checks(store) == []

    def test_a_value_that_was_given_is_not_in_the_result_after_the_undoing(self, store: Store) -> None:
        text = WAITING.replace('output: {y: "{{ y }}"}', "")
        new = text.replace("set: {x: 1}", "set: {x: 1, k: 1}").replace("{{ x }}", "{{ x + k }}")
        harness = RunHarness(store, text)
        execute_until_it_waits(harness)
        for value in (6, 7):
            assert switch(harness, new, given={"k": value}).run is not None
            undo(harness)
        assert harness.finish().result == {"x": 1, "y": 1}
        again = RunHarness(store, text)
        execute_until_it_waits(again)
        assert switch(again, new, given={"k": 6}).run is not None
        undo(again)
        assert switch(again, new, given={"k": 7}).run is not None
        assert again.finish().result["y"] == 8
        assert failed_checks(store) == []

    def test_branches_that_wait_at_a_join_are_restored(self, store: Store) -> None:
        harness = RunHarness(store, SLOW)
        execute_until_it_waits(harness)
        before = held_state(harness)
        unread = SLOW.replace("x + y + z", "y + z")
        assert switch(harness, unread).run is not None
        undo(harness)
        assert held_state(harness) == before
        assert harness.finish().result == {"sum": 6}
        assert failed_checks(store) == []

    def test_a_paused_run_is_paused_after_the_undoing(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        execute_until_it_waits(harness)
        store.pauses.pause(harness.id, harness.clock())
        before = held_state(harness)
        assert switch(harness, CORRECTED).run is not None
        undo(harness)
        assert held_state(harness) == before
        assert switch(harness, CORRECTED).run is not None
        store.pauses.unpause(harness.id, harness.clock())
        undo(harness)
        assert harness.finish().result == {"y": 1}

    def test_a_switch_is_not_undone_after_a_claim(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        assert switch(harness, CORRECTED).run is not None
        claim = harness.claim()
        assert claim is not None
        for _ in range(2):
            with pytest.raises(RejectedError, match="has gone on since its switch") as refusal:
                undo(harness)
            assert refusal.value.reason == "gone_on"
            harness.clock.advance(3600)  # The claim is lost.
        assert harness.finish().result == {"y": 42}
        with pytest.raises(RejectedError, match="has already ended"):
            undo(harness)

    def test_a_switch_is_not_undone_after_a_step_or_an_answer(self, store: Store) -> None:
        harness = RunHarness(store, WAITING)
        assert switch(harness, CORRECTED).run is not None
        execute_until_it_waits(harness)
        with pytest.raises(RejectedError, match="has gone on since its switch"):
            undo(harness)
        waiting = RunHarness(store, QUESTION)
        execute_until_it_waits(waiting)
        assert switch(waiting, QUESTION.replace("{{ 1 }}", "{{ 2 }}")).run is not None
        (wait,), _ = store.waits.find_open(waiting.tenant)
        store.waits.answer_wait(wait.key, None, {"n": 1}, waiting.clock())
        with pytest.raises(RejectedError, match="has gone on since its switch"):
            undo(waiting)

    def test_a_switch_that_leaves_no_way_back_is_not_undone(self, store: Store) -> None:
        harness = RunHarness(store, WRONG, {"m": "a"}).finish()
        assert switch(harness, RIGHT).run is not None
        with pytest.raises(
            RejectedError, match="had ended before its switch, which has resumed it"
        ) as refusal:
            undo(harness)
        assert refusal.value.reason == "gone_on"
        with_input = WAITING.replace("steps:", "input: {i: integer}\n    steps:", 1)
        other = RunHarness(store, with_input, {"i": 1})
        execute_until_it_waits(other)
        assert switch(other, with_input.replace("x }}", "x + i }}"), given={"i": 2}).run is not None
        with pytest.raises(RejectedError, match="were replaced by its switch"):
            undo(other)

    def test_one_branch_changes_its_mode(self, store: Store) -> None:
        harness = RunHarness(store, WRONG, {"m": "a"})
        harness.execute_next()
        sequential = WRONG.replace("input:", "mode: sequential\n    input:")
        before = run_contents(store, harness.run)
        assert [r.code for r in switch(harness, sequential).verdict.reasons] == ["NC103"]
        assert run_contents(store, harness.run) == before
        other = RunHarness(store, WAITING)
        other.execute_next()
        text = CORRECTED.replace("steps:", "mode: sequential\n    steps:", 1)
        assert switch(other, text).run is not None
        assert other.finish().result == {"y": 42}
        assert failed_checks(store) == []

    @pytest.mark.parametrize("executed", [1, 2])
    def test_branches_in_line_are_branches(self, store: Store, executed: int) -> None:
        # In sequential mode, a branch that waits for its turn or at a join has no visit.
        text = WRONG.replace("input:", "mode: sequential\n    input:").replace('["false"]', '["true"]')
        harness = RunHarness(store, text, {"m": "a"})
        for _ in range(executed):
            harness.execute_next()
        before = run_contents(store, harness.run)
        corrected = text.replace("x + y", "x + y + 1")
        parallel = corrected.replace("mode: sequential", "mode: parallel")
        refused = switch(harness, parallel).verdict
        assert [reason.code for reason in refused.reasons] == ["NC103"]
        assert run_contents(store, harness.run) == before
        assert switch(harness, corrected).run is not None
        assert failed_checks(store) == []
        assert harness.finish().result == {"sum": 4}

    def test_failed_run_continues_with_branches_in_line(self, store: Store) -> None:
        text = """
            mode: sequential
            steps:
            - {name: fork, rule: [{case: default, run: [a, b, c]}]}
            - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [meet]}]}
            - {name: b, run: [{action: fail, message: "no"}], rule: [{case: default, run: [meet]}]}
            - {name: c, run: [{action: set, set: {z: 3}}], rule: [{case: default, run: [meet]}]}
            - {name: meet, run: [{action: set, set: {all: "{{ [x, z] }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        assert harness.status is RunStatus.FAILED
        corrected = text.replace('{action: fail, message: "no"}', '{action: log, message: "{{ x }}"}')
        assert switch(harness, corrected).run is not None
        assert failed_checks(store) == []
        assert harness.finish().result["all"] == [1, 3]
        assert harness.visit_counts == dict.fromkeys(["fork", "a", "b", "c", "meet"], 1)

    def test_deadline_follows_the_new_version(self, store: Store) -> None:
        harness = RunHarness(store, WAITING.replace("steps:", "timeout: 1h\n    steps:", 1))
        execute_until_it_waits(harness)
        begun_at = harness.run.created_at
        shorter = switch(harness, CORRECTED.replace("steps:", "timeout: 30s\n    steps:", 1)).run
        assert shorter is not None
        assert shorter.deadline_at == begun_at + 30
        assert harness.finish().status is RunStatus.TIMED_OUT
        endless = switch(harness, WAITING).run
        assert endless is not None
        assert endless.deadline_at is None
        assert harness.finish().result == {"y": 1}
