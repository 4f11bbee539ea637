"""Loops that have failed: what is recorded of their items, and what a resume does again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine import loop
from noetl.executor.engine.item_records import ItemRecords
from noetl.executor.engine.skips import find_item_marks
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import PayloadLostError
from noetl.executor.model.finished_items import ITEMS, LoopRecord, forget_items, make_digest, read_records
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.outcome import FinishedItems, Outcome
from noetl.executor.model.run import (
    BatchResult,
    Commit,
    FailureState,
    Progress,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.continuation.verdict import SwitchVerdict
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness, compile_text

NOTE = '{action: file, append: notes.txt, content: "%s,"}'
FAIL = '{action: fail, if: "{{ %s in input.wrong }}", message: odd}'


def note(text: str) -> str:
    return NOTE % text


def notes(folder: Path) -> Counter[str]:
    """Return how often each text was noted."""
    path = folder / "notes.txt"
    return Counter(path.read_text().strip(",").split(",") if path.exists() else ())


def start(store: Any, folder: Path, text: str, *wrong: Any, **input: Any) -> RunHarness:
    """Execute a run until it has failed."""
    harness = RunHarness(store, text, {"wrong": list(wrong), **input}, folder=folder).finish()
    assert harness.status == "failed"
    return harness


def records_of(harness: RunHarness, step: str = "a") -> dict[str, LoopRecord]:
    return read_records(harness.visit(step))


class TestNestedLoops:
    TEXT = f"""
        input: {{wrong: array, outer: {{type: array, default: [x, y, z]}}}}
        output: {{all: "{{{{ steps.a.result }}}}"}}
        steps:
        - name: a
          loop: {{items: "{{{{ input.outer }}}}", as: o}}
          run:
          - {note("{{ o }}")}
          - task: months
            with: {{o: "{{{{ o }}}}"}}
        tasks:
          months:
          - action: file
            append: notes.txt
            content: "{{{{ 1 / (0 if args.o ~ m in input.wrong else 1) and args.o ~ m }}}},"
            loop: {{items: [1, 2, 3], as: m}}
    """

    def test_the_inner_loop_goes_on_at_its_failed_item(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = start(store, tmp_path, self.TEXT, "y2")
        records = records_of(harness)
        assert {position: record.done for position, record in records.items()} == {
            "run": [[1, 1]],
            "run[1].1/months.0": [[1, 1]],
        }
        harness.resume(wrong=[]).finish()
        expected = dict.fromkeys(["x", "z", *(f"{o}{m}" for o in "xyz" for m in (1, 2, 3))], 1)
        assert (harness.status, notes(tmp_path)) == ("succeeded", {**expected, "y": 2})

    def test_inner_items_belong_to_their_outer_item(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = start(store, tmp_path, self.TEXT, "y2")
        harness.resume(wrong=[], outer=["x", "w", "z"]).finish()
        assert notes(tmp_path)["w1"] == 1
        assert notes(tmp_path)["x1"] == 1


def test_parallel_work_keeps_the_items_of_all_failed_loops(store: SqliteStore, tmp_path: Path) -> None:
    text = f"""
        input: {{wrong: array}}
        tasks:
          one: [{FAIL % "args.n"}, {note("{{ args.n }}")}]
        steps:
        - name: a
          parallel: true
          run:
          - {{task: one, with: {{n: "{{{{ n }}}}"}}, loop: {{items: [1, 2, 3], as: n}}}}
          - {{task: one, with: {{n: "{{{{ n }}}}"}}, loop: {{items: [4, 5, 6], as: n}}}}
    """
    harness = start(store, tmp_path, text, 2, 6)
    assert {position: record.done for position, record in records_of(harness).items()} == {
        "run.0": [[1, 1]],
        "run.1": [[1, 2]],
    }
    harness.resume(wrong=[]).finish()
    assert (harness.status, notes(tmp_path)) == ("succeeded", dict.fromkeys("123456", 1))


def test_in_place_work_keeps_its_items(store: SqliteStore, tmp_path: Path) -> None:
    text = f"""
        input: {{wrong: array}}
        tasks: {{one: [{FAIL % "args.n"}, {note("{{ args.n }}")}]}}
        steps:
        - name: a
          run: [{note("begun")}]
          rule:
          - case: default
            run: [{{task: one, with: {{n: "{{{{ n }}}}"}}, loop: {{items: [1, 2, 3], as: n}}}}]
    """
    harness = start(store, tmp_path, text, 3)
    assert [*records_of(harness)] == ["rule.0.0"]
    harness.resume(wrong=[]).finish()
    assert (harness.status, notes(tmp_path)) == ("succeeded", {"begun": 2, "1": 1, "2": 1, "3": 1})


LOOP = """
    input: {{wrong: array}}
    steps:
    - name: a
      {attributes}
      loop: {{items: [1, 2, 3, 4], as: n, {loop}}}
      run: [{work}]
