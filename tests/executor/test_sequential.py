"""Sequential mode, as docs/reference/language.md#branches-and-joins describes it: a stack of branches."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.errors import RejectedError
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Lease, Run, RunStatus
from noetl.executor.model.run_transition import SUPERSEDED_ORDER
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import FakeClock, RunHarness

EARLIER_RUN = Path(__file__).with_name("earlier_sequential_run.sql")
TREE = """
    mode: sequential
    variables: {seen: []}
    steps:
    - {name: a, run: [NOTE], rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [NOTE], rule: [{case: default, run: [e, f]}]}
    - {name: c, run: [NOTE], rule: [{case: default, run: [g]}]}
    - {name: d, run: [NOTE]}
    - {name: e, run: [NOTE]}
    - {name: f, run: [NOTE]}
    - {name: g, run: [NOTE]}
"""
NOTE = """{action: set, set: {seen: "{{ seen + [step.name] }}"}}"""


def make_harness(store: SqliteStore, text: str, input: dict[str, Any] | None = None) -> RunHarness:
    return RunHarness(store, text.replace("NOTE", NOTE), input)


def order(harness: RunHarness) -> list[str]:
    """Return the steps in the order in which they ended."""
    return [e.step or "" for e in harness.events if e.type in ("step.completed", "step.failed")]


def test_branches_run_depth_first_in_source_order(store: SqliteStore) -> None:
    playing = make_harness(store, TREE).finish()
    assert order(playing) == ["a", "b", "e", "f", "c", "g", "d"]
    assert playing.result == {"seen": ["a", "b", "e", "f", "c", "g", "d"]}


def test_one_branch_runs_at_a_time(store: SqliteStore) -> None:
    playing = make_harness(store, TREE)
    while not playing.status.is_final:
        claim = playing.claim()
        assert claim is not None
        assert playing.claim("other") is None
        replace(playing.executor(), continues=lambda: False).execute(claim)
    assert playing.status is RunStatus.SUCCEEDED


def test_a_waiting_branch_blocks_the_next(store: SqliteStore) -> None:
    playing = make_harness(
        store, TREE.replace("{name: e, run: [NOTE]}", "{name: e, run: [{action: wait, seconds: 60}, NOTE]}")
    )
    while playing.execute_next():
        pass
    assert (order(playing), playing.status) == (["a", "b"], "waiting")
    assert order(playing.finish()) == ["a", "b", "e", "f", "c", "g", "d"]


def test_a_retrying_branch_blocks_the_next(store: SqliteStore) -> None:
    fail_once = '{action: shell, command: exit 1, if: "{{ step.attempt == 1 }}"}'
    flaky = f"{{name: e, retry: {{attempts: 2, delay: 60s}}, run: [{fail_once}, NOTE]}}"
    playing = make_harness(store, TREE.replace("{name: e, run: [NOTE]}", flaky))
    while playing.execute_next():
        pass
    assert order(playing) == ["a", "b"]
    assert order(playing.finish()) == ["a", "b", "e", "f", "c", "g", "d"]


def order_of(store: SqliteStore, steps: str) -> list[str]:
    """Return the order of the visits of a playbook whose steps do nothing."""
    return order(RunHarness(store, f"mode: sequential\nsteps:\n{dedent(steps)}").finish())


def test_a_branch_arrives_at_a_join_when_it_gets_its_turn(store: SqliteStore) -> None:
    """The branch to `s4` is on top first. It is taken off, and `s3`, which can still reach `s4`, goes on."""
    steps = """
        - {name: s0, rule: [{case: default, run: [s4, s3]}]}
        - {name: s3, rule: [{case: default, run: [s8, s4]}]}
        - {name: s4, run: [{action: log, message: s4}]}
        - {name: s8, run: [{action: log, message: s8}]}
    """
    assert order_of(store, steps) == ["s0", "s3", "s8", "s4"]


def test_a_discriminator_absorbs_a_branch_when_it_gets_its_turn(store: SqliteStore) -> None:
    """The branch that `s1` sent to `s2` is above the one that `s0` sent there, so it arrives first."""
    steps = """
        - {name: s0, rule: [{case: default, run: [s1, s2]}]}
        - {name: s1, rule: [{case: default, run: [s2, s3]}]}
        - {name: s2, join: any, run: [{action: log, message: s2}]}
        - {name: s3, run: [{action: log, message: s3}]}
    """
    assert order_of(store, steps) == ["s0", "s1", "s2", "s3"]


def test_a_discriminator_absorbs_a_branch_of_its_dominator(store: SqliteStore) -> None:
    """The first branch comes from the dominator itself, and the second one from another step."""
    steps = """
        - {name: s0, rule: [{case: default, run: [s2, s1]}]}
        - {name: s1, rule: [{case: default, run: [s2]}]}
        - {name: s2, join: any, run: [{action: log, message: s2}]}
    """
    assert order_of(store, steps) == ["s0", "s2", "s1"]


def test_visits_are_numbered_in_the_order_in_which_they_begin(store: SqliteStore) -> None:
    """The visit of `c` that `b` has begun comes before the one that `a` has forked earlier."""
    text = """
        mode: sequential
        variables: {seen: []}
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: set, set: {origin: b}}], rule: [{case: default, run: [c]}]}
        - name: c
          join: each
          run: [{action: set, set: {seen: "{{ seen + [[step.visit, steps.b.status]] }}"}}]
    """
    playing = RunHarness(store, text).finish()
    assert playing.result["seen"] == [[1, "succeeded"], [2, "succeeded"]]
    first, second = (visit for visit in playing.visits if visit.step == "c")
    assert (first.number, second.number) == (1, 2)
    assert first.id.endswith(derived_id(playing.visit("b").id, 0, "c")[:12])


def test_of_two_joins_the_one_with_the_earlier_first_arrival_is_topmost(store: SqliteStore) -> None:
    """`x` ends without reaching either join, so both fire. The first arrival was at `k`."""
    steps = """
        - {name: a, rule: [{case: default, run: [b, c, x]}]}
        - {name: b, rule: [{case: default, run: [k, j]}]}
        - {name: c, rule: [{case: default, run: [j, k]}]}
        - {name: x, rule: [{case: "{{ false }}", run: [j, k]}]}
        - {name: j, run: [{action: log, message: j}]}
        - {name: k, run: [{action: log, message: k}]}
    """
    assert order_of(store, steps) == ["a", "b", "c", "x", "k", "j"]
    assert order_of(store, steps.replace("run: [k, j]", "run: [j, k]")) == ["a", "b", "c", "x", "j", "k"]


def test_a_fired_join_goes_before_the_branches_that_are_left(store: SqliteStore) -> None:
    """The branch of `j` makes `k` fire, which goes before `d` as well."""
    steps = """
        - {name: a, rule: [{case: default, run: [b, c, d]}]}
        - {name: b, rule: [{case: default, run: [j]}]}
        - {name: c, rule: [{case: default, run: [j, k]}]}
        - {name: d, run: [{action: log, message: d}]}
        - {name: j, rule: [{case: default, run: [k]}]}
        - {name: k, run: [{action: log, message: k}]}
    """
    assert order_of(store, steps) == ["a", "b", "c", "j", "k", "d"]


def test_a_wide_fork_is_one_frame(store: SqliteStore) -> None:
    steps = [f"- {{name: s{number}, rule: [{{case: default, run: [j]}}]}}" for number in range(300)]
    targets = ", ".join(f"s{number}" for number in range(300))
    head = f"mode: sequential\nsteps:\n- {{name: a, rule: [{{case: default, run: [{targets}]}}]}}"
    text = "\n".join([head, *steps, "- {name: j, run: [{action: log, message: done}]}", ""])
    playing = RunHarness(store, text)
    playing.execute_next()
    row = store.runs._context.database.fetch_one("runs.read", run_id=playing.id)
    assert len(row["stack"]) < 200
    assert order(playing.finish()) == ["a", *(f"s{number}" for number in range(300)), "j"]


JOIN = """
    mode: sequential
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [j]}]}
    - {name: c, run: [{action: set, set: {y: "{{ x + 1 }}"}}], rule: [{case: default, run: [j]}]}
    - {name: d, run: [{action: set, set: {z: "{{ total }}"}}]}
    - {name: j, run: [{action: set, set: {total: "{{ x + y }}"}}], rule: [{case: default, run: [k]}]}
    - {name: k, run: [{action: set, set: {total: "{{ total + 1 }}"}}]}
