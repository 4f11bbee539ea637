"""Completion of the document that FastAPI generates from the routes.

FastAPI knows paths, parameters and bodies. Three other things follow from what a route declares:

- Its problems: those that the route declares, those of its access, those of its body, and those of all.
- The headers and the examples of its responses.
- Its name and its summary, which are the name of its function.

What is answered for a method or a path that no route has is described once: OTHER_RESPONSES. So generated
clients have one function for each call.

Only a request for the document imports this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.routing import APIRoute

from noetl.api.access import ScopeAccess, declared_access
from noetl.api.document.examples import (
    BODY_EXAMPLES,
    COMMON_HEADERS,
    HEADERS,
    RESPONSE_EXAMPLES,
    TEXT_EXAMPLES,
)
from noetl.api.http.openapi import (
    HTML_TYPE,
    JSON_TYPE,
    PAGES_KEY,
    PROBLEMS_KEY,
    SCHEMA_REFERENCE,
    header_reference,
)
from noetl.api.http.problem_types import PROBLEM_TYPES
from noetl.api.http.schemas import component_schemas

PROBLEM_TYPE = "application/problem+json"
PROBLEM_TYPES_KEY = "x-problem-types"
"""Key of a response that lists the values of `type` which it may have."""

TAGS = {
    "workflows": "Runs: start, status, result, history, graph, cancel and resume.",
    "callbacks": "Answers of external systems and persons to steps that wait.",
    "webhooks": "Requests of other systems that start runs.",
    "playbooks": "The registry of playbooks.",
    "notifications": "Where notifications are sent, and those that were not delivered yet.",
    "limits": "How many runs and steps may be in progress at once, and what waits.",
    "triggers": "What starts runs by itself: triggers, their firings, and firings by hand.",
    "plans": "The compiler, without a run.",
    "cache": "Cached results of work.",
    "health": "Health checks and metrics.",
}
OF_ALL = (
    "invalid-request",
    "loopback-only",
    "internal-error",
    "run-damaged",
    "store-unavailable",
    "not-set-up",
    "quota-exceeded",
    "too-many-answers",
    "too-many-connections",
)
OF_CALLERS = ("unauthenticated", "insufficient-scope", "too-many-requests", "issuer-unavailable")
OF_BODIES = (
    "malformed-json",
    "slow-body",
    "too-large",
    "unsupported-media-type",
    "too-many-bodies",
)
OTHER_RESPONSES = {
    "HEAD": "Head",
    "OPTIONS": "Methods",
    "other methods": "MethodNotAllowed",
    "other paths": "UnknownPath",
}
"""The components that describe the responses to requests of no route, by what is requested."""

_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")
_SUCCESS = ("200", "201", "202")


def complete_document(document: dict[str, Any], routes: Iterable[APIRoute]) -> dict[str, Any]:
    """Return the document of FastAPI for some routes, with all that it lacks."""
    by_place = {
        (route.path_format, method.lower()): route for route in routes for method in route.methods or ()
    }
    components = document.get("components", {})
    schemas = {**components.get("schemas", {}), **component_schemas()}
    for name in _FASTAPI_SCHEMAS:
        schemas.pop(name, None)
    paths = {
        path: {
            method: _complete_operation(operation, by_place[path, method], method)
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    paths = {
        path: {method: _with_links(operation, schemas, paths) for method, operation in operations.items()}
        for path, operations in paths.items()
    }
    tags = {
        tag for operations in paths.values() for operation in operations.values() for tag in operation["tags"]
    }
    return {
        **document,
        "x-common-headers": COMMON_HEADERS,
        "x-other-responses": {
            request: {"$ref": f"#/components/responses/{name}"} for request, name in OTHER_RESPONSES.items()
        },
        "tags": [{"name": name, "description": TAGS.get(name, "")} for name in sorted(tags, key=_tag_place)],
        "paths": paths,
        "components": {
            **components,
            "schemas": schemas,
            "headers": HEADERS,
            "responses": _other_responses(),
            "links": _links(paths),
            "examples": {slug: _problem_example(slug) for slug in PROBLEM_TYPES},
        },
    }


def _tag_place(name: str) -> tuple[int, str]:
    """Return the place of a tag on the pages: those of TAGS in their order, then others."""
    return [*TAGS, name].index(name), name


def _path_parameters(operation: Mapping[str, Any]) -> list[str]:
    return [entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "path"]


def _operations(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in paths.values():
        yield from operations.values()


def _links(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Return the links to all calls of a run or a playbook: what of a body names it in the path."""
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {name: f"$response.body#/{name}" for name in names},
        }
        for operation in _operations(paths)
        if (names := _path_parameters(operation)) and operation.get("security")
    }


