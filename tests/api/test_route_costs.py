"""Statements of every GET route, with few and with many of each thing that it shows.

Problem: a route whose statements grow with what it shows is slow only for users who have much.

Algorithm: a store gets `count` of everything: playbooks, versions, aliases, triggers and firings, runs of
several states, visits, items and child runs of a run, slots, limits, channels, notifications, backfills and
cached results. Each route is requested once before its statements are counted, so plans are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from noetl.api.app import create_app
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import hold
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.database import PostgresWriter
from noetl.executor.stores.sqlite.file import SqliteWriter
from noetl.testing.run_harness import FakeClock, RunHarness

pytestmark = pytest.mark.anyio

FEW, MANY = 3, 12
MAX_OF_FEW = 50
"""The greatest number of those things of which a tenant may not have more."""
CYCLE = """
name: cycle
input: {rounds: integer}
steps:
  - name: a
    max_visits: 1000
    run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}, {action: log, message: hello}]
    rule: [{case: "{{ n < rounds }}", run: [a]}, {case: default, run: [b]}]
  - name: b
    loop: {items: "{{ range(1, rounds + 1) | list }}", on_error: continue}
    run: [{action: fail, message: "no {{ item }}"}]
"""
FAILING = "name: failing\nsteps: [{name: a, run: [{action: fail, message: no}]}]\n"
QUESTION = 'name: question\nsteps: [{name: a, run: [{action: callback, title: "Go on?", timeout: 1h}]}]\n'
LIMITED = "name: limited\nconcurrency: {use: api}\nsteps: [{name: a, run: [{action: wait, seconds: 60}]}]\n"
CACHED = """
name: cached
input: {area: string}
steps: [{name: a, cache: 2h, run: [{action: set, set: {total: "{{ input.area }}"}}]}]
"""
PARENT = """
name: parent
input: {count: integer}
steps:
  - name: a
    loop: {items: "{{ range(1, count + 1) | list }}", concurrency: 50}
    run: [{action: workflow, playbook: p0, input: {day: "1"}}]
