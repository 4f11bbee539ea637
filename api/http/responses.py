"""What HTTP answers with: the encoding of JSON, and which shape a body has."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

REFERENCE = "#/components/schemas/{model}"
"""Where `/openapi.json` has the shape of a name."""


class JSON(JSONResponse):
    """A JSON body. Text that is no Unicode (a lone surrogate) leaves as the escape that stands for it."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def shaped(name: str, *texts: str, media_type: str = "application/json") -> dict[str, Any]:
    """How a route describes a body that has the shape of that name in `noetl.api.http.schemas`, or is a text of one of these media types.
    The shapes themselves are made when somebody asks for the description.
    """
    content = {media_type: {"schema": {"$ref": REFERENCE.format(model=name)}}}
    return {"content": content | {text: {"schema": {"type": "string"}} for text in texts}}
