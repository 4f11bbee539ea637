"""The statistics of the latest runs of a playbook."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from noetl.api.http.responses import JsonResponse, LargeJsonResponse
from noetl.api.service import playbooks, statistics
from noetl.api.service.statistics import (
    DurationReport,
    PlaybookStatistics,
    StatisticsService,
    describe_durations,
)
from noetl.api.service.views import PlaybookPage
from noetl.executor.model.run import RunStatus
from noetl.planner.frozen import replace
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


async def test_steps_of_the_newest_runs_are_read_up_to_a_number(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise 200 runs of 10,000 steps, each with its own names, would take gigabytes."""
    for number in range(4):
        names = [f"s{number}_{step}" for step in range(3)]
        steps: list[dict[str, Any]] = [
            {"name": name, "run": [{"action": "log", "message": "a"}]} for name in names
        ]
        steps[0]["rule"] = [{"case": "default", "run": names[1:]}]
        text = json.dumps({"name": "wide", "steps": steps})
        response = await http.post("/workflows/run", json={"playbook": text}, headers=PATIENT)
        assert response.json()["status"] == "succeeded", response.text
    for limit, numbers in ((6, [3, 2]), (8, [3, 2]), (9, [3, 2, 1]), (1, [3]), (20_000, [3, 2, 1, 0])):
        monkeypatch.setattr(statistics, "MAX_STEPS", limit)
        found = await read(http, playbook="wide")
        assert (found.runs, found.statuses, found.duration.count) == (4, {"succeeded": 4}, 4)
        assert {int(name[1]) for name in found.steps} == set(numbers)


async def test_the_names_of_the_steps_of_a_plan_are_read_once(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of all requests has fewer plans than the runs of one request may have."""
    for number in range(3):
        step = {"name": f"s{number}", "run": [{"action": "log", "message": "a"}]}
        body = {"playbook": json.dumps({"name": "changed", "steps": [step]})}
        assert (await http.post("/workflows/run", json=body, headers=PATIENT)).status_code == 200
    hashes = list[str]()
    describe = StatisticsService.describe

    def describe_without_cache(service: StatisticsService, *arguments: Any) -> PlaybookStatistics:
        def step_names(plan_hash: str) -> tuple[str, ...]:
            hashes.append(plan_hash)
            return service.context.store.plans.step_names(plan_hash)

        context = replace(service.context, step_names=step_names)
        return describe(StatisticsService(context), *arguments)

    monkeypatch.setattr(StatisticsService, "describe", describe_without_cache)
    assert list((await read(http, playbook="changed")).steps) == ["s2", "s1", "s0"]
    assert (len(hashes), len(set(hashes))) == (3, 3)


async def test_statistics_are_written_on_a_thread(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise megabytes of them would stop the event loop, and with it all other requests."""
    threads = list[int]()
    write = JsonResponse.render

    def render(response: JsonResponse, content: Any) -> bytes:
        if isinstance(content, PlaybookStatistics):
            threads.append(threading.get_ident())
        return write(response, content)

    for response_class in (JsonResponse, LargeJsonResponse):
        monkeypatch.setattr(response_class, "render", render)
    await read(http, playbook="wide")
    assert threads[0] != threading.get_ident()  # The test itself may write what it has read.


async def test_skipped_runs_are_not_judged() -> None:
    found = {RunStatus.SUCCEEDED: 1, RunStatus.FAILED: 1, RunStatus.CANCELLED: 5, RunStatus.SKIPPED: 2}
    assert statistics._success_rate(found) == 0.5


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


async def test_the_registry_summarizes_the_latest_runs(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (CHECK, CHECK.replace("nightly/check", "Idle")):
        body = {"playbook": text}
        assert (await http.post("/playbooks", json=body)).status_code == 201
    assert [await start(http, rows) for rows in (0, 1, 2, 10)] == ["failed", *["succeeded"] * 3]
    page = await list_playbooks(http)
    idle, check = page.items
    assert idle.statistics is not None and check.statistics is not None
    assert (check.statistics.runs, check.statistics.more, check.statistics.success_rate) == (4, False, 0.75)
    assert check.statistics.median_ms and check.statistics.p95_ms
    assert check.statistics.last_status == "succeeded"
    assert (idle.statistics.runs, idle.statistics.success_rate, idle.statistics.last_run) == (0, None, None)
    monkeypatch.setattr(statistics, "SUMMARY_RUNS", 2)
    latest = (await list_playbooks(http)).items[1].statistics
    assert latest is not None
    assert (latest.runs, latest.more, latest.success_rate) == (2, True, 1.0)


async def test_old_runs_are_the_last_ones_and_do_not_count(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await http.post("/playbooks", json={"playbook": CHECK})).status_code == 201
    await start(http, 1)
    monkeypatch.setattr(statistics, "SUMMARY_SECONDS", 0)
    summary = (await list_playbooks(http)).items[0].statistics
    assert summary is not None
    assert (summary.runs, summary.success_rate, summary.median_ms) == (0, None, None)
    assert summary.last_run is not None


async def test_playbooks_are_found_by_a_part_of_their_name(http: httpx.AsyncClient) -> None:
    names = ["Nightly/close", "nightly/check <b>", "weekly", "\u05d0\u05d1"]
    for name in names:
        playbook = {"name": name, "steps": [{"name": "a", "run": [{"action": "log", "message": "x"}]}]}
        assert (await http.post("/playbooks", json={"playbook": playbook})).status_code == 201
    for text, found in (("NIGHTLY/", names[:2]), ("<B>", names[1:2]), ("\u05d1", names[3:]), ("zz", [])):
        page = await list_playbooks(http, q=text)
        assert ([item.name for item in page.items], page.next_cursor) == (found, None)
    first = await list_playbooks(http, q="nightly", limit=1)
    assert ([item.name for item in first.items], first.next_cursor is None) == (names[:1], False)
    rest = await list_playbooks(http, q="nightly", cursor=str(first.next_cursor))
    assert [item.name for item in rest.items] == names[1:2]


async def test_a_search_reads_a_limited_part_of_the_registry(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playbooks, "MAX_SEARCH_READS", 2)
    for name in "abc":
        playbook = {"name": name, "steps": [{"name": "a", "run": [{"action": "log", "message": "x"}]}]}
        assert (await http.post("/playbooks", json={"playbook": playbook})).status_code == 201
    page = await list_playbooks(http, q="c", limit=1)
    assert page.items == []
    rest = await list_playbooks(http, q="c", cursor=str(page.next_cursor))
    assert [item.name for item in rest.items] == ["c"]


async def test_wrong_parameters_of_the_registry_are_problems(http: httpx.AsyncClient) -> None:
    for query in ({"q": "x" * 201}, {"include": "graph"}, {"limit": 0}, {"Q": "x"}):
        assert_problem(await http.get("/playbooks", params=query), 400, "invalid-request")
    assert_problem(await http.get("/playbooks", params={"q": "x", "cursor": "!"}), 400, "invalid-cursor")


async def list_playbooks(http: httpx.AsyncClient, **query: str | int) -> PlaybookPage:
    response = await http.get("/playbooks", params={"include": "statistics", **query})
    assert response.status_code == 200, response.text
    return read_view(PlaybookPage, response.json())
