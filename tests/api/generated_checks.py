"""Hooks of schemathesis: identifiers that exist, and a check of requests that the document allows.

schemathesis imports this file in its own process (SCHEMATHESIS_HOOKS). IDENTIFIERS is the JSON object of an
environment variable: for each parameter of a path, values that exist in the service.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

IDENTIFIERS: dict[str, list[str]] = json.loads(os.environ["IDENTIFIERS"])
REFUSALS_OF_FORM = ("invalid-request", "malformed-json", "unsupported-media-type", "invalid-body")


def use_identifiers(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a path. Most of them are replaced by identifiers that exist."""
    return {name: _choose(name, value) for name, value in (path_parameters or {}).items()}


def _choose(name: str, value: Any) -> Any:
    choices = [*IDENTIFIERS[name], value]
    return choices[zlib.crc32(str(value).encode("utf-8", "surrogatepass")) % len(choices)]


def accepts_what_the_document_allows(context: Any, response: Any, case: Any) -> None:
    """Raise if the form of a request is refused, although the document allows it.

    A playbook with errors or a cursor of another list has the right form. So has an `input` in the query
    that is no JSON, because no schema of a text says that.

    Raises:
        AssertionError: the form is refused.
    """
    is_positive = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_positive or "input" in (case.query or {}) or response.status_code not in (400, 415, 422):
        return
    slug = response.json()["type"].rpartition(":")[2]
    assert slug not in REFUSALS_OF_FORM, f"the document allows the request: {response.json()['detail']}"


schemathesis.hook("map_path_parameters")(use_identifiers)
schemathesis.check(accepts_what_the_document_allows)
