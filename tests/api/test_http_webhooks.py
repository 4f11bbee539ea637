"""Webhooks over HTTP: signed requests, repeats, refusals, and the result of the run as the answer."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from noetl.executor.engine import quotas, webhook_firing
from noetl.executor.errors import RejectedError
from noetl.executor.security.webhook_signatures import sign_standard
from noetl.executor.stores.sql.triggers import SqlTriggers
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

SECRET = "a-secret-of-github"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TEXT = """\
name: shop/orders
version: "1"
input: {number: {type: integer, default: 0}, seen: {default: none}}
triggers:
  - {name: pushed, type: webhook, path: git/pushed, max_bytes: 1KiB,
     auth: {scheme: github, secret: ["{{ secrets.NEW_GITHUB }}", "{{ secrets.GITHUB }}"]},
     if: "{{ trigger.body.number != 13 }}", input: {number: "{{ trigger.body.number }}"}}
  - {name: paid, type: webhook, path: paid, auth: {scheme: standard, secret: "{{ secrets.STANDARD }}"},
     answer: result, input: {seen: "{{ trigger }}"}}
  - {name: keyed, type: webhook, path: keyed, method: PUT, auth: {scheme: api_key},
     key: "{{ trigger.body.key }}", input: {seen: "{{ trigger.body }}"}}
  - {name: posted, type: webhook, path: posted, auth: {scheme: api_key}, input: {seen: "{{ trigger }}"}}
  - {name: open, type: webhook, path: open, auth: {scheme: none}, input: {seen: "{{ trigger.body }}"}}
  - {name: lost, type: webhook, path: lost, auth: {scheme: github, secret: "{{ secrets.LOST }}"}}
  - {name: failing, type: webhook, path: failing, auth: {scheme: api_key}, answer: result,
     input: {number: -1}}
  - {name: slow, type: webhook, path: slow, auth: {scheme: api_key}, answer: result, wait: 0s}
steps:
  - name: check
    run: [{action: set, set: {checked: "{{ 1 // (input.number + 1) }}"}}]
output: {number: "{{ input.number }}", seen: "{{ input.seen }}"}
"""


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    """Settings with the secrets of two senders."""
    return {**settings, "NOETL_SECRET_GITHUB": SECRET, "NOETL_SECRET_STANDARD": STANDARD_SECRET}


@pytest.fixture
async def service(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Service with the playbook `shop/orders`."""
    response = await http.post("/playbooks", json={"playbook": TEXT})
    assert response.status_code == 201, response.text
    yield http


