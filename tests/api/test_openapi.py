"""The document `/openapi.json`: valid by the standard, complete, and as strict as the checks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from noetl.api.app import create_app, find_routers
from noetl.api.document import completion
from noetl.api.document.completion import TAGS
from noetl.api.http.openapi import JSON_TYPE, YAML_TYPES
from noetl.api.http.problem_types import PROBLEM_TYPES
from noetl.api.http.route_match import ROUTE_MATCH, RouteMatch
from noetl.executor.actions import catalogue
from noetl.planner.syntax.json_schema import build_json_schema
from tests.api.conformance import PROBLEM_TYPE, Exchange, described, find_errors
from tests.api.problem_documents import GOLDEN

pytestmark = pytest.mark.anyio


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_valid() -> None:
    document = create_app({}).openapi()
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    schemes = document["components"]["securitySchemes"]
    schemes["key or token"] = schemes.pop("bearer")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) != []


def test_a_request_that_arrives_meanwhile_receives_the_complete_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, complete = create_app({}), completion.complete_document
    with ThreadPoolExecutor(1) as pool:
        later: list[Future[dict[str, Any]]] = []

        def complete_slowly(*arguments: Any) -> dict[str, Any]:
            later.append(pool.submit(app.openapi))
            wait(later, timeout=0.1)
            return complete(*arguments)

        monkeypatch.setattr(completion, "complete_document", complete_slowly)
        assert app.openapi() == later[0].result() == described()


def test_every_operation_has_a_name_a_summary_and_a_tag() -> None:
    tags = {tag["name"] for tag in described()["tags"]}
    assert set(TAGS) <= tags
    assert [tag["name"] for tag in described()["tags"]] == list(TAGS)
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(ids) == len(set(ids))
    assert {"startRun", "getRunStatus", "listRuns", "registerPlaybook", "describePlan"} <= {*ids}
    for name, operation in operations():
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", operation["operationId"]), name
        assert operation["summary"] and operation["description"], name
        assert set(operation["tags"]) <= tags and operation["tags"], name


def test_every_parameter_has_a_description_and_a_schema_without_null() -> None:
    for name, operation in operations():
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], name
            assert '"null"' not in json.dumps(parameter["schema"]), name
            if parameter["in"] == "path":
                assert parameter["schema"]["examples"], name


def test_every_example_is_of_its_schema() -> None:
    checked = 0
    for name, operation in operations():
        contents = [response.get("content", {}) for response in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for media_type, entry in [item for content in contents for item in content.items()]:
            if media_type != PROBLEM_TYPE:
                assert find_errors(entry["schema"], entry["example"]) == [], (name, media_type)
                checked += 1
    assert checked > 30
    problem = {"$ref": "#/components/schemas/Problem"}
    examples = described()["components"]["examples"]
    assert set(examples) == set(PROBLEM_TYPES)
    for example in examples.values():
        assert find_errors(problem, example["value"]) == []


WITH_PAGES = ("GET /workflows/callbacks/{token}", "POST /workflows/callbacks/{token}")
"""Operations that answer a browser with pages."""


def test_every_status_with_a_problem_lists_its_types() -> None:
    listed = set()
    for name, operation in operations():
        for status, response in operation["responses"].items():
            if not status.startswith(("4", "5")):
                continue
            pages = ["text/html"] if name in WITH_PAGES else []
            assert list(response["content"]) == [PROBLEM_TYPE, *pages], name
            types = [text.removeprefix("urn:noetl:problem:") for text in response["x-problem-types"]]
            assert {str(PROBLEM_TYPES[slug].status) for slug in types} == {status}, name
            listed.update(types)
    assert listed == set(PROBLEM_TYPES)


def test_the_titles_of_problems_are_those_of_their_types() -> None:
    for document in json.loads(GOLDEN.read_text("utf-8")).values():
        slug = document["type"].removeprefix("urn:noetl:problem:")
        if slug != "about:blank":
            kind = PROBLEM_TYPES[slug]
            assert (document["title"], document["status"]) == (kind.title_of(slug), kind.status)


def test_the_playbook_is_a_part_of_the_document() -> None:
    document = described()
    schemas = document["components"]["schemas"]
    editors = build_json_schema(catalogue())
    assert schemas["Playbook"]["properties"].keys() == editors["properties"].keys()
    assert set(schemas["PlaybookActionEntry"]["discriminator"]["mapping"]) == set(catalogue())
    for path in ("/workflows/run", "/plan", "/playbooks"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/yaml"]["schema"] == {"$ref": "#/components/schemas/Playbook"}
        model = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert {"$ref": "#/components/schemas/Playbook"} in schemas[model]["properties"]["playbook"]["anyOf"]
    assert "#/$defs/" not in json.dumps(document)


def test_requests_of_no_call_are_described_once() -> None:
    document = described()
    methods = {method for operations in document["paths"].values() for method in operations}
    assert methods == {"get", "post", "put", "patch", "delete"}
    responses = document["components"]["responses"]
    references = {entry["$ref"] for entry in document["x-other-responses"].values()}
    assert references == {f"#/components/responses/{name}" for name in responses}
    assert set(document["x-other-responses"]) == {"HEAD", "OPTIONS", "other methods", "other paths"}
    for name in ("Methods", "MethodNotAllowed"):
        assert "Allow" in responses[name]["headers"]
    assert not set(document["x-common-headers"]) & set(document["components"]["headers"])


def test_what_is_created_links_to_its_calls() -> None:
    document = described()
    by_id = {operation["operationId"]: operation for _, operation in operations()}
    for created, linked in (
        ("startRun", {"getRunStatus", "getRunResult", "getRunEvents", "cancelRun", "resumeRun"}),
        ("registerPlaybook", {"getPlaybook", "getPlaybookVersion", "removePlaybook"}),
    ):
        for status in ("200", "201", "202"):
            if response := by_id[created]["responses"].get(status):
                assert linked <= set(response["links"]), (created, status)
    assert all("links" not in response for response in by_id["describePlan"]["responses"].values())
    for id, link in document["components"]["links"].items():
        names = [entry["name"] for entry in by_id[id]["parameters"] if entry["in"] == "path"]
        assert list(link["parameters"]) == names, id


@pytest.mark.parametrize("media_type", YAML_TYPES)
async def test_every_media_type_of_a_body_is_accepted(http: httpx.AsyncClient, media_type: str) -> None:
    content = described()["paths"]["/plan"]["post"]["requestBody"]["content"]
    assert set(content) == {*YAML_TYPES, JSON_TYPE}
    headers = {"Content-Type": media_type}
    text = json.dumps(content[media_type]["example"])
    assert (await http.post("/plan", content=text, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "violation"),
    [
        ("OPTIONS", "/healthz", 204, {"allow": "GET, HEAD, OPTIONS"}, None),
        ("OPTIONS", "/healthz", 204, {}, "header Allow is missing"),
        ("OPTIONS", "/healthz", 204, {"allow": "GET", "deprecation": "true"}, "header deprecation"),
        ("PUT", "/healthz", 405, {"allow": "GET", "content-type": "text/html"}, "media type text/html"),
        ("GET", "/nosuch", 404, {"content-type": PROBLEM_TYPE}, None),
        ("GET", "/nosuch", 404, {"content-type": PROBLEM_TYPE, "ratelimit": "1"}, "header ratelimit"),
    ],
)
def test_a_response_of_no_call_is_compared_too(
    method: str, path: str, status: int, headers: dict[str, str], violation: str | None
) -> None:
    same_path = [
        route
        for router in find_routers()
        for route in router.routes
        if isinstance(route, APIRoute) and route.path == path
    ]
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": method, "path": path, ROUTE_MATCH: RouteMatch(None, tuple(same_path))}
    start = {"type": "http.response.start", "status": status, "headers": raw}
    found = "\n".join(Exchange(scope, start=start).violations())
    assert found == "" if violation is None else violation in found


async def test_the_examples_of_requests_are_accepted(http: httpx.AsyncClient) -> None:
    for path in ("/plan", "/playbooks", "/workflows/run"):
        content = described()["paths"][path]["post"]["requestBody"]["content"]
        sent = await http.post(path, json=content["application/json"]["example"])
        assert sent.is_success, sent.text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("2026-01-31T09:30:00Z", 200),
        ("2026-01-31t09:30:00.5%2B02:00", 200),
        ("2026-01-31T09:30:00", 200),
        ("2026-02-30T09:30:00Z", 400),
        ("2026-01-31T09:30:00%2B99:00", 400),
        ("2026-01-31", 400),
        ("2026-01-31 09:30:00Z", 400),
        ("0.5", 400),
        ("1700000000", 400),
    ],
)
async def test_a_time_of_a_query_is_of_its_schema(http: httpx.AsyncClient, query: str, status: int) -> None:
    response = await http.get(f"/workflows?since={query}")
    assert response.status_code == status
    paths = () if status == 200 else ("workflows?since", "workflows?until", "triggers/calendar?until")
    for path in paths:
        response = await http.get(f"/{path}={query}")
        assert response.status_code == 400
        assert "a time such as 2026-01-31T09:30:00Z" in response.json()["detail"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "violation"),
    [
        (200, {"content-type": "application/json"}, {"status": "ok"}, None),
        (200, {"content-type": "application/json"}, {"status": "ill"}, "is not one of"),
        (200, {"content-type": "application/json"}, {"status": "ok", "more": 1}, "more"),
        (200, {"content-type": "text/html"}, {"status": "ok"}, "media type text/html"),
        (200, {"content-type": "application/json", "Location": "/"}, {"status": "ok"}, "header location"),
        (201, {"content-type": "application/json"}, {"status": "ok"}, "status 201"),
    ],
)
def test_a_response_that_is_not_declared_is_a_violation(
    status: int, headers: dict[str, str], body: Any, violation: str | None
) -> None:
    [route] = [
        route
        for router in find_routers()
        for route in router.routes
        if isinstance(route, APIRoute) and route.path == "/healthz"
    ]
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "method": "GET",
        "path": "/healthz",
        "query_string": b"",
        "headers": [],
        ROUTE_MATCH: RouteMatch(route),
    }
    start = {"type": "http.response.start", "status": status, "headers": raw}
    exchange = Exchange(scope, start=start, body=bytearray(json.dumps(body).encode()), is_complete=True)
    found = "\n".join(exchange.violations())
    assert found == "" if violation is None else violation in found
