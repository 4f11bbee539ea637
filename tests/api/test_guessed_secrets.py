"""A tenant that sends what may be the secret of another one finds out nothing by it."""

from __future__ import annotations

import asyncio
import queue

import httpx
import pytest

from noetl.api.auth.api_keys import create_api_key
from noetl.executor.security.redaction import MASK
from noetl.executor.security.secret_sources import register_secret_variables
from noetl.executor.stores import open_store
from tests.http_server import StubExchange, serve
from tests.redaction import forget_secrets

pytestmark = pytest.mark.anyio

SECRET = "correct-horse-battery"
ECHO = """\
name: echo
input: {word: string}
triggers:
  - {name: posted, type: webhook, path: posted, auth: {scheme: api_key},
     input: {word: "{{ trigger.body.word }}"}}
steps:
  - name: first
    run:
      - {action: log, message: "it is {{ input.word }}"}
      - {action: set, set: {said: "{{ input.word }}"}}
    rule: [{case: default, run: [second]}]
  - name: second
    run: [{action: fail, message: "not {{ said }}"}]
    rule: [{case: error, run: []}, {case: default, run: []}]
output: {word: "{{ said }}", texts: ["{{ input.word | upper | lower }}"]}
"""
ASK = """\
name: ask
input: {url: string}
steps:
  - name: ask
    run:
      - action: callback
        as: answer
        notify: {action: http, method: POST, url: "{{ input.url }}", body: "{{ callback.url }}"}
output: {word: "{{ answer.word }}"}
"""


@pytest.fixture
def headers(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The headers of the clients of two tenants. The first has a secret."""
    forget_secrets(monkeypatch)
    register_secret_variables({"NOETL_TENANT_SECRET_owner__TOKEN": SECRET})
    settings["NOETL_ALLOW_NETWORKS"] = "127.0.0.0/8"
    settings["NOETL_PUBLIC_URL"] = "http://localhost"
    store = open_store(settings["NOETL_STORE"])
    found = {}
    for tenant in ("owner", "guesser"):
        key, record = create_api_key("k", ["admin"], tenant, 1.0)
        store.keys.add(record)
        found[tenant] = {"Authorization": f"Bearer {key}"}
    store.close()
    return found


@pytest.mark.parametrize(("tenant", "expected"), [("guesser", SECRET), ("owner", MASK)])
@pytest.mark.parametrize("start", ["request", "webhook"])
async def test_a_run_shows_a_guess_as_it_was_sent(
    headers: dict[str, dict[str, str]], http: httpx.AsyncClient, tenant: str, expected: str, start: str
) -> None:
    authorization = headers[tenant]
    if start == "request":
        body = {"playbook": ECHO, "input": {"word": SECRET}}
        started = await http.post("/workflows/run", json=body, headers=authorization)
    else:
        registered = await http.post(
            "/playbooks", content=ECHO, headers={**authorization, "Content-Type": "application/yaml"}
        )
        assert registered.status_code == 201, registered.text
        started = await http.post(f"/hooks/{tenant}/posted", json={"word": SECRET}, headers=authorization)
    assert started.status_code == 202, started.text
    run = started.json()["workflow_id"]
    result = await http.get(f"/workflows/result/{run}", headers={**authorization, "Prefer": "wait=20"})
    assert result.json()["result"] == {"word": expected, "texts": [expected]}
    for part in ("", "/events", "/step?name=first"):
        shown = (await http.get(f"/workflows/{run}{part}", headers=authorization)).text
        assert expected in shown
        assert (MASK if expected == SECRET else SECRET) not in shown


@pytest.mark.parametrize(("tenant", "expected"), [("guesser", SECRET), ("owner", MASK)])
async def test_an_answer_shows_a_guess_as_it_was_sent(
    headers: dict[str, dict[str, str]], http: httpx.AsyncClient, tenant: str, expected: str
) -> None:
    authorization = headers[tenant]
    urls = queue.SimpleQueue[bytes]()

    def answer(exchange: StubExchange) -> None:
        urls.put(exchange.received.body)
        exchange.reply()

    with serve(answer) as server:
        body = {"playbook": ASK, "input": {"url": server.url()}}
        started = await http.post("/workflows/run", json=body, headers=authorization)
        url = (await asyncio.to_thread(urls.get, timeout=20)).decode().strip('"')
    run = started.json()["workflow_id"]
    answered = await http.post(url, json={"word": SECRET})
    assert answered.status_code == 202
    result = await http.get(f"/workflows/result/{run}", headers={**authorization, "Prefer": "wait=20"})
    assert result.json()["result"] == {"word": expected}
