"""Each row of docs/reference/unordered.md: both orders occur, and what a run may rely on holds in both.

The docstring of a test names its row. Waits of different lengths choose the order.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.model.events import Event
from noetl.executor.model.run import Visit
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.reference import ROOT
from noetl.planner.compile import compile_playbook
from noetl.testing.run_harness import LEASE_SECONDS, RunHarness
from tests.executor.fake_handler import FakeHandler

PAGE = ROOT / "docs/reference/unordered.md"
BRANCHES = """
input: {b: integer, c: integer}
steps:
- {name: a, rule: [{case: default, run: [b, c]}]}
- name: b
  run: [{action: wait, seconds: "{{ input.b }}"}, {action: set, set: {from_b: 1}}]
  rule: [{case: default, run: [d]}]
- name: c
  run: [{action: wait, seconds: "{{ input.c }}"}, {action: set, set: {from_c: 1}}]
  rule: [{case: default, run: [d]}]
"""
ORDERS = ({"b": 1, "c": 2}, {"b": 2, "c": 1})
SEEN = '"{{ from_b | default(0) }} {{ from_c | default(0) }}"'


def run_in_orders(store: SqliteStore, text: str) -> list[RunHarness]:
    """Return two finished runs: in the first, step `b` ends before `c`, in the second after it."""
    return [RunHarness(store, text, order).finish() for order in ORDERS]


def finished_order(harness: RunHarness) -> list[str | None]:
    """Return the steps in the order in which their visits ended."""
    return [event.step for event in harness.events if event.type in ("step.completed", "step.failed")]


def codes(text: str) -> set[str]:
    return {d.code for d in compile_playbook(f"name: x\n{text}", catalogue()).diagnostics}


def visits_of(harness: RunHarness, step: str) -> list[Visit]:
    visits = harness.store.runs.visits_with_outputs(harness.id)
    return sorted((visit for visit in visits if visit.step == step), key=lambda visit: visit.number)


def test_every_row_has_a_test() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\*", PAGE.read_text("utf-8"), re.MULTILINE)
    sections = re.findall(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    tests = [
        test.__doc__ or "" for name, test in vars(sys.modules[__name__]).items() if name.startswith("test_")
    ]
    assert len(rows) == 10
    assert [row for row in [*rows, *sections] if not any(doc.startswith(f"{row}: ") for doc in tests)] == []


def test_order_of_branches_does_not_change_the_result(store: SqliteStore) -> None:
    """Parallel branches: the order differs, the names at the join and the cases do not."""
    text = f"{BRANCHES}- {{name: d, run: [{{action: set, set: {{seen: {SEEN}}}}}]}}\n"
    first, second = run_in_orders(store, text)
    assert finished_order(first) != finished_order(second)
    assert first.result == second.result == {"from_b": 1, "from_c": 1, "seen": "1 1"}
    assert "NP303" in codes(text.replace("from_b", "from_c"))


def test_one_branch_passes_a_join_any(store: SqliteStore) -> None:
    """First branch: one branch continues with its own names. The other does its work and ends."""
    text = f"{BRANCHES}- {{name: d, join: any, run: [{{action: set, set: {{seen: {SEEN}}}}}]}}\n"
    runs = run_in_orders(store, text)
    assert [harness.result["seen"] for harness in runs] == ["1 0", "0 1"]
    for harness in runs:
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}
        assert (harness.result["from_b"], harness.result["from_c"]) == (1, 1)
    assert "NP302" in codes(text.replace("from_b | default(0)", "from_b"))


EACH = "- {name: d, join: each, run: [{action: set, loop: {items: [1]}, set: {x: SEEN}}]}\n".replace(
    "SEEN", SEEN
)


def test_each_branch_is_visited_with_its_names(store: SqliteStore) -> None:
    """Visits of `join: each`: each branch has one visit, which reads its names."""
    runs = run_in_orders(store, BRANCHES + EACH)
    seen = [[visit.result[0]["x"] for visit in visits_of(harness, "d")] for harness in runs]
    assert seen == [["1 0", "0 1"], ["0 1", "1 0"]]
    assert "NP303" in codes(BRANCHES + EACH.replace("loop: {items: [1]}, ", ""))


def test_numbers_of_visits_have_no_gaps(store: SqliteStore) -> None:
    """Numbers of visits: they are 1 and 2 in both orders. Past `max_visits`, the greater one is refused."""
    limited = EACH.replace("join: each", "join: each, max_visits: 1, rule: [{case: error, run: []}]")
    for harness in run_in_orders(store, BRANCHES + limited):
        assert [(visit.number, visit.error is None) for visit in visits_of(harness, "d")] == [
            (1, True),
            (2, False),
        ]
    assert "NP307" in codes(BRANCHES + limited)
    assert "NP307" not in codes(BRANCHES + EACH)


ABORT = """
input: {b: integer, c: integer}
steps:
- {name: a, rule: [{case: default, run: [b, c]}]}
- name: b
  run: [{action: wait, seconds: "{{ input.b }}"}, {action: fail, type: B, message: no}]
