"""`GET /metrics`: who may read which counts, in which format, and what a playbook's name cannot do to it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.executor.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

HELLO = "name: NAME\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]"


async def run(http: httpx.AsyncClient, name: str, **headers: str) -> None:
    response = await http.post(
        "/workflows/run",
        json={"playbook": HELLO.replace("NAME", name)},
        headers={"Prefer": "wait=20", **headers},
    )
    assert response.status_code == 200, response.text


async def samples(http: httpx.AsyncClient, path: str = "/metrics", **headers: str) -> dict[str, float]:
    """Return the value of each series of a scrape, by its name and its sorted labels."""
    response = await http.get(path, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        f"{sample.name} {' '.join(sorted(sample.labels.values()))}".strip(): sample.value
        for family in parse_prometheus(response.text)
        for sample in family.samples
    }


async def test_a_run_is_counted_with_its_steps_and_durations(http: httpx.AsyncClient) -> None:
    before = await samples(http)
    assert before["noetl_queue_due"] == before["noetl_open_runs"] == before["noetl_queue_oldest_seconds"] == 0
    await run(http, "hello")
    await run(http, "hello")
    after = await samples(http)
    assert after["noetl_runs_started_total hello"] == 2
    assert after["noetl_runs_ended_total hello succeeded"] == 2
    assert after["noetl_steps_ended_total hello succeeded"] == 2
    assert after["noetl_run_duration_seconds_bucket +Inf hello"] == 2
    assert after["noetl_step_duration_seconds_count"] == 2
    assert any(name.startswith("noetl_store_operation_seconds_count ") for name in after)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", "open"),
        ("application/openmetrics-text", "open"),
        ("text/plain", "text/plain"),
        ("text/html, */*", "text/plain"),
        ("nonsense;;;=,,q", "text/plain"),
    ],
)
async def test_the_format_follows_accept(http: httpx.AsyncClient, accept: str, content_type: str) -> None:
    await run(http, "hello")
    response = await http.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert content_type in response.headers["content-type"]
    parse = parse_openmetrics if content_type == "open" else parse_prometheus
    assert "noetl_runs_ended" in {family.name.removesuffix("_total") for family in parse(response.text)}


async def test_nonsense_is_refused_by_name(http: httpx.AsyncClient) -> None:
    for path, headers, status, type in (
        ("/metrics?name[]=up", {}, 400, "invalid-request"),
        ("/metrics?tenants=some", {}, 400, "invalid-request"),
        ("/metrics?tenants=all&tenants=own", {}, 400, "invalid-request"),
        ("/metrics", {"Accept": "image/png"}, 406, "not-acceptable"),
    ):
        response = await http.get(path, headers=headers)
        assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, type), path
    assert (await http.get("/metrics")).status_code == 200


async def test_names_of_playbooks_break_no_line(http: httpx.AsyncClient) -> None:
    await run(http, r'"a\"} # HELP x\\"')
    await run(http, "é" * 100)
    after = await samples(http)
    assert after['noetl_runs_started_total a"} # HELP x\\'] == 1
    assert after[f"noetl_runs_started_total {'é' * 100}"] == 1
    text = (await http.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    parsed = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert "noetl_runs_started" in {family.name for family in parsed}


async def test_a_tenant_sees_its_own_runs_and_an_admin_the_sum(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'noetl.db'}"
    store = SqliteStore(str(tmp_path / "noetl.db"))
    keys = {}
    for tenant, scope in (("one", "run"), ("two", "run"), ("one", "read"), ("two", "admin")):
        text, key = create_api_key("k", [scope], tenant, 0.0)
        store.keys.add(key)
        keys[tenant, scope] = {"Authorization": f"Bearer {text}"}
    store.close()
    app = create_app({"NOETL_STORE": url, "NOETL_WORKERS": "1"})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            await run(http, "alpha", **keys["one", "run"])
            await run(http, "beta", **keys["two", "run"])
            of_tenant = await samples(http, **keys["one", "read"])
            assert of_tenant["noetl_runs_ended_total alpha succeeded"] == 1
            assert not any("beta" in name for name in of_tenant)
            everything = await samples(http, "/metrics?tenants=all", **keys["two", "admin"])
            assert everything["noetl_runs_ended_total succeeded"] == 2
            assert everything["noetl_lost_leases_total"] == 0
            assert everything["noetl_run_duration_seconds_count"] == 2
            assert not any("alpha" in name or "beta" in name for name in everything)
            refused = await http.get("/metrics?tenants=all", headers=keys["one", "run"])
            assert (refused.status_code, refused.json()["scope"]) == (403, "admin")
            assert (await http.get("/metrics")).status_code == 401


async def test_a_store_that_counts_nothing_has_only_its_latency(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noetl.executor.stores.dynamo.facts import DynamoFacts
    from noetl.executor.stores.sqlite.facts import SqliteFacts

    monkeypatch.setattr(SqliteFacts, "read", DynamoFacts.read)
    await http.get("/workflows")
    names = {name.partition(" ")[0] for name in await samples(http)}
    assert names == {f"noetl_store_operation_seconds_{kind}" for kind in ("bucket", "count", "sum")}


async def test_firings_of_triggers_are_counted_by_their_outcome(http: httpx.AsyncClient) -> None:
    text = """
name: hook
triggers:
- {name: t, type: webhook, path: hook, auth: {scheme: api_key}, input: {n: "{{ trigger.body.n }}"}}
input: {n: {type: integer, enum: [1]}}
steps: [{name: a, run: [{action: set, set: {m: 1}}]}]
"""
    registered = await http.post("/playbooks", json={"playbook": text})
    assert registered.status_code in (200, 201), registered.text
    for number in (1, 2, 3):
        await http.post("/hooks/default/hook", json={"n": number})
    after = await samples(http)
    assert after["noetl_trigger_firings_total hook started"] == 1
    assert after["noetl_trigger_firings_total hook rejected"] == 2
    assert (await samples(http, "/metrics?tenants=all"))["noetl_trigger_firings_total rejected"] == 2
