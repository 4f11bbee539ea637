"""The final state of a run, and the number of visits that are read for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from noetl.executor.engine.final_state import NEWEST_VISITS, FinalState
from noetl.executor.model.run import RunStatus, Visit
from noetl.executor.stores.sql.runs import SqlRuns
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

STEPS = NEWEST_VISITS + 10


class ReadCountingRuns(SqlRuns):
    """Runs that record how many visits each read with outputs returned."""

    reads: list[int]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        found = super().visits_with_outputs(run_id, visit_ids)
        self.reads.append(len(found))
        return found


class ReadCountingStore(SqliteStore):
    """A store that records how many visits each read with outputs returned."""

    runs: ReadCountingRuns


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReadCountingStore]:
    opened = ReadCountingStore(str(tmp_path / "noetl.db"))
    opened.runs = ReadCountingRuns(opened.context, opened.plans)
    opened.runs.reads = []
    yield opened
    opened.close()


def chain(output: str, steps: int = STEPS) -> str:
    """Return a chain of steps.

    Each saves its number as `x`, and the first also as `early`; no step reads them.
    """
    lines = ["steps:"]
    for number in range(steps):
        saved = f"x: {number}" + (", early: 1" if number == 0 else "")
        continues = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f"- {{name: s{number}, run: [{{action: set, set: {{{saved}}}}}]{continues}}}")
    return "\n".join([*lines, f"output: {output}", ""])


@pytest.mark.parametrize(
    ("output", "result", "reads"),
    [
        ('{x: "{{ x }}"}', {"x": STEPS - 1}, [NEWEST_VISITS]),
        (
            '{x: "{{ x }}", first: "{{ steps.s0.result.early }}"}',
            {"x": STEPS - 1, "first": 1},
            [NEWEST_VISITS + 1],
        ),
        ('{first: "{{ steps.s0.status }}"}', {"first": "succeeded"}, [1]),
        ('{x: "{{ x + early }}"}', {"x": STEPS}, [NEWEST_VISITS, STEPS]),
        ("{n: 1}", {"n": 1}, []),
    ],
)
def test_the_end_of_a_long_run_reads_only_what_its_output_reads(
    store: ReadCountingStore, output: str, result: object, reads: list[int]
) -> None:
    harness = RunHarness(store, chain(output)).finish()
    assert harness.result == result
    assert store.runs.reads == reads


def test_the_end_of_a_short_run_is_read_once(store: ReadCountingStore) -> None:
    harness = RunHarness(store, chain('{x: "{{ x + early }}"}', steps=4)).finish()
    assert harness.result == {"x": 4}
    assert store.runs.reads == [4]


def test_a_name_that_only_an_input_has_is_read(store: ReadCountingStore) -> None:
    harness = RunHarness(store, "input: {n: integer}\n" + chain('{n: "{{ n }}"}'), {"n": 7}).finish()
    assert harness.result == {"n": 7}
    assert store.runs.reads == []


@pytest.mark.parametrize("reads", [["x"], ["early"], ["early", "x"], ["steps.s1"], ["steps.s1", "x"]])
def test_a_partial_read_equals_a_full_read(store: ReadCountingStore, reads: list[str]) -> None:
    harness = RunHarness(store, chain('{x: "{{ x }}"}')).finish()
    partial, partial_steps, _ = FinalState(store, harness.id, STEPS).read(reads)
    complete, complete_steps, _ = FinalState(store, harness.id, STEPS).read()
    for name in reads:
        if name.startswith("steps."):
            assert partial_steps[name[6:]] == complete_steps[name[6:]]
        else:
            assert partial[name] == complete[name]


CYCLE = f"""
steps:
- name: begin
  run: [{{action: set, set: {{n: 0}}}}]
  rule: [{{case: default, run: [round]}}]
- name: round
  max_visits: {STEPS}
  run: [{{action: set, set: {{n: "{{{{ n + 1 }}}}"}}}}]
  rule: [{{case: "{{{{ n < {STEPS} }}}}", run: [round]}}]
output: {{n: "{{{{ n }}}}", rounds: "{{{{ steps.round.visits }}}}", begun: "{{{{ steps.begin.result.n }}}}"}}
"""


def test_visits_of_a_step_are_counted(store: ReadCountingStore) -> None:
    harness = RunHarness(store, CYCLE).finish()
    assert harness.result == {"n": STEPS, "rounds": STEPS, "begun": 0}
    assert store.runs.reads[-1] == NEWEST_VISITS + 1


FAILING = """
steps:
- name: fork
  run: [{action: set, set: {x: 1}}]
  rule: [{case: default, run: [good, bad]}]
- {name: good, run: [{action: set, set: {y: 1}}]}
- name: bad
  on_error: continue
  run:
  - {action: set, set: {x: 2}}
  - {action: fail, message: no}
output: {x: "{{ x }}"}
"""


@pytest.mark.parametrize("most_visits", [1, STEPS])
def test_names_of_a_failed_branch_are_not_visible(store: ReadCountingStore, most_visits: int) -> None:
    harness = RunHarness(store, FAILING).finish()
    assert (harness.status, harness.result) == (RunStatus.COMPLETED_WITH_ERRORS, {"x": 1})
    visited = FinalState(store, harness.id, most_visits)
    assert [visit.step for visit in visited.unhandled_failures()] == ["bad"]
    assert visited.read(["x"])[0]["x"] == 1
