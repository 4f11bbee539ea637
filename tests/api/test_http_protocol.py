"""HTTP itself: methods of a path, negotiation of media types, entity tags, compression, CORS and headers."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from noetl.api.app import create_app, find_routers
from noetl.api.auth.api_keys import create_api_key
from noetl.api.http.cors import read_cors_origins
from noetl.api.http.entity_tags import has_tag
from noetl.api.http.negotiation import choose_media_type
from noetl.executor.errors import SettingError
from noetl.executor.stores import open_store
from tests.api.conformance import described
from tests.api.responses import assert_problem

pytestmark = pytest.mark.anyio

JSON, STREAM, SVG = "application/json", "text/event-stream", "image/svg+xml"
ONE = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\noutput: {n: '{{ n }}'}\n"


@pytest.fixture
async def run_id(http: httpx.AsyncClient) -> str:
    """The id of a run that has ended."""
    response = await http.post("/workflows/run", json={"playbook": ONE}, headers={"Prefer": "wait=25"})
    assert response.status_code == 200
    return str(response.json()["workflow_id"])


def methods_by_path() -> dict[str, set[str]]:
    methods: dict[str, set[str]] = {}
    for router in find_routers():
        for route in router.routes:
            assert isinstance(route, APIRoute)
            methods.setdefault(route.path_format, set()).update(route.methods or ())
    return methods


@pytest.mark.parametrize("path", methods_by_path())
async def test_every_path_lists_all_of_its_methods(http: httpx.AsyncClient, path: str) -> None:
    methods = methods_by_path()[path]
    expected = {"OPTIONS", *methods, *(["HEAD"] if "GET" in methods else [])}
    target = re.sub(r"\{(\w+)\}", lambda name: "1" if name[1] == "version" else "a", path)
    options = await http.options(target)
    refused = await http.request(next(name for name in ("PUT", "PATCH") if name not in methods), target)
    assert (options.status_code, options.content) == (204, b"")
    assert_problem(refused, 405)
    for response in (options, refused):
        assert response.headers["allow"] == ", ".join(sorted(expected))


async def test_a_path_of_no_route_has_no_methods(http: httpx.AsyncClient) -> None:
    assert_problem(await http.options("/nosuch"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/workflows",
        "/workflows/status/{}",
        "/workflows/result/{}",
        "/workflows/{}/events",
        "/workflows/{}/graph",
        "/playbooks",
        "/workflows/status/nosuch",
        "/nosuch",
    ],
)
async def test_head_has_the_headers_of_get(http: httpx.AsyncClient, run_id: str, path: str) -> None:
    target = path.format(run_id)
    get, head = await http.get(target), await http.head(target)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers == get.headers
    assert int(head.headers["content-length"]) > 0


async def test_head_of_a_stream_ends_at_once(http: httpx.AsyncClient) -> None:
    playbook = "name: long\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]"
    accepted = await http.post("/workflows/run", json={"playbook": playbook})
    head = await http.head(accepted.json()["links"]["events"], headers={"Accept": STREAM})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith(STREAM)


async def test_head_at_a_path_without_get_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.head("/plan")
    assert (response.status_code, response.content) == (405, b"")
    assert response.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("accept", "media_types", "chosen"),
    [
        ([], [JSON, STREAM], JSON),
        ([""], [JSON, STREAM], JSON),
        (["*/*"], [JSON, STREAM], JSON),
        ([STREAM], [JSON, STREAM], STREAM),
        (["TEXT/Event-Stream"], [JSON, STREAM], STREAM),
        (["text/event-stream;q=0"], [JSON, STREAM], None),
        (["text/event-stream;q=0, */*"], [JSON, STREAM], JSON),
        (["text/event-stream;q=0.000, */*;q=0.001"], [JSON, STREAM], JSON),
        (["application/json;q=0.4, text/event-stream;q=0.5"], [JSON, STREAM], STREAM),
        (["application/json;q=0.4", "text/event-stream;q=0.5"], [JSON, STREAM], STREAM),
        (["*/*, text/event-stream"], [JSON, STREAM], STREAM),
        (["text/*, */*;q=0.1"], [JSON, STREAM], STREAM),
        (["text/*;q=0.9, text/event-stream;q=0.1, */*;q=0.2"], [JSON, STREAM], JSON),
        (["application/json; charset=utf-8"], [JSON, STREAM], JSON),
        (["application/json;charset=utf-8;q=0"], [JSON], None),
        (["application/xml"], [JSON], None),
        (["text/html,application/xhtml+xml,*/*;q=0.8"], [JSON, SVG], JSON),
        (["image/avif,image/webp,image/svg+xml,image/*;q=0.8,*/*;q=0.5"], [JSON, SVG], SVG),
        (["application/json;q=2"], [JSON], JSON),
        (["application/json;q=0.1234, text/plain"], [JSON], None),
        (["*/json"], [JSON], JSON),
        (["nonsense"], [JSON], JSON),
        (["json/"], [JSON], JSON),
    ],
)
def test_the_media_type_is_negotiated(accept: list[str], media_types: list[str], chosen: str | None) -> None:
    assert choose_media_type(accept, media_types) == chosen


def test_many_ranges_cost_no_more_than_a_hundred() -> None:
    assert choose_media_type(["a/b," * 100 + JSON], [JSON]) is None


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("*/*", JSON), (f"{STREAM};q=0, */*", JSON), (f"{STREAM};q=0.1, {JSON}", JSON), (STREAM, STREAM)],
)
async def test_the_history_is_a_stream_if_its_client_prefers_one(
    http: httpx.AsyncClient, run_id: str, accept: str, content_type: str
) -> None:
    response = await http.get(f"/workflows/{run_id}/events", headers={"Accept": accept})
    assert response.headers["content-type"].partition(";")[0] == content_type
    assert "Accept" in response.headers["vary"].split(", ")


@pytest.mark.parametrize(
    ("accept", "format", "content_type"),
    [
        ("*/*", None, JSON),
        ("text/plain", None, "text/plain"),
        ("text/plain", "json", JSON),
        ("application/pdf", "mermaid", "text/plain"),
        (SVG, "json", JSON),
    ],
)
async def test_the_graph_has_the_format_of_the_query_or_else_of_accept(
    http: httpx.AsyncClient, run_id: str, accept: str, format: str | None, content_type: str
) -> None:
    query = {} if format is None else {"format": format}
    response = await http.get(f"/workflows/{run_id}/graph", params=query, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == content_type
    assert "Accept" in response.headers["vary"].split(", ")


@pytest.mark.parametrize(
    ("path", "available"),
    [
        ("/workflows/status/{}", [JSON]),
        ("/workflows", [JSON]),
        ("/playbooks", [JSON]),
        ("/workflows/{}/events", [JSON, STREAM]),
        ("/workflows/{}/graph", [JSON, SVG, "text/plain"]),
        ("/healthz", [JSON]),
    ],
)
async def test_a_media_type_that_does_not_exist_is_a_problem(
    http: httpx.AsyncClient, run_id: str, path: str, available: list[str]
) -> None:
    response = await http.get(path.format(run_id), headers={"Accept": "application/pdf, */*;q=0"})
    assert_problem(response, 406, "not-acceptable")
    assert response.json()["available"] == available
    assert "Accept" in response.headers["vary"].split(", ")


async def test_a_request_that_changes_something_is_not_refused_for_its_accept(
    http: httpx.AsyncClient,
) -> None:
    headers = {"Accept": "application/pdf"}
    assert (await http.post("/workflows/run", json={"playbook": ONE}, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        "/workflows/status/{}",
        "/workflows/result/{}",
        "/workflows/{}/events",
        "/workflows/{}/events?limit=2",
        "/workflows/{}/graph",
        "/workflows/{}/graph?format=mermaid",
        "/workflows",
        "/playbooks",
        "/playbooks/one",
        "/playbooks/one/versions",
        "/playbooks/one/versions/1",
        "/openapi.json",
    ],
)
async def test_what_is_polled_has_a_tag(http: httpx.AsyncClient, run_id: str, path: str) -> None:
    await http.post("/playbooks", json={"playbook": ONE})
    target = path.format(run_id)
    first = await http.get(target)
    tag = first.headers["etag"]
    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    again = await http.get(target, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert again.headers.get("vary", "") in first.headers["vary"]
    assert "content-type" not in again.headers
    changed = await http.get(target, headers={"If-None-Match": 'W/"other"'})
    assert changed.content == first.content


async def test_a_result_that_is_not_there_yet_has_a_tag(http: httpx.AsyncClient) -> None:
    playbook = "name: long\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]"
    accepted = await http.post("/workflows/run", json={"playbook": playbook})
    path = accepted.json()["links"]["result"]
    for _ in range(500):
        first = await http.get(path)
        if first.json()["status"] == "waiting":
            break
    assert first.status_code == 202
    again = await http.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.headers["retry-after"]) == (304, "1")


async def test_a_problem_has_no_tag(http: httpx.AsyncClient) -> None:
    response = await http.get("/workflows/status/nosuch", headers={"If-None-Match": "*"})
    assert (response.status_code, "etag" in response.headers) == (404, False)


def test_a_tag_is_compared_weakly() -> None:
    assert has_tag(['"a"', 'W/"b"'], '"b"')
    assert not has_tag([], '"b"')


async def test_large_bodies_are_compressed(http: httpx.AsyncClient, run_id: str) -> None:
    async with http.stream("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"}) as response:
        packed = b"".join([chunk async for chunk in response.aiter_raw()])
    plain = await http.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == plain.content
    assert "content-encoding" not in plain.headers
    assert response.headers["etag"] == plain.headers["etag"]
    for compared in (response, plain):
        assert (
            {"Accept", "Accept-Encoding"} >= set(compared.headers["vary"].split(", ")) >= {"Accept-Encoding"}
        )


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/assets/swagger-ui.css"])
@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br, gzip;q=0.0", False),
        ("gzip;q=0.1, identity;q=0.5", False),
        ("x-gzip-like", False),
        ("GZIP", True),
        ("*", True),
        ("br;q=1, gzip;q=0.5", True),
    ],
)
async def test_the_weights_of_encodings_count(
    http: httpx.AsyncClient, path: str, accepted: str, is_packed: bool
) -> None:
    response = await http.head(path, headers={"Accept-Encoding": accepted})
    assert response.status_code == 200
    assert (response.headers.get("content-encoding") == "gzip") is is_packed


async def test_small_bodies_and_streams_are_not_compressed(http: httpx.AsyncClient, run_id: str) -> None:
    for path, accept in (("/healthz", JSON), (f"/workflows/{run_id}/events", STREAM)):
        response = await http.get(path, headers={"Accept-Encoding": "gzip", "Accept": accept})
        assert (response.status_code, "content-encoding" in response.headers) == (200, False)


@pytest.mark.parametrize("path", ["/healthz", "/workflows", "/nosuch", "/docs", "/openapi.json"])
async def test_every_response_has_the_headers_of_security(http: httpx.AsyncClient, path: str) -> None:
    for response in (await http.get(path), await http.options(path), await http.post(path)):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["content-security-policy"].startswith("default-src 'none'; ")


async def test_a_refused_request_has_the_headers_of_security(settings: dict[str, str]) -> None:
    app = create_app(settings)
    transport = httpx.ASGITransport(app, client=("203.0.113.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/workflows")
    app.state.context.close()
    assert_problem(response, 403, "loopback-only")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("headers", [{"Content-Length": "0"}, {"Content-Length": "99999999"}])
async def test_a_request_with_two_lengths_is_refused(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    headers |= {"Transfer-Encoding": "chunked"}
    response = await http.post("/plan", content=b"name: x", headers=headers)
    assert_problem(response, 400, "invalid-request")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("number", "status"), [(60, 200), (2000, 431)])
async def test_a_header_of_many_lines_is_refused(http: httpx.AsyncClient, number: int, status: int) -> None:
    headers = {f"x-{line}": "1" for line in range(number)}
    response = await http.get("/workflows", headers=headers)
    assert response.status_code == status
    if status == 431:
        assert_problem(response, 431)
        assert "100 lines" in response.json()["detail"]


ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
}


@pytest.fixture
async def cross_origin(settings: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key of a service that pages of one origin may use."""
    store = open_store(settings["NOETL_STORE"])
    text, key = create_api_key("k", ["read"], "default", 1.0)
    store.keys.add(key)
    store.close()
    app = create_app(settings | {"NOETL_CORS_ORIGINS": f"{ORIGIN}, https://other.example.com:8443"})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={"Authorization": f"Bearer {text}"}
        ) as client:
            yield client


