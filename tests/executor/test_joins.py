"""`join: any` and `join: each`, through the store."""

from __future__ import annotations

import pytest
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore

from tests.run_harness import RunHarness

RACE = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: wait, seconds: "{{ input.b }}"}, {action: set, set: {x: b}}], rule: [{case: default, run: [j]}]}
    - {name: c, run: [{action: wait, seconds: "{{ input.c }}"}], rule: [{case: default, run: [j]}]}
    - {name: d, run: [{action: wait, seconds: "{{ input.d }}"}], rule: [{case: "{{ input.d < 100 }}", run: [j]}]}
    - {name: j, join: any, run: [{action: set, set: {winner: "{{ x | default('other') }}"}}], rule: [{case: default, run: [k]}]}
    - {name: k, run: [{action: set, set: {after: "{{ winner }}"}}]}
"""


class TestJoinAny:
    @pytest.mark.parametrize(
        ("b", "c", "d", "winner"), [(1, 2, 3, "b"), (3, 1, 2, "other"), (9, 8, 100, "other")]
    )
    def test_the_first_branch_passes_the_join(
        self, store: SqliteStore, b: int, c: int, d: int, winner: str
    ) -> None:
        play = RunHarness(store, RACE, {"b": b, "c": c, "d": d}).finish()
        assert play.result["after"] == winner
        assert play.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1, "j": 1, "k": 1}
        assert play.run.live == 0

    def test_the_join_does_not_wait_for_other_branches(self, store: SqliteStore) -> None:
        play = RunHarness(store, RACE, {"b": 5, "c": 50, "d": 90})
        before = play.clock()
        while "k" not in play.visit_counts or play.visit("k").status != "succeeded":
            if not play.execute_next():
                play.clock.now = store.next_due(play.queue) or 0.0
        assert play.clock() - before == 5
        assert not play.status.is_final
        assert play.finish().clock() - before == 90

    def test_a_failed_branch_does_not_pass_the_join(self, store: SqliteStore) -> None:
        text = RACE.replace("steps:", "on_error: continue\n    steps:", 1).replace(
            "{action: set, set: {x: b}}", "{action: fail, message: no}"
        )
        play = RunHarness(store, text, {"b": 1, "c": 2, "d": 3}).finish()
        assert (play.status, play.result["after"], play.visit_counts["j"]) == (
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
        play = RunHarness(store, text, {"x": False}).finish()
        assert (play.status, play.visit_counts) == ("succeeded", {"a": 1, "b": 1, "c": 1})

    def test_each_round_of_a_cycle_has_its_own_first_branch(self, store: SqliteStore) -> None:
        """Late branches of one round do not count as the first of the next."""
        text = """
            variables: {n: 0}
            steps:
            - {name: a, max_visits: 3, run: [{action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: error, run: []}, {case: default, run: [quick, slow]}]}
            - {name: quick, rule: [{case: default, run: [j]}]}
            - {name: slow, run: [{action: wait, seconds: 50}], rule: [{case: default, run: [j]}]}
            - {name: j, join: any, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [a]}]}
        """
        play = RunHarness(store, text)
        before = play.clock()
        play.finish()
        assert play.visit_counts == {"a": 4, "quick": 3, "slow": 3, "j": 3}
        assert (play.result, play.clock() - before, play.run.live) == ({"n": 3}, 52, 0)

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
        play = RunHarness(store, text).finish()
        assert (play.result, play.visit_counts["k"], play.run.live) == ({"x": 1, "y": 1}, 1, 0)

    def test_a_cancelled_run_resumes_after_the_join(self, store: SqliteStore) -> None:
        play = RunHarness(store, RACE, {"b": 5, "c": 50, "d": 90})
        while "j" not in play.visit_counts:
            if not play.execute_next():
                play.clock.now = store.next_due(play.queue) or 0.0
        store.stop(play.id, RunStatus.CANCELLED, play.clock())
        play.finish().resume().finish()
        assert (play.status, play.visit_counts["j"], play.run.live) == ("succeeded", 1, 0)


class TestJoinEach:
    def test_the_step_is_visited_once_for_each_branch(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c, d]}]}
            - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
            - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
            - {name: d, rule: [{case: "{{ false }}", run: [e]}]}
            - {name: e, join: each, run: [{action: log, message: "{{ step.visit }}"}], rule: [{case: default, run: [f]}]}
            - {name: f, run: [{action: set, set: {z: "{{ x + y }}"}}]}
        """
        play = RunHarness(store, text).finish()
        assert (play.result, play.run.live) == ({"x": 1, "y": 2, "z": 3}, 0)
        assert play.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 1}
        assert sorted(visit.number for visit in play.visits if visit.step == "e") == [1, 2]

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
        play = RunHarness(store, text).finish()
        assert play.visit_counts == {"a": 1, "b": 1, "c": 1, "e": 2, "f": 2, "g": 1, "h": 1, "i": 1}
