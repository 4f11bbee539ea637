"""Steps whose work a resume leaves out: what their results become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.visit_transition import mark_skipped, read_skip, reopen
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.skips import skip_steps

READ = "{action: file, read: missing.json, format: json"
LOOP = f"{READ}, loop: {{items: [1, 2]}}, as: y}}"


@pytest.mark.parametrize(
    ("attributes", "run", "result", "expected"),
    [
        ("", f"[{READ}}}]", 7, {"r": 7}),
        ("", f"[{READ}, as: x}}]", [7], {"r": [7], "x": [7]}),
        ("parallel: true, ", f"[{READ}}}, {READ}}}]", [1, 2], {"r": [1, 2]}),
        ("loop: {items: [1, 2]}, ", f"[{READ}}}]", ["a"], {"r": ["a"]}),
        ("", f"[{READ}, as: x}}, {READ}, as: y}}]", 1, {"r": 1, "y": 1}),
        ("", f"[{LOOP}]", [1, 2], {"r": [1, 2], "y": [1, 2]}),
        ("", '[{action: set, set: {z: "{{ input.list[3] + 1 }}"}}]', {"z": 4}, {"r": {"z": 4}, "z": 4}),
        ("", '[{action: set, set: {z: "{{ input.list[3] + 1 }}"}}]', 5, {"r": 5}),
    ],
)
def test_a_result_is_saved_as_the_last_action_would_save_it(
    store: SqliteStore, attributes: str, run: str, result: Any, expected: Any
) -> None:
    text = f"""
        input: {{list: {{type: array, default: []}}}}
        output: {{all: "{{{{ steps.a.result }}}}"}}
        steps:
        - {{name: a, {attributes}run: {run}, rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [{{action: log, message: done}}]}}
    """
    harness = RunHarness(store, text, folder=Path.cwd()).finish()
    assert harness.status == "failed"
    skip_steps(harness, a=result).finish()
    assert harness.status == "succeeded"
    (visit,) = (visit for visit in store.runs.visits_with_outputs(harness.id) if visit.step == "a")
    assert {"r": harness.result["all"], **visit.saved} == expected


def test_in_place_work_of_a_case_may_wait(store: SqliteStore) -> None:
    text = f"""
        steps:
        - name: a
          run: [{READ}, as: x}}]
          rule:
          - case: "{{{{ x == 1 }}}}"
            run: [{{action: wait, seconds: 60}}, {{action: set, set: {{y: "{{{{ x + 1 }}}}"}}}}]
    """
    harness = RunHarness(store, text, folder=Path.cwd()).finish()
    skip_steps(harness, a=1).finish()
    assert (harness.status, harness.result) == ("succeeded", {"x": 1, "y": 2})
    assert harness.event_types().count("step.skipped") == 1


def test_a_mark_is_of_one_resume() -> None:
    visit = Visit("v", "r", "a", VisitStatus.PARKED, 1, {}, due_at=9.0)
    assert read_skip(visit, 1) is None
    marked = mark_skipped(visit, {"result": 1, "by": None}, 1)
    assert read_skip(marked, 1) == {"result": 1, "by": None, "resumes": 1}
    assert read_skip(marked, 2) is None
    again = reopen(marked, 5.0)
    assert again is not None
    assert (again.status, again.due_at) == (VisitStatus.READY, 5.0)