async def test_pages_of_a_configured_origin_may_send_requests(cross_origin: httpx.AsyncClient) -> None:
    del cross_origin.headers["authorization"]
    preflight = await cross_origin.options("/workflows/run", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    refused = await cross_origin.get("/workflows", headers={"Origin": ORIGIN})
    assert_problem(refused, 401)
    assert refused.headers["access-control-allow-origin"] == ORIGIN


async def test_pages_may_send_every_method_of_a_route(cross_origin: httpx.AsyncClient) -> None:
    for path, methods in methods_by_path().items():
        for method in methods:
            headers = PREFLIGHT | {"Access-Control-Request-Method": method}
            assert (await cross_origin.options(path, headers=headers)).status_code == 200, (method, path)


async def test_pages_of_a_configured_origin_may_read_responses(cross_origin: httpx.AsyncClient) -> None:
    response = await cross_origin.get("/workflows", headers={"Origin": ORIGIN})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    declared = set(described()["components"]["headers"])
    assert {"Allow", *declared} <= set(response.headers["access-control-expose-headers"].split(", "))
    assert "Origin" in response.headers["vary"].split(", ")
    assert "access-control-allow-credentials" not in response.headers


async def test_pages_of_other_origins_may_not(cross_origin: httpx.AsyncClient) -> None:
    other = {"Origin": "https://evil.example.com"}
    for response in (
        await cross_origin.options("/workflows/run", headers=PREFLIGHT | other),
        await cross_origin.get("/workflows", headers=other),
    ):
        assert "access-control-allow-origin" not in response.headers


async def test_without_the_setting_no_origin_is_allowed(http: httpx.AsyncClient) -> None:
    response = await http.options("/workflows/run", headers=PREFLIGHT)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "text",
    ["app.example.com", "https://a/b", "https://a?b", "*, https://a", "null", "ftp://a", "https://*.a"],
)
def test_a_wrong_origin_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_CORS_ORIGINS"):
        read_cors_origins({"NOETL_CORS_ORIGINS": text})