def _with_links(
    operation: Mapping[str, Any], schemas: Mapping[str, Any], paths: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an operation whose responses with a `Location` link to the calls of what they have created."""
    responses = {}
    for status, response in operation["responses"].items():
        responses[status] = response
        if "Location" not in response.get("headers", {}):
            continue
        name = response["content"][JSON_TYPE]["schema"]["$ref"].rpartition("/")[2]
        members = schemas[name]["properties"].keys()
        linked = [
            target["operationId"]
            for target in _operations(paths)
            if (names := _path_parameters(target)) and members >= {*names}
        ]
        links = {id: {"$ref": f"#/components/links/{id}"} for id in linked}
        responses[status] = {**response, "links": links}
    return {**operation, "responses": responses}


def _other_responses() -> dict[str, Any]:
    """Return the descriptions of the responses that OTHER_RESPONSES names."""
    allow = {"Allow": header_reference("Allow")}
    content = {PROBLEM_TYPE: {"schema": {"$ref": SCHEMA_REFERENCE.format(model="Problem")}}}
    unnamed = {"content": content, PROBLEM_TYPES_KEY: ["about:blank"]}
    return {
        "Head": {"description": "HEAD, where GET is: the status and the headers of GET, without a body."},
        "Methods": {"description": "OPTIONS: 204 and the methods of the path.", "headers": allow},
        "MethodNotAllowed": {
            "description": "405: no call has the method at this path.",
            "headers": allow,
            **unnamed,
        },
        "UnknownPath": {"description": "404: no call has the path.", **unnamed},
    }


def _complete_operation(operation: Mapping[str, Any], route: APIRoute, method: str) -> dict[str, Any]:
    completed = {key: value for key, value in operation.items() if key not in (PROBLEMS_KEY, PAGES_KEY)}
    words = route.name.split("_")
    completed["operationId"] = words[0] + "".join(word.capitalize() for word in words[1:])
    completed["summary"] = " ".join(words).capitalize()
    responses = {
        status: _complete_response(response, status, method)
        for status, response in operation["responses"].items()
        if "HTTPValidationError" not in str(response)
    }
    headers = {
        name: entry for response in responses.values() for name, entry in response.get("headers", {}).items()
    }
    if "ETag" in headers:
        responses["304"] = {"description": "The body has the tag of `If-None-Match`.", "headers": headers}
    slugs = sorted(set(_problems_of(operation, route, method)))
    responses.update(_problem_responses(slugs, has_pages=PAGES_KEY in operation))
    completed["responses"] = dict(sorted(responses.items()))
    if parameters := list(_complete_parameters(operation.get("parameters", []), has_tag="304" in responses)):
        completed["parameters"] = parameters
    if "requestBody" in operation:
        completed["requestBody"] = _complete_body(operation["requestBody"])
    return completed


def _problems_of(operation: Mapping[str, Any], route: APIRoute, method: str) -> Iterator[str]:
    """Yield the types of problems that an operation may answer with."""
    yield from operation.get(PROBLEMS_KEY, ())
    yield from OF_ALL
    if isinstance(declared_access(route), ScopeAccess):
        yield from OF_CALLERS
    if any("content" in response for response in route.responses.values()):
        yield "answer-too-large"
        if method == "get":
            yield "not-acceptable"
    if "{" in route.path or "requestBody" in operation or route.dependant.query_params:
        yield "invalid-text"
    if "requestBody" in operation:
        yield from OF_BODIES
        if "$ref" in str(operation["requestBody"]):
            yield "invalid-body"


def _problem_responses(slugs: Iterable[str], *, has_pages: bool) -> dict[str, Any]:
    """Return the descriptions of the responses with problems, by status. Some are pages for browsers, too."""
    by_status: dict[str, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(str(PROBLEM_TYPES[slug].status), []).append(slug)
    responses = {status: _problem_response(status, names) for status, names in by_status.items()}
    for response in responses.values() if has_pages else ():
        response["content"][HTML_TYPE] = {"schema": {"type": "string"}, "example": TEXT_EXAMPLES[HTML_TYPE]}
    return responses


def _problem_response(status: str, slugs: list[str]) -> dict[str, Any]:
    listed = ", ".join(f"`{slug}`" for slug in slugs)
    response: dict[str, Any] = {
        "description": f"{HTTPStatus(int(status)).phrase}: {listed}",
        "content": {
            PROBLEM_TYPE: {
                "schema": {"$ref": SCHEMA_REFERENCE.format(model="Problem")},
                "examples": {slug: {"$ref": f"#/components/examples/{slug}"} for slug in slugs},
            }
        },
        PROBLEM_TYPES_KEY: [f"urn:noetl:problem:{slug}" for slug in slugs],
    }
    if headers := {name: header_reference(name) for slug in slugs for name in PROBLEM_TYPES[slug].headers}:
        response["headers"] = headers
    return response


def _problem_example(slug: str) -> dict[str, Any]:
    kind = PROBLEM_TYPES[slug]
    value = {
        "type": f"urn:noetl:problem:{slug}",
        "title": kind.title_of(slug),
        "status": kind.status,
        "detail": kind.detail,
        "instance": "/workflows/run",
    }
    return {"value": value}


def _complete_response(response: Mapping[str, Any], status: str, method: str) -> dict[str, Any]:
    """Return the description of a successful response with examples, and with its tag if it has one."""
    if "content" not in response:
        return dict(response)
    completed = {**response, "content": _with_examples(response["content"])}
    if method == "get" and status in _SUCCESS:
        completed["headers"] = {**response.get("headers", {}), "ETag": header_reference("ETag")}
    return completed


def _with_examples(content: Mapping[str, Any]) -> dict[str, Any]:
    examples = {**TEXT_EXAMPLES, **RESPONSE_EXAMPLES}
    completed = {}
    for media_type, entry in content.items():
        name = entry["schema"].get("$ref", media_type).removeprefix(SCHEMA_REFERENCE.format(model=""))
        example = {"example": examples[name]} if name in examples else {}
        completed[media_type] = {**example, **entry}
    return completed


def _complete_body(body: Mapping[str, Any]) -> dict[str, Any]:
    content = {
        media_type: {
            "example": BODY_EXAMPLES.get(entry["schema"].get("$ref", "").rpartition("/")[2]),
            **entry,
        }
        for media_type, entry in body["content"].items()
    }
    return {**body, "content": content}


def _complete_parameters(
    parameters: Iterable[Mapping[str, Any]], *, has_tag: bool
) -> Iterator[dict[str, Any]]:
    """Yield parameters without null, which no text of a query stands for, and without generated titles."""
    for parameter in parameters:
        schema = {key: value for key, value in parameter["schema"].items() if key != "title"}
        alternatives = [entry for entry in schema.get("anyOf", ()) if entry != {"type": "null"}]
        if len(alternatives) == 1:
            del schema["anyOf"]
            schema |= alternatives[0]
        elif alternatives:
            schema["anyOf"] = alternatives
        yield {**parameter, "schema": schema}
    if has_tag:
        yield {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The tag of the body that the client has. 304 if it is still the same.",
            "schema": {"type": "string"},
            "example": HEADERS["ETag"]["example"],
        }
