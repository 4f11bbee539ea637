"""Descriptions of requests and responses in `/openapi.json`.

They name schemas, which are built when a client requests the document (`noetl.api.http.schemas`).
"""

from __future__ import annotations

from typing import Any

from noetl.api.service.views import SCHEMA_NAMES

SCHEMA_REFERENCE = "#/components/schemas/{model}"
"""Place of a schema in `/openapi.json`, by its name."""

NO_SECURITY: dict[str, Any] = {"security": []}
"""Description of a route that needs no credentials."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A problem document (RFC 9457)",
        "content": {
            "application/problem+json": {"schema": {"$ref": SCHEMA_REFERENCE.format(model="ProblemDocument")}}
        },
    }
}
"""Description of the error responses of a router."""


def response_body(view: type, *text_types: str) -> dict[str, Any]:
    """Return the description of a response: a view, or text of one of `text_types`.

    >>> from noetl.api.service.views import RunPage
    >>> response_body(RunPage, "text/plain")["content"]["text/plain"]
    {'schema': {'type': 'string'}}
    """
    content = {"application/json": _schema_named(SCHEMA_NAMES[view])}
    return {"content": content | {text_type: {"schema": {"type": "string"}} for text_type in text_types}}


def playbook_body(model: str) -> dict[str, Any]:
    """Return the description of a request with a playbook: a JSON object of a model, or YAML."""
    yaml = {"schema": {"type": "string", "description": "The playbook."}}
    content = {"application/yaml": yaml, "application/json": _schema_named(model)}
    return {"requestBody": {"required": True, "content": content}}


def optional_body(model: str) -> dict[str, Any]:
    """Return the description of a request that may have a body: a JSON object of a model."""
    return {"requestBody": {"content": {"application/json": _schema_named(model)}}}


def text_parameter(name: str, place: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return the description of an optional parameter that is text; `place` is `query` or `header`."""
    return {
        "name": name,
        "in": place,
        "schema": {"type": "string", **schema},
        "description": description,
    }


def _schema_named(model: str) -> dict[str, Any]:
    return {"schema": {"$ref": SCHEMA_REFERENCE.format(model=model)}}
