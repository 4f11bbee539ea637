"""The check of undefined names can be followed: it leads through few calls and modules."""

from __future__ import annotations

import pytest

from noetl.infra import calls

MAX_DEFINITIONS = 75
"""Half of the classes and public functions before step effects were values."""


def test_check_leads_through_few_calls_and_modules() -> None:
    found = calls.trace_check()
    assert "dataflow/solver:analyse_assignment -> dataflow/fact_encoding:FactTable.__init__" in map(
        str, found
    )
    assert len(found) <= 20, [str(call) for call in found]
    assert len(calls.modules_of(found)) <= 8, calls.modules_of(found)


def test_calls_for_a_finding_are_traced_too() -> None:
    text = calls.EXAMPLE.replace("answer | default(none)", "answer")
    called = {call.called for call in calls.trace_check(text)}
    assert "dataflow/witness:find_witness" in called
    assert "dataflow/witness:find_witness" not in {call.called for call in calls.trace_check()}


def test_command_prints_the_numbers_of_calls_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    calls.main()
    *lines, total, sizes = capsys.readouterr().out.splitlines()
    assert total.startswith(f"{len(lines)} calls through ")
    classes, functions = (int(word) for word in sizes.split() if word.isdigit())
    assert classes > 0
    assert classes + functions <= MAX_DEFINITIONS, sizes
