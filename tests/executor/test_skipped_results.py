"""The check of results that are given for steps which a resume leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine.skips import check_skipped_result, find_skips
from noetl.executor.errors import RejectedError
from noetl.testing.run_harness import compile_text


def check(work: str, result: Any) -> None:
    plan = compile_text(f"input: {{x: any}}\nsteps:\n- name: a\n  run: [{work}]")
    check_skipped_result(plan.steps["a"], result, plan.steps.__getitem__)


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
    check_skipped_result(plan.steps["a"], None, plan.steps.__getitem__)


@pytest.mark.parametrize(
    ("step", "reason"), [("pya", "unknown_step"), ("zzzzzz", "unknown_step"), ("pay", "not_skippable")]
)
def test_only_stopped_steps_of_the_plan_are_skipped(step: str, reason: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        find_skips("r", [], ["pay"], {step: 1}, None)
    assert refusal.value.reason == reason


FOLLOWED = """
    input: {x: any}
    mode: MODE
    steps:
    - {name: a, run: [{action: log, message: hello, as: said}], rule: [RULE]}
    - {name: b, run: [WORK], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: "{{ said.end }}"}]}
    - {name: d, run: [{action: log, message: "{{ steps.a.result.last }}"}]}
"""
LEADS_ON = "{case: default, run: [b]}"
HELLO = "{action: log, message: hello}"


def check_followed(result: Any, rule: str = LEADS_ON, work: str = HELLO, mode: str = "parallel") -> None:
    plan = compile_text(FOLLOWED.replace("RULE", rule).replace("WORK", work).replace("MODE", mode))
    is_sequential = plan.header.sequential
    check_skipped_result(plan.steps["a"], result, plan.steps.__getitem__, is_sequential=is_sequential)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ({}, '{case: "{{ result.data.id > 1 }}", run: [b]}'),
            "has no `result.data.id`, which a case of step `a`",
        ),
        (
            ({}, '{case: "{{ said.id }}", run: [b]}'),
            "has no `said.id`, which a case of step `a` reads (line 6)",
        ),
        (
            ({"go": False}, '{case: "{{ said.go }}", run: [b]}, {case: "{{ said.id > 1 }}", run: [b]}'),
            "no `said.id`",
        ),
        (
            ({"go": True}, '{case: "{{ said.go }}", run: [b]}'),
            "has no `said.end`, which step `c` reads (line 8)",
        ),
        (({"end": 1}, LEADS_ON, "{action: set, set: {n: '{{ said.id }}'}}"), "which step `b` reads (line 7)"),
        (({}, LEADS_ON, "{action: log, message: hello, if: '{{ input.x }}'}"), "has no `said.end`"),
        (({"end": 1}, "{case: default, run: [b, d]}"), "has no `steps.a.result.last`, which step `d` reads"),
        (
            ({}, "{case: default, run: [{action: set, set: {n: '{{ said.id }}'}}]}"),
            "no `said.id`, which a case",
        ),
    ],
)
def test_result_that_later_reads_lack(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        check_followed(*arguments)
    assert refusal.value.reason == "incomplete_result"
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ({"end": 1},),
        # It is not known which case is taken.
        ({}, '{case: "{{ input.x }}", run: [b]}'),
        ({}, '{case: "{{ said.id is defined }}", run: [b]}'),
        # The name has another value then.
        ({}, LEADS_ON, "{action: set, set: {said: {end: 1}}}"),
        ({}, LEADS_ON, "{action: log, message: hello, if: '{{ input.x }}', as: said}"),
        ({}, LEADS_ON, "{action: log, message: hello, loop: {items: [1, 2]}}"),
        # Several branches meet, and another one may have saved the name.
        ({}, "{case: default, run: [b, c]}"),
        # Another branch may save it before.
        ({"end": 1}, "{case: default, run: [b, d]}", HELLO, "sequential"),
    ],
)
def test_result_of_which_later_reads_are_not_certain(arguments: tuple[Any, ...]) -> None:
    check_followed(*arguments)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("b, loop: {items: [1]}", None),
        ("b, parallel: true", None),
        ("b, max_visits: 2", "has no `said.end`"),
    ],
)
def test_steps_of_which_the_work_is_not_certain(step: str, message: str | None) -> None:
    text = FOLLOWED.replace("name: b", f"name: {step}").replace("MODE", "parallel").replace("WORK", HELLO)
    plan = compile_text(text.replace("RULE", LEADS_ON))
    if message is None:
        check_skipped_result(plan.steps["a"], {}, plan.steps.__getitem__)
        return
    with pytest.raises(RejectedError, match=message):
        check_skipped_result(plan.steps["a"], {}, plan.steps.__getitem__)
