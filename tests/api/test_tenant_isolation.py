"""Isolation of tenants on every route: what a tenant names of another one does not exist for it.

Problem: each route reads names from its path, its query, its headers and its body. One that forgets the
tenant shows or changes things of another one.

Algorithm: a store has things of each kind of the tenant `default`. An administrator of the tenant `other`
names them on each route. Its answer must be the answer to names that nothing has: status, headers and
body, and as many statements of the store if it is 404. It must contain nothing that was not named, and no row
of the tenant may change. The same request of the tenant itself must have another answer, or the example is
no example.

The routes are those of the app. One without an example fails the test.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from noetl.api.app import create_app, find_routers
from noetl.api.auth.api_keys import create_api_key
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import hold
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.api.test_route_costs import counting

pytestmark = pytest.mark.anyio

CANARY = "canary-of-default"
"""A text that is only in data of the tenant `default`, and in no request."""

SHOP = """\
name: alpha-shop
version: "VERSION"
input: {word: {type: string, default: hello}}
triggers:
  - {name: alpha-nightly, type: schedule, cron: "30 2 * * *", input: {word: canary-of-default}}
  - {name: alpha-posted, type: webhook, path: alpha/posted, auth: {scheme: api_key}}
  - {name: alpha-sent, type: webhook, path: alpha/sent, method: PUT, auth: {scheme: api_key}}
steps:
  - name: alpha_step
    loop: {items: [1, 2, 3]}
    run: [{action: log, message: "{{ input.word }}"}]
    rule: [{case: default, run: [alpha_last]}]
  - name: alpha_last
    cache: 300d
    run: [{action: set, set: {said: "{{ input.word }}"}}]
"""
FAILING = """\
name: alpha-shop
version: "alpha.7"
steps:
  - {name: alpha_step, loop: {items: [1, 2], on_error: continue},
     run: [{action: fail, message: canary-of-default}]}
"""
QUESTION = """\
name: alpha-shop
version: "alpha.7"
steps: [{name: alpha_step, run: [{action: callback, title: canary-of-default, timeout: 300d}]}]
"""
LIMITED = """\
name: alpha-shop
steps: [{name: alpha_step, concurrency: {use: alpha-crm}, run: [{action: wait, seconds: 8000000}]}]
"""
OWN = """\
name: zz
version: "1"
triggers:
  - {name: ended, type: run, playbook: alpha-shop}
  - {name: early, type: schedule, cron: "5 4 1 1 *"}