def github(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the headers that GitHub sends with a body."""
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}


async def push(service: httpx.AsyncClient, body: bytes, **changed: str) -> httpx.Response:
    """Send a signed body to the webhook `pushed`."""
    headers = {**github(body), **changed}
    return await service.post("/hooks/default/git/pushed", content=body, headers=headers)


async def read_history(service: httpx.AsyncClient, name: str) -> list[dict[str, Any]]:
    response = await service.get(f"/triggers/shop/orders/{name}/firings")
    return list(response.json()["items"])


async def read_result(service: httpx.AsyncClient, workflow_id: str) -> Any:
    response = await service.get(f"/workflows/result/{workflow_id}", headers={"Prefer": "wait=20"})
    return response.json()["result"]


async def test_a_signed_request_starts_one_run_however_often_it_is_sent(service: httpx.AsyncClient) -> None:
    body = b'{"number": 5,  "text": "\xc3\xa4"}\n'
    first = await push(service, body)
    assert first.status_code == 202, first.text
    receipt = first.json()
    assert receipt["outcome"] == "started"
    assert "Idempotency-Replayed" not in first.headers
    again = await push(service, body)
    assert (again.status_code, again.json()) == (202, receipt)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await read_result(service, receipt["workflow_id"]))["number"] == 5
    (firing,) = await read_history(service, "pushed")
    assert (firing["outcome"], firing["workflow_id"]) == ("started", receipt["workflow_id"])
    other = await push(service, b'{"number": 6}')
    assert other.json()["workflow_id"] != receipt["workflow_id"]


async def test_the_run_knows_its_trigger(service: httpx.AsyncClient) -> None:
    started = (await push(service, b'{"number": 7}')).json()["workflow_id"]
    status = (await service.get(f"/workflows/status/{started}")).json()
    assert (status["trigger"]["name"], status["trigger"]["type"]) == ("pushed", "webhook")
    assert status["version"] == "1"


async def test_a_false_condition_starts_no_run(service: httpx.AsyncClient) -> None:
    response = await push(service, b'{"number": 13}')
    assert (response.status_code, response.json()) == (200, {"outcome": "filtered", "workflow_id": None})
    (firing,) = await read_history(service, "pushed")
    assert (firing["outcome"], firing["reason"]) == ("filtered", "`if` is false")


@pytest.mark.parametrize("body", [b'{"number": "five"}', b"{}"])
async def test_a_request_that_does_not_fit_is_rejected_and_recorded(
    service: httpx.AsyncClient, body: bytes
) -> None:
    assert_problem(await push(service, body), 422, "invalid-input")
    (firing,) = await read_history(service, "pushed")
    assert (firing["outcome"], firing["workflow_id"]) == ("rejected", None)
    assert firing["reason"]


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Hub-Signature-256": "sha256=" + "0" * 64},
        {"X-Hub-Signature-256": ""},
        {"X-Hub-Signature-256": github(b'{"number": 8}', "other")["X-Hub-Signature-256"]},
        {"X-Hub-Signature-256": github(b'{"number":8}')["X-Hub-Signature-256"]},
    ],
)
async def test_a_request_of_another_sender_is_refused(
    service: httpx.AsyncClient, changed: dict[str, str]
) -> None:
    response = await push(service, b'{"number": 8}', **changed)
    assert_problem(response, 401, "unsigned")
    assert "github" not in response.text.lower()
    assert await read_history(service, "pushed") == []


async def test_nothing_is_parsed_before_the_signature(service: httpx.AsyncClient) -> None:
    broken = b'{"number": '
    assert_problem(await push(service, broken, **{"X-Hub-Signature-256": "sha256=0"}), 401, "unsigned")
    assert_problem(await push(service, broken), 400, "malformed-json")
    assert_problem(await push(service, b'{"a": 1, "a": 2}'), 400, "malformed-json")


async def test_a_body_beyond_the_limit_is_refused(service: httpx.AsyncClient) -> None:
    large = b'"' + b"x" * 1023 + b'"'
    assert_problem(await push(service, large), 413, "too-large")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 128

    response = await service.post("/hooks/default/git/pushed", content=stream())
    assert_problem(response, 413, "too-large")


@pytest.mark.parametrize(
    "path", ["default/nothing", "unknown/git/pushed", "default/git/pushed/", "default/..%2Fgit", "a%00b/c"]
)
async def test_an_unknown_path_and_an_unknown_tenant_have_one_answer(
    service: httpx.AsyncClient, path: str
) -> None:
    response = await service.post(f"/hooks/{path}", content=b"{}")
    assert_problem(response, 404, "not-found")
    assert response.json()["detail"] == "unknown webhook"


async def test_a_name_that_no_tenant_has_is_not_looked_up(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may refuse such a key, and its failure would be reported to the operator."""
    monkeypatch.setattr(SqlTriggers, "at_path", None)
    for tenant in ("a" * 101, "a%20b", "-"):
        response = await service.post(f"/hooks/{tenant}/git/pushed", content=b"{}")
        assert_problem(response, 404, "not-found")


async def test_another_method_is_refused_with_the_right_one(service: httpx.AsyncClient) -> None:
    response = await service.put("/hooks/default/git/pushed", content=b"{}", headers=github(b"{}"))
    assert (response.status_code, response.headers["Allow"]) == (405, "OPTIONS, POST")
    response = await service.get("/hooks/default/git/pushed")
    assert response.status_code == 405
    assert {"POST", "PUT"} <= {*response.headers["Allow"].split(", ")}


async def test_a_paused_webhook_lets_its_sender_try_again(service: httpx.AsyncClient) -> None:
    await service.post("/triggers/shop/orders/pushed/pause")
    response = await push(service, b'{"number": 9}')
    assert_problem(response, 503, "trigger-paused")
    assert response.headers["Retry-After"] == "60"
    # A stranger does not learn that it is paused.
    assert_problem(await push(service, b"{}", **{"X-Hub-Signature-256": "x"}), 401, "unsigned")
    await service.post("/triggers/shop/orders/pushed/resume")
    assert (await push(service, b'{"number": 9}')).status_code == 202


async def test_a_tenant_with_too_many_branches_lets_its_sender_try_again(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "COUNT_SECONDS", 0.0)
    waiting = "name: waiting\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"
    await service.post("/workflows/run", json={"playbook": waiting})
    with monkeypatch.context() as patched:
        patched.setenv("NOETL_MAX_BRANCHES", "1")
        refused = await push(service, b'{"number": 9}')
        assert_problem(refused, 429, "quota-exceeded")
        assert (refused.json()["limit"], refused.headers["Retry-After"]) == (1, "5")
        # Nothing is recorded, so the request may be repeated.
        assert await read_history(service, "pushed") == []
    accepted = await push(service, b'{"number": 9}')
    assert (accepted.status_code, "Idempotency-Replayed" in accepted.headers) == (202, False)


async def test_a_missing_secret_is_not_named_to_the_sender(
    service: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await service.post("/hooks/default/lost", content=b"{}", headers=github(b"{}"))
    assert_problem(response, 503, "webhook-not-set-up")
    assert "LOST" not in response.text
    assert "LOST" in caplog.text


def standard(body: bytes, id: str = "msg_1", signed_at: float | None = None) -> dict[str, str]:
    """Return the headers that Standard Webhooks sends with a body."""
    return sign_standard(STANDARD_SECRET, id, time.time() if signed_at is None else signed_at, body)


async def test_the_answer_is_the_result_of_the_run(service: httpx.AsyncClient) -> None:
    body = b"a=1&b=x%20y"
    headers = {**standard(body), "Content-Type": "application/x-www-form-urlencoded", "X-Kind": "new"}
    credentials = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "k", "X-Gitlab-Token": "t"}
    response = await service.post(
        "/hooks/default/paid?page=2", content=body, headers={**headers, **credentials}
    )
    assert response.status_code == 200, response.text
    seen = response.json()["seen"]
    assert (seen["method"], seen["query"], seen["id"]) == ("POST", {"page": "2"}, "msg_1")
    assert seen["body"] == {"a": "1", "b": "x y"}
    assert seen["headers"]["x-kind"] == "new"
    hidden = {"authorization", "cookie", "x-api-key", "x-gitlab-token", "webhook-signature"}
    assert not hidden & seen["headers"].keys()
    again = await service.post("/hooks/default/paid", content=b"b", headers=standard(b"b"))
    assert (again.status_code, again.json()) == (200, response.json())
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_old_signature_is_refused(service: httpx.AsyncClient) -> None:
    headers = standard(b"{}", signed_at=time.time() - 400)
    response = await service.post("/hooks/default/paid", content=b"{}", headers=headers)
    assert_problem(response, 401, "unsigned")


async def test_a_failed_run_is_answered_with_502(service: httpx.AsyncClient) -> None:
    response = await service.post("/hooks/default/failing", content=b"")
    assert_problem(response, 502, "run-failed")


LIMITED = """\
name: limited
concurrency: {use: closed, when_full: skip}
triggers: [{name: posted, type: webhook, path: limited, auth: {scheme: api_key}, answer: result}]
steps: [{name: a, run: [{action: log, message: a}]}]
"""


async def test_a_skipped_run_is_answered_as_skipped(service: httpx.AsyncClient) -> None:
    assert (await service.put("/limits/closed", json={"units": 0, "kind": "runs"})).status_code == 201
    assert (await service.post("/playbooks", json={"playbook": LIMITED})).status_code == 201
    response = await service.post("/hooks/default/limited", content=b"")
    run = response.json()["workflow_id"]
    assert (response.status_code, response.json()) == (200, {"outcome": "skipped", "workflow_id": run})
    result = (await service.get(f"/workflows/result/{run}")).json()
    assert (result["status"], [error["type"] for error in result["errors"]]) == ("skipped", ["RunSkipped"])
    (entry,) = (await service.get("/workflows", params={"status": "skipped"})).json()["items"]
    assert (entry["workflow_id"], entry["headline"]) == (run, "limit `closed` is full")


async def test_a_result_that_takes_too_long_is_accepted(service: httpx.AsyncClient) -> None:
    response = await service.post("/hooks/default/slow", content=b"")
    assert response.status_code in (200, 202)


async def test_a_key_replaces_that_of_the_request(service: httpx.AsyncClient) -> None:
    async def send(body: dict[str, Any]) -> httpx.Response:
        return await service.put("/hooks/default/keyed", json=body)

    first = await send({"key": "a", "n": 1})
    assert first.status_code == 202, first.text
    assert (await send({"key": "a", "n": 2})).json() == first.json()
    assert (await send({"key": "b"})).json() != first.json()
    assert_problem(await send({"key": None}), 422, "invalid-input")
    assert_problem(await send({}), 422, "invalid-input")


async def test_an_idempotency_key_tells_requests_without_a_signature_apart(
    service: httpx.AsyncClient,
) -> None:
    async def send(key: str | None, body: str) -> str:
        headers = {} if key is None else {"Idempotency-Key": key}
        response = await service.post("/hooks/default/posted", content=body, headers=headers)
        return str(response.json()["workflow_id"])

    assert await send("k", "a") == await send("k", "b") != await send("l", "a")
    assert await send(None, "a") == await send(None, "a") != await send(None, "b")


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("application/cloudevents+json; charset=utf-8", b"[1]", [1]),
        ("text/plain", "grüße".encode(), "grüße"),
        ("", b"plain", "plain"),
        ("application/json", b"", None),
    ],
)
async def test_a_body_is_read_by_its_type(
    service: httpx.AsyncClient, content_type: str, body: bytes, value: Any
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await service.post("/hooks/default/posted", content=body, headers=headers)
    assert response.status_code == 202, response.text
    result = await read_result(service, response.json()["workflow_id"])
    assert result["seen"]["body"] == value


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, b"\xff\xfe"), ({}, b"a\0b"), ({"Content-Encoding": "gzip"}, gzip.compress(b"text", mtime=0))],
)
async def test_a_body_that_is_no_text_is_refused(
    service: httpx.AsyncClient, headers: dict[str, str], body: bytes
) -> None:
    response = await service.post("/hooks/default/posted", content=body, headers=headers)
    assert_problem(response, 415, "unsupported-media-type")


