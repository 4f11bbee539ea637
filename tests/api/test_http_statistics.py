"""The statistics of the latest runs of a playbook."""

from __future__ import annotations

import httpx
import pytest

from noetl.api.service.statistics import DurationReport, PlaybookStatistics, describe_durations
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PATIENT = {"Prefer": "wait=25"}

CHECK = """\
name: "nightly/check ü"
input: {rows: integer}
steps:
  - name: count
    retry: {attempts: 2, delay: 10ms}
    run:
      - {action: shell, command: ["test", "{{ input.rows }}", "-gt", "0"]}
      - {action: set, set: {share: "{{ 100 / input.rows }}"}}
    rule: [{case: "{{ share > 50 }}", run: [alert]}]
  - name: alert
    run: [{action: log, message: few}]
"""


async def start(http: httpx.AsyncClient, rows: int) -> str:
    body = {"playbook": CHECK, "input": {"rows": rows}}
    response = await http.post("/workflows/run", json=body, headers=PATIENT)
    assert response.status_code == 200, response.text
    status: str = response.json()["status"]
    return status


async def read(http: httpx.AsyncClient, **query: str | int) -> PlaybookStatistics:
    response = await http.get("/workflows/statistics", params=query)
    assert response.status_code == 200, response.text
    return read_view(PlaybookStatistics, response.json())


async def test_the_latest_runs_of_a_playbook_are_counted(http: httpx.AsyncClient) -> None:
    assert [await start(http, rows) for rows in (0, 1, 2, 10)] == ["failed", *["succeeded"] * 3]
    statistics = await read(http, playbook="nightly/check ü")
    assert (statistics.runs, statistics.statuses) == (4, {"succeeded": 3, "failed": 1})
    assert (statistics.success_rate, statistics.duration.count) == (0.75, 3)
    count, alert = statistics.steps["count"], statistics.steps["alert"]
    assert list(statistics.steps) == ["count", "alert"]
    assert (count.runs, count.visits, count.failed, count.retried) == (4, 4, 1, 1)
    assert (alert.runs, alert.visits, alert.failed, alert.retried) == (1, 1, 0, 0)
    assert count.duration.count == 4
    assert (await read(http, playbook="nightly/check ü", runs=3)).success_rate == 1.0


async def test_a_playbook_without_runs_has_no_rates(http: httpx.AsyncClient) -> None:
    statistics = await read(http, playbook="none")
    assert (statistics.runs, statistics.since, statistics.success_rate) == (0, None, None)
    assert (statistics.duration.count, statistics.steps) == (0, {})


@pytest.mark.parametrize("query", ["", "playbook=a&runs=0", "playbook=a&runs=201", "playbook=a&runs=x"])
async def test_wrong_queries_are_refused(http: httpx.AsyncClient, query: str) -> None:
    assert_problem(await http.get(f"/workflows/statistics?{query}"), 400, None)


def test_percentiles_are_durations_that_were_measured() -> None:
    report = describe_durations([second / 1000 for second in range(1, 101)])
    assert report == DurationReport(count=100, median_ms=50.0, p95_ms=95.0, max_ms=100.0)
    assert describe_durations([None]) == DurationReport(count=0, median_ms=None, p95_ms=None, max_ms=None)
