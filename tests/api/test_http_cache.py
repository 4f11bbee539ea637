"""Cached results over HTTP: hits of runs, a list, and deletion."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from noetl.api.service.cached_results import CachePage, ClearReport
from noetl.api.service.data_views import StepData
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

TEXT = """\
name: rates
input: {area: string}
steps:
  - name: load
    run: [{action: set, set: {rate: "{{ input.area | length }}"}, cache: {key: "area {{ input.area }}"}}]
    rule: [{case: default, run: [sum]}]
  - name: sum
    cache: 2h
    run: [{action: set, set: {total: "{{ rate * 2 }}"}}]
"""


async def run(http: httpx.AsyncClient, area: str = "north") -> str:
    body = {"playbook": TEXT, "input": {"area": area}}
    response = await http.post("/workflows/run", json=body, headers={"Prefer": "wait=20"})
    workflow_id: str = response.json()["workflow_id"]
    result = (await http.get(f"/workflows/result/{workflow_id}")).json()
    assert result["result"] == {"rate": len(area), "total": 2 * len(area)}
    return workflow_id


async def read_cache(http: httpx.AsyncClient, **query: Any) -> CachePage:
    return read_view(CachePage, (await http.get("/cache", params=query)).json())


async def read_step(http: httpx.AsyncClient, workflow_id: str, name: str) -> StepData:
    response = await http.get(f"/workflows/{workflow_id}/step", params={"name": name})
    return read_view(StepData, response.json())


async def test_a_step_says_which_run_has_computed_its_result(http: httpx.AsyncClient) -> None:
    first = await run(http)
    second = await run(http)
    (attempt,) = (await read_step(http, second, "load")).attempts
    (action,) = attempt.actions
    assert (action.status, action.duration_ms, attempt.cached) == ("succeeded", None, None)
    assert action.cached is not None
    assert (action.cached.run, len(action.cached.key)) == (first, 64)
    (attempt,) = (await read_step(http, second, "sum")).attempts
    assert (attempt.actions, attempt.cached is not None) == ([], True)
    (attempt,) = (await read_step(http, first, "load")).attempts
    assert attempt.actions[0].cached is None


async def test_cached_results_are_listed(http: httpx.AsyncClient) -> None:
    assert (await read_cache(http)).items == []
    first = await run(http)
    page = await read_cache(http)
    assert [(entry.step, entry.label) for entry in page.items] == [("sum", ""), ("load", "area north")]
    entry = page.items[0]
    assert (entry.playbook, entry.workflow_id, page.has_more) == ("rates", first, False)
    assert (await read_cache(http, limit=1)).has_more
    for query, steps in (
        ({"key": "area n"}, ["load"]),
        ({"key": entry.digest[:8]}, ["sum"]),
        ({"playbook": "other"}, []),
        ({"step": "sum"}, ["sum"]),
        ({"older_than": "1h"}, []),
        ({"older_than": "0s"}, ["sum", "load"]),
    ):
        assert [entry.step for entry in (await read_cache(http, **query)).items] == steps


async def test_cached_results_are_deleted(http: httpx.AsyncClient) -> None:
    await run(http, "north")
    await run(http, "south")
    cleared = await http.delete("/cache", params={"step": "load", "key": "area s"})
    assert read_view(ClearReport, cleared.json()).cleared == 1
    assert [entry.label for entry in (await read_cache(http, step="load")).items] == ["area north"]
    assert (await http.delete("/cache")).json()["cleared"] == 2
    assert (await read_cache(http)).items == []


async def test_a_wrong_parameter_is_refused(http: httpx.AsyncClient) -> None:
    for query in ({"older_than": "soon"}, {"older_than": "999999999d"}, {"limit": 0}, {"prefix": "a"}):
        assert_problem(await http.get("/cache", params=query), 400, "invalid-request")
    assert_problem(await http.delete("/cache", params={"limit": 1}), 400, "invalid-request")
