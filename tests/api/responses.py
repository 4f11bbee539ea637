"""Responses of the HTTP tests: problem documents, and views that the service has sent."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import httpx

from noetl.api.http.schemas import response_model
from noetl.api.service.views import View

V = TypeVar("V", bound=View)


def assert_problem(response: httpx.Response, status: int, slug: str | None = None) -> None:
    """Check the status, the media type and the type of a problem document; `slug` None is any type."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    if slug is not None:
        assert document["type"] == f"urn:noetl:problem:{slug}"


def read_view(view: type[V], body: Any) -> V:
    """Return the JSON object of a response as a view, after a check against its published schema.

    Raises:
        ValidationError: the object does not match the schema.
    """
    schema: type = view
    response_model(schema).model_validate(body)
    result: V = _read_value(view, body)
    return result


def _read_value(hint: Any, value: Any) -> Any:
    """Return a JSON value as a value of its type: views and enumerations are read, the rest is unchanged."""
    arguments = get_args(hint)
    if isinstance(hint, type) and issubclass(hint, View):
        hints = get_type_hints(hint)
        return hint(**{name: _read_value(hints[name], member) for name, member in value.items()})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if value is not None and type(None) in arguments:
        return _read_value(arguments[0], value)
    if isinstance(value, list) and arguments:
        return [_read_value(arguments[0], item) for item in value]
    if get_origin(hint) is Mapping:
        return {key: _read_value(arguments[1], item) for key, item in value.items()}
    return value
