"""Limits that all tenants share, over HTTP: tenants use and read them, and cannot change them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from noetl.api.auth.api_keys import create_api_key
from noetl.api.service import limits
from noetl.api.service.limit_views import LimitPage, LimitQueue
from noetl.api.service.limits import MAX_LIMITS
from noetl.api.service.list_cursors import CursorScope
from noetl.executor.model.gates import SHARED_TENANT, LimitKind, named_gate
from noetl.executor.stores import open_store
from noetl.executor.stores.cursors import write_key_cursor
from noetl.executor.stores.interface import Store
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

TENANTS = ("acme", "default")
USER = """\
name: user
steps: [{name: load, concurrency: {use: api}, run: [{action: log, message: hello}]}]
"""
LIMIT = {"units": 5, "kind": "steps"}


@pytest.fixture
def store(settings: dict[str, str]) -> Iterator[Store]:
    """Store of the service, as the operator opens it. It has the shared limit `api`, which is closed."""
    opened = open_store(settings["NOETL_STORE"])
    opened.gates.set_limit(named_gate(SHARED_TENANT, "api"), LimitKind.STEPS, 0)
    yield opened
    opened.close()


@pytest.fixture
def keys(store: Store) -> dict[str, dict[str, str]]:
    """Headers of an administrator of each tenant."""
    headers = {}
    for tenant in TENANTS:
        text, key = create_api_key(tenant, ["admin"], tenant, 1.0)
        store.keys.add(key)
        headers[tenant] = {"Authorization": f"Bearer {text}"}
    return headers


async def start(http: httpx.AsyncClient, headers: dict[str, str]) -> str:
    """Return the id of a new run that waits for the limit."""
    response = await http.post("/workflows/run", json={"playbook": USER}, headers=headers)
    assert response.status_code == 202, response.text
    run = str(response.json()["workflow_id"])
    while (await http.get(f"/workflows/{run}", headers=headers)).json()["status"] != "waiting":
        pass
    return run


@pytest.mark.parametrize("tenant", TENANTS)
async def test_an_administrator_of_a_tenant_cannot_change_a_shared_limit(
    http: httpx.AsyncClient, store: Store, keys: dict[str, Any], tenant: str
) -> None:
    for path in ("api", "@shared", "use:api"):
        put = await http.put(f"/limits/{path}", json=LIMIT, headers=keys[tenant])
        removed = await http.delete(f"/limits/{path}", headers=keys[tenant])
        expected = (409, "shared-limit") if path == "api" else (422, "invalid-limit")
        assert_problem(put, *expected)
        assert_problem(removed, *(expected if path == "api" else (404, "not-found")))
    gate = store.gates.gate(named_gate(SHARED_TENANT, "api"))
    assert gate is not None and gate.units == 0
    assert store.gates.find(tenant, named=True)[0] == []


async def test_the_queue_of_a_shared_limit_names_runs_of_the_caller(
    http: httpx.AsyncClient, store: Store, keys: dict[str, Any]
) -> None:
    runs = {tenant: await start(http, keys[tenant]) for tenant in TENANTS}
    numbers: list[int] = []
    for number, tenant in enumerate(TENANTS):
        response = await http.get("/limits/api/queue", params={"limit": 1000}, headers=keys[tenant])
        uses = read_view(LimitQueue, response.json()).items
        assert len(uses) == 2
        assert {use.workflow_id for use in uses} == {None, runs[tenant]}
        for hidden in ("flow", "visit"):
            assert [getattr(use, hidden) is None for use in uses] == [use.workflow_id is None for use in uses]
        assert runs[TENANTS[1 - number]] not in response.text
        status = (await http.get(f"/workflows/{runs[tenant]}", headers=keys[tenant])).json()
        waits_for = status["steps"]["load"]["waiting_for"]["limit"]
        numbers.append(waits_for.pop("queued_before"))
        assert waits_for == {"limit": "api", "key": None}
        limit = (await http.get("/limits/api", headers=keys[tenant])).json()
        assert (limit["shared"], limit["units"], limit["waiting"]) == (True, 0, 2)
    assert sorted(numbers) == [0, 1]


async def test_a_cursor_of_a_shared_queue_names_no_run_of_another_tenant(
    http: httpx.AsyncClient, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read one entry at a time, so that each cursor follows one run, and decode the cursors."""
    runs = {tenant: [await start(http, keys[tenant]) for _ in range(2)] for tenant in TENANTS}
    monkeypatch.setattr(limits, "MAX_SHARED_ENTRIES", 3)
    for tenant, foreign in zip(TENANTS, reversed(TENANTS), strict=True):
        shown: list[str | None] = []
        params: dict[str, str | int] = {"limit": 1}
        while "cursor" not in params or params["cursor"]:
            response = await http.get("/limits/api/queue", params=params, headers=keys[tenant])
            page = read_view(LimitQueue, response.json())
            shown += [use.workflow_id for use in page.items]
            params["cursor"] = page.next_cursor or ""
            place = b64decode(str(params["cursor"]).partition(".")[0]).decode()
            assert not any(word in place for word in (foreign, *runs[foreign], tenant, *runs[tenant]))
        assert len(shown) == 3
        assert {None, *shown} <= {None, *runs[tenant]}
    forged = CursorScope.for_list("acme", "queue", SHARED_TENANT, named_gate(SHARED_TENANT, "api").id)
    for number in (-1, 3, 10**12):
        wrong = {"cursor": str(forged.close(write_key_cursor(number)))}
        refused = await http.get("/limits/api/queue", params=wrong, headers=keys["acme"])
        assert_problem(refused, 400, "invalid-cursor")