"""


def loop_text(*work: str, attributes: str = "on_error: abort", loop: str = "concurrency: 1") -> str:
    return LOOP.format(attributes=attributes, loop=loop, work=", ".join(work))


SEND = loop_text(FAIL % "n", note("{{ n }}"))


def test_a_retry_of_the_step_does_all_items_again(store: SqliteStore, tmp_path: Path) -> None:
    read = "{action: shell, command: [test, -e, '{{ n }}.txt']}"
    text = loop_text(note("{{ n }}"), read, attributes="retry: {attempts: 2, delay: 0s}")
    (tmp_path / "1.txt").write_text("x")
    harness = start(store, tmp_path, text.replace("[1, 2, 3, 4]", "[1, 2]"))
    (record,) = records_of(harness).values()
    assert (record.done, notes(tmp_path)) == ([[1, 1]], {"1": 2, "2": 2})


def test_a_crash_of_the_resumed_attempt_repeats_no_recorded_item(store: SqliteStore, tmp_path: Path) -> None:
    harness = start(store, tmp_path, SEND, 3)
    harness.resume(wrong=[4])
    assert harness.claim() is not None  # A worker that dies.
    harness.clock.advance(60)
    harness.finish()
    assert harness.status == "failed"
    harness.resume(wrong=[]).finish()
    assert (harness.status, notes(tmp_path)) == ("succeeded", dict.fromkeys("1234", 1))


def test_records_outlast_a_suspension_before_their_loop(store: SqliteStore, tmp_path: Path) -> None:
    text = f"""
        input: {{wrong: array}}
        tasks:
          one: [{FAIL % "args.o ~ args.n"}, {note("{{ args.o }}{{ args.n }}")}]
        steps:
        - name: a
          loop: {{items: [x, y], as: o, concurrency: 2}}
          run:
          - {{action: wait, seconds: "{{{{ 0 if input.wrong else (5 if o == 'x' else 9) }}}}"}}
          - {{task: one, with: {{o: "{{{{ o }}}}", n: "{{{{ n }}}}"}}, loop: {{items: [1, 2], as: n}}}}
    """
    harness = start(store, tmp_path, text, "x2", "y2")
    harness.resume(wrong=[]).finish()
    assert harness.status == "succeeded"
    assert notes(tmp_path)["x2"] == notes(tmp_path)["y2"] == 1
    assert notes(tmp_path)["x1"] == 1


def test_a_forgiven_failure_records_nothing(store: SqliteStore, tmp_path: Path) -> None:
    text = f"""
        input: {{wrong: array}}
        tasks: {{one: [{FAIL % "args.n"}]}}
        steps:
        - name: a
          run:
          - {{task: one, with: {{n: "{{{{ n }}}}"}}, on_error: continue, loop: {{items: [1, 2], as: n}}}}
          - {{action: fail, message: later}}
    """
    harness = start(store, tmp_path, text, 2)
    assert harness.visit("a").progress is None


def test_a_failing_inner_loop_is_forgiven_by_the_outer_one(store: SqliteStore, tmp_path: Path) -> None:
    text = f"""
        input: {{wrong: array}}
        tasks:
          one: [{FAIL % "args.n"}]
          all: [{{task: one, with: {{n: "{{{{ n }}}}"}}, loop: {{items: [1, 2], as: n}}}}]
        output: {{failed: "{{{{ steps.a.failures | length }}}}"}}
        steps:
        - {{name: a, loop: {{items: [1, 2], on_error: continue}}, run: [{{task: all}}]}}
    """
    harness = RunHarness(store, text, {"wrong": [2]}, folder=tmp_path).finish()
    assert (harness.status, harness.result) == ("succeeded", {"failed": 2})


def test_a_handled_failure_records_nothing(store: SqliteStore, tmp_path: Path) -> None:
    text = SEND + "      rule: [{case: error, run: [{action: log, message: handled}]}]\n"
    harness = RunHarness(store, text, {"wrong": [3]}, folder=tmp_path).finish()
    assert harness.status == "succeeded"
    assert harness.visit("a").progress is None


class TestLargeItems:
    def test_results_that_are_too_large_are_only_counted(
        self, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "MAX_LOOP_RESULT", 40)
        harness = start(store, tmp_path, SEND, 3)
        (record,) = records_of(harness).values()
        assert (record.done_count, record.lost, [*record.open_numbers()]) == (0, 2, [1, 2, 3, 4])
        harness.resume(wrong=[]).finish()
        assert notes(tmp_path) == {"1": 2, "2": 2, "3": 1, "4": 1}

    def test_the_limit_of_the_store_counts_too(self, tmp_path: Path) -> None:
        text = SEND.replace("content:", "as: x, content:").replace("{{ n }},", "{{ n }}" + "x" * 2000 + ",")
        harness = start(MemoryStore(limits=PayloadLimits(payload_bytes=200)), tmp_path, text, 3)
        (record,) = records_of(harness).values()
        assert (record.done_count, record.lost) == (0, 2)
        harness.resume(wrong=[]).finish()

    def test_an_earlier_record_stays_if_a_later_one_is_too_large(
        self, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness = start(store, tmp_path, SEND, 2)
        monkeypatch.setattr(loop, "MAX_LOOP_RESULT", 1)
        harness.resume(wrong=[4]).finish()
        (record,) = records_of(harness).values()
        assert (record.done, record.lost) == ([[1, 1]], 3)

    def test_an_item_that_is_not_json_has_no_hash(self) -> None:
        assert make_digest([])({1, 2}) is None
        assert make_digest([{1, 2}])(1) is None


class TestItemRecords:
    VISIT = Visit(
        "v",
        "r",
        "a",
        VisitStatus.FAILED,
        1,
        {},
        failure=FailureState.OPEN,
        progress=Progress(journal={ITEMS: {"run.0": {"total": 2, "done": [[1, 1]], "work": "w"}}}),
    )
    FINISHED = FinishedItems("run.1", 3, outcomes={0: ("a", Outcome(data=1))})

    def test_other_loops_are_written_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store, stored = MemoryStore(), ["run.0", [[0, "d", Outcome().to_list()]]]
        monkeypatch.setattr(store.runs, "batch_results", lambda *_: [[stored]])
        records = ItemRecords(store, self.VISIT, lambda _: "w")
        commit = records.add_to(Commit(self.VISIT), [self.FINISHED], is_too_large=False)
        (part,) = commit.batch_results
        assert isinstance(part, BatchResult)
        assert [position for position, _ in part.outcomes] == ["run.0", "run.1"]
        assert [*read_records(commit.visit)] == ["run.0", "run.1"]

    def test_lost_items_do_not_keep_a_failure_from_being_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose(*_: Any) -> Any:
            raise PayloadLostError("gone")

        store = MemoryStore()
        monkeypatch.setattr(store.runs, "batch_results", lose)
        records = ItemRecords(store, self.VISIT, lambda _: "w")
        commit = records.add_to(Commit(self.VISIT), [self.FINISHED], is_too_large=False)
        (part,) = commit.batch_results
        assert [position for position, _ in part.outcomes] == ["run.1"]

    def test_a_visit_that_continues_records_nothing(self) -> None:
        records = ItemRecords(MemoryStore(), self.VISIT, lambda _: "w")
        commit = Commit(replace(self.VISIT, failure=None))
        assert records.add_to(commit, [self.FINISHED], is_too_large=False) is commit


def test_all_items_start_at_the_first_batch() -> None:
    journal = {
        ITEMS: {"run.1": {"total": 4, "done": [[1, 2]], "work": "w"}},
        "run": {"at": 1},
        "run.1": {"next": 2, "failed": 0, "total": 4, "given": 8, "undo": {"x": []}},
        "run.1#2": {"saved": {}},
        "run.1[2].0": {"action": "wait"},
    }
    visit = replace(TestItemRecords.VISIT, progress=Progress(2, journal))
    again = forget_items(visit).progress
    assert again == Progress(2, {"run": {"at": 1}, "run.1": {"undo": {"x": []}}})
    assert find_item_marks([visit, replace(visit, failure=None)]) == {"v": {"all_items": True}}


def judge(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
    return may_continue(old, new, state, switch, catalogue())


class TestOtherVersion:
    def switch(self, harness: RunHarness, old: str, new: str, **options: Any) -> list[str]:
        """Let a run continue in a text with a replacement, and return the codes of the notices."""
        plan = compile_text(SEND.replace(old, new))
        harness.store.plans.save(plan)
        switcher = PlanSwitcher(harness.store, harness.clock, judge)
        request = SwitchRequest(plan, Switch(given={"wrong": []}), **options)
        outcome = switcher.switch(harness.id, request)
        assert outcome.run is not None
        harness.plan = plan
        harness.finish()
        assert harness.status is RunStatus.SUCCEEDED
        return [notice.code for notice in outcome.verdict.notices]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("on_error: abort", "on_error: continue"),
            ("concurrency: 1", "concurrency: 4, on_error: continue"),
            ("items: [1, 2, 3, 4]", "items: '{{ [1, 2, 3, 4] }}'"),
        ],
    )
    def test_items_stay_if_their_work_is_the_same(
        self, store: SqliteStore, tmp_path: Path, old: str, new: str
    ) -> None:
        harness = start(store, tmp_path, SEND, 3)
        assert self.switch(harness, old, new) == []
        assert notes(tmp_path) == dict.fromkeys("1234", 1)

    def test_items_are_done_again_if_their_work_has_changed(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = start(store, tmp_path, SEND, 3)
        assert self.switch(harness, "message: odd", "message: wrong") == ["NC154"]
        assert notes(tmp_path) == {"1": 2, "2": 2, "3": 1, "4": 1}

    def test_all_items_on_request(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = start(store, tmp_path, SEND, 3)
        assert self.switch(harness, "on_error: abort", "on_error: continue", all_items=True) == []
        assert notes(tmp_path) == {"1": 2, "2": 2, "3": 1, "4": 1}
