"""The comparison of requests and responses with `/openapi.json`.

`record_violations` watches each app of the process. It compares each response with what the document declares
for its call: status, media type, headers, type of a problem, and body. A member that the document does not
have is a violation, too, although clients must accept it. If a call succeeds, its request must be declared:
otherwise the document would be stricter than the checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import jsonschema_rs
import yaml
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from noetl.api.app import create_app
from noetl.api.http.problems import InternalErrorMiddleware
from noetl.api.http.route_match import ROUTE_MATCH, RouteMatch

FORM_TYPE = "application/x-www-form-urlencoded"
PROBLEM_TYPE = "application/problem+json"
UNDESCRIBED_HEADERS = ("content-type", "content-length", "access-control-")
"""Headers that the document does not describe: OpenAPI ignores the first, and a browser reads the last."""

OTHER_REQUESTS = {204: "OPTIONS", 404: "other paths", 405: "other methods"}
"""Requests for a method or a path that no call has, by the status of the response."""

JSON_TYPES = ("application/json", PROBLEM_TYPE)


@cache
def described() -> dict[str, Any]:
    """Return the document of an app."""
    return create_app({}).openapi()


def close(schema: Any) -> Any:
    """Return a schema in which each object has no further members, unless the schema speaks of them."""
    if isinstance(schema, list):
        return [close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(part) for key, part in schema.items()}
    if "properties" in closed and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def closed_components() -> Any:
    return {"schemas": close(described()["components"]["schemas"])}


@cache
def validator(schema_text: str) -> jsonschema_rs.Draft202012Validator:
    """Return the validator of a schema, whose further members are forbidden."""
    schema = {**json.loads(schema_text), "components": closed_components()}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def find_errors(schema: dict[str, Any], value: Any) -> list[str]:
    """Return how a JSON value differs from a schema of the document."""
    errors = validator(json.dumps(schema)).iter_errors(value)
    return [f"{'.'.join(str(part) for part in error.instance_path)}: {error.message}" for error in errors]


@dataclass
class Exchange:
    """A request and its response."""

    scope: Scope
    request_body: bytearray = field(default_factory=bytearray)
    start: Message | None = None
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False

    def violations(self) -> Iterator[str]:
        """Yield what the document does not declare of a complete exchange."""
        match: RouteMatch | None = self.scope.get(ROUTE_MATCH)
        if self.start is None or match is None:
            return
        route, status = match.route, str(self.start["status"])
        headers = Headers(raw=self.start["headers"])
        media_type = headers.get("content-type", "").partition(";")[0]
        if route is None or not route.include_in_schema:
            yield from self._violations_outside_calls(match, media_type)
            return
        operation = described()["paths"][route.path_format][self.scope["method"].lower()]
        responses = operation["responses"]
        if status not in responses:
            yield f"the status {status} is not declared: {bytes(self.body[:200])!r}"
            return
        yield from self._violations_of_headers(responses[status], headers)
        if self.is_complete and self.body:
            yield from self._violations_of_body(responses[status], media_type)
        if status.startswith("2"):
            yield from self._violations_of_request(operation)

    def _violations_of_headers(self, response: dict[str, Any], headers: Headers) -> Iterator[str]:
        declared = response.get("headers", {})
        known = {name.lower() for name in (*declared, *described()["x-common-headers"])}
        for name in headers:
            if name not in known and not name.startswith(UNDESCRIBED_HEADERS):
                yield f"the header {name} is not declared"
        for name in declared:
            if described()["components"]["headers"][name]["required"] and name not in headers:
                yield f"the header {name} is missing"

    def _violations_outside_calls(self, match: RouteMatch, media_type: str) -> Iterator[str]:
        """Yield what is wrong with a response to a method or a path that no call has."""
        assert self.start is not None
        if media_type == PROBLEM_TYPE and self.is_complete:
            yield from find_errors({"$ref": "#/components/schemas/Problem"}, json.loads(self.body))
        name = OTHER_REQUESTS.get(self.start["status"])
        if match.route is not None or name is None:
            return
        response = described()["x-other-responses"][name]["$ref"].rpartition("/")[2]
        declared = described()["components"]["responses"][response]
        yield from self._violations_of_headers(declared, Headers(raw=self.start["headers"]))
        if media_type and media_type not in declared.get("content", {}):
            yield f"the media type {media_type} is not declared"

    def _violations_of_body(self, response: dict[str, Any], media_type: str) -> Iterator[str]:
        if media_type not in response.get("content", {}):
            yield f"the media type {media_type} is not declared"
            return
        if media_type not in JSON_TYPES:
            return
        value = json.loads(self.body)
        yield from find_errors(response["content"][media_type]["schema"], value)
        if media_type == PROBLEM_TYPE and value["type"] not in response["x-problem-types"]:
            yield f"the problem {value['type']} is not declared"

    def _violations_of_request(self, operation: dict[str, Any]) -> Iterator[str]:
        declared = {parameter["name"] for parameter in operation.get("parameters", ())}
        for name, _ in parse_qsl(self.scope["query_string"].decode()):
            if operation.get("security") and name not in declared:
                yield f"the query parameter {name} is accepted, but not declared"
        media_type = Headers(scope=self.scope).get("content-type", "").partition(";")[0]
        content = operation.get("requestBody", {}).get("content", {})
        if not self.request_body or media_type not in content:
            return
        text = self.request_body.decode()
        readers: dict[str, Callable[[str], Any]] = {
            "application/json": json.loads,
            FORM_TYPE: lambda form: dict(parse_qsl(form)),
        }
        value = readers.get(media_type, yaml.safe_load)(text)
        for error in find_errors(content[media_type]["schema"], value):
            yield f"the body is accepted, but not declared: {error}"


@contextmanager
def record_violations() -> Iterator[list[str]]:
    """Watch all apps of this process during a block. The list grows while requests are answered."""
    found: list[str] = []
    original = InternalErrorMiddleware.__call__

    async def watched(self: InternalErrorMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await original(self, scope, receive, send)
            return
        exchange = Exchange(scope)

        async def receive_watched() -> Message:
            message = await receive()
            exchange.request_body += message.get("body", b"")
            return message

        async def send_watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.start = message
            else:
                exchange.body += message.get("body", b"")
                exchange.is_complete = not message.get("more_body", False)
            await send(message)

        try:
            await original(self, scope, receive_watched, send_watched)
        finally:
            found.extend(f"{scope['method']} {scope['path']}: {text}" for text in exchange.violations())

    InternalErrorMiddleware.__call__ = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        InternalErrorMiddleware.__call__ = original  # type: ignore[method-assign]
