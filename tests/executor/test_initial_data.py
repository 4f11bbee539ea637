"""The initial data of a run: the place where it is evaluated, and its size."""

from __future__ import annotations

import json

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.evaluation import MAX_LIGHT_LENGTH
from noetl.executor.engine.initial_data import MAX_INITIAL_DATA, InitialData, InitialDataBudget
from noetl.executor.errors import RejectedError
from noetl.planner.compile import compile_playbook


def is_light(environment: dict[str, object]) -> bool:
    work = [{"action": "log", "message": "hello"}]
    document = {"name": "a", "environment": environment, "steps": [{"name": "s", "run": work}]}
    plan = compile_playbook(json.dumps(document), catalogue()).plan
    assert plan is not None
    return InitialData(plan.header, "r", {}, {}, 0.0).is_light


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"a": "text", "b": 1}, True),
        ({"a": ["{{ run.id }}", {"b": "{{ run.id }}"}]}, True),
        ({"a": {"b": ["{{ 1 + 1 }}"]}}, False),
        ({"a": "{% if true %}x{% endif %}"}, False),
        ({"a": "{{ run.id }}" + "x" * MAX_LIGHT_LENGTH}, False),
    ],
)
def test_only_insertions_of_names_are_light(environment: dict[str, object], expected: bool) -> None:
    assert is_light(environment) is expected


def test_entries_share_a_budget() -> None:
    budget = InitialDataBudget()
    budget.reserve("a", "x" * (MAX_INITIAL_DATA - 10))
    with pytest.raises(RejectedError) as caught:
        budget.reserve("b", "x" * 10)
    assert caught.value.reason == "invalid_input"
    assert "at `b`" in caught.value.message