steps: [{name: s, run: [{action: set, set: {n: 1}}]}]
"""
"""A playbook of the tenant `other`. A trigger of it awaits runs with the name of the other playbook."""

CALLING = """\
name: caller
steps: [{name: s, run: [{action: workflow, playbook: "NAME"}]}]
"""
MARCH = {"from": "2025-03-01", "to": "2025-03-04"}
YEAR = {"since": "2025-03-01T00:00:00Z", "until": "2025-04-01T00:00:00Z"}
STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Example:
    """A request to a route. `{name}` in it is a name of the tenant `default`.

    Without a `path` it is that of the route, with a name for each parameter. `is_shared` is whether it has
    the same answer for all tenants.
    """

    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    is_shared: bool = False


def named_body(name: str = "{playbook}", **more: Any) -> dict[str, Any]:
    """Return a body with a registered playbook."""
    return {"playbook": {"name": name}, **more}


PLAIN, SHARED = Example(), Example(is_shared=True)
IDS = [Example(body={"ids": ["{run}"]}), Example({"playbook": "{playbook}"}), Example({"tag": "alpha-tag"})]
SELECTED = [*IDS, Example({"id": "{run}"}), Example({"parent": "{run}", "q": "{run}"}, is_shared=True)]
RESUMED = [IDS[0], *(replace(example, is_shared=True) for example in SELECTED[1:])]
"""Selections of which only the first has runs that can be resumed, or an error for each."""

TEXT = SHOP.replace("alpha-shop", "{playbook}").replace("alpha/", "{prefix}/").replace(CANARY, "x")
CALLS = CALLING.replace("NAME", "{playbook}")
LISTED = [
    PLAIN,
    *(Example({name: value}) for name, value in (("playbook", "{playbook}"), ("tag", "alpha-tag"))),
    *(Example({name: "{run}"}) for name in ("id", "q")),
]
ADMIN_OF_CHANNEL = {"url": "https://example.com/x"}
EXAMPLES: dict[str, Sequence[Example]] = {
    "GET /backfills": [
        PLAIN,
        Example({"cursor": "{cursor_backfills}"}),
    ],
    "POST /backfills": [
        Example(body={"playbook": "{playbook}", "trigger": "{trigger}", **MARCH}),
        Example(
            body={"playbook": "zz", "trigger": "early", **MARCH, "to": "2026-02-01"},
            headers={"Idempotency-Key": "{key}"},
        ),
    ],
    "GET /backfills/{backfill_id}": [PLAIN],
    "POST /backfills/{backfill_id}/cancel": [PLAIN, Example(body={"runs": True})],
    "POST /backfills/{backfill_id}/pause": [PLAIN],
    "POST /backfills/{backfill_id}/resume": [PLAIN],
    "POST /backfills/{backfill_id}/retry": [PLAIN, Example(body={"fresh": True})],
    "DELETE /cache": [PLAIN, Example({"playbook": "{playbook}"}), Example({"key": "{digest}"})],
    "GET /cache": [PLAIN, Example({"playbook": "{playbook}"}), Example({"key": "{digest}"})],
    "GET /channels": [PLAIN],
    "DELETE /channels/{channel}": [PLAIN],
    "GET /channels/{channel}": [PLAIN],
    "PUT /channels/{channel}": [Example(body=ADMIN_OF_CHANNEL)],
    "POST /channels/{channel}/pause": [PLAIN],
    "POST /channels/{channel}/resume": [PLAIN],
    "POST /channels/{channel}/test": [PLAIN],
    "GET /events": LISTED,
    "GET /healthz": [SHARED],
    "POST /hooks/{tenant}/{path}": [
        Example(path="/hooks/default/{hook}", body={"a": 1}),
        Example(path="/hooks/other/{hook}", body={"a": 1}, is_shared=True),
    ],
    "PUT /hooks/{tenant}/{path}": [Example(path="/hooks/default/{sent_hook}", body={"a": 1})],
    "GET /inbox": [PLAIN, Example({"cursor": "{cursor_inbox}"})],
    "GET /language": [SHARED],
    "GET /language/codes/{code}": [Example(path="/language/codes/NP101", is_shared=True)],
    "GET /limits": [
        PLAIN,
        Example({"in_use": "true"}, is_shared=True),
        Example({"cursor": "{cursor_limits}"}),
    ],
    "DELETE /limits/{limit_name}": [PLAIN],
    "GET /limits/{limit_name}": [PLAIN],
    "PUT /limits/{limit_name}": [Example(body={"units": 1, "kind": "steps"})],
    "GET /limits/{limit_name}/queue": [PLAIN, Example({"cursor": "{cursor_queue}"})],
    "GET /metrics": [PLAIN],
    "GET /notifications": [PLAIN, Example({"cursor": "{cursor_notifications}"})],
    "DELETE /notifications/{notification}": [PLAIN],
    "GET /notifications/{notification}": [PLAIN],
    "POST /notifications/{notification}/retry": [PLAIN],
    "POST /plan": [Example(body=named_body()), Example(body={"playbook": CALLS})],
    "POST /plan/draft": [Example(body={"text": CALLS})],
    "GET /playbooks": [
        PLAIN,
        Example({"include": "statistics"}),
        Example({"q": "{playbook}"}),
        Example({"cursor": "{cursor_playbooks}"}),
    ],
    "POST /playbooks": [
        Example(body={"playbook": CALLS}),
        Example(body={"playbook": TEXT}),
        Example({"newest": "{version}"}, {"playbook": TEXT}),
    ],
    "DELETE /playbooks/{name}": [PLAIN],
    "GET /playbooks/{name}": [PLAIN],
    "GET /playbooks/{name}/aliases": [PLAIN],
    "DELETE /playbooks/{name}/aliases/{alias}": [PLAIN, Example({"force": "true"})],
    "GET /playbooks/{name}/aliases/{alias}": [PLAIN],
    "PUT /playbooks/{name}/aliases/{alias}": [
        Example(body={"version": "{version}"}),
        Example(body={"version": "{version}"}, path="/playbooks/zz/aliases/{alias}", is_shared=True),
    ],
    "POST /playbooks/{name}/check-runs": [
        Example(body={"playbook": TEXT.replace("VERSION", "9")}),
        Example({"cursor": "{cursor_workflows}"}, {"playbook": OWN}, path="/playbooks/zz/check-runs"),
    ],
    "GET /playbooks/{name}/versions": [PLAIN, Example({"cursor": "{cursor_versions}"})],
    "DELETE /playbooks/{name}/versions/{version}": [PLAIN],
    "GET /playbooks/{name}/versions/{version}": [
        PLAIN,
        Example(path="/playbooks/{playbook}/versions/{alias}"),
    ],
    "GET /readyz": [SHARED],
    "GET /triggers": [PLAIN, Example({"playbook": "{playbook}"}), Example({"cursor": "{cursor_triggers}"})],
    "GET /triggers/calendar": [
        Example(YEAR),
        Example({"playbook": "{playbook}", "trigger": "{trigger}", **YEAR}),
        Example({"playbook": "{playbook}", **YEAR}),
        Example({"cursor": "{cursor_calendar}", **YEAR}),
    ],
    "GET /triggers/{playbook}/{trigger}": [PLAIN],
    "POST /triggers/{playbook}/{trigger}/fire": [
        PLAIN,
        Example(headers={"Idempotency-Key": "{key}"}),
        Example(body={"at": "2026-01-31T02:30:00Z"}),
        Example(body={"run": "{ended}"}, path="/triggers/zz/ended/fire"),
        Example(headers={"Idempotency-Key": "{key}"}, path="/triggers/zz/early/fire"),
    ],
    "GET /triggers/{playbook}/{trigger}/firings": [PLAIN, Example({"cursor": "{cursor_firings}"})],
    "POST /triggers/{playbook}/{trigger}/pause": [PLAIN],
    "POST /triggers/{playbook}/{trigger}/resume": [PLAIN, Example(body={"catch_up": "all"})],
    "GET /workflows": [
        *LISTED,
        Example({"cursor": "{cursor_workflows}"}),
        Example({"parent": "{run}"}, is_shared=True),
        Example(headers={"If-None-Match": "{tag}"}),
    ],
    "POST /workflows/bulk/cancel": SELECTED,
    "POST /workflows/bulk/delete": SELECTED,
    "POST /workflows/bulk/migrate": [
        Example(body={"undo": True, "ids": ["{run}"]}),
        Example({"playbook": "{playbook}"}, {"undo": True}),
        Example(body=named_body(ids=["{run}"])),
        Example(body={"playbook": TEXT.replace("VERSION", "9"), "ids": ["{run}"]}),
        Example({"playbook": "{playbook}"}, named_body("zz"), is_shared=True),
    ],
    "POST /workflows/bulk/pause": SELECTED,
    "POST /workflows/bulk/resume": [
        *RESUMED,
        Example(body={"ids": ["{run}"]}, headers={"Idempotency-Key": "{key}"}),
    ],
    "POST /workflows/bulk/unpause": RESUMED,
    "GET /workflows/callbacks/{token}": [SHARED, Example(path="/workflows/callbacks/{run}", is_shared=True)],
    "POST /workflows/callbacks/{token}": [
        Example(body={}, path="/workflows/callbacks/{run}", is_shared=True)
    ],
    "POST /workflows/callbacks/{token}/heartbeat": [
        Example(path="/workflows/callbacks/{run}/heartbeat", is_shared=True)
    ],
    "GET /workflows/comparison": [
        Example({"a": "{run}", "b": "{ended}"}),
        Example({"a": "{own_run}", "b": "{ended}"}, is_shared=True),
        Example({"a": "{ended}", "b": "{own_run}"}, is_shared=True),
    ],
    "GET /workflows/counts": LISTED,
    "GET /workflows/histogram": [Example({**example.query, "step": "1h"}) for example in LISTED],
    "GET /workflows/result/{workflow_id}": [PLAIN, Example(headers={"Prefer": "wait=1"})],
    "POST /workflows/run": [
        Example(body=named_body()),
        Example(body={"playbook": {"name": "{playbook}", "version": "{version}"}}),
        Example(body={"playbook": {"name": "{playbook}", "version": "{alias}"}}),
        Example(body={"playbook": OWN, "tags": ["t"]}, headers={"Idempotency-Key": "{key}"}, is_shared=True),
        Example(body=named_body("zz"), headers={"Idempotency-Key": "{key}"}),
    ],
    "GET /workflows/statistics": [Example({"playbook": "{playbook}"})],
    "GET /workflows/status/{workflow_id}": [
        PLAIN,
        Example(headers={"Prefer": "wait=1", "If-None-Match": "{tag}"}),
    ],
    "DELETE /workflows/{workflow_id}": [PLAIN],
    "GET /workflows/{workflow_id}": [
        PLAIN,
        Example({"include": "graph"}),
        Example({"at": "1"}),
        Example({"at": "{event}"}),
    ],
    "POST /workflows/{workflow_id}/answer": [Example(body={"step": "{step}", "answer": 1})],
    "POST /workflows/{workflow_id}/cancel": [PLAIN],
    "GET /workflows/{workflow_id}/events": [
        PLAIN,
        Example({"cursor": "{event}"}),
        Example({"ticket": "{ticket}"}, headers=STREAM),
        Example(headers={**STREAM, "Last-Event-ID": "{event}"}),
        Example({"cursor": "{event}"}, path="/workflows/{own_run}/events", is_shared=True),
        Example(
            headers={**STREAM, "Last-Event-ID": "{event}"}, path="/workflows/{own_run}/events", is_shared=True
        ),
    ],
    "POST /workflows/{workflow_id}/events/ticket": [PLAIN],
    "GET /workflows/{workflow_id}/graph": [PLAIN, Example({"format": "mermaid"}), Example({"at": "1"})],
    "GET /workflows/{workflow_id}/input": [PLAIN],
    "GET /workflows/{workflow_id}/items": [
        Example({"step": "{step}"}),
        Example({"step": "{step}", "state": "failed"}),
    ],
    "GET /workflows/{workflow_id}/logs": [PLAIN, Example({"step": "{step}"}), Example({"q": "canary"})],
    "POST /workflows/{workflow_id}/pause": [PLAIN],
    "POST /workflows/{workflow_id}/resume": [
        PLAIN,
        Example(headers={"Idempotency-Key": "{key}"}),
        Example(body={"dry_run": True}),
        Example(body={"from": "{step}"}),
        Example(body={"at": "{event}"}),
        Example(body={"at": "1", "dry_run": True}),
        Example(body={"skip": {"{step}": 1}}),
        Example(body=named_body()),
        Example(body={"playbook": TEXT.replace("VERSION", "9"), "dry_run": True}),
        Example(body={"playbook": TEXT.replace("VERSION", "9"), "from": "{step}"}),
        Example(body=named_body(), path="/workflows/{own_run}/resume", is_shared=True),
        Example(body={"at": "{event}"}, path="/workflows/{own_run}/resume", is_shared=True),
    ],
    "GET /workflows/{workflow_id}/source": [PLAIN],
    "GET /workflows/{workflow_id}/step": [
        Example({"name": "{step}"}),
        Example({"name": "{step}", "at": "1"}),
    ],
    "PATCH /workflows/{workflow_id}/tags": [
        Example(body={"add": ["x"]}),
        Example(body={"remove": ["alpha-tag"]}),
    ],
    "POST /workflows/{workflow_id}/unpause": [PLAIN],
}
"""Requests to each route of the document. Pages and pictures of the interface are files, the same for all."""

FILES = {
    "GET /",
    "GET /docs",
    "GET /docs/assets/{name}",
    "GET /openapi.json",
    "GET /redoc",
    "GET /ui",
    "GET /ui/files/{name}",
    "GET /ui/{address}",
}
PARAMETERS = {
    "backfill_id": "backfill",
    "channel": "channel",
    "limit_name": "limit",
    "notification": "notification",
    "name": "playbook",
    "playbook": "playbook",
    "version": "version",
    "alias": "alias",
    "trigger": "trigger",
    "token": "token",
    "workflow_id": "run",
}
"""The name of each parameter of a path."""

CHANGING = re.compile(
    r"(?P<secret>whsec_[\w+/=]+)"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?)"
    r"|(?P<id>\b[0-9a-f]{12,}\b)"
    r"|(?P<retry>retry: \d+)"
    r"|(?P<number>\b\d+\.\d+(e[-+]\d+)?\b)"
    r"|(?P<measure>(?<=noetl_)\w+(_bucket|_sum|_count|_seconds)(\{[^}]*\})? \S+)"
)
"""What differs between two responses: secrets that are made, times, ids, sizes and measurements."""

CHANGING_HEADERS = ("etag", "content-length", "date")

RUNS = ("ended", "failed", "waiting")
UNCOUNTED_TABLES = ("facts", "fact_totals", "request_counts", "keys")
"""Tables of sums, of rates and of the latest use of keys."""


def find_routes() -> set[str]:
    """Return the method and the path of each route of the app."""
    routes = [route for router in find_routers() for route in router.routes]
    assert all(isinstance(route, APIRoute) for route in routes)
    return {
        f"{method} {route.path_format}"
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_every_route_has_an_example() -> None:
    assert find_routes() == EXAMPLES.keys() | FILES


def add_things(store: Store) -> dict[str, str]:
    """Add runs, limits, a channel and notifications of the tenant `default`. Return their names."""
    clock = FakeClock(float(int(store.clock())))
    for name in ("alpha-crm", "alpha-erp"):
        store.gates.set_limit(named_gate("default", name), LimitKind.STEPS, 0)
    options: dict[str, Any] = {"clock": clock, "origin": "service", "tags": ("alpha-tag",)}
    ended = RunHarness(store, SHOP.replace("VERSION", "alpha.7"), {"word": CANARY}, **options).finish()
    failed = RunHarness(store, FAILING, **options).finish()
    for text in (QUESTION, LIMITED) * 2:
        waiting = RunHarness(store, text, **options)
        waiting.execute_next()
        if text is QUESTION:
            names = {"waiting": waiting.id}
    own_run = RunHarness(store, OWN, clock=clock, origin="service", tenant="other").finish()
    channel = Channel("default", "alpha-ops", "slack", f"https://127.0.0.1/{CANARY}", clock(), is_paused=True)
    assert store.channels.put(channel, None)
    record = {"channel": "alpha-ops", "attempts": 0, "waits_for": [], "event": "failed", "version": None}
    record |= {"playbook": "alpha-shop", "status": "failed", "run_id": failed.id, "problem": CANARY}
    for number in range(2):
        id = f"{number:024x}5f1c7c0b"
        entry = OutboxEntry(id, "default", OutboxKind.NOTIFICATION, clock(), None, record)
        assert store.outbox.add(hold(entry, clock()))
    return names | {
        "ended": ended.id,
        "failed": failed.id,
        "own_run": own_run.id,
        "notification": id,
        "event": ended.events[0].id,
    }


async def add_by_http(url: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Register playbooks, fire a trigger and start backfills. Return names, and cursors of all lists."""
    app = create_app({"NOETL_STORE": url})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://noetl.test", timeout=60) as http:
        http.headers["Authorization"] = f"Bearer {keys['default']}"

        async def call(method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
            response = await http.request(method, path, json=body, **options)
            assert response.is_success, response.text
            return response

        for version in ("alpha.7", "alpha.8"):
            await call("POST", "/playbooks", {"playbook": SHOP.replace("VERSION", version)})
            key = {"Idempotency-Key": f"alpha-key-{version}"}
            await call("POST", "/triggers/alpha-shop/alpha-nightly/fire", headers=key)
        await call("POST", "/playbooks", {"playbook": CALLING.replace("NAME", "alpha-shop")})
        await call("PUT", "/playbooks/alpha-shop/aliases/alpha-stable", {"version": "alpha.7"})
        march = {"playbook": "alpha-shop", "trigger": "alpha-nightly", **MARCH}
        keyed = {"headers": {"Idempotency-Key": "alpha-key-alpha.7"}}
        await call("POST", "/workflows/run", {"playbook": OWN, "tags": ["t"]}, **keyed)
        for _ in range(2):
            backfill = await call("POST", "/backfills", march)
        ticket = await call("POST", f"/workflows/{keys['ended']}/events/ticket")
        names = {
            "backfill": backfill.json()["id"],
            "ticket": ticket.json()["ticket"],
            "tag": (await call("GET", "/workflows")).headers["etag"],
            "digest": (await call("GET", "/cache")).json()["items"][0]["digest"],
        }
        lists = {
            **{name: f"/{name}" for name in ("backfills", "inbox", "limits", "notifications", "workflows")},
            "playbooks": "/playbooks",
            "triggers": "/triggers",
            "calendar": "/triggers/calendar",
            "queue": "/limits/alpha-crm/queue",
            "versions": "/playbooks/alpha-shop/versions",
            "firings": "/triggers/alpha-shop/alpha-nightly/firings",
        }
        for name, path in lists.items():
            query = {"limit": 1} | (YEAR if name == "calendar" else {})
            cursor = (await call("GET", path, params=query)).json()["next_cursor"]
            assert cursor is not None, name
            names[f"cursor_{name}"] = cursor
        http.headers["Authorization"] = f"Bearer {keys['other']}"
        await call("POST", "/playbooks?force=true", {"playbook": OWN})
    app.state.context.close()
    return names


@dataclass(frozen=True)
class Filled:
    """A store with things of the tenant `default`, their names, and the keys of both tenants."""

    path: Path
    names: dict[str, str]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    path = tmp_path_factory.mktemp("isolation") / "noetl.db"
    url = f"sqlite:///{path}"
    names = {
        "token": "c2VjcmV0LXRva2Vu",
        "playbook": "alpha-shop",
        "version": "alpha.7",
        "alias": "alpha-stable",
    }
    names |= {
        "trigger": "alpha-nightly",
        "hook": "alpha/posted",
        "sent_hook": "alpha/sent",
        "prefix": "alpha",
    }
    names |= {"channel": "alpha-ops", "limit": "alpha-crm", "key": "alpha-key-alpha.7", "step": "alpha_step"}
    with closing(open_store(url)) as store:
        for tenant in ("default", "other"):
            names[tenant], key = create_api_key(tenant, ["admin"], tenant, 1.0)
            store.keys.add(key)
        names |= add_things(store)
    names |= asyncio.run(add_by_http(url, names))
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma wal_checkpoint(truncate)")
    return Filled(path, names)


def invent(name: str, value: str, word: str) -> str:
    """Return a name of the same form that nothing has. `word` tells several from each other."""
    if name in ("own_run", "default", "other"):
        return value
    if name.startswith("cursor_"):
        place, separator, checksum = value.rpartition(".")
        return place + separator + _turn_digits(checksum, word)
    return value.replace("alpha", word) if "alpha" in value else _turn_digits(value, word)


def _turn_digits(text: str, word: str) -> str:
    digits, shift = "0123456789abcdef", {"omega": 3, "sigma": 5}[word]
    return text.translate(str.maketrans(digits, digits[shift:] + digits[:shift]))


def fill(template: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], match[0]), template)