- {name: c, run: [{action: wait, seconds: "{{ input.c }}"}], rule: [{case: default, run: [d]}]}
- {name: d, run: [{action: fail, type: D, message: no}]}
"""


def test_abort_stops_the_other_branches(store: SqliteStore) -> None:
    """Abort: the first failure stops the run, and nothing new starts."""
    runs = run_in_orders(store, ABORT)
    assert [harness.run.status for harness in runs] == ["failed", "failed"]
    assert [harness.error_types for harness in runs] == [["B"], ["D"]]
    assert [harness.run.error and harness.run.error["type"] for harness in runs] == ["B", "D"]
    assert "d" not in runs[0].visit_counts
    assert runs[1].visit("b").status == "parked"


def test_running_steps_finish_after_an_abort(store: SqliteStore) -> None:
    """Abort: a step that was running finishes. All failures are in `errors`."""
    text = """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: fail, type: B, message: no}]}
        - {name: c, run: [{action: fail, type: C, message: no}]}
    """
    for reverse in (False, True):
        harness = RunHarness(store, text)
        harness.execute_next()
        claims = [claim for name in ("one", "two") if (claim := harness.claim(name))]
        for claim in sorted(claims, key=lambda claim: claim.visit.step, reverse=reverse):
            harness.executor(claim.visit.worker or "").execute(claim)
        harness.finish()
        assert sorted(harness.error_types) == ["B", "C"]
        assert harness.run.error is not None
        assert harness.run.error["type"] == ("C" if reverse else "B")


ITEM_KINDS = {
    "items": "parallel: true, run: [COMMAND 1, COMMAND 2]",
    "loop": "loop: {items: [1, 2], concurrency: 2}, run: [COMMAND item]",
}


def items_text(kind: str, command: str) -> str:
    """Return a step with two items. In `command`, N is the number of the item."""

    def entry(match: re.Match[str]) -> str:
        number = "{{ item }}" if match[1] == "item" else match[1]
        return f"{{action: shell, command: '{command.replace('N', number)}'}}"

    work = re.sub(r"COMMAND (\w+)", entry, ITEM_KINDS[kind])
    keep = "{action: set, set: {data: '{{ result.data }}'}}"
    return f"steps: [{{name: a, {work}, rule: [{{case: default, run: [{keep}]}}]}}]"


@pytest.mark.parametrize("kind", ITEM_KINDS)
@pytest.mark.parametrize("first", [1, 2])
def test_items_keep_their_order(store: SqliteStore, tmp_path: Path, kind: str, first: int) -> None:
    """Items: either may end first. Data is in order, and the first failed item in this order counts."""
    for end in ("echo N", "exit N"):
        record = tmp_path / end.split()[0]
        wait = f'while [ N != {first} ] && [ ! -s "{record}" ]; do sleep 0.01; done'
        run = RunHarness(store, items_text(kind, f'{wait}; echo N >> "{record}"; {end}')).finish()
        assert record.read_text().split() == [str(first), str(3 - first)]
        if end == "echo N":
            assert [entry["stdout"].strip() for entry in run.result["data"]] == ["1", "2"]
        else:
            assert [error["details"]["exit_code"] for error in run.run.errors] == [1]
    save = "{action: set, set: {x: 1}}"
    assert "NP303" in codes(f"steps: [{{name: a, parallel: true, run: [{save}, {save}]}}]")


def test_each_failure_is_listed_once(store: SqliteStore) -> None:
    """Errors: each failure is listed once. Those before a join come before those behind it."""
    text = """
        on_error: continue
        input: {b: integer, c: integer}
        steps:
        - {name: a, rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [WAIT_B, {action: fail, type: B, message: no}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [WAIT_C, {action: fail, type: C, message: no}], rule: [{case: default, run: [e]}]}
        - {name: d, rule: [{case: default, run: [e]}]}
        - {name: e, run: [{action: fail, type: E, message: no}]}
    """
    for name in "bc":
        wait = f'{{action: wait, seconds: "{{{{ input.{name} }}}}"}}'
        text = text.replace(f"WAIT_{name.upper()}", wait)
    for harness in run_in_orders(store, text):
        assert sorted(harness.error_types) == ["B", "C", "E"]
        assert harness.error_types[-1] == "E"


def test_events_of_a_branch_are_in_order(store: SqliteStore) -> None:
    """Events: those of a branch are in order. A reader that continues from a cursor misses none."""
    text = f"{BRANCHES}- {{name: d, join: each, run: [{{action: log, message: m}}]}}\n"
    harness = RunHarness(store, text, ORDERS[1])
    read: list[Event] = []
    while not harness.status.is_final:
        if not harness.execute_next():
            harness.clock.now = store.queue.next_due(harness.queue) or 0.0
        read += store.runs.events(harness.id, after=read[-1].id if read else None, limit=2)
    while following := store.runs.events(harness.id, after=read[-1].id, limit=2):
        read += following
    assert [event.id for event in read] == [event.id for event in harness.events]
    for path in ("ab", "ac"):
        steps = [event.step for event in read if event.type == "step.completed" and event.step in {*path}]
        assert steps == [*path]


def run_with_crash(store: SqliteStore, probe: FakeHandler, value: str, delivery: str = "") -> list[Any]:
    """Execute an action whose first worker dies after it, before the commit. Return what `value` was."""
    text = f"""
        variables: {{x: 1}}
        steps: [{{name: a, {delivery}run: [{{action: probe, say: "{{{{ {value} }}}}"}}]}}]
    """
    harness = RunHarness(store, text)
    lost = harness.claim("dies")
    assert lost is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.queue, "commit", fail_commit)
        with pytest.raises(RuntimeError, match="the worker dies"):
            harness.executor("dies").execute(lost)
    harness.clock.advance(LEASE_SECONDS + 1)
    harness.finish()
    assert harness.visit_counts == {"a": 1}
    return [call.parameters["say"] for call in probe.calls]


def fail_commit(*_: object) -> None:
    raise RuntimeError("the worker dies")


def test_repeated_attempt_is_the_same(store: SqliteStore, probe: FakeHandler) -> None:
    """Repetition: after a crash, the attempt has the same number, names and key. It is committed once."""
    first, second = run_with_crash(store, probe, "[step.visit, step.attempt, x, step.idempotency_key]")
    assert first == second
    assert first[:3] == [1, 1, 1]
    post = "{action: message, to: 'https://sqs.eu-west-1.amazonaws.com/1/q', body: x, retry: 2}"
    assert "NP510" in codes(f"steps: [{{name: a, run: [{post}]}}]")


def test_attempt_that_must_not_be_repeated(store: SqliteStore, probe: FakeHandler) -> None:
    """Repetition: with `delivery: at_most_once`, the attempt is not made again."""
    assert run_with_crash(store, probe, "1", "delivery: at_most_once, ") == [1]


def test_repeated_attempt_has_the_same_time_and_ids(store: SqliteStore, probe: FakeHandler) -> None:
    """Time and ids: a repeated attempt has the same ones. Another call of `uuid()` has another value."""
    first, second = run_with_crash(store, probe, "[now() | string, uuid(), uuid()]")
    assert first == second
    assert len(set(first)) == 3


RENAMED = {"a": "z", "b": "y", "c": "b", "d": "a"}


def test_names_and_places_of_steps_do_not_decide(store: SqliteStore) -> None:
    """Names and places of steps: other names, and another order in the file, give the same result."""
    text = f"{BRANCHES}- {{name: d, run: [{{action: set, set: {{seen: {SEEN}}}}}]}}\n"
    head, *steps = re.split(r"^(?=- )", text, flags=re.MULTILINE)
    moved = f"start: a\n{head}{''.join(reversed(steps))}"
    renamed = re.sub(r"(name: |run: \[|, )([abcd])\b(?=[,\n\]])", lambda m: m[1] + RENAMED[m[2]], text)
    assert "name: y" in renamed
    results = [run_in_orders(store, variant) for variant in (text, moved, renamed)]
    assert {repr(sorted(h.result.items())) for pair in results for h in pair} == {
        repr(sorted(results[0][0].result.items()))
    }


def test_sequential_mode_has_an_order(store: SqliteStore) -> None:
    """Sequential mode: visits have their numbers in order, and the first branch in turn passes."""
    sequential = f"mode: sequential\n{BRANCHES}"
    for harness in run_in_orders(store, sequential + EACH):
        assert [visit.result[0]["x"] for visit in visits_of(harness, "d")] == ["1 0", "1 1"]
    passed = f"{sequential}- {{name: d, join: any, run: [{{action: set, set: {{seen: {SEEN}}}}}]}}\n"
    assert [harness.result["seen"] for harness in run_in_orders(store, passed)] == ["1 0", "1 0"]
    assert codes(sequential + EACH.replace("SEEN", "{{ step.visit }}")) & {"NP303", "NP307"} == set()
