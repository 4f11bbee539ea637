"""Cursors of all lists: one of another list, of other conditions or of another tenant is refused."""

from __future__ import annotations

from contextlib import closing

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.stores import open_store
from noetl.testing.run_harness import FakeClock
from tests.api.responses import assert_problem
from tests.api.test_route_costs import add_others, add_playbooks, add_runs

pytestmark = pytest.mark.anyio

COUNT = 3
LISTS = {
    "/backfills": ["/backfills"],
    "/inbox": ["/inbox"],
    "/limits": ["/limits", "/limits?in_use=true"],
    "/limits/{limit_name}/queue": ["/limits/api/queue", "/limits/shared/queue"],
    "/notifications": ["/notifications", "/notifications?state=undelivered"],
    "/playbooks": ["/playbooks", "/playbooks?q=p"],
    "/playbooks/{name}/versions": ["/playbooks/many/versions", "/playbooks/p0/versions"],
    "/triggers": ["/triggers", "/triggers?playbook=p0"],
    "/triggers/calendar": ["/triggers/calendar"],
    "/triggers/{playbook}/{trigger}/firings": ["/triggers/p0/nightly/firings"],
    "/workflows": ["/workflows", "/workflows?sort=created_at", "/workflows?status=failed"],
    "/workflows/{workflow_id}/events": ["/workflows/{run}/events"],
    "/workflows/{workflow_id}/items": [
        "/workflows/{run}/items?step=b",
        "/workflows/{run}/items?step=b&state=failed",
    ],
    "/workflows/{workflow_id}/logs": ["/workflows/{run}/logs"],
}
"""Addresses of each GET route with a cursor. Those of a run have the same cursors: ids of events."""

OF_EVENTS = {"/workflows/{run}/events", "/workflows/{run}/logs"}


def test_each_list_is_requested() -> None:
    paths = create_app({}).openapi()["paths"]
    with_cursor = {
        path
        for path, methods in paths.items()
        if any(
            parameter.get("name") == "cursor" for parameter in methods.get("get", {}).get("parameters", [])
        )
    }
    assert with_cursor == set(LISTS)


async def read_cursors(http: httpx.AsyncClient, ids: dict[str, str]) -> dict[str, str]:
    """Return the cursor after the first entry of each list, by its address."""
    cursors = {}
    for address in [address for addresses in LISTS.values() for address in addresses]:
        filled = address.format_map(ids)
        response = await http.get(filled, params={**httpx.URL(filled).params, "limit": 1})
        assert response.status_code == 200, (address, response.text)
        cursors[filled] = response.json()["next_cursor"]
    return {address: cursor for address, cursor in cursors.items() if cursor is not None}


async def test_a_cursor_of_another_list_or_tenant_is_refused(settings: dict[str, str]) -> None:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        await add_playbooks(http, COUNT)
        with closing(open_store(settings["NOETL_STORE"])) as store:
            clock = FakeClock(float(int(store.clock())))
            for tenant, name in (("default", "api"), ("@shared", "shared")):
                store.gates.set_limit(named_gate(tenant, name), LimitKind.RUNS, 0)
            ids = add_runs(store, COUNT, clock)
            add_others(store, COUNT, ids["run"], clock())
            cursors = await read_cursors(http, ids)
            assert len(cursors) >= len(LISTS)
            events = {address.format_map(ids) for address in OF_EVENTS}
            for address in cursors:
                for origin, cursor in cursors.items():
                    response = await http.get(address, params={**httpx.URL(address).params, "cursor": cursor})
                    if address == origin or {address, origin} == events:
                        assert response.status_code == 200, (address, response.text)
                    else:
                        assert_problem(response, 400, "invalid-cursor")
            text, key = create_api_key("other", ["admin"], "other", 1.0)
            store.keys.add(key)
            http.headers["Authorization"] = f"Bearer {text}"
            app.state.context.services().authenticator._is_required = True
            await add_playbooks(http, 1)
            store.gates.set_limit(named_gate("other", "api"), LimitKind.RUNS, 0)
            for address, cursor in cursors.items():
                response = await http.get(address, params={**httpx.URL(address).params, "cursor": cursor})
                is_known = ids["run"] not in address
                assert_problem(response, *((400, "invalid-cursor") if is_known else (404, "not-found")))
    app.state.context.close()
