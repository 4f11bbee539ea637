"""Hooks of schemathesis: identifiers that exist, and a check of requests that the document allows.

schemathesis imports this file in its own process (SCHEMATHESIS_HOOKS). Environment variables are its input.
IDENTIFIERS is a JSON object: for each parameter of a path, values that exist in the service. PLAYBOOKS are
playbooks without errors, and PHASES are the phases of the process.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

PHASES = os.environ["PHASES"].split(",")
PLAYBOOKS: list[dict[str, Any]] = json.loads(os.environ["PLAYBOOKS"])
YAML_TYPES_OF_ONE_SCHEMA = ("application/x-yaml", "text/yaml")
IDENTIFIERS: dict[str, list[str]] = json.loads(os.environ["IDENTIFIERS"])
WITH_PLAYBOOK = ("startRun", "describePlan", "registerPlaybook")
OUTSIDE_OF_SCHEMAS = ("this time does not exist", "a duration must be at most")
REFUSALS_OF_FORM = ("invalid-request", "malformed-json", "unsupported-media-type", "invalid-body")


def shorten(context: Any, raw_schema: dict[str, Any]) -> None:
    """Leave one media type of YAML. Except for the phase `fuzzing`, leave the first level of a playbook."""
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            for media_type in YAML_TYPES_OF_ONE_SCHEMA:
                operation.get("requestBody", {}).get("content", {}).pop(media_type, None)
    if "fuzzing" not in PHASES:
        schemas = raw_schema["components"]["schemas"]
        playbook = schemas["Playbook"]
        schemas["Playbook"] = {
            **playbook,
            "properties": {
                name: {"type": schema["type"]} if "type" in schema else {}
                for name, schema in playbook["properties"].items()
            },
        }


def use_identifiers(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a path. Most of them are replaced by identifiers that exist.

    Those of a deletion are not, since other requests need the runs.
    """
    if context.operation.definition.raw["operationId"] == "deleteRun":
        return path_parameters
    return {name: _choose(name, value) for name, value in (path_parameters or {}).items()}


def use_playbooks(context: Any, body: Any) -> Any:
    """Return the body of a request. In the phase `stateful`, most playbooks are replaced by right ones."""
    is_with_playbook = context.operation.definition.raw["operationId"] in WITH_PLAYBOOK
    if "stateful" not in PHASES or not is_with_playbook or not isinstance(body, dict):
        return body
    number = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    if number % 4 == 0:
        return body
    playbook = PLAYBOOKS[number % len(PLAYBOOKS)]
    return {"playbook": playbook} if "playbook" in body else playbook


def _choose(name: str, value: Any) -> Any:
    choices = [*IDENTIFIERS[name], value]
    return choices[zlib.crc32(str(value).encode("utf-8", "surrogatepass")) % len(choices)]


def accepts_what_the_document_allows(context: Any, response: Any, case: Any) -> None:
    """Raise if the form of a request is refused, although the document allows it.

    A playbook with errors or a cursor of another list has the right form. So have an `input` in the query
    that is no JSON, a day that does not exist, and a duration of more than a hundred years. No schema of a
    text says that.

    Raises:
        AssertionError: the form is refused.
    """
    is_positive = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_positive or "input" in (case.query or {}) or response.status_code not in (400, 415, 422):
        return
    slug, detail = response.json()["type"].rpartition(":")[2], response.json()["detail"]
    if any(problem in detail for problem in OUTSIDE_OF_SCHEMAS):
        return
    assert slug not in REFUSALS_OF_FORM, f"the document allows the request: {detail}"


schemathesis.hook("before_load_schema")(shorten)
schemathesis.hook("map_body")(use_playbooks)
schemathesis.hook("map_path_parameters")(use_identifiers)
if "stateful" not in PHASES:  # There schemathesis takes some requests for right ones that it has changed.
    schemathesis.check(accepts_what_the_document_allows)
