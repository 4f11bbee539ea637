"""`join: any` and `join: each`, through the store."""

from __future__ import annotations

import pytest

from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

RACE = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - name: b
      run: [{action: wait, seconds: "{{ input.b }}"}, {action: set, set: {x: b}}]
      rule: [{case: default, run: [j]}]
    - {name: c, run: [{action: wait, seconds: "{{ input.c }}"}], rule: [{case: default, run: [j]}]}
    - name: d
      run: [{action: wait, seconds: "{{ input.d }}"}]
      rule: [{case: "{{ input.d < 100 }}", run: [j]}]
    - name: j
      join: any
      run: [{action: set, set: {winner: "{{ x | default('other') }}"}}]
      rule: [{case: default, run: [k]}]
    - {name: k, run: [{action: set, set: {after: "{{ winner }}"}}]}
"""


class TestLaterWrites:
    """A write behind a join that waited for an earlier write, whose branch did not arrive."""

    ENDED = """
        input: {z: {type: integer, default: 0}}
        start: begin
        steps:
        - {name: begin, rule: [{case: default, run: [LEFT, MEET]}]}
        - {name: LEFT, run: [{action: set, set: {v: from left}}], rule: [{case: default, run: [decide]}]}
        - {name: decide, rule: [{case: "{{ input.z == 0 }}", run: []}, {case: default, run: [MEET]}]}
        - {name: MEET, run: [{action: set, set: {v: from meet}}], rule: [{case: default, run: [after]}]}
        - {name: after, run: [{action: log, message: "{{ v }}"}]}
    """
    WENT_ELSEWHERE = """
        start: s
        steps:
        - {name: s, rule: [{case: default, run: [LEFT, MEET]}]}
        - name: LEFT
          run: [{action: set, set: {v: from left}}]
          rule: [{case: "{{ run.id == '' }}", run: [z, MEET]}, {case: default, run: [z]}]
        - {name: MEET, run: [{action: set, set: {v: from meet}}], rule: [{case: default, run: [z]}]}
        - {name: z, run: [{action: set, set: {seen: "{{ v }}"}}]}
    """

    @pytest.mark.parametrize("text", [ENDED, WENT_ELSEWHERE])
    @pytest.mark.parametrize(
        ("left", "meet"), [("a", "b"), ("b", "a"), ("left", "meet"), ("zleft", "meet"), ("meet", "left")]
    )
    def test_names_of_steps_do_not_decide(self, store: SqliteStore, text: str, left: str, meet: str) -> None:
        harness = RunHarness(store, text.replace("LEFT", left).replace("MEET", meet)).finish()
        assert harness.result["v"] == "from meet"
        assert harness.result.get("seen", "from meet") == "from meet"


class TestJoinAny:
    @pytest.mark.parametrize(
        ("b", "c", "d", "winner"), [(1, 2, 3, "b"), (3, 1, 2, "other"), (9, 8, 100, "other")]
    )
    def test_the_first_branch_passes_the_join(
        self, store: SqliteStore, b: int, c: int, d: int, winner: str
    ) -> None:
        harness = RunHarness(store, RACE, {"b": b, "c": c, "d": d}).finish()
        assert harness.result["after"] == winner
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1, "j": 1, "k": 1}
        assert harness.run.live == 0

    def test_the_join_does_not_wait_for_other_branches(self, store: SqliteStore) -> None:
        harness = RunHarness(store, RACE, {"b": 5, "c": 50, "d": 90})
        before = harness.clock()
        while "k" not in harness.visit_counts or harness.visit("k").status != "succeeded":
            if not harness.execute_next():
                harness.clock.now = store.queue.next_due(harness.queue) or 0.0
        assert harness.clock() - before == 5
        assert not harness.status.is_final
        assert harness.finish().clock() - before == 90

    def test_a_failed_branch_does_not_pass_the_join(self, store: SqliteStore) -> None:
        text = RACE.replace("steps:", "on_error: continue\n    steps:", 1).replace(
            "{action: set, set: {x: b}}", "{action: fail, message: no}"
        )
        harness = RunHarness(store, text, {"b": 1, "c": 2, "d": 3}).finish()
        assert (harness.status, harness.result["after"], harness.visit_counts["j"]) == (
            "completed_with_errors",
            "other",
            1,
        )

    def test_a_join_without_arrivals_does_not_fire(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - {name: b, rule: [{case: "{{ false }}", run: [j]}]}
            - {name: c, rule: [{case: "{{ input.x }}", run: [j]}]}
            - {name: j, join: any, run: [{action: log, message: x}]}
        """
        harness = RunHarness(store, text, {"x": False}).finish()
        assert (harness.status, harness.visit_counts) == ("succeeded", {"a": 1, "b": 1, "c": 1})

    def test_each_round_of_a_cycle_has_its_own_first_branch(self, store: SqliteStore) -> None:
        """Late branches of one round do not count as the first of the next."""
        text = """
            variables: {n: 0}
            steps:
            - name: a
              max_visits: 3
              run: [{action: set, set: {n: "{{ n + 1 }}"}}]
              rule: [{case: error, run: []}, {case: default, run: [quick, slow]}]
            - {name: quick, rule: [{case: default, run: [j]}]}
            - {name: slow, run: [{action: wait, seconds: 50}], rule: [{case: default, run: [j]}]}
            - {name: j, join: any, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [a]}]}
        """
        harness = RunHarness(store, text)
        before = harness.clock()
        harness.finish()
        assert harness.visit_counts == {"a": 4, "quick": 3, "slow": 3, "j": 3}
        assert (harness.result, harness.clock() - before, harness.run.live) == ({"n": 3}, 52, 0)

    def test_a_following_join_counts_the_absorbed_branches(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c, d]}]}
            - {name: b, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [j]}]}
            - {name: c, run: [{action: wait, seconds: 2}], rule: [{case: default, run: [j]}]}
            - {name: d, run: [{action: wait, seconds: 3}], rule: [{case: default, run: [k]}]}
            - {name: j, join: any, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [k]}]}
            - {name: k, run: [{action: set, set: {y: "{{ x }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.result, harness.visit_counts["k"], harness.run.live) == ({"x": 1, "y": 1}, 1, 0)

    def test_a_cancelled_run_resumes_after_the_join(self, store: SqliteStore) -> None:
        harness = RunHarness(store, RACE, {"b": 5, "c": 50, "d": 90})
        while "j" not in harness.visit_counts:
            if not harness.execute_next():
                harness.clock.now = store.queue.next_due(harness.queue) or 0.0
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish().resume().finish()
        assert (harness.status, harness.visit_counts["j"], harness.run.live) == ("succeeded", 1, 0)


class TestJoinEach:
    def test_the_step_is_visited_once_for_each_branch(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c, d]}]}
            - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
            - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
            - {name: d, rule: [{case: "{{ false }}", run: [e]}]}
            - name: e
              join: each
              run: [{action: log, message: "{{ step.visit }}"}]
              rule: [{case: default, run: [f]}]
            - {name: f, run: [{action: set, set: {z: "{{ x + y }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.result, harness.run.live) == ({"x": 1, "y": 2, "z": 3}, 0)
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 1}
        assert sorted(visit.number for visit in harness.visits if visit.step == "e") == [1, 2]

    def test_steps_after_join_each_are_visited_for_each_branch(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - {name: b, rule: [{case: default, run: [e]}]}
            - {name: c, rule: [{case: default, run: [e]}]}
            - {name: e, join: each, rule: [{case: default, run: [f]}]}
            - {name: f, join: each, rule: [{case: default, run: [g, h]}]}
            - {name: g, rule: [{case: default, run: [i]}]}
            - {name: h, rule: [{case: default, run: [i]}]}
            - {name: i, run: [{action: log, message: x}]}
        """
        harness = RunHarness(store, text).finish()
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "e": 2, "f": 2, "g": 1, "h": 1, "i": 1}