"""


def test_a_fired_join_runs_before_waiting_branches(store: SqliteStore) -> None:
    """The join fires when `c` arrives. It and its successors run before `d`, which was forked earlier."""
    playing = make_harness(store, JOIN).finish()
    assert order(playing) == ["a", "b", "c", "j", "k", "d"]
    assert playing.result == {"x": 1, "y": 2, "total": 4, "z": 4}


def test_a_later_branch_sees_names_of_earlier_branches(store: SqliteStore) -> None:
    """Names that no step in between reads, and the views of steps, are visible as well."""
    text = """
        mode: sequential
        on_error: continue
        steps:
        - {name: a, run: [{action: set, set: {x: 0}}], rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b2]}]}
        - {name: b2, run: [{action: set, set: {unseen: 2}}]}
        - {name: c, run: [{action: set, set: {x: 5}}, {action: fail, message: no}]}
        - name: d
          run: [{action: set, set: {y: "{{ [x, unseen, steps.b2.status, steps.c.error.message] }}"}}]
    """
    assert make_harness(store, text).finish().result == {"x": 1, "unseen": 2, "y": [1, 2, "succeeded", "no"]}


def test_a_cycle_runs_in_sequential_mode(store: SqliteStore) -> None:
    text = """
        mode: sequential
        variables: {seen: []}
        steps:
        - {name: a, max_visits: 2, run: [NOTE], rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]}
        - {name: b, run: [NOTE], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE], rule: [{case: default, run: [a]}]}
        - {name: e, run: [NOTE]}
    """
    assert make_harness(store, text).finish().result == {"seen": [*"abcdabcde"]}


class TestSequentialEndings:
    def test_a_failure_ends_the_run(self, store: SqliteStore) -> None:
        playing = make_harness(
            store, TREE.replace("{name: f, run: [NOTE]}", "{name: f, run: [{action: fail, message: no}]}")
        )
        assert playing.finish().error_types == ["Failed"]
        assert order(playing) == ["a", "b", "e", "f"]

    @pytest.mark.parametrize("step", "abefcgd")
    def test_a_resumed_run_continues_at_its_failure(self, store: SqliteStore, step: str) -> None:
        fail = '{action: fail, message: no, if: "{{ input.bad == step.name }}"}'
        playing = make_harness(store, TREE.replace("NOTE", f"{fail}, NOTE"), {"bad": step}).finish()
        assert playing.error_types == ["Failed"]
        playing.resume(bad="").finish()
        assert playing.result == {"seen": ["a", "b", "e", "f", "c", "g", "d"]}

    @pytest.mark.parametrize("executed_visits", range(7))
    def test_a_cancelled_run_resumes_in_order(self, store: SqliteStore, executed_visits: int) -> None:
        playing = make_harness(store, TREE)
        for _ in range(executed_visits):
            playing.execute_next()
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        playing.finish().resume().finish()
        assert playing.result == {"seen": ["a", "b", "e", "f", "c", "g", "d"]}
        assert order(playing) == ["a", "b", "e", "f", "c", "g", "d"]

    def test_a_resumed_waiting_branch_still_blocks_the_next(self, store: SqliteStore) -> None:
        text = TREE.replace("{name: e, run: [NOTE]}", "{name: e, run: [{action: wait, seconds: 60}, NOTE]}")
        playing = RunHarness(store, text.replace("NOTE", NOTE), clock=FakeClock(0.0))
        while playing.execute_next():
            pass
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        playing.finish().resume()
        while playing.execute_next():
            pass
        assert (order(playing), playing.status) == (["a", "b"], "waiting")
        playing.finish()
        assert (order(playing), playing.clock()) == (["a", "b", "e", "f", "c", "g", "d"], 60.0)

    def test_failed_branches_resume_in_order(self, store: SqliteStore) -> None:
        fail = '{action: fail, message: no, if: "{{ input.bad }}"}'
        text = TREE.replace("mode:", "on_error: continue\n    mode:").replace("NOTE", f"{fail}, NOTE", 99)
        text = text.replace("{name: a, run: [" + f"{fail}, NOTE]", "{name: a, run: [NOTE]")
        playing = make_harness(store, text, {"bad": True}).finish()
        assert order(playing) == ["a", "b", "c", "d"]
        playing.resume(bad=False).finish()
        assert sorted(playing.result["seen"]) == ["a", "b", "c", "d", "e", "f", "g"]
        assert order(playing)[4:] == ["b", "e", "f", "c", "g", "d"]

    PAUSED = """
        mode: sequential
        on_error: continue
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - name: b
          run:
          - {action: set, set: {x: 1}}
          - {action: wait, seconds: 1}
          - FAIL
          - {action: set, set: {y: "{{ x }}"}}
        - name: c
          run:
          - {action: set, set: {v: 1}}
          - {action: wait, seconds: 1}
          - FAIL
          - {action: set, set: {w: "{{ v }}"}}
    """.replace("FAIL", '{action: fail, message: no, if: "{{ not input.ok }}"}')

    def test_failed_branches_resume_after_their_last_suspension(self, store: SqliteStore) -> None:
        playing = make_harness(store, self.PAUSED, {"ok": False}).finish()
        assert playing.resume(ok=True).finish().result == {"x": 1, "y": 1, "v": 1, "w": 1}

    def test_a_visit_that_waited_when_the_run_was_cancelled_resumes(self, store: SqliteStore) -> None:
        playing = make_harness(store, self.PAUSED, {"ok": False}).finish().resume()
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock())
        before = playing.clock()
        playing.finish().resume(ok=True).finish()
        assert playing.result == {"x": 1, "y": 1, "v": 1, "w": 1}
        assert playing.clock() == before


class TestEarlierRun:
    """A run that an earlier version has started, which performs branches in another order."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        path = tmp_path / "earlier.db"
        path.touch(0o600)
        with closing(sqlite3.connect(path)) as db:
            db.executescript(EARLIER_RUN.read_text())
        store = SqliteStore(str(path))
        yield store
        store.close()

    def finish(self, store: SqliteStore) -> Run:
        """Execute the run to its end, and return it."""
        executor = VisitExecutor(store, Lease("two", 30.0), local_run_capabilities(Path.cwd()), lambda: 60.0)
        while (claim := store.queue.claim("earlier", executor.lease, 60.0)) is not None:
            executor.execute(claim)
        run = store.runs.get("default", "earlier")
        assert run is not None
        return run

    def test_it_fails_with_a_sentence_and_keeps_what_it_has_saved(self, store: SqliteStore) -> None:
        before = {visit.step: visit for visit in store.runs.visits_with_outputs("earlier")}
        run = self.finish(store)
        assert (run.status, run.error and run.error["message"]) == (RunStatus.FAILED, SUPERSEDED_ORDER)
        visits = {visit.step: visit for visit in store.runs.visits_with_outputs("earlier")}
        assert {step: visit.status.value for step, visit in visits.items()} == {
            "a": "succeeded", "b": "parked", "c": "parked",
        }  # fmt: skip
        for step, visit in visits.items():
            kept = (visit.saved, visit.progress, visit.names, visit.clock)
            assert kept == (before[step].saved, before[step].progress, before[step].names, before[step].clock)
        assert visits["b"].saved == {"y": 2}
        assert store.maintenance.check_consistency() == []

    def test_its_resume_is_refused_and_changes_nothing(self, store: SqliteStore) -> None:
        run = self.finish(store)
        visits = store.runs.visits("earlier")
        with pytest.raises(RejectedError, match="earlier version of NoETL"):
            store.runs.resume("earlier", 61.0, deadline_at=None, values={})
        assert (store.runs.get("default", "earlier"), store.runs.visits("earlier")) == (run, visits)

    def test_it_can_be_cancelled(self, store: SqliteStore) -> None:
        store.runs.stop("earlier", RunStatus.CANCELLED, 5.0)
        assert self.finish(store).status is RunStatus.CANCELLED

    def test_the_sweep_leaves_it_alone(self, store: SqliteStore) -> None:
        assert store.maintenance.sweep(5.0).repaired == 0

    def test_no_run_of_its_plan_starts(self, store: SqliteStore) -> None:
        run = store.runs.get("default", "earlier")
        assert run is not None
        header = store.plans.header(run.plan_hash)
        with pytest.raises(RejectedError) as refusal:
            new_run(header, run.plan_hash, StartRequest(), now=5.0)
        assert refusal.value.reason == "superseded_plan"
        assert str(refusal.value) == (
            "playbook `play` was compiled by an earlier version of NoETL, which performs the branches of"
            " `mode: sequential` in another order: register it again as a new version"
        )