"""
DAILY = """
name: NAME
version: "VERSION"
input: {day: {type: string}}
triggers: [{name: nightly, type: schedule, cron: "30 2 * * *", input: {day: "{{ trigger.local[:10] }}"}}]
steps: [{name: a, run: [{action: set, set: {n: 1}}]}]
"""
MARCH = {"playbook": "p0", "trigger": "nightly", "from": "2025-03-01", "to": "2025-03-04T00:00:00Z"}
NOTIFICATION = {
    "channel": "c0",
    "attempts": 0,
    "waits_for": [],
    "event": "failed",
    "playbook": "cycle",
    "version": None,
    "status": "failed",
}
ROUTES = {
    "/cache": ["/cache?limit=200"],
    "/triggers/calendar": ["/triggers/calendar?limit=50"],
    "/workflows/comparison": ["/workflows/comparison?a={run}&b={run}"],
    "/workflows/counts": ["/workflows/counts", "/workflows/counts?q=zzz"],
    "/workflows/histogram": ["/workflows/histogram?step=1h"],
    "/workflows/statistics": ["/workflows/statistics?playbook=failing&runs=200"],
    "/backfills": ["/backfills?limit=200"],
    "/backfills/{backfill_id}": ["/backfills/{backfill}"],
    "/channels": ["/channels"],
    "/channels/{channel}": ["/channels/c0"],
    "/healthz": ["/healthz"],
    "/readyz": ["/readyz"],
    "/metrics": ["/metrics"],
    "/workflows/{workflow_id}/events": ["/workflows/{run}/events"],
    "/workflows/{workflow_id}/graph": [
        "/workflows/{run}/graph?format=json",
        "/workflows/{run}/graph?format=json&at={at}",
    ],
    "/inbox": ["/inbox?limit=200"],
    "/language": ["/language"],
    "/limits": ["/limits?limit=200", "/limits?in_use=true"],
    "/limits/{limit_name}/queue": ["/limits/api/queue?limit=200", "/limits/shared/queue?limit=200"],
    "/limits/{limit_name}": ["/limits/api"],
    "/notifications": ["/notifications?limit=200", "/notifications?limit=200&state=undelivered"],
    "/notifications/{notification}": ["/notifications/00000000000000000000000000000001"],
    "/playbooks": ["/playbooks?limit=200", "/playbooks?q=p", "/playbooks?limit=50&include=statistics"],
    "/playbooks/{name}": ["/playbooks/p1"],
    "/playbooks/{name}/versions": ["/playbooks/many/versions?limit=200"],
    "/playbooks/{name}/versions/{version}": ["/playbooks/many/versions/1"],
    "/playbooks/{name}/aliases": ["/playbooks/many/aliases"],
    "/playbooks/{name}/aliases/{alias}": ["/playbooks/many/aliases/a1"],
    "/workflows/{workflow_id}": [
        "/workflows/{run}",
        "/workflows/{run}?include=graph",
        "/workflows/{run}?at={at}",
        "/workflows/{parent}",
        "/workflows/{limited}",
    ],
    "/workflows/{workflow_id}/step": [
        "/workflows/{run}/step?name=a",
        "/workflows/{run}/step?name=b",
        "/workflows/{run}/step?name=a&at={at}",
        "/workflows/{parent}/step?name=a",
    ],
    "/workflows/{workflow_id}/items": [
        "/workflows/{run}/items?step=b&limit=200",
        "/workflows/{run}/items?step=b&limit=200&state=failed",
    ],
    "/workflows/{workflow_id}/logs": ["/workflows/{run}/logs?limit=200"],
    "/workflows/{workflow_id}/input": ["/workflows/{run}/input"],
    "/workflows/{workflow_id}/source": ["/workflows/{run}/source"],
    "/triggers": ["/triggers?limit=200"],
    "/triggers/{playbook}/{trigger}/firings": ["/triggers/p0/nightly/firings?limit=200"],
    "/triggers/{playbook}/{trigger}": ["/triggers/p0/nightly?firings=50"],
    "/workflows/status/{workflow_id}": ["/workflows/status/{run}", "/workflows/status/{limited}"],
    "/workflows/result/{workflow_id}": ["/workflows/result/{run}"],
    "/workflows": [
        "/workflows?limit=200",
        "/workflows?limit=200&sort=created_at",
        "/workflows?limit=200&status=waiting",
        "/workflows?limit=200&status=failed",
        "/workflows?limit=200&q=ahead",
        "/workflows?limit=200&parent={parent}",
    ],
}
"""Addresses for each GET route of the document."""

OTHER_ROUTES = {
    "/events",  # It streams the page `/workflows`.
    "/workflows/callbacks/{token}",
    "/language/codes/{code}",
}


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the statements of all stores of the process.

    The function returns their number since its last call. Whether the store has API keys
    is read from time to time, so this is not counted.
    """
    names: list[str] = []

    def record(execute: Any) -> Any:
        def call(writer: Any, query: str, /, **values: Any) -> Any:
            names.append(query)
            return execute(writer, query, **values)

        return call

    def take() -> int:
        count = sum(not name.startswith("keys.") for name in names)
        names.clear()
        return count

    with pytest.MonkeyPatch.context() as patch:
        for writer in (SqliteWriter, PostgresWriter):
            patch.setattr(writer, "execute", record(writer.execute))
        yield take


async def send(http: httpx.AsyncClient, method: str, path: str, **body: Any) -> dict[str, Any]:
    response = await http.request(method, path, json=body)
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def add_playbooks(http: httpx.AsyncClient, count: int) -> None:
    """Register playbooks with a schedule that has fired, versions and aliases of one, and backfills.

    One of the schedules fires `count` times.
    """
    for number in range(count):
        daily = DAILY.replace("VERSION", str(number))
        await send(http, "POST", "/playbooks", playbook=daily.replace("NAME", f"p{number}"))
        await send(http, "POST", "/playbooks", playbook=daily.replace("NAME", "many"))
        for name in {"p0", f"p{number}"}:
            await send(http, "POST", f"/triggers/{name}/nightly/fire", input={"day": "1"})
        if number < MAX_OF_FEW:
            await send(http, "PUT", f"/playbooks/many/aliases/a{number}", version=str(number))
            await send(http, "POST", "/backfills", **MARCH)


