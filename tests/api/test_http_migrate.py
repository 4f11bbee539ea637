"""Many runs that continue in another version with one request."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.responses import assert_problem
from tests.api.stores import choose_store, on_sqlite
from tests.api.test_http_pause import answer, start, wait_until
from tests.api.test_http_switch import DOUBLED, QUESTION, WRONG, result_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "dynamodb"])
def settings(request: pytest.FixtureRequest, settings: dict[str, str]) -> dict[str, str]:
    return choose_store(request, settings)


async def migrate(http: httpx.AsyncClient, query: dict[str, Any] | None = None, **body: Any) -> Any:
    response = await http.post("/workflows/bulk/migrate", params=query, json=body)
    assert response.status_code == 202, response.text
    return response.json()


async def count_migrations(http: httpx.AsyncClient, run: str) -> int:
    events = (await http.get(f"/workflows/{run}/events")).json()["items"]
    return [event["type"] for event in events].count("workflow.migrated")


async def test_waiting_runs_of_a_filter_continue_in_a_version(http: httpx.AsyncClient) -> None:
    await http.post("/playbooks", json={"playbook": DOUBLED})
    waiting = [await start(http, QUESTION) for _ in range(3)]
    failed = await start(http, WRONG)
    for run in waiting:
        await wait_until(http, run, "waiting")
    await wait_until(http, failed, "failed")
    version = {"name": "ask", "version": "1"}
    could = await migrate(http, {"status": "waiting"}, playbook=version, dry_run=True)
    assert (could["accepted"], could["skipped"]) == (3, [])
    assert await count_migrations(http, waiting[0]) == 0
    for _ in range(2):
        report = await migrate(http, {"status": "waiting"}, playbook=version)
        assert (report["accepted"], report["skipped"]) == (3, [])
    for run in waiting:
        assert await count_migrations(http, run) == 1
        await answer(http, run)
        assert await result_of(http, run) == ("succeeded", {"answer": 14})


async def test_runs_that_may_not_continue_are_skipped_with_the_reason(http: httpx.AsyncClient) -> None:
    run, failed = await start(http, QUESTION), await start(http, WRONG)
    await wait_until(http, run, "waiting")
    await wait_until(http, failed, "failed")
    without_step = QUESTION.replace("name: ask\n  run", "name: question\n  run")
    report = await migrate(http, playbook=without_step, ids=[run, failed, "unknown"])
    reasons = {entry["workflow_id"]: entry["reason"] for entry in report["skipped"]}
    assert (report["accepted"], reasons) == (
        0,
        {run: "cannot-continue", failed: "finished", "unknown": "not-found"},
    )
    assert "NC102" in report["skipped"][0]["detail"]
    renamed = await migrate(http, playbook=without_step, ids=[run], map={"ask": "question"})
    assert renamed["accepted"] == 1


async def test_a_migration_is_undone(http: httpx.AsyncClient) -> None:
    runs = [await start(http, QUESTION) for _ in range(2)]
    for run in runs:
        await wait_until(http, run, "waiting")
    assert (await migrate(http, playbook=DOUBLED, ids=runs))["accepted"] == 2
    assert (await migrate(http, {"status": "waiting"}, undo=True, dry_run=True))["accepted"] == 2
    await answer(http, runs[1])
    assert await result_of(http, runs[1]) == ("succeeded", {"answer": 14})
    report = await migrate(http, undo=True, ids=[*runs, "unknown"])
    reasons = {entry["workflow_id"]: entry["reason"] for entry in report["skipped"]}
    assert (report["accepted"], reasons) == (1, {runs[1]: "finished", "unknown": "not-found"})
    again = await migrate(http, undo=True, ids=[runs[0]])
    assert [entry["reason"] for entry in again["skipped"]] == ["not-switched"]
    await answer(http, runs[0])
    assert await result_of(http, runs[0]) == ("succeeded", {"answer": 7})


@on_sqlite
async def test_wrong_request_is_a_problem(http: httpx.AsyncClient) -> None:
    refused = await http.post(
        "/workflows/bulk/migrate", json={"playbook": QUESTION, "undo": True, "ids": ["a"]}
    )
    assert_problem(refused, 422, "conflicting-members")
    no_version = await http.post("/workflows/bulk/migrate", json={"ids": ["a"]})
    assert_problem(no_version, 422, "conflicting-members")
    ambiguous = await http.post(
        "/workflows/bulk/migrate", params={"status": "waiting"}, json={"playbook": QUESTION, "ids": ["a"]}
    )
    assert_problem(ambiguous, 400, "ambiguous-selection")
    neither = await http.post("/workflows/bulk/migrate", json={"playbook": QUESTION})
    assert_problem(neither, 400, "ambiguous-selection")
    broken = await http.post("/workflows/bulk/migrate", json={"playbook": "name: a", "ids": ["a"]})
    assert_problem(broken, 422, "invalid-playbook")


@on_sqlite
async def test_open_runs_are_checked_before_a_version_is_registered(http: httpx.AsyncClient) -> None:
    await http.post("/playbooks", json={"playbook": QUESTION})
    run = await start(http, QUESTION)
    await wait_until(http, run, "waiting")
    response = await http.post("/playbooks/ask/check-runs", json={"playbook": DOUBLED})
    assert (response.status_code, response.json()["accepted"]) == (200, 1)
    without_step = QUESTION.replace("name: ask\n  run", "name: question\n  run")
    refused = (await http.post("/playbooks/ask/check-runs", json={"playbook": without_step})).json()
    assert (refused["accepted"], [entry["workflow_id"] for entry in refused["skipped"]]) == (0, [run])
    unknown = await http.post("/playbooks/other/check-runs", json={"playbook": DOUBLED})
    assert_problem(unknown, 404, "not-found")
    await http.post(
        "/playbooks", json={"playbook": DOUBLED.replace("name: ask\nsteps", "name: other\nsteps")}
    )
    other = await http.post("/playbooks/other/check-runs", json={"playbook": DOUBLED})
    assert_problem(other, 409, "other-playbook")
    versions = (await http.get("/playbooks/ask/versions")).json()["items"]
    assert [entry["version"] for entry in versions] == ["1"]
    assert await count_migrations(http, run) == 0