def test_origins_are_read() -> None:
    assert read_cors_origins({}) == ()
    assert read_cors_origins({"NOETL_CORS_ORIGINS": "*"}) == ("*",)
    origins = read_cors_origins({"NOETL_CORS_ORIGINS": "https://A.example.com/, http://[::1]:80,"})
    assert origins == ("https://a.example.com", "http://[::1]:80")


async def test_every_origin_may_be_allowed_without_credentials(settings: dict[str, Any]) -> None:
    app = create_app(settings | {"NOETL_CORS_ORIGINS": "*"})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/healthz", headers={"Origin": "http://localhost"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


async def test_a_repeated_start_is_marked(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    responses = [await http.post("/workflows/run", json={"playbook": ONE}, headers=key) for _ in range(3)]
    assert len({response.json()["workflow_id"] for response in responses}) == 1
    marks = [response.headers.get("idempotency-replayed") for response in responses]
    assert marks == [None, "true", "true"]
    unmarked = await http.post("/workflows/run", json={"playbook": ONE})
    assert "idempotency-replayed" not in unmarked.headers


FAILS = """\
name: fails
input: {ok: boolean}
steps:
- name: check
  run: [{action: set, set: {n: 1}}]
  rule: [{case: "{{ input.ok }}", run: [done]}, {case: default, run: [bad]}]
- {name: done, run: [{action: set, set: {n: 2}}]}
- {name: bad, run: [{action: fail, message: no}]}
"""


async def wait_for_end(http: httpx.AsyncClient, run_id: str) -> None:
    while (await http.get(f"/workflows/result/{run_id}")).status_code == 202:
        pass


@pytest.mark.parametrize("body", [None, {"input": {"ok": False}}])
async def test_one_key_resumes_once(http: httpx.AsyncClient, body: Any) -> None:
    submission = {"playbook": FAILS, "input": {"ok": False}}
    started = await http.post("/workflows/run", json=submission, headers={"Prefer": "wait=25"})
    run_id = started.json()["workflow_id"]

    async def resume(key: str, body: Any = body) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        response = await http.post(f"/workflows/{run_id}/resume", json=body, headers=headers)
        await wait_for_end(http, run_id)
        return response

    async def count_resumes() -> int:
        events = (await http.get(f"/workflows/{run_id}/events")).json()["items"]
        return sum(event["type"] == "workflow.resumed" for event in events)

    marks = []
    for _ in range(3):
        response = await resume("k")
        assert response.status_code == 202
        marks.append(response.headers.get("idempotency-replayed"))
    assert marks == [None, "true", "true"]
    assert await count_resumes() == 1
    assert_problem(await resume("k", {"input": {"ok": True}}), 422, "idempotency-key-reused")
    assert_problem(await resume("k", {"from": "bad"}), 422, "idempotency-key-reused")
    assert await count_resumes() == 1
    assert "idempotency-replayed" not in (await resume("another")).headers
    assert await count_resumes() == 2


REFUSES_KEY = {
    "/backfills/{backfill_id}/retry",
    "/channels/{channel}/test",
    "/notifications/{notification}/retry",
}
REPEATABLE = {
    "/backfills/{backfill_id}/cancel",
    "/backfills/{backfill_id}/pause",
    "/backfills/{backfill_id}/resume",
    "/channels/{channel}/pause",
    "/channels/{channel}/resume",
    "/hooks/{tenant}/{path}",  # Its trigger says what the key is, and whether one is needed.
    "/playbooks",
    "/playbooks/{name}/check-runs",
    "/plan",
    "/plan/draft",
    "/triggers/{playbook}/{trigger}/pause",
    "/triggers/{playbook}/{trigger}/resume",
    "/workflows/bulk/cancel",
    "/workflows/bulk/delete",
    "/workflows/bulk/migrate",  # It refuses a key with `undo`.
    "/workflows/bulk/pause",
    "/workflows/bulk/unpause",
    "/workflows/callbacks/{token}",
    "/workflows/callbacks/{token}/heartbeat",
    "/workflows/{workflow_id}/answer",
    "/workflows/{workflow_id}/cancel",
    "/workflows/{workflow_id}/events/ticket",
    "/workflows/{workflow_id}/pause",
    "/workflows/{workflow_id}/unpause",
}
"""Calls that change nothing more when they are repeated, so that a key has no effect."""


async def test_each_call_that_starts_something_takes_or_refuses_a_key(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    posts = {path: operations["post"] for path, operations in paths.items() if "post" in operations}
    takes_key = {
        path
        for path, operation in posts.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    }
    assert posts.keys() - takes_key == REFUSES_KEY | REPEATABLE
    for path in REFUSES_KEY:
        response = await http.post(re.sub(r"\{\w+\}", "a", path), headers={"Idempotency-Key": "k"})
        assert_problem(response, 400, "invalid-request")
        assert "`Idempotency-Key` has no effect here" in response.json()["detail"]


async def test_a_repeated_restart_is_marked(http: httpx.AsyncClient) -> None:
    submission = {"playbook": FAILS, "input": {"ok": False}}
    started = await http.post("/workflows/run", json=submission, headers={"Prefer": "wait=25"})
    path, headers = f"/workflows/{started.json()['workflow_id']}/resume", {"Idempotency-Key": "k"}
    first, again = [await http.post(path, json={"from": "bad"}, headers=headers) for _ in range(2)]
    assert first.json()["workflow_id"] == again.json()["workflow_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
