"""Limits over HTTP, and the status of what waits for them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from noetl.api.service.limit_views import LimitEntry, LimitPage, LimitQueue
from noetl.api.service.limits import MAX_LIMITS
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

TEXT = """\
name: call
concurrency: {limit: 1, key: "{{ input.customer }}"}
input: {customer: {type: string, default: acme}}
steps: [{name: ask, run: [{action: callback}]}]
"""
USER = """\
name: user
steps: [{name: load, concurrency: {use: api}, run: [{action: log, message: hello}]}]
"""


async def put(http: httpx.AsyncClient, name: str = "api", status: int = 201, **body: Any) -> LimitEntry:
    response = await http.put(f"/limits/{name}", json={"units": 1, "kind": "steps", **body})
    assert response.status_code == status, response.text
    return read_view(LimitEntry, response.json())


async def start(http: httpx.AsyncClient, text: str) -> str:
    response = await http.post("/workflows/run", json={"playbook": text})
    assert response.status_code == 202, response.text
    return str(response.json()["workflow_id"])


async def wait_for_step(http: httpx.AsyncClient, run: str, step: str) -> dict[str, Any]:
    """Return the report of a step when it waits."""
    while True:
        report: dict[str, Any] = (await http.get(f"/workflows/{run}")).json()["steps"][step]
        if report["status"] == "waiting":
            return report


async def test_a_limit_is_made_changed_and_removed(http: httpx.AsyncClient) -> None:
    made = await put(http)
    assert made == LimitEntry(
        id="api", name="api", kind="steps", key=None, units=1, held=0, waiting=0, shared=False, per=None
    )
    assert (await put(http, status=200, units=5, kind="steps")).units == 5
    page = read_view(LimitPage, (await http.get("/limits")).json())
    assert [(limit.name, limit.kind, limit.units) for limit in page.items] == [("api", "steps", 5)]
    assert (await http.get("/limits/api")).json()["units"] == 5
    assert (await http.delete("/limits/api")).status_code == 204
    for method, path in (("GET", ""), ("GET", "/queue"), ("DELETE", "")):
        assert_problem(await http.request(method, f"/limits/api{path}"), 404, "not-found")


async def test_a_limit_that_playbooks_name_is_removed_only_by_force(http: httpx.AsyncClient) -> None:
    await put(http)
    await put(http, "nightly", kind="runs")
    runs = USER.replace("user", "daily").replace("{use: api}", "1") + "concurrency: {use: nightly}\n"
    for text in (USER, USER.replace("user", "other"), runs):
        headers = {"Content-Type": "application/yaml"}
        assert (await http.post("/playbooks", content=text, headers=headers)).status_code == 201
    refused = await http.delete("/limits/api")
    assert_problem(refused, 409, "limit-in-use")
    named = "limit `api` is named by step `load` of `other@1` and step `load` of `user@1`"
    assert refused.json()["detail"] == f"{named}; change the playbooks first, or force the removal"
    assert "named by `daily@1`;" in (await http.delete("/limits/nightly")).json()["detail"]
    assert (await http.delete("/limits/api?force=true")).status_code == 204
    await http.delete("/playbooks/daily")
    assert (await http.delete("/limits/nightly")).status_code == 204


@pytest.mark.parametrize(
    ("name", "body", "type"),
    [
        ("api", {"units": 0, "per": 60}, "invalid-limit"),
        ("api", {"per": 0.5}, None),
        ("-x", {}, "invalid-limit"),
        ("own:call:0", {}, "invalid-limit"),
        ("api", {"units": 10_001}, None),
        ("api", {"units": -1}, None),
        ("api", {"kind": "visits"}, None),
    ],
)
async def test_a_wrong_limit_is_refused(
    http: httpx.AsyncClient, name: str, body: dict[str, Any], type: str | None
) -> None:
    response = await http.put(f"/limits/{name}", json={"units": 1, "kind": "steps", **body})
    assert_problem(response, 422, type)
    assert (await http.get("/limits")).json()["items"] == []


async def test_a_tenant_has_a_bounded_number_of_limits(http: httpx.AsyncClient) -> None:
    for number in range(MAX_LIMITS):
        await put(http, f"l{number}")
    response = await http.put("/limits/more", json={"units": 1, "kind": "steps"})
    assert_problem(response, 409, "too-many-limits")
    await put(http, "l0", status=200, units=2)


async def test_a_run_that_waits_says_for_what(http: httpx.AsyncClient) -> None:
    first = await start(http, TEXT)
    await wait_for_step(http, first, "ask")
    second = await start(http, TEXT)
    report = await wait_for_step(http, second, "ask")
    assert report["waiting_for"] == {
        "until": None,
        "actions": [],
        "workflows": [],
        "limit": {"limit": "call", "key": "acme", "queued_before": 0},
    }
    step = (await http.get(f"/workflows/{second}/step?name=ask")).json()
    assert step["waiting_for"]["limit"] == {"limit": "call", "key": "acme", "queued_before": 0}
    (limited,) = read_view(LimitPage, (await http.get("/limits", params={"in_use": "true"})).json()).items
    assert (limited.name, limited.kind, limited.key, limited.units, limited.held, limited.waiting) == (
        "call",
        None,
        "acme",
        1,
        1,
        1,
    )
    queue = read_view(LimitQueue, (await http.get(f"/limits/{limited.id}/queue")).json())
    assert [(use.workflow_id, use.held_at is None) for use in queue.items] == [(first, False), (second, True)]
    assert [(use.flow, use.priority) for use in queue.items] == [("call", 0.0), ("call", 0.0)]
    assert_problem(await http.delete(f"/limits/{limited.id}"), 404, "not-found")
    assert (await http.post(f"/workflows/{first}/cancel")).status_code in {200, 202}
    while "limit" in (await http.get(f"/workflows/{second}")).json()["steps"]["ask"].get("waiting_for", {}):
        pass
    assert_problem(
        await http.get(f"/limits/{limited.id}/queue", params={"cursor": "x"}), 400, "invalid-cursor"
    )


async def test_a_step_that_a_full_limit_left_out_says_so(http: httpx.AsyncClient) -> None:
    await put(http, units=0)
    run = await start(http, USER.replace("use: api", "use: api, when_full: skip"))
    while (status := (await http.get(f"/workflows/status/{run}")).json())["status"] != "succeeded":
        pass
    expected = {"limit": "api"}
    assert status["steps"]["load"]["left_out"] == expected
    shown = (await http.get(f"/workflows/{run}", params={"include": "graph"})).json()
    assert shown["steps"]["load"]["left_out"] == expected
    (node,) = (node for node in shown["graph"]["nodes"] if node["steps"] == ["load"])
    assert node["words"] == "left out"
    assert (await http.get(f"/workflows/{run}/step?name=load")).json()["left_out"] == expected
    (*_, last) = (await http.get(f"/workflows/{run}/events")).json()["items"]
    for event, left_out in ((last["id"], expected), (1, None)):
        before = (await http.get(f"/workflows/{run}", params={"at": event})).json()
        assert before["steps"]["load"].get("left_out") == left_out


async def test_a_step_that_waits_for_a_rate_says_until_when(http: httpx.AsyncClient) -> None:
    made = await put(http, units=1, per=3600)
    assert (made.units, made.per) == (1, 3600.0)
    text = USER.replace("concurrency", "rate")
    first = await start(http, text)
    while (await http.get(f"/workflows/{first}")).json()["status"] != "succeeded":
        pass
    run = await start(http, text)
    report = await wait_for_step(http, run, "load")
    assert report["waiting_for"]["limit"] == {"limit": "api", "key": None, "queued_before": None}
    until = report["waiting_for"]["until"]
    (item,) = [item for item in (await http.get("/workflows")).json()["items"] if item["workflow_id"] == run]
    assert item["headline"] == f"load waits: limit api, until {until[:19]}Z"
    limit = read_view(LimitEntry, (await http.get("/limits/api")).json())
    assert (limit.held, limit.waiting, limit.per) == (1, 1, 3600.0)
    (use,) = read_view(LimitQueue, (await http.get("/limits/api/queue")).json()).items
    assert (use.workflow_id, use.held_at, use.begins_at) == (run, None, until)


async def test_the_id_of_a_rate_of_a_step_is_its_address(http: httpx.AsyncClient) -> None:
    text = "name: a/b\nsteps: [{name: load, rate: {limit: 5, per: 1h}, run: [{action: callback}]}]"
    run = await start(http, text)
    await wait_for_step(http, run, "load")
    (rate,) = read_view(LimitPage, (await http.get("/limits", params={"in_use": "true"})).json()).items
    for id in (rate.id, quote(rate.id, safe="")):
        assert (await http.get(f"/limits/{id}")).json()["id"] == rate.id
        # A step that waits for an answer gives its units back.
        assert read_view(LimitQueue, (await http.get(f"/limits/{id}/queue")).json()).items == []


async def test_more_units_let_what_waits_begin(http: httpx.AsyncClient) -> None:
    await put(http, units=0)
    run = await start(http, USER)
    report = await wait_for_step(http, run, "load")
    assert report["waiting_for"]["limit"] == {"limit": "api", "key": None, "queued_before": 0}
    assert_problem(await http.delete("/limits/api"), 409, "limit-in-use")
    assert (await put(http, status=200, units=1)).held in {0, 1}
    while (await http.get(f"/workflows/{run}")).json()["status"] != "succeeded":
        pass
    limit = read_view(LimitEntry, (await http.get("/limits/api")).json())
    assert (limit.held, limit.waiting) == (0, 0)
