"""Requests that wait for a run: for its result, and for a change of its status."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from noetl.api.service.views import RunReport, RunResult
from tests.api.responses import assert_problem, read_view
from tests.api.test_http_events import opened

pytestmark = pytest.mark.anyio

PATIENT = {"Prefer": "wait=25"}


async def start_held(http: httpx.AsyncClient, gate: Path) -> str:
    """Start a run whose only step ends when the gate is opened and closed."""
    step = {"name": "a", "run": [{"action": "shell", "command": ["cat", str(gate)]}]}
    response = await http.post("/workflows/run", json={"playbook": {"name": "held", "steps": [step]}})
    assert response.status_code == 202, response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


def open_gate(gate: Path) -> None:
    gate.write_bytes(b"")


async def read_running(http: httpx.AsyncClient, workflow_id: str) -> httpx.Response:
    """Return the status once the step runs. Each request waits for the next change."""
    headers: dict[str, str] = {}
    async with asyncio.timeout(60):
        while True:
            response = await http.get(f"/workflows/status/{workflow_id}", headers=headers)
            if response.json()["steps"]["a"]["status"] == "running":
                return response
            headers = {**PATIENT, "If-None-Match": response.headers["etag"]}


async def test_a_request_for_a_result_waits_for_the_end(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = await start_held(http, gate)
    path = f"/workflows/result/{workflow_id}"
    assert (await http.get(path)).status_code == 202
    waiting = asyncio.create_task(http.get(path, headers=PATIENT))
    await asyncio.to_thread(open_gate, gate)
    response = await waiting
    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait=25")
    assert read_view(RunResult, response.json()).status == "succeeded"


async def test_a_request_for_a_status_waits_for_a_change(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = await start_held(http, gate)
    running = await read_running(http, workflow_id)
    headers = {**PATIENT, "If-None-Match": running.headers["etag"]}
    waiting = asyncio.create_task(http.get(f"/workflows/status/{workflow_id}", headers=headers))
    await asyncio.to_thread(open_gate, gate)
    response = await waiting
    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait=25")
    assert read_view(RunReport, response.json()).steps["a"].status == "succeeded"
    # Nothing of a run that has ended can change. So a request with its tag is not held.
    assert (await http.get(f"/workflows/result/{workflow_id}", headers=PATIENT)).status_code == 200
    final = await http.get(f"/workflows/status/{workflow_id}")
    headers["If-None-Match"] = final.headers["etag"]
    assert (await http.get(f"/workflows/status/{workflow_id}", headers=headers)).status_code == 304


async def test_a_status_that_does_not_change_is_answered_with_304(
    http: httpx.AsyncClient, gate: Path
) -> None:
    running = await read_running(http, await start_held(http, gate))
    headers = {"Prefer": "wait=1", "If-None-Match": running.headers["etag"]}
    response = await http.get(running.request.url.path, headers=headers)
    assert (response.status_code, response.content) == (304, b"")


async def test_an_unknown_run_is_not_waited_for(http: httpx.AsyncClient) -> None:
    for path in ("/workflows/status/none", "/workflows/result/none"):
        assert_problem(await http.get(path, headers={**PATIENT, "If-None-Match": '"x"'}), 404, "not-found")


async def test_a_request_that_may_not_wait_is_answered_at_once(http: httpx.AsyncClient, gate: Path) -> None:
    workflow_id = await start_held(http, gate)
    running = await read_running(http, workflow_id)
    limit = opened(http).waiting_requests
    limit._open.limit = 2
    with limit.open("default"):
        result = await http.get(f"/workflows/result/{workflow_id}", headers=PATIENT)
        headers = {**PATIENT, "If-None-Match": running.headers["etag"]}
        status = await http.get(f"/workflows/status/{workflow_id}", headers=headers)
    assert (result.status_code, status.status_code) == (202, 304)
    assert not any("preference-applied" in response.headers for response in (result, status))
