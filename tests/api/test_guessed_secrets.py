"""A tenant that sends what may be the secret of another one finds out nothing by it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import queue

import httpx
import pytest

from noetl.api.auth.api_keys import create_api_key
from noetl.api.routes import health
from noetl.api.service.callbacks import CallbackService
from noetl.api.service.webhooks import WebhookService
from noetl.executor.security.redaction import MASK, REVEALED_SECRETS
from noetl.executor.security.secret_sources import register_secret_variables
from noetl.executor.stores import open_store
from tests.http_server import StubExchange, serve
from tests.redaction import forget_secrets

pytestmark = pytest.mark.anyio

SECRET = "correct-horse-battery"
SENDER = "a-secret-of-the-sender"
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
PUBLIC = """\
name: public
input: {word: string, number: {type: integer, enum: [1], default: 1}, all: {default: none}}
triggers:
  - {name: signed, type: webhook, path: signed, auth: {scheme: github, secret: "{{ secrets.SENDER }}"},
     key: "{{ trigger.body.word }}", input: {word: "{{ trigger.body.word }}", all: "{{ trigger }}"}}
  - {name: unsigned, type: webhook, path: unsigned, auth: {scheme: none},
     input: {word: "{{ trigger.body.word }}", all: "{{ trigger }}"}}
  - {name: refused, type: webhook, path: refused, auth: {scheme: none},
     input: {word: x, number: "{{ trigger.body.word | int(trigger.body.word) }}"}}
  - {name: failing, type: webhook, path: failing, auth: {scheme: none}, input: {word: x},
     key: "{{ trigger.body[trigger.body.word] }}"}
steps:
  - name: ask
    concurrency: {limit: 1, key: "{{ input.word }}"}
    run:
      - action: callback
        as: answer
        title: "Is it {{ input.word }}?"
        details: "{{ input.all }}"
        answer: {word: {type: string, enum: [fine]}}
        notify: {action: http, method: POST, url: "URL", body: "{{ callback.url }}"}
output: {word: "{{ input.word }}"}
"""


@pytest.fixture
def headers(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The headers of the clients of two tenants. The first has a secret."""
    forget_secrets(monkeypatch)
    register_secret_variables({"NOETL_TENANT_SECRET_owner__TOKEN": SECRET})
    settings["NOETL_ALLOW_NETWORKS"] = "127.0.0.0/8"
    settings["NOETL_PUBLIC_URL"] = "http://localhost"
    settings["NOETL_ALLOW_UNSIGNED_WEBHOOKS"] = "1"
    settings |= {f"NOETL_TENANT_SECRET_{tenant}__SENDER": SENDER for tenant in ("owner", "guesser")}
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


@pytest.mark.parametrize(("tenant", "expected"), [("guesser", SECRET), ("owner", MASK)])
@pytest.mark.parametrize("path", ["signed", "unsigned"])
async def test_what_a_request_without_a_caller_starts_shows_a_guess_as_it_was_sent(
    headers: dict[str, dict[str, str]], http: httpx.AsyncClient, tenant: str, expected: str, path: str
) -> None:
    authorization = headers[tenant]
    urls = queue.SimpleQueue[bytes]()

    def answer(exchange: StubExchange) -> None:
        urls.put(exchange.received.body)
        exchange.reply()

    with serve(answer) as server:
        await register(http, PUBLIC.replace("URL", server.url()), authorization)
        started = await send(http, f"/hooks/{tenant}/{path}?q={SECRET}")
        assert started.status_code == 202, started.text
        url = (await asyncio.to_thread(urls.get, timeout=20)).decode().strip('"')
    run = started.json()["workflow_id"]
    question = (await http.get(url)).text
    assert f"Is it {expected}?" in question
    shown = [question]
    for part in (
        f"/workflows/{run}",
        f"/workflows/{run}/events",
        f"/triggers/public/{path}/firings",
        "/inbox",
    ):
        response = await http.get(part, headers=authorization)
        assert response.status_code == 200
        shown.append(response.text)
    assert SENDER not in "".join(shown)
    wrong = await http.post(url, json={"word": SECRET})
    assert wrong.status_code == 422
    # What was just sent is quoted. Tokens are masked for all.
    texts = "".join([*shown, wrong.text if tenant == "guesser" else ""]).replace(f"callbacks/{MASK}", "")
    assert (MASK if expected == SECRET else SECRET) not in texts
    assert (await http.post(url, json={"word": "fine"})).status_code == 202
    result = await http.get(f"/workflows/result/{run}", headers={**authorization, "Prefer": "wait=20"})
    assert result.json()["result"] == {"word": expected}


@pytest.mark.parametrize(("tenant", "expected"), [("guesser", SECRET), ("owner", MASK)])
@pytest.mark.parametrize("path", ["refused", "failing"])
async def test_a_refusal_of_a_request_without_a_caller_shows_no_secret_of_its_tenant(
    headers: dict[str, dict[str, str]], http: httpx.AsyncClient, tenant: str, expected: str, path: str
) -> None:
    await register(http, PUBLIC.replace("URL", "http://127.0.0.1"), headers[tenant])
    refused = await send(http, f"/hooks/{tenant}/{path}")
    assert refused.status_code == 422
    firings = await http.get(f"/triggers/public/{path}/firings", headers=headers[tenant])
    for text in (refused.text, firings.text):
        assert (MASK if expected == SECRET else SECRET) not in text
    if path == "refused":
        assert expected in refused.text


@pytest.mark.parametrize(
    "path", ["/hooks/guesser/signed", "/workflows/callbacks/token", "/healthz", "/readyz"]
)
async def test_an_error_of_a_request_without_a_caller_is_logged_without_secrets(
    headers: dict[str, dict[str, str]],
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    REVEALED_SECRETS.add("postgresql://noetl:password-of-the-store@db/noetl")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{SECRET} and password-of-the-store")

    monkeypatch.setattr(WebhookService, "find", fail)
    monkeypatch.setattr(CallbackService, "check_token", fail)
    monkeypatch.setattr(health, "JsonResponse", fail)
    app = http._transport.app  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        method = "GET" if path in ("/healthz", "/readyz") else "POST"
        response = await client.request(method, path, json={"word": SECRET})
    assert response.status_code == 500
    assert "reference" in caplog.text
    assert MASK in caplog.text
    for text in (response.text, caplog.text):
        assert SECRET not in text
        assert "password-of-the-store" not in text


async def register(http: httpx.AsyncClient, text: str, authorization: dict[str, str]) -> None:
    content = {**authorization, "Content-Type": "application/yaml"}
    response = await http.post("/playbooks", content=text, headers=content)
    assert response.status_code == 201, response.text


async def send(http: httpx.AsyncClient, path: str) -> httpx.Response:
    """Send the secret to a webhook, as the sender who is expected."""
    body = json.dumps({"word": SECRET}).encode()
    signature = hmac.new(SENDER.encode(), body, hashlib.sha256).hexdigest()
    signed = {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}
    return await http.post(path, content=body, headers=signed)
