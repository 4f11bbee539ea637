"""The same conversation through every prefix and gateway, from the start of a run to its callback."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import brotli
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.api import lambda_handler
from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.http.root_path import gateway_prefix, locate_request
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.worker import Worker, read_worker_settings

pytestmark = pytest.mark.anyio

ECHO = """\
name: echo
steps:
- name: say
  run: [{action: set, set: {said: "{{ 'ß' * 60000 }}"}}]
  rule: [{case: default, run: [more]}]
- name: more
  run: [{action: set, set: {all: "{{ [said, said, said, said, said, said, said, said] }}"}}]
output: {all: "{{ all }}"}
"""
ASK = """\
name: ask
steps:
- name: ask
  run:
  - action: callback
    as: answer
    notify: {action: shell, command: [tee, FILE], stdin: "{{ callback.token }}"}
output: {answer: "{{ answer }}"}
"""


ONE = "name: one\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Send = Callable[[str, str, Mapping[str, str], bytes], Answer]
"""A function (method, target, headers, body) that sends a request as the client of a gateway does."""


@dataclass(frozen=True)
class Front:
    """A way to the service: what its client writes before a path, and the event of a request."""

    prefix: str = ""
    event: Callable[[Front, str, str, dict[str, str], str], dict[str, Any]] | None = None
    public_url: str = ""
    is_multi_value: bool = False
    context: Mapping[str, Any] = field(default_factory=dict)


def rest_event(front: Front, method: str, path: str, headers: dict[str, str], query: str) -> dict[str, Any]:
    parameters = parse_qsl(query, keep_blank_values=True)
    base = front.context.get("base", "")
    return {
        "resource": "/{proxy+}",
        "path": quote(base + path),
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(parameters) or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in parameters} or None,
        "pathParameters": {"proxy": path.removeprefix("/")},
        "requestContext": {
            "stage": "prod",
            "path": quote(front.prefix + path),
            "identity": {"sourceIp": "203.0.113.1"},
        },
    }


def http_event(front: Front, method: str, path: str, headers: dict[str, str], query: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": quote(front.prefix + path),
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "stage": front.context.get("stage", "$default"),
            "http": {
                "method": method,
                "path": quote(front.prefix + path),
                "sourceIp": "203.0.113.1",
            },
        },
    }


def http_v1_event(
    front: Front, method: str, path: str, headers: dict[str, str], query: str
) -> dict[str, Any]:
    sent = quote(front.prefix + path)
    event = rest_event(front, method, path, headers, query)
    context = {**event["requestContext"], "path": sent, "stage": front.context["stage"]}
    return {**event, "version": "1.0", "path": sent, "resource": "$default", "requestContext": context}


def alb_event(front: Front, method: str, path: str, headers: dict[str, str], query: str) -> dict[str, Any]:
    headers = {**headers, "x-forwarded-for": "203.0.113.1", "host": "alb.test"}
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    event = {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:::targetgroup/x"}},
        "httpMethod": method,
        "path": quote(front.prefix + path),
    }
    if front.is_multi_value:
        event["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
        event["multiValueQueryStringParameters"] = {name: [value] for name, value in pairs}
    else:
        event["headers"] = headers
        event["queryStringParameters"] = dict(pairs)
    return event


EVENTS = {
    "HTTP API, default stage": Front(event=http_event),
    "HTTP API, named stage": Front("/prod", http_event, context={"stage": "prod"}),
    "HTTP API, stage with the name of a path": Front(
        "/workflows", http_event, context={"stage": "workflows"}
    ),
    "HTTP API, base path": Front("/base", http_event, "https://api.example.com/base"),
    "HTTP API, format 1.0, named stage": Front("/prod", http_v1_event, context={"stage": "prod"}),
    "HTTP API, format 1.0, default stage": Front("", http_v1_event, context={"stage": "$default"}),
    "REST API, stage": Front("/prod", rest_event),
    "REST API, base path": Front("/base", rest_event, context={"base": "/base"}),
    "REST API, base path of two segments": Front("/a/b", rest_event, context={"base": "/a/b"}),
    "function URL": Front(event=http_event),
    "ALB": Front(event=alb_event),
    "ALB, headers with several values": Front(event=alb_event, is_multi_value=True),
    "ALB, rule for a prefix": Front("/noetl", alb_event, "https://alb.test/noetl/"),
}


@pytest.fixture
def store(settings: dict[str, str]) -> Iterator[Store]:
    opened = open_store(settings["NOETL_STORE"])
    yield opened
    opened.close()


@pytest.fixture
def worker(store: Store, settings: dict[str, str]) -> Iterator[None]:
    running = Worker(store, read_worker_settings(settings))
    running.start()
    yield
    running.stop(timeout_seconds=10)


@pytest.fixture
def key(store: Store) -> str:
    text, key = create_api_key("k", ["admin"], "default", 1.0)
    store.keys.add(key)
    return text


@contextmanager
def gateway(front: Front, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> Iterator[Send]:
    """Yield a function that sends requests through a gateway, as events of the Lambda function."""
    for name, value in {**settings, "NOETL_PUBLIC_URL": front.public_url}.items():
        monkeypatch.setenv(name, value)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    adapter: Any = lambda_handler._app.__wrapped__()
    monkeypatch.setattr(lambda_handler, "_app", lambda: adapter)

    def send(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        path = unquote(parts.path)
        assert path.startswith(front.prefix)
        assert front.event is not None
        event = front.event(front, method, path.removeprefix(front.prefix), dict(headers), parts.query)
        event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        context: Any = SimpleNamespace(aws_request_id="r")
        sent = json.loads(json.dumps(lambda_handler.handle(event, context)))
        received = sent.get("headers") or {}
        received |= {name: values[0] for name, values in sent.get("multiValueHeaders", {}).items()}
        decode = base64.b64decode if sent["isBase64Encoded"] else str.encode
        lower = {name.lower(): value for name, value in received.items()}
        return Answer(sent["statusCode"], lower, decode(sent["body"]))

    yield send
    adapter.app.state.context.close()
    loop.close()
    asyncio.set_event_loop(None)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("front", EVENTS.values(), ids=EVENTS)
def test_a_conversation_through_a_gateway(
    front: Front,
    key: str,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(lambda_handler, "MAX_RESPONSE_BYTES", 850_000)
    monkeypatch.setattr(lambda_handler, "MAX_BALANCER_BYTES", 840_000)
    limit = "840,000" if front.event is alb_event else "850,000"
    with gateway(front, monkeypatch, settings) as send:
        converse(send, front.prefix, {"authorization": f"Bearer {key}"}, limit, tmp_path / "token")


def converse(send: Send, prefix: str, auth: Mapping[str, str], limit: str, token_file: Path) -> None:
    """Start runs, follow their links, answer a callback, and ask for what is missing or too large."""
    yaml = {**auth, "content-type": "application/yaml"}
    assert send("GET", f"{prefix}/healthz", {}, b"").json() == {"status": "ok"}
    assert send("HEAD", f"{prefix}/healthz", {}, b"").body == b""
    options = send("OPTIONS", f"{prefix}/workflows", {}, b"")
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert send("GET", f"{prefix}/workflows", {}, b"").status == (401 if auth else 200)
    started = send("POST", f"{prefix}/workflows/run", {**yaml, "prefer": "wait=20"}, ECHO.encode())
    assert started.headers["location"].startswith(f"{prefix}/workflows/status/")
    status = send("GET", started.headers["location"], auth, b"")
    assert (status.status, status.json()["status"]) == (200, "succeeded")
    cached = send("GET", started.headers["location"], {**auth, "if-none-match": status.headers["etag"]}, b"")
    assert (cached.status, cached.body) == (304, b"")
    result = send("GET", started.headers["location"].replace("status", "result"), auth, b"")
    for answer in (started, result):
        assert (answer.status, answer.json()["type"]) == (413, "urn:noetl:problem:answer-too-large")
        assert answer.json()["instance"].startswith(f"{prefix}/workflows/")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert limit in answer.json()["detail"]
    text = ASK.replace("FILE", str(token_file)).encode()
    accepted = send("POST", f"{prefix}/workflows/run", yaml, text)
    assert accepted.status == 202
    links = accepted.json()["links"]
    assert (
        send("GET", links["events"] + "?limit=1", auth, b"").json()["items"][0]["type"] == "workflow.started"
    )
    graph = send("GET", links["graph"], {**auth, "accept": "text/plain"}, b"")
    assert graph.body.startswith(b"flowchart")
    json_type = {"content-type": "application/json"}
    refused = send("POST", f"{prefix}/workflows/callbacks/nosuch", json_type, b"1")
    assert (refused.status, refused.json()["type"]) == (404, "urn:noetl:problem:unknown-token")
    assert refused.json()["instance"] == f"{prefix}/workflows/callbacks/***"
    while not (token_file.exists() and token_file.read_text()):
        time.sleep(0.01)
    callback = f"{prefix}/workflows/callbacks/{token_file.read_text()}"
    assert send("POST", f"{callback}/heartbeat", {}, b"").status == 202
    assert send("POST", callback, json_type, b'{"yes": true}').json() == {"status": "accepted"}
    while (answered := send("GET", links["result"], auth, b"")).status == 202:
        time.sleep(0.01)
    assert answered.json()["result"] == {"answer": {"yes": True}}
    assert send("POST", links["cancel"], auth, b"").status == 409
    missing = send("GET", f"{prefix}/nosuch", auth, b"")
    assert (missing.status, missing.json()["instance"]) == (404, f"{prefix}/nosuch")
    named = ECHO.replace("name: echo", "name: a/b c", 1).encode()
    registered = send("POST", f"{prefix}/playbooks", yaml, named)
    assert registered.headers["location"] == f"{prefix}/playbooks/a/b%20c/versions/1"
    assert send("GET", registered.headers["location"], auth, b"").json()["source"] == named.decode()
    document = send("GET", f"{prefix}/openapi.json", {}, b"").json()
    assert document["servers"] == [{"url": prefix or "/"}]


@pytest.mark.parametrize("front", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("host", ["a:payload", "a:1:2", "[2001:db8::1]:80", "a:"])
def test_a_request_that_the_adapter_cannot_read_is_refused(
    front: Front,
    host: str,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert front.event is not None
    event = front.event(front, "POST", "/workflows/run", {}, "a=b")
    for headers, value in ((event.get("headers"), host), (event.get("multiValueHeaders"), [host])):
        if headers is not None:
            headers["host"] = value
    path, context = f"{front.prefix}/workflows/run", SimpleNamespace(aws_request_id="r")
    with gateway(front, monkeypatch, settings) as send:
        sent = lambda_handler.handle(event, context)
        answer = json.loads(sent["body"])
        assert (sent["statusCode"], answer["type"]) == (400, "urn:noetl:problem:invalid-request")
        assert answer["instance"] == path
        if front.event is alb_event:
            assert ("headers" in sent, "multiValueHeaders" in sent) == (
                not front.is_multi_value,
                front.is_multi_value,
            )
        assert "payload" not in caplog.text
        assert send("GET", f"{front.prefix}/healthz", {}, b"").status == 200


MULTIPLE = ("multiValueHeaders", "multiValueQueryStringParameters")
OPTIONAL = ("headers", "queryStringParameters", "pathParameters", "stageVariables", "cookies")
NULLABLE = (
    *((name,) for name in (*MULTIPLE, *OPTIONAL, "body", "isBase64Encoded", "rawQueryString", "routeKey")),
    *(("requestContext", name) for name in ("identity", "stage", "path", "domainName", "authorizer")),
    ("requestContext", "identity", "sourceIp"),
    ("requestContext", "http", "sourceIp"),
    ("headers", "host"),
    ("headers", "accept"),
    ("multiValueHeaders", "host"),
    ("multiValueHeaders", "accept"),
    ("queryStringParameters", "a"),
    ("multiValueQueryStringParameters", "a"),
    ("pathParameters", "proxy"),
)
"""Paths of the members that an event may lack, or have as null."""


def set_null(event: dict[str, Any], path: tuple[str, ...], null: list[None] | None) -> None:
    """Set a member of an event to null, and create what it is in."""
    members = event
    for name in path[:-1]:
        members[name] = members = members.get(name) or {}
    members[path[-1]] = null if path[0] in MULTIPLE and len(path) > 1 else None


@pytest.mark.parametrize("front", EVENTS.values(), ids=EVENTS)
def test_members_of_an_event_may_be_null(
    front: Front, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @given(
        st.sampled_from(["/healthz", "/nosuch", "/workflows"]),
        st.lists(st.sampled_from(NULLABLE), min_size=1, unique=True),
        st.sampled_from([None, [None]]),
        st.booleans(),
    )
    def check(path: str, nulls: list[tuple[str, ...]], null: list[None] | None, is_other: bool) -> None:
        assert front.event is not None
        sent = {"accept": "application/json"} if is_other else {}
        event = json.loads(json.dumps(front.event(front, "GET", path, sent, "a=b")))
        for member in nulls:
            set_null(event, member, null)
        context: Any = SimpleNamespace(aws_request_id="r")
        response = lambda_handler.handle(event, context)
        assert response["statusCode"] in (200, 400, 401, 404), response

    with gateway(front, monkeypatch, settings):
        check()


@pytest.mark.parametrize("front", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("name", ["app.js", "inter.woff2"])
def test_files_of_the_page_through_a_gateway(
    front: Front, name: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(front, monkeypatch, settings) as send:
        answer = send("GET", f"{front.prefix}/ui/files/{name}", {"accept-encoding": "gzip, br"}, b"")
    is_plain = front.event in (rest_event, http_v1_event) or name.endswith(".woff2")
    encoding = answer.headers.get("content-encoding")
    if name.endswith(".woff2") and encoding == "gzip":  # An older Starlette compresses fonts again.
        content = gzip.decompress(answer.body)
    else:
        assert encoding == (None if is_plain else "br")
        content = answer.body if is_plain else brotli.decompress(answer.body)
    assert content == (files("noetl.api.ui") / "bundle" / name).read_bytes()


@pytest.mark.parametrize(
    ("root_path", "public_url", "received"),
    [
        ("", "", ""),
        ("/noetl", "", "/noetl"),  # uvicorn adds its root path to a path whose prefix a proxy has removed
        ("/noetl", "", "/noetl/noetl"),  # the proxy has not removed it
        ("/noetl/", "", "/noetl"),
        ("", "https://example.com/noetl", ""),
        ("", "https://example.com/noetl/", "/noetl"),
        ("/inner", "https://example.com/noetl", "/inner"),
        ("/workflows", "", "/workflows"),
    ],
)
async def test_a_conversation_behind_a_prefix(
    key: str, settings: dict[str, str], root_path: str, public_url: str, received: str
) -> None:
    app = create_app({**settings, "NOETL_PUBLIC_URL": public_url})
    seen = urlsplit(public_url).path.rstrip("/") or root_path.rstrip("/")
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        auth = {"Authorization": f"Bearer {key}"}
        assert (await client.get(f"{received}/healthz")).status_code == 200
        assert (await client.get(f"{received}/workflows")).status_code == 401
        for path in ("/workflows/callbacks/nosuch", "/workflows/callbacks/nosuch/heartbeat"):
            assert (await client.post(f"{received}{path}")).status_code == 404
        accepted = await client.post(
            f"{received}/workflows/run", headers=auth | {"Content-Type": "application/yaml"}, content=ONE
        )
        location = accepted.headers["location"]
        assert location.startswith(f"{seen}/workflows/status/")
        links = accepted.json()["links"]
        assert location == links["status"]
        for link in links.values():
            assert link.startswith(f"{seen}/workflows/")
        followed = await client.get(received + location.removeprefix(seen), headers=auth)
        assert followed.json()["workflow_id"] == accepted.json()["workflow_id"]
        cancelled = await client.post(received + links["cancel"].removeprefix(seen), headers=auth)
        assert cancelled.headers["location"] == location
        missing = await client.get(f"{received}/nosuch", headers=auth)
        assert (missing.status_code, missing.json()["instance"]) == (404, f"{seen}/nosuch")


def test_a_prefix_is_compared_by_segments() -> None:
    scope = {"path": "/noetlx/plan", "root_path": ""}
    assert locate_request(scope, "/noetl", frozenset({"plan"}))["path"] == "/noetl/noetlx/plan"


@pytest.mark.parametrize(
    "event", [{"requestContext": None}, {"path": "/plan", "requestContext": {"elb": {}}}]
)
def test_an_event_without_a_stage_has_no_prefix(event: dict[str, Any]) -> None:
    assert gateway_prefix(event) == ""


@pytest.mark.parametrize("stage", ["", "/prod"])
@pytest.mark.parametrize(
    ("route", "path", "parameters"),
    [
        ("POST /hooks/{tenant}/{path+}", "/hooks/default/git/pushed", {"path": "git/pushed"}),
        ("GET /ui/{address+}", "/ui/runs/1", {"address": "runs/1"}),
    ],
)
def test_a_route_of_the_gateway_for_a_path_of_the_service_is_no_prefix(
    stage: str, route: str, path: str, parameters: dict[str, str]
) -> None:
    context = {"stage": stage.removeprefix("/") or "$default"}
    event = {
        "rawPath": stage + path,
        "routeKey": route,
        "pathParameters": parameters,
        "requestContext": context,
    }
    assert gateway_prefix(event) == stage
