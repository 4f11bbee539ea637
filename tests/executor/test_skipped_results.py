"""The check of results that are given for steps which a resume leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine.skips import check_skipped_result, find_skips
from noetl.executor.errors import RejectedError
from noetl.testing.run_harness import compile_text


def check(work: str, result: Any) -> None:
    plan = compile_text(f"input: {{x: any}}\nsteps:\n- name: a\n  run: [{work}]")
    check_skipped_result(plan.steps["a"], result)


LOG = "{action: log, message: hello, as: said}"
READS = "{action: set, set: {n: '{{ said.id }}'}}"


@pytest.mark.parametrize(
    ("work", "result"),
    [
        ("{action: set, set: {n: 1}}", {"n": 7}),
        (f"{LOG}, {READS}", {"id": 7}),
        # Such a template may have a value without the part.
        (f"{LOG}, {{action: set, set: {{n: '{{{{ said.id | default(1) }}}}'}}}}", {}),
        # The name has another value then.
        (
            f"{LOG}, {{action: set, set: {{said: {{id: 1}}}}}}, {READS}",
            {},
        ),
        # The action may be left out.
        (f"{LOG}, {{action: set, if: '{{{{ input.x }}}}', set: {{n: '{{{{ said.id }}}}'}}}}", {}),
        (f"{LOG}, {{action: set, set: {{n: ['{{{{ input.x }}}}', 1]}}}}", {}),
        ("{action: log, message: hello, loop: {items: [1, 2]}}", []),
    ],
)
def test_complete_results(work: str, result: Any) -> None:
    check(work, result)


@pytest.mark.parametrize(
    ("work", "result", "message"),
    [
        ("{action: set, set: {n: 1, m: 2}}", {"n": 7}, "has no `m`, which `set` saves (line 5)"),
        ("{action: set, set: {n: 1}}", 7, "has no `n`, which `set` saves (line 5)"),
        (
            f"{LOG}, {{action: set, set: {{n: {{deep: ['{{{{ said.id }}}}']}}}}}}",
            {"no": 9},
            "has no `said.id`, which `set` reads (line 5)",
        ),
    ],
)
def test_incomplete_results(work: str, result: Any, message: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        check(work, result)
    assert refusal.value.reason == "incomplete_result"
    assert str(refusal.value) == f"the result that is given for step `a` {message}"


def test_parallel_work_has_no_single_result() -> None:
    plan = compile_text("steps:\n- name: a\n  parallel: true\n  run: [{action: set, set: {n: 1}}]")
    check_skipped_result(plan.steps["a"], None)


@pytest.mark.parametrize(
    ("step", "reason"), [("pya", "unknown_step"), ("zzzzzz", "unknown_step"), ("pay", "not_skippable")]
)
def test_only_stopped_steps_of_the_plan_are_skipped(step: str, reason: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        find_skips("r", [], ["pay"], {step: 1}, None)
    assert refusal.value.reason == reason
