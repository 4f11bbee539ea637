"""Bulk requests: many runs are cancelled, resumed or deleted with one request."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pytest

from noetl.api.service import bulk
from noetl.api.service.services import create_services
from noetl.api.service.views import BulkReport
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

HELD = "name: held\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"
FINE = "name: fine\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
PARENT = "name: parent\nsteps: [{name: a, run: [{action: workflow, playbook: fine, as: x}]}]\n"
BROKEN = "name: broken\nsteps: [{name: a, run: [{action: fail, message: no}]}]\n"


async def start(http: httpx.AsyncClient, playbook: str, *tags: str) -> str:
    prefer = {} if playbook == HELD else {"Prefer": "wait=25"}
    response = await http.post(
        "/workflows/run", json={"playbook": playbook, "tags": list(tags)}, headers=prefer
    )
    assert response.status_code in (200, 202), response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


async def change(http: httpx.AsyncClient, operation: str, **request: Any) -> BulkReport:
    response = await http.post(f"/workflows/bulk/{operation}", **request)
    assert response.status_code == 202, response.text
    return read_view(BulkReport, response.json())


async def result(http: httpx.AsyncClient, workflow_id: str) -> str:
    """Return the status of a run when it has ended."""
    for _ in range(3):
        response = await http.get(f"/workflows/result/{workflow_id}", headers={"Prefer": "wait=25"})
        if response.status_code == 200:
            break
    status: str = response.json()["status"]
    return status


async def test_named_runs_are_cancelled_and_others_skipped_with_a_reason(http: httpx.AsyncClient) -> None:
    held, fine = await start(http, HELD), await start(http, FINE)
    ids = [held, fine, "unknown\x1b[31m", held]
    for _ in range(2):
        report = await change(http, "cancel", json={"ids": ids})
        assert (report.accepted, report.next_cursor) == (1, None)
        reasons = [(skipped.workflow_id, skipped.reason) for skipped in report.skipped]
        assert reasons == [(fine, "finished"), ("unknown\x1b[31m", "not-found")]
        assert await result(http, held) == "cancelled"


async def test_the_runs_of_a_filter_are_cancelled_in_pages(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_RUNS", 2)
    held = [await start(http, HELD, "env=test") for _ in range(3)]
    other, ended = await start(http, HELD, "env=prod"), await start(http, FINE, "env=test")
    report = await change(http, "cancel", params={"tag": "env=test"})
    assert (report.accepted, report.skipped) == (2, [])
    assert report.next_cursor is not None
    wrong = await http.post("/workflows/bulk/cancel", params={"tag": "env", "cursor": report.next_cursor})
    assert_problem(wrong, 400, "invalid-cursor")
    report = await change(http, "cancel", params={"tag": "env=test", "cursor": report.next_cursor})
    assert (report.accepted, report.next_cursor) == (1, None)
    assert [await result(http, run) for run in held] == ["cancelled"] * 3
    assert await result(http, ended) == "succeeded"
    running = await http.get(f"/workflows/status/{other}")
    assert running.json()["finished_at"] is None


async def test_failed_runs_of_a_filter_are_resumed(http: httpx.AsyncClient) -> None:
    broken, fine, held = [await start(http, text, "x") for text in (BROKEN, FINE, HELD)]
    report = await change(http, "resume", params={"tag": "x"})
    assert (report.accepted, report.skipped) == (1, [])
    assert await result(http, broken) == "failed"
    visits = (await http.get(f"/workflows/status/{broken}")).json()["steps"]["a"]
    assert visits["attempt"] >= 1
    events = (await http.get(f"/workflows/{broken}/events")).json()["items"]
    assert "workflow.resumed" in [event["type"] for event in events]
    report = await change(http, "resume", json={"ids": [fine, held]})
    assert [skipped.reason for skipped in report.skipped] == ["not-resumable", "not-ended"]


async def test_one_key_resumes_each_run_once(http: httpx.AsyncClient) -> None:
    broken = [await start(http, BROKEN) for _ in range(2)]

    async def resume(key: str, ids: list[str]) -> int:
        report = await change(http, "resume", json={"ids": ids}, headers={"Idempotency-Key": key})
        for run_id in ids:
            assert await result(http, run_id) == "failed"
        return report.accepted

    async def count_resumes() -> list[int]:
        histories = [(await http.get(f"/workflows/{run_id}/events")).json()["items"] for run_id in broken]
        return [sum(event["type"] == "workflow.resumed" for event in history) for history in histories]

    assert [await resume("k", broken[:1]) for _ in range(2)] == [1, 1]
    assert await count_resumes() == [1, 0]
    assert await resume("k", broken) == 2
    assert await count_resumes() == [1, 1]
    assert await resume("another", broken) == 2
    assert await count_resumes() == [2, 2]


@pytest.mark.parametrize("operation", ["cancel", "resume", "delete"])
async def test_a_request_must_name_its_runs_in_one_way(http: httpx.AsyncClient, operation: str) -> None:
    path = f"/workflows/bulk/{operation}"
    held = await start(http, HELD)
    for response in (
        await http.post(path),
        await http.post(path, params={"cursor": "x"}),
        await http.post(path, params={"q": "held"}, json={"ids": [held]}),
    ):
        assert_problem(response, 400, "ambiguous-selection")
    assert_problem(await http.post(path, params={"limit": 5}), 400, "invalid-request")
    for ids in ([], [1], "x", ["a"] * 101, None):
        assert_problem(await http.post(path, json={"ids": ids}), 422, "invalid-body")
    assert_problem(await http.post(path, json={"filter": {}}), 422, "invalid-body")
    assert (await http.get(f"/workflows/status/{held}")).json()["finished_at"] is None


def test_a_tenant_changes_no_run_of_another() -> None:
    with closing(open_store("memory://")) as store:
        mine = create_services(store, catalogue())
        plan = compile_playbook(HELD, catalogue()).plan
        assert plan is not None
        run, other = mine.runs.start(plan, StartRequest()), mine.for_tenant("other")
        report = other.bulk.cancel([run.id])
        assert (report.accepted, report.skipped[0].reason) == (0, "not-found")
        assert other.bulk.cancel(RunFilter(tenant="default", playbook="held")).accepted == 0
        assert mine.runs.get(run.id).stop is None
        assert mine.bulk.cancel(RunFilter(playbook="held")).accepted == 1


async def test_a_filter_resumes_no_cancelled_run(http: httpx.AsyncClient) -> None:
    held, broken = await start(http, HELD), await start(http, BROKEN)
    await change(http, "cancel", json={"ids": [held]})
    assert await result(http, held) == "cancelled"
    report = await change(http, "resume", params={"since": "2020-01-01T00:00:00Z"})
    assert (report.accepted, report.skipped) == (1, [])
    assert await result(http, broken) == "failed"
    assert await result(http, held) == "cancelled"
    report = await change(http, "resume", params={"status": "cancelled"})
    assert (report.accepted, report.skipped) == (1, [])


async def test_named_runs_are_deleted_and_others_skipped_with_a_reason(http: httpx.AsyncClient) -> None:
    held, fine, broken = [await start(http, text) for text in (HELD, FINE, BROKEN)]
    report = await change(http, "delete", json={"ids": [held, fine, "unknown", broken, fine]})
    assert (report.accepted, report.next_cursor) == (2, None)
    reasons = [(skipped.workflow_id, skipped.reason) for skipped in report.skipped]
    assert reasons == [(held, "not-ended"), ("unknown", "not-found")]
    assert [entry["workflow_id"] for entry in (await http.get("/workflows")).json()["items"]] == [held]
    again = await change(http, "delete", json={"ids": [fine]})
    assert (again.accepted, again.skipped[0].reason) == (0, "not-found")


async def test_the_runs_of_a_filter_are_deleted_in_pages(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_RUNS", 2)
    for _ in range(3):
        await start(http, FINE, "env=test")
    held, other = await start(http, HELD, "env=test"), await start(http, FINE, "env=prod")
    report = await change(http, "delete", params={"tag": "env=test"})
    assert (report.accepted, report.skipped) == (2, [])
    report = await change(http, "delete", params={"tag": "env=test", "cursor": report.next_cursor})
    assert (report.accepted, report.skipped, report.next_cursor) == (1, [], None)
    listed = (await http.get("/workflows")).json()["items"]
    assert [entry["workflow_id"] for entry in listed] == [other, held]
    report = await change(
        http, "delete", params={"tag": "env=test", "status": ["waiting", "queued", "running"]}
    )
    assert (report.accepted, [skipped.reason for skipped in report.skipped]) == (0, ["not-ended"])


async def test_a_child_run_that_is_deleted_with_its_parent_is_accepted(http: httpx.AsyncClient) -> None:
    await http.post("/playbooks", content=FINE, headers={"Content-Type": "application/yaml"})
    parent = await start(http, PARENT)
    (child,) = (await http.get(f"/workflows?parent={parent}")).json()["items"]
    report = await change(http, "delete", params={"playbook": "fine"})
    assert (report.accepted, [skipped.reason for skipped in report.skipped]) == (0, ["child-run"])
    other = await start(http, PARENT)
    (its_child,) = (await http.get(f"/workflows?parent={other}")).json()["items"]
    report = await change(http, "delete", json={"ids": [child["workflow_id"], parent]})
    assert (report.accepted, report.skipped) == (2, [])
    report = await change(http, "delete", json={"ids": [other, its_child["workflow_id"], "unknown"]})
    assert report.accepted == 2
    assert [(skipped.workflow_id, skipped.reason) for skipped in report.skipped] == [("unknown", "not-found")]
    assert (await http.get("/workflows")).json()["items"] == []
