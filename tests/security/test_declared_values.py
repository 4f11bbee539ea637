"""Values that are refused in their thousands, and the size of what is said about them."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.model.declared_values import MAX_PROBLEMS, DeclaredFields
from noetl.planner.diagnostics import diagnostic
from noetl.planner.plan import Input


def declare(count: int, choices: int = 0) -> DeclaredFields:
    """Return `count` fields, each with as many choices as given."""
    enum = tuple(f"choice_{number}" for number in range(choices)) or None
    fields = {f"field_{number}": Input("string", False, None, enum, None) for number in range(count)}
    return DeclaredFields(fields, "input", "the playbook")


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        (declare(5_000), {f"other_{number}": 1 for number in range(5_000)}),
        (declare(5_000), {f"fields_{number}": 1 for number in range(5_000)}),
        (declare(5_000), {f"field_{number}": 1 for number in range(5_000)}),
        (declare(1_000, choices=1_000), {f"field_{number}": "none" for number in range(1_000)}),
        (declare(1, choices=100_000), {"field_0": "none"}),
        (declare(1), {"x" * 1_000_000: 1}),
    ],
    ids=["unknown", "misspelt", "of the wrong type", "no choices", "one of 100,000 choices", "a long name"],
)
def test_refused_values_are_described_in_a_few_sentences(
    declared: DeclaredFields, given: dict[str, Any]
) -> None:
    problems = declared.find_problems(given)
    assert 1 <= len(problems) <= MAX_PROBLEMS + 1
    assert len(str(problems)) < 100_000


def test_unknown_names_are_compared_with_a_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def closest(word: str, known: Any) -> None:
        compared.append(len(known))

    monkeypatch.setattr(diagnostic, "closest", closest)
    declare(6_000).find_problems({f"fields_{number}": 1 for number in range(50)})
    assert sum(compared) == 18_000


def test_the_last_problem_says_that_there_are_more() -> None:
    given = {f"other_{number}": 1 for number in range(MAX_PROBLEMS + 5)}
    *listed, last = declare(0).find_problems(given)
    assert len(listed) == MAX_PROBLEMS
    assert last == {
        "name": f"other_{MAX_PROBLEMS}",
        "message": "more inputs are wrong; fix these first",
        "line": None,
    }


def test_the_first_names_and_choices_are_listed() -> None:
    (problem,) = declare(22).find_problems({"zz": 1})
    assert problem["message"].endswith("`field_18`, `field_19` and 2 more")
    (problem,) = declare(1, choices=22).find_problems({"field_0": "x"})
    assert problem["message"].endswith("`choice_18`, `choice_19` and 2 more, not `x`")
    (problem,) = declare(1, choices=2).find_problems({"field_0": "x"})
    assert problem["message"] == "input `field_0` must be `choice_0` or `choice_1`, not `x`"
