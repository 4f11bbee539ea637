"""Quotas of tenants over HTTP."""

from __future__ import annotations

import httpx
import pytest

from noetl.executor.engine import quotas
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
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