@dataclass(frozen=True)
class VisibleAnswer:
    """The part of a response that its caller can compare."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True)
class Sent:
    """A request that was sent, as one text, and its response."""

    text: str
    response: httpx.Response

    def answer(self, names: Mapping[str, str]) -> VisibleAnswer:
        """Return what its sender sees, with placeholders instead of the names that it has sent."""
        named = [(name, value) for name, value in names.items() if value in self.text]
        named.sort(key=lambda pair: -len(pair[1]))

        def generalise(text: str) -> str:
            for name, value in named:
                text = text.replace(value, f"<{name}>").replace(quote(value), f"<{name}>")
            return CHANGING.sub(lambda match: f"<{match.lastgroup}>", text)

        shown = {
            name: generalise(value)
            for name, value in self.response.headers.items()
            if name not in CHANGING_HEADERS
        }
        return VisibleAnswer(self.response.status_code, shown, generalise(self.response.text))


async def send(http: httpx.AsyncClient, route: str, example: Example, names: Mapping[str, str]) -> Sent:
    method, path = route.split(" ")
    template = example.path or re.sub(r"\{(\w+)\}", lambda match: f"{{{PARAMETERS[match[1]]}}}", path)
    filled_path = fill(template, {name: quote(value) for name, value in names.items()})
    query = {name: fill(str(value), names) for name, value in example.query.items()}
    body = None if example.body is None else fill(json.dumps(example.body), names)
    headers = {name: fill(value, names) for name, value in example.headers.items()}
    text = " ".join((filled_path, *query.values(), body or "", *headers.values()))
    if body is not None:
        headers["Content-Type"] = "application/json"
    return Sent(text, await http.request(method, filled_path, params=query, content=body, headers=headers))


async def end_watchers(app: FastAPI) -> None:
    """Return when no watcher of an app uses its store. A thread of one would open it again."""
    services = app.state.context.opened_services
    if services is not None:
        services.stop_streams()
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("noetl-watch")]
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an app with a store. Without the lifespan of the app, nothing is executed."""
    app = create_app({"NOETL_STORE": f"sqlite:///{path}"})
    app.state.list_stream_seconds = 0.0  # This transport returns only complete responses.
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://noetl.test", timeout=60) as http:
        yield http
    await end_watchers(app)
    app.state.context.close()


