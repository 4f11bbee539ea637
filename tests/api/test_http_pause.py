"""Pauses over HTTP: running steps finish, nothing new starts, and an unpaused run ends as it would have."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from noetl.api.service.inbox_views import InboxPage
from noetl.api.service.views import BulkReport, RunEntry, RunPage, RunReport
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

ASK = """\
name: ask
steps:
- name: ask
  run: [{action: callback, title: "Go on?", as: answer}]
  rule: [{case: default, run: [go]}]
- {name: go, run: [{action: log, message: gone}]}
output: {answer: "{{ answer }}"}
"""
FINE = "name: fine\nsteps: [{name: a, run: [{action: log, message: a}]}]\n"


async def start(http: httpx.AsyncClient, playbook: str = ASK, *tags: str) -> str:
    response = await http.post("/workflows/run", json={"playbook": playbook, "tags": list(tags)})
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


async def read_run(http: httpx.AsyncClient, workflow_id: str) -> RunReport:
    return read_view(RunReport, (await http.get(f"/workflows/status/{workflow_id}")).json())


async def wait_until(http: httpx.AsyncClient, workflow_id: str, status: str) -> RunReport:
    """Return the status of a run once it is `status`."""
    for _ in range(400):
        report = await read_run(http, workflow_id)
        if report.status == status:
            return report
        await asyncio.sleep(0.025)
    raise AssertionError(f"the run is {report.status}, not {status}")


async def change(http: httpx.AsyncClient, workflow_id: str, command: str) -> RunEntry:
    response = await http.post(f"/workflows/{workflow_id}/{command}")
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == f"/workflows/status/{workflow_id}"
    return read_view(RunEntry, response.json())


async def answer(http: httpx.AsyncClient, workflow_id: str) -> None:
    response = await http.post(f"/workflows/{workflow_id}/answer", json={"step": "ask", "answer": 7})
    assert response.status_code == 202, response.text


async def test_a_paused_run_keeps_its_answer_until_it_is_unpaused(http: httpx.AsyncClient) -> None:
    run = await start(http)
    await wait_until(http, run, "waiting")
    for _ in range(2):
        assert (await change(http, run, "pause")).status == "paused"
    report = await read_run(http, run)
    assert (report.status, report.finished_at) == ("paused", None)
    assert report.steps["ask"].status == "waiting"
    assert report.steps["ask"].waiting_for is not None
    inbox = read_view(InboxPage, (await http.get("/inbox")).json())
    assert [entry.title for entry in inbox.items] == ["Go on?"]
    await answer(http, run)
    waited = await http.get(f"/workflows/result/{run}", headers={"Prefer": "wait=1"})
    assert (waited.status_code, waited.json()["status"]) == (202, "paused")
    await change(http, run, "unpause")
    ended = await http.get(f"/workflows/result/{run}", headers={"Prefer": "wait=25"})
    assert (ended.json()["status"], ended.json()["result"]) == ("succeeded", {"answer": 7})
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    pauses = [(event["type"], event["payload"]) for event in events if event["type"].endswith("paused")]
    caller: dict[str, Any] = {"by": "this machine"}
    assert pauses == [("workflow.paused", caller), ("workflow.unpaused", caller)]


async def test_a_list_finds_paused_runs_with_their_headline(http: httpx.AsyncClient) -> None:
    run, other = await start(http), await start(http)
    for id in (run, other):
        await wait_until(http, id, "waiting")
    await change(http, run, "pause")
    page = read_view(RunPage, (await http.get("/workflows", params={"status": "paused"})).json())
    assert [(entry.workflow_id, entry.headline) for entry in page.items] == [
        (run, "paused; ask waits: Go on?")
    ]
    counts = (await http.get("/workflows/counts")).json()["statuses"]
    assert (counts["paused"], counts["waiting"]) == (1, 1)


async def test_a_run_that_has_ended_is_neither_paused_nor_unpaused(http: httpx.AsyncClient) -> None:
    run = await start(http, FINE)
    await http.get(f"/workflows/result/{run}", headers={"Prefer": "wait=25"})
    for command in ("pause", "unpause"):
        response = await http.post(f"/workflows/{run}/{command}")
        assert_problem(response, 409, "finished")
        assert response.json()["detail"] == (
            f"run {run} has already ended: succeeded; start it again to let it continue"
        )
        assert_problem(await http.post(f"/workflows/no%1b[31m/{command}"), 404, "not-found")


async def test_a_paused_run_is_cancelled_and_not_resumed(http: httpx.AsyncClient) -> None:
    run = await start(http)
    await wait_until(http, run, "waiting")
    await change(http, run, "pause")
    refused = await http.post(f"/workflows/{run}/resume")
    assert_problem(refused, 409, "paused")
    assert refused.json()["detail"] == f"run {run} is paused; unpause it, and it continues"
    await http.post(f"/workflows/{run}/cancel")
    await wait_until(http, run, "cancelled")


async def test_the_runs_of_a_filter_are_paused_and_unpaused(http: httpx.AsyncClient) -> None:
    runs = [await start(http, ASK, "x") for _ in range(2)]
    ended = await start(http, FINE, "x")
    await http.get(f"/workflows/result/{ended}", headers={"Prefer": "wait=25"})
    for run in runs:
        await wait_until(http, run, "waiting")
    for command, accepted, status in (
        ("pause", 2, "paused"),
        ("pause", 0, "paused"),
        ("unpause", 2, "waiting"),
        ("unpause", 0, "waiting"),
    ):
        response = await http.post(f"/workflows/bulk/{command}", params={"tag": "x"})
        report = read_view(BulkReport, response.json())
        assert (response.status_code, report.accepted, report.skipped) == (202, accepted, [])
        assert [(await read_run(http, run)).status for run in runs] == [status] * 2
    response = await http.post("/workflows/bulk/pause", json={"ids": [ended, "unknown"]})
    reasons = [skipped["reason"] for skipped in response.json()["skipped"]]
    assert reasons == ["finished", "not-found"]