async def test_a_shared_limit_hides_one_of_the_tenant(
    http: httpx.AsyncClient, store: Store, keys: dict[str, Any]
) -> None:
    for name in ("a", "api", "b"):
        store.gates.set_limit(named_gate("acme", name), LimitKind.STEPS, 9)
    shown: list[tuple[str, int, bool]] = []
    cursor: str | None = ""
    while cursor is not None:
        params: dict[str, str | int] = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = read_view(LimitPage, (await http.get("/limits", params=params, headers=keys["acme"])).json())
        shown += [(limit.name, limit.units, limit.shared) for limit in page.items]
        cursor = page.next_cursor
    assert shown == [("a", 9, False), ("api", 0, True), ("b", 9, False)]
    foreign = read_view(LimitPage, (await http.get("/limits", headers=keys["default"])).json())
    assert [(limit.name, limit.shared) for limit in foreign.items] == [("api", True)]
    await start(http, keys["acme"])
    assert (await http.delete("/limits/api", headers=keys["acme"])).status_code == 204
    assert_problem(await http.delete("/limits/api", headers=keys["acme"]), 409, "shared-limit")


async def test_what_waits_at_a_limit_before_there_is_a_shared_one_can_continue(
    http: httpx.AsyncClient, store: Store, keys: dict[str, Any]
) -> None:
    acme, shared = keys["acme"], named_gate(SHARED_TENANT, "api")
    assert store.gates.remove_limit(shared)
    closed = {**LIMIT, "units": 0}
    assert (await http.put("/limits/api", json=closed, headers=acme)).status_code == 201
    run = await start(http, acme)
    store.gates.set_limit(shared, LimitKind.STEPS, 5)
    changed = await http.put("/limits/api", json=LIMIT, headers=acme)
    assert (changed.status_code, changed.json()["shared"]) == (200, False)
    result = await http.get(f"/workflows/result/{run}", headers=acme | {"Prefer": "wait=20"})
    assert result.json()["status"] == "succeeded"
    assert_problem(await http.put("/limits/api", json=LIMIT, headers=acme), 409, "shared-limit")


async def test_a_playbook_that_uses_a_shared_limit_is_registered(
    http: httpx.AsyncClient, keys: dict[str, Any]
) -> None:
    headers = keys["acme"] | {"Content-Type": "application/yaml"}
    assert (await http.post("/playbooks", content=USER, headers=headers)).status_code == 201
    of_runs = USER.replace("steps: [{", "concurrency: {use: api}\nsteps: [{")
    refused = await http.post("/playbooks", content=of_runs, headers=headers)
    assert [found["code"] for found in refused.json()["diagnostics"]] == ["NP835"]
    unknown = await http.post("/playbooks", content=USER.replace("use: api", "use: other"), headers=headers)
    assert [found["code"] for found in unknown.json()["diagnostics"]] == ["NP834"]


async def test_shared_limits_do_not_count_for_a_tenant(
    http: httpx.AsyncClient, store: Store, keys: dict[str, Any]
) -> None:
    for number in range(MAX_LIMITS - 1):
        store.gates.set_limit(named_gate("acme", f"l{number}"), LimitKind.STEPS, 9)
    for name, status in (("last", 201), ("more", 409)):
        assert (await http.put(f"/limits/{name}", json=LIMIT, headers=keys["acme"])).status_code == status