def read_rows(path: Path) -> set[str]:
    """Return all rows of a store as texts, except for those of tables that count."""
    rows: set[str] = set()
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("select name from sqlite_schema where type = 'table'").fetchall()
        for (table,) in tables:
            if table not in UNCOUNTED_TABLES and not table.startswith("sqlite_"):
                columns = "hash, header, source" if table == "plans" else "*"
                selected = database.execute(f'select {columns} from "{table}"')
                rows |= {f"{table} {row!r}" for row in selected}
    return rows


async def check_as_other(
    http: httpx.AsyncClient, route: str, example: Example, names: dict[str, str]
) -> None:
    """Check that the tenant `other` has the answer to names that nothing has."""
    first, second = (
        {name: invent(name, value, word) for name, value in names.items()} for word in ("omega", "sigma")
    )
    http.headers["Authorization"] = f"Bearer {names['other']}"
    with counting() as take:
        await send(http, route, example, first)
        take()
        unknown = await send(http, route, example, second)
        statements = take()
        sent = await send(http, route, example, names)
        answer = sent.answer(names)
        assert answer == unknown.answer(second), example
        # A stranger learns from 401 that a webhook exists.
        if answer.status == 404 and "/hooks/" not in route:
            assert take() == statements, example
    assert answer.status < 500, answer
    known = sent.text + OWN + names["own_run"]
    for value in (CANARY, *names.values()):
        assert value in known or value not in f"{sent.response.headers} {sent.response.text}", example