async def test_a_webhook_without_authentication_needs_the_permission_of_the_operator(
    service: httpx.AsyncClient, settings: dict[str, str]
) -> None:
    response = await service.post("/hooks/default/open", content=b"x")
    assert_problem(response, 403, "unsigned-webhook")
    settings["NOETL_ALLOW_UNSIGNED_WEBHOOKS"] = "1"
    response = await service.post("/hooks/default/open", content=b"x")
    assert response.status_code == 202, response.text
    settings["NOETL_ALLOW_UNSIGNED_WEBHOOKS"] = "yes"
    assert_problem(await service.post("/hooks/default/open", content=b"x"), 503, "not-set-up")


async def test_a_path_belongs_to_one_trigger_of_a_tenant(service: httpx.AsyncClient) -> None:
    text = json.dumps(
        {
            "name": "other",
            "version": "1",
            "triggers": [
                {"name": "t", "type": "webhook", "path": "git/pushed", "auth": {"scheme": "api_key"}}
            ],
            "steps": [{"name": "a", "run": [{"action": "log", "message": "x"}]}],
        }
    )
    response = await service.post("/playbooks", json={"playbook": text})
    assert_problem(response, 409, "path-taken")
    assert "shop/orders" in response.json()["detail"]


async def test_unsigned_requests_are_limited(service: httpx.AsyncClient) -> None:
    """An address has 60 of them in a minute. Signed requests do not count, and are accepted after that."""
    statuses = []
    for number in range(70):
        response = await push(service, b"{}", **{"X-Hub-Signature-256": f"sha256={number}"})
        statuses.append(response.status_code)
        if response.status_code == 429:
            assert response.headers["Retry-After"]
            break
    assert (statuses[:-1], statuses[-1]) == ([401] * (len(statuses) - 1), 429)
    assert len(statuses) > 60
    assert (await service.post("/hooks/default/nothing")).status_code == 429
    assert (await push(service, b'{"number": 1}')).status_code == 202


async def test_a_busy_service_lets_a_sender_try_again(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RejectedError("service_busy", "64 jobs wait already.")

    monkeypatch.setattr(webhook_firing, "perform_request", refuse)
    response = await push(service, b'{"number": 9}')
    assert_problem(response, 503, "service-busy")
    assert response.headers["Retry-After"] == "5"
