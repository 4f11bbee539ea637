"""The cost of a registration whose playbook names thousands of wrong inputs, entries or limits.

Costs are counted in words that are compared, because the count is equal on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from noetl.planner.diagnostics import diagnostic
from noetl.planner.diagnostics.diagnostic import MAX_COMPARED_WORDS, Diagnostic
from noetl.planner.frozen import replace
from noetl.planner.plan import Header, Input
from noetl.planner.registration.circles import MAX_SHOWN_NAMES
from noetl.planner.registration.findings import MAX_FOUND
from noetl.planner.registration.fit import UsedVersion, find_input_misfits
from tests.planner.registered import KnownPlaybooks, compiled, diagnose_among

QUIET = "steps: [{name: a, run: [{action: log, message: x}]}]\n"
COUNT = 1_000


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of words with which words are compared."""
    numbers: list[int] = []

    def closest(word: str, known: Iterable[str]) -> None:
        numbers.append(len([*known]))

    monkeypatch.setattr(diagnostic, "closest", closest)
    return numbers


def names(word: str, value: str = "1") -> str:
    return ", ".join(f"{word}_{number}: {value}" for number in range(COUNT))


def found_about(callee: str, run: str) -> list[Diagnostic]:
    registered = KnownPlaybooks(f"name: callee\n{callee}\n{QUIET}")
    return [*diagnose_among(registered, f"name: caller\nsteps: [{{name: a, run: [{run}]}}]\n")]


def test_thousands_of_wrong_inputs_are_compared_with_some_words(compared: list[int]) -> None:
    inputs = f"input: {{{names('input', 'string')}}}"
    found = found_about(inputs, f"{{action: workflow, playbook: callee, input: {{{names('inputs')}}}}}")
    assert [finding.code for finding in found] == ["NP818"] * MAX_FOUND
    assert 0 < sum(compared) <= MAX_COMPARED_WORDS


def test_thousands_of_wrong_entries_are_compared_with_some_words(compared: list[int]) -> None:
    reads = ", ".join(f"{{action: log, message: '{{{{ x.entry{number} }}}}'}}" for number in range(COUNT - 1))
    found = found_about(
        f"output: {{{names('entry')}}}", f"{{action: workflow, playbook: callee, as: x}}, {reads}"
    )
    assert [finding.code for finding in found] == ["NP818"] * MAX_FOUND
    assert 0 < sum(compared) <= MAX_COMPARED_WORDS


class CountedInputs(dict[str, Input]):
    """The inputs of a playbook, which count how often all of them are read."""

    reads = 0

    def items(self) -> Any:
        self.reads += 1
        return super().items()


def test_the_inputs_of_a_playbook_are_read_once_for_all_calls() -> None:
    header: Header = compiled(f"name: callee\ninput: {{{names('input', 'string')}}}\n{QUIET}").header
    inputs = CountedInputs(header.inputs)
    version = UsedVersion(replace(header, inputs=inputs), frozenset)
    for _ in range(100):
        assert next(find_input_misfits("callee", version, {"input_0": "x"}, ("steps", 0))) is not None
    assert inputs.reads == 1


def test_thousands_of_unknown_limits_are_few_findings(compared: list[int]) -> None:
    steps = ", ".join(
        f"{{name: a{number}, concurrency: {{use: limit{number}}}, "
        f"rule: [{{case: default, run: [a{number + 1}]}}]}}"
        for number in range(2 * MAX_FOUND)
    )
    last = f"{{name: a{2 * MAX_FOUND}, run: [{{action: log, message: x}}]}}"
    found = diagnose_among(KnownPlaybooks(), f"name: caller\nsteps: [{steps}, {last}]\n")
    assert [finding.code for finding in found] == ["NP834"] * MAX_FOUND
    assert 0 < sum(compared) <= MAX_COMPARED_WORDS


def test_thousands_of_broken_callers_are_few_findings() -> None:
    calls = ["\n  {action: workflow, playbook: callee, input: {n: 1, m: 1}}"] * MAX_FOUND
    registered = KnownPlaybooks(
        f"name: callee\ninput: {{n: any, m: any}}\n{QUIET}",
        f"name: caller\nsteps: [{{name: a, run: [{','.join(calls)}]}}]\n",
    )
    found = diagnose_among(registered, f"name: callee\n{QUIET}")
    assert [finding.code for finding in found] == ["NP822"] * MAX_FOUND


def test_a_long_circle_of_triggers_is_shown_by_its_ends() -> None:
    def awaiting(name: str, other: str) -> str:
        return f"name: {name}\ntriggers: [{{name: t, type: run, playbook: {other}}}]\n{QUIET}"

    registered = KnownPlaybooks(*(awaiting(f"p{number}", f"p{number + 1}") for number in range(30)))
    (found,) = diagnose_among(registered, awaiting("p30", "p0"))
    assert found.code == "NP816"
    assert found.message.count("`p") == MAX_SHOWN_NAMES
    assert "… → " in found.message
