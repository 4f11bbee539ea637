"""JSON responses, and the OpenAPI description of a response body."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

SCHEMA_REFERENCE = "#/components/schemas/{model}"
"""Place of a component in `/openapi.json`, by its name."""


class JsonResponse(JSONResponse):
    """A response with a JSON body.

    A lone surrogate has no UTF-8 encoding, so it is written as an escape.
    """

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def body_schema(name: str, *text_types: str, media_type: str = "application/json") -> dict[str, Any]:
    """Return the OpenAPI description of a response: the component `name`, or text of one of `text_types`.

    The components are built when a client requests `/openapi.json` (`noetl.api.http.schemas`).

    >>> body_schema("Graph", "text/plain")["content"]["text/plain"]
    {'schema': {'type': 'string'}}
    """
    content = {media_type: {"schema": {"$ref": SCHEMA_REFERENCE.format(model=name)}}}
    return {"content": content | {text_type: {"schema": {"type": "string"}} for text_type in text_types}}