def add_runs(store: Store, count: int, clock: FakeClock) -> dict[str, str]:
    """Execute runs of several states. Return the ids of those that routes show."""
    run = RunHarness(store, CYCLE, {"rounds": count}, clock=clock, origin="service").finish()
    parent = RunHarness(store, PARENT, {"count": count}, clock=clock, origin="service")
    while parent.execute_next() and parent.status != "waiting":
        pass
    shared = LIMITED.replace("use: api", "use: shared")
    for number in range(count):
        RunHarness(store, FAILING, clock=clock).finish()
        RunHarness(store, CACHED, {"area": f"a{number}"}, clock=clock).finish()
        RunHarness(store, DAILY.replace("NAME", f"p{number}"), {"day": "1"}, clock=clock).finish()
        for text in (QUESTION, shared, LIMITED):
            waiting = RunHarness(store, text, clock=clock)
            waiting.execute_next()
        RunHarness(store, CYCLE, {"rounds": 2}, clock=clock).execute_next()
        clock.advance(1)
    return {"run": run.id, "parent": parent.id, "limited": waiting.id}


def add_others(store: Store, count: int, run_id: str, now: float) -> None:
    """Add limits, channels and notifications."""
    for number in range(min(count, MAX_OF_FEW)):
        store.gates.set_limit(named_gate("default", f"n{number}"), LimitKind.RUNS, 1)
        channel = Channel("default", f"c{number}", "slack", "https://example.com/x", now, is_paused=True)
        assert store.channels.put(channel, None)
    for number in range(count):
        record = {**NOTIFICATION, "run_id": run_id}
        entry = OutboxEntry(f"{number:032x}", "default", OutboxKind.NOTIFICATION, now, None, record)
        assert store.outbox.add(hold(entry, now))


async def count_statements(url: str, count: int) -> dict[str, int]:
    """Return the number of statements for each address in a store with `count` of everything."""
    app = create_app({"NOETL_STORE": url})  # Without its lifespan, no worker executes the runs.
    transport = httpx.ASGITransport(app)
    numbers = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
        await add_playbooks(http, count)
        with closing(open_store(url)) as store:
            clock = FakeClock(float(int(store.clock())))
            for tenant, name in (("default", "api"), ("@shared", "shared")):
                store.gates.set_limit(named_gate(tenant, name), LimitKind.RUNS, 0)
            names = add_runs(store, count, clock)
            add_others(store, count, names["run"], clock())
        events = await send(http, "GET", f"/workflows/{names['run']}/events")
        backfills = await send(http, "GET", "/backfills")
        names |= {"at": quote(events["items"][-1]["id"]), "backfill": backfills["items"][0]["id"]}
        with counting() as take:
            for address in [address for addresses in ROUTES.values() for address in addresses]:
                filled = address.format_map(names)
                await http.get(filled)
                take()
                response = await http.get(filled)
                assert response.status_code == 200, (address, response.text)
                numbers[address] = take()
    app.state.context.close()
    return numbers


def test_each_route_is_measured() -> None:
    paths = create_app({}).openapi()["paths"]
    assert {path for path, methods in paths.items() if "get" in methods} == ROUTES.keys() | OTHER_ROUTES


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_the_statements_of_a_route_do_not_grow_with_what_it_shows(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    numbers = []
    for count in (FEW, MANY):
        url = f"sqlite:///{tmp_path / str(count)}.db"
        if database == "postgres":
            url = request.getfixturevalue("reused_postgres_dsn" if count == FEW else "postgres_store_dsn")
        numbers.append(await count_statements(url, count))
    grown = {
        address: (numbers[0][address], number)
        for address, number in numbers[1].items()
        if number > numbers[0][address]
    }
    assert grown == {}
