"""The benchmarks measure what they say; how long it takes is nothing a test could know."""

from __future__ import annotations

import pytest

from benchmarks import executor, planner, report, waiting
from benchmarks.playbooks import SHAPES, fan_out, set_chain
from executor.actions import catalogue
from planner.compile import compile_playbook


@pytest.mark.parametrize(
    ("shape", "forks", "joins"), [("chain", 0, 0), ("ladder", 66, 67), ("wide", 2, 2), ("nested", 64, 65)]
)
def test_shapes(shape: str, forks: int, joins: int) -> None:
    compilation = compile_playbook(SHAPES[shape](200), catalogue())
    assert compilation.plan is not None
    assert compilation.diagnostics == ()
    statistics = compilation.plan.header.statistics
    assert (statistics["steps"], statistics["forks"], statistics["joins"]) == (200, forks, joins)


def test_rows_of_the_planner() -> None:
    row = planner._row("ladder", 10, 1)
    assert row["ratio"] == pytest.approx(row["compile_seconds"] / row["load_seconds"])
    assert "ladder" in report.table("Compiling", report.PLANNER, [row])


@pytest.mark.parametrize(("text", "steps"), [(set_chain(4), 4), (fan_out(3), 5)], ids=["chain", "fan-out"])
def test_rows_of_the_executor(text: str, steps: int) -> None:
    first, later = executor._walks("a walk", text, steps, 1)
    assert (first["run"], later["run"], first["steps"]) == ("first", "later", steps)
    assert "a walk" in report.table("Walking", report.EXECUTOR, [first, later])


def test_what_waits() -> None:
    found = waiting.measure(runs=5, items=2_500, spread_seconds=0.1)
    assert (found["items"], found["runs"]) == (2_500, 5)
    assert found["late_seconds_worst"] >= found["late_seconds_median"] >= 0