@pytest.mark.parametrize("route", sorted(EXAMPLES))
async def test_names_of_another_tenant_are_unknown(filled: Filled, tmp_path: Path, route: str) -> None:
    before = {row for row in read_rows(filled.path) if "'other'" not in row}
    for number, example in enumerate(EXAMPLES[route]):
        path = tmp_path / f"{number}.db"
        shutil.copy(filled.path, path)
        has_run = "{run}" in repr(example) or (example.path is None and "{workflow_id}" in route)
        async with opened(path) as http:
            for run in RUNS if has_run else RUNS[:1]:
                await check_as_other(http, route, example, {**filled.names, "run": filled.names[run]})
            after = read_rows(path)
            assert before <= after, (example, before - after)
            assert not [row for row in after - before if CANARY in row or "'default'" in row], example
            if not example.is_shared:
                assert await is_otherwise_for_owner(http, route, example, filled.names), example


async def is_otherwise_for_owner(
    http: httpx.AsyncClient, route: str, example: Example, all_names: Mapping[str, str]
) -> bool:
    """Return whether the owner of the names has another answer, for one of its runs at least."""
    for run in RUNS:
        answers = []
        for tenant in ("other", "default"):
            http.headers["Authorization"] = f"Bearer {all_names[tenant]}"
            names = {**all_names, "run": all_names[run]}
            answers.append((await send(http, route, example, names)).answer(names))
        if answers[0] != answers[1]:
            return True
    return False
