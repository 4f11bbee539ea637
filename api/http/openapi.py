"""Descriptions of requests and responses in `/openapi.json`, as routes declare them.

They name schemas, headers and types of problems. `noetl.api.document` completes them when a client requests
the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from noetl.api.http.problem_types import PROBLEM_TYPES
from noetl.api.service.views import SCHEMA_NAMES

SCHEMA_REFERENCE = "#/components/schemas/{model}"
"""Place of a schema in `/openapi.json`, by its name."""

PROBLEMS_KEY = "x-problems"
"""Key of an operation under which its route declares problems, until the document is complete."""

PAGES_KEY = "x-problem-pages"
"""Key of an operation whose problems are pages for browsers, until the document is complete."""

PROBLEM_PAGES: dict[str, Any] = {PAGES_KEY: True}
"""Description of a route whose problems are pages for a client that prefers HTML."""

JSON_TYPE = "application/json"
HTML_TYPE = "text/html"
FORM_TYPE = "application/x-www-form-urlencoded"
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
"""Media types of YAML: the registered one, and two names that it had before (RFC 9512)."""

NO_SECURITY: dict[str, Any] = {"security": []}
"""Description of a route that needs no credentials."""


def response_body(
    view: type,
    *text_types: str,
    description: str,
    headers: Iterable[str] = (),
    example: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the description of a response: a view, or text of one of `text_types`.

    Without an `example`, that of the view in `noetl.api.document.examples` is taken.

    >>> from noetl.api.service.views import RunPage
    >>> response_body(RunPage, "text/plain", description="The runs")["content"]["text/plain"]
    {'schema': {'type': 'string'}}
    """
    content: dict[str, Any] = {JSON_TYPE: _schema_named(SCHEMA_NAMES[view])}
    if example is not None:
        content[JSON_TYPE]["example"] = example
    texts = {text_type: {"schema": {"type": "string"}} for text_type in text_types}
    body: dict[str, Any] = {"description": description, "content": content | texts}
    if headers:
        body["headers"] = {name: header_reference(name) for name in headers}
    return body


def text_body(*media_types: str, description: str, example: str) -> dict[str, Any]:
    """Return the description of a response that is text of one of some media types."""
    content = {media_type: {"schema": {"type": "string"}, "example": example} for media_type in media_types}
    return {"description": description, "content": content}


def stream_body(description: str, example: str) -> dict[str, Any]:
    """Return the description of a response that is a stream of server-sent events.

    Its schema has no type: some clients compare each event with it, and others the text.
    """
    schema = {"description": "Server-sent events, each with JSON as its `data`."}
    content = {"text/event-stream": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


def header_reference(name: str) -> dict[str, str]:
    """Return the reference to the description of a header of responses."""
    return {"$ref": f"#/components/headers/{name}"}


def playbook_body(model: str) -> dict[str, Any]:
    """Return the description of a request with a playbook: a JSON object of a model, or YAML."""
    yaml = {media_type: _schema_named("Playbook") for media_type in YAML_TYPES}
    return {"requestBody": {"required": True, "content": {**yaml, JSON_TYPE: _schema_named(model)}}}


def required_body(model: str) -> dict[str, Any]:
    """Return the description of a request that has a body: a JSON object of a model."""
    return {"requestBody": {"required": True, "content": {JSON_TYPE: _schema_named(model)}}}


def optional_body(model: str) -> dict[str, Any]:
    """Return the description of a request that may have a body: a JSON object of a model."""
    return {"requestBody": {"required": False, "content": {JSON_TYPE: _schema_named(model)}}}


def problems(*slugs: str) -> dict[str, Any]:
    """Return the declaration of the problems of a route, besides those that all such routes have.

    Raises:
        KeyError: a type is unknown.
    """
    for slug in slugs:
        PROBLEM_TYPES[slug]
    return {PROBLEMS_KEY: slugs}


def _schema_named(model: str) -> dict[str, Any]:
    return {"schema": {"$ref": SCHEMA_REFERENCE.format(model=model)}}
