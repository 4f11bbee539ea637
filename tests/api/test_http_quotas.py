"""Quotas of tenants over HTTP."""

from __future__ import annotations

import httpx
import pytest

from noetl.executor.engine import quotas
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
FAILING = "name: failing\nsteps: [{name: a, run: [{action: log, message: '{{ 1 // 0 }}'}]}]\n"
WAITING = "name: waiting\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


async def test_a_tenant_with_too_many_branches_starts_no_run_until_one_has_ended(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "2")
    monkeypatch.setattr(quotas, "COUNT_SECONDS", 0.0)
    started = [await http.post("/workflows/run", content=WAITING, headers=YAML) for _ in range(3)]
    assert [response.status_code for response in started[:2]] == [202, 202]
    assert_problem(started[2], 429, "quota-exceeded")
    problem = started[2].json()
    assert (problem["setting"], problem["limit"]) == ("NOETL_MAX_BRANCHES", 2)
    assert started[2].headers["Retry-After"] == "5"
    assert (await http.get("/workflows", params={"limit": 9})).json()["items"][2:] == []


@pytest.mark.parametrize("body", [None, {"from": "a"}])
async def test_a_tenant_with_too_many_branches_resumes_no_run(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, body: dict[str, str] | None
) -> None:
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "1")
    monkeypatch.setattr(quotas, "COUNT_SECONDS", 0.0)

    async def start(text: str, *more: tuple[str, str]) -> str:
        response = await http.post("/workflows/run", content=text, headers=dict([*YAML.items(), *more]))
        assert response.is_success
        return str(response.json()["workflow_id"])

    async def resume(key: str) -> httpx.Response:
        return await http.post(f"/workflows/{failed}/resume", json=body, headers={"Idempotency-Key": key})

    failed = await start(FAILING, ("Prefer", "wait=25"))
    first = await resume("first")
    assert first.status_code == 202
    while (await http.get(f"/workflows/result/{first.json()['workflow_id']}")).status_code == 202:
        pass
    waiting = await start(WAITING)
    assert_problem(await resume("second"), 429, "quota-exceeded")
    again = await resume("first")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert (await http.post(f"/workflows/{waiting}/cancel")).status_code == 202
    while (await http.get(f"/workflows/result/{waiting}")).status_code == 202:
        pass
    assert (await resume("second")).status_code == 202
