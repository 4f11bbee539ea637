"""Deletion of a run over HTTP."""

from __future__ import annotations

from contextlib import closing

import httpx
import pytest

from noetl.api.service.errors import NotFoundError
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.responses import assert_problem
from tests.api.test_http_bulk import BROKEN, FINE, HELD, PARENT, result, start

pytestmark = pytest.mark.anyio

ASK = "name: ask\nsteps: [{name: a, run: [{action: callback, as: x}]}]\n"


def assert_detail(response: httpx.Response, status: int, slug: str, detail: str) -> None:
    assert_problem(response, status, slug)
    assert response.json()["detail"] == detail


async def test_a_run_that_has_ended_is_deleted(http: httpx.AsyncClient) -> None:
    run, other = await start(http, FINE, "env=test"), await start(http, FINE, "env=test")
    response = await http.delete(f"/workflows/{run}")
    assert (response.status_code, response.content) == (204, b"")
    detail = f"unknown run `{run}`"
    assert_detail(await http.delete(f"/workflows/{run}"), 404, "not-found", detail)
    for path in ("", "/events", "/input", "/source", "/logs", "/graph", "/items?step=a", "/step?name=a"):
        assert_detail(await http.get(f"/workflows/{run}{path}"), 404, "not-found", detail)
    for path in ("status", "result"):
        assert_detail(await http.get(f"/workflows/{path}/{run}"), 404, "not-found", detail)
    for path in ("cancel", "resume"):
        assert_detail(await http.post(f"/workflows/{run}/{path}"), 404, "not-found", detail)
    listed = (await http.get("/workflows?tag=env")).json()["items"]
    assert [entry["workflow_id"] for entry in listed] == [other]


async def test_a_run_that_has_not_ended_is_kept(http: httpx.AsyncClient) -> None:
    held = await start(http, HELD)
    detail = f"run {held} has not ended; cancel it first, or wait for its end"
    assert_detail(await http.delete(f"/workflows/{held}"), 409, "not-ended", detail)
    await http.post(f"/workflows/{held}/cancel")
    assert await result(http, held) == "cancelled"
    assert (await http.delete(f"/workflows/{held}")).status_code == 204


async def test_a_child_run_is_deleted_with_its_parent(http: httpx.AsyncClient) -> None:
    await http.post("/playbooks", content=FINE, headers={"Content-Type": "application/yaml"})
    parent = await start(http, PARENT)
    (child,) = (await http.get(f"/workflows?parent={parent}")).json()["items"]
    path = f"/workflows/{child['workflow_id']}"
    refusal = await http.delete(path)
    assert_problem(refusal, 409, "child-run")
    assert f"was started by run {parent}, which is kept" in refusal.json()["detail"]
    assert (await http.delete(f"/workflows/{parent}")).status_code == 204
    assert_problem(await http.get(path), 404, "not-found")


@pytest.mark.parametrize("run_id", ["x" * 5000, "%1b[31m", "<script>", "\u202eabc", "%00", "..%2f"])
async def test_a_hostile_id_is_unknown(http: httpx.AsyncClient, run_id: str) -> None:
    response = await http.delete(f"/workflows/{run_id}")
    assert response.status_code in (404, 422)
    assert len(response.json()["detail"]) < 200


async def test_an_idempotency_key_is_free_after_the_deletion(http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once", "Prefer": "wait=25"}
    for _ in range(2):
        response = await http.post("/workflows/run", json={"playbook": BROKEN}, headers=headers)
        assert (response.status_code, "Idempotency-Replayed" in response.headers) == (200, False)
        run = response.json()["workflow_id"]
        assert (await http.delete(f"/workflows/{run}")).status_code == 204


def test_a_tenant_deletes_no_run_of_another() -> None:
    with closing(open_store("memory://")) as store:
        mine = create_services(store, catalogue())
        plan = compile_playbook(ASK, catalogue()).plan
        assert plan is not None
        run = mine.runs.start(plan, StartRequest())
        with pytest.raises(NotFoundError):
            mine.for_tenant("other").runs.delete(run.id)
        assert mine.runs.get(run.id).id == run.id
