"""The benchmark of the page measures what it says; how long it takes is nothing a test could know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from benchmarks import page, report
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook


@pytest.fixture(scope="module")
def place(browser: Browser) -> Iterator[page.Place]:
    with page.running_place(browser, 30) as place:
        yield place


@pytest.mark.parametrize(("text", "steps"), [(page.layers(9), 9), (page.chain(3), 3), (page.cycle(2, 3), 3)])
def test_its_playbooks_compile(text: str, steps: int) -> None:
    compilation = compile_playbook(text, catalogue())
    assert compilation.plan is not None
    assert (compilation.diagnostics, compilation.plan.header.statistics["steps"]) == ((), steps)


def test_rows_of_the_graph(place: page.Place) -> None:
    rows = page.measure_first(place, 9, 1) + page.measure_recolour(place, 9, 2)
    assert all(0 < row["median"] <= row["worst"] for row in rows)
    assert "9 steps" in report.table("first", page.COLUMNS, rows)


def test_rows_of_lists_and_timelines(place: page.Place) -> None:
    rows = page.measure_filter(place, 30, 1) + page.measure_scroll(place, 2, 20, 5)
    assert all(0 < row["median"] <= row["worst"] for row in rows)
    assert [row["size"] for row in rows] == ["30 runs", "40 bars"]


def test_rows_of_clients(place: page.Place) -> None:
    [row] = page.measure_clients(place, 6, 20, 1)
    assert row["refused"] == 0
    assert row["alone"] > 0 < row["watched"]
    assert "6" in report.table("clients", page.CLIENT_COLUMNS, [row])
