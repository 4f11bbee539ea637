"""The schemas of `/openapi.json`, derived from the views and the bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import pytest
from pydantic import JsonValue, ValidationError

from noetl.api.http.bodies import REQUEST_BODIES
from noetl.api.http.schemas import component_schemas, response_model
from noetl.api.service.views import (
    SCHEMA_NAMES,
    RunEntry,
    StepReport,
    StepState,
    WaitReport,
    members,
)
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import ErrorRecord, RunStatus
from tests.executor.fake_handler import VISIT


def summary(**values: Any) -> RunEntry:
    return RunEntry(
        workflow_id="r",
        status=RunStatus.QUEUED,
        playbook="p",
        version=None,
        created_at="2020-01-01T00:00:00Z",
        started_at=None,
        finished_at=None,
        tags=(),
        **values,
    )


def test_the_schema_of_an_error_has_the_members_of_its_record() -> None:
    fields = response_model(ErrorRecord).model_fields
    optional = {"line", "key", "expression", "values", "item"}
    expected = {
        name: JsonValue if hint is Any else hint
        for name, hint in get_type_hints(ErrorRecord).items()
        if name not in optional
    }
    assert {name: f.annotation for name, f in fields.items() if name not in optional} == expected
    assert fields.keys() == expected.keys() | optional
    assert {name for name, field in fields.items() if not field.is_required()} == optional


def test_the_record_of_an_earlier_version_is_of_the_schema_of_an_error() -> None:
    record = error_record(VISIT, "Failed", "no")
    response_model(ErrorRecord).model_validate(record)
    item = {"number": 2, "total": 3, "value": "{}"}
    place = {"line": 3, "key": "set.x", "expression": "{{ n }}", "values": {"n": "1"}, "item": item}
    assert response_model(ErrorRecord).model_validate(record | place).model_dump() == record | place


def test_every_view_and_every_body_has_a_schema_of_its_name() -> None:
    schemas = component_schemas()
    assert len(set(SCHEMA_NAMES.values())) == len(SCHEMA_NAMES)
    assert {*SCHEMA_NAMES.values(), *(body.__name__ for body in REQUEST_BODIES)} <= schemas.keys()
    for view, name in SCHEMA_NAMES.items():
        declared = [member for member in get_type_hints(view) if not member.startswith("_")]
        assert list(schemas[name]["properties"]) == declared
        assert "additionalProperties" not in schemas[name]
    for body in REQUEST_BODIES:
        assert schemas[body.__name__]["additionalProperties"] is False


def test_a_member_with_a_default_is_left_out_while_it_is_none() -> None:
    assert "parent" not in members(summary(parent=None))
    assert members(summary(parent="q"))["parent"] == "q"
    assert members(summary())["version"] is None
    required = component_schemas()["Summary"]["required"]
    optional = {"ending", "parent", "resumed_from", "headline", "steps", "step_count", "trigger"}
    assert optional.isdisjoint(required)
    assert {*required, *optional} == set(RunEntry.__annotations__)


def test_views_within_views_are_converted() -> None:
    wait = WaitReport(until=None, actions=["wait"], workflows=[])
    step = StepReport(
        status=StepState.WAITING, visits=1, attempt=1, case=None, error=None, waiting_for=wait, loops=None
    )
    text = json.dumps({"a": step}, default=members)
    assert json.loads(text)["a"] == {
        "status": "waiting",
        "visits": 1,
        "attempt": 1,
        "case": None,
        "error": None,
        "waiting_for": {"until": None, "actions": ["wait"], "workflows": []},
    }
    response_model(StepReport).model_validate_json(json.dumps(step, default=members))
    with pytest.raises(TypeError, match="type object has no JSON form"):
        json.dumps({"a": object()}, default=members)


def test_views_are_equal_if_their_members_are() -> None:
    assert summary() == summary(parent=None)
    assert summary() != summary(parent="q")
    assert summary() != "summary"
    assert repr(WaitReport(until=None, actions=[], workflows=[])) == (
        "WaitReport(until=None, actions=[], workflows=[])"
    )


def test_collections_in_views_are_arrays_and_objects() -> None:
    hints = get_type_hints(RunEntry)
    assert hints["tags"] == Sequence[str]
    properties = component_schemas()["Status"]["properties"]
    assert properties["steps"]["additionalProperties"] == {"$ref": "#/components/schemas/StepStatus"}
    assert properties["status"] == {"$ref": "#/components/schemas/RunStatus"}
    assert isinstance(properties, Mapping)


def test_a_response_with_an_unknown_member_is_of_the_schema() -> None:
    document = json.loads(json.dumps(summary(), default=members))
    response_model(RunEntry).model_validate(document | {"more": 1})
    with pytest.raises(ValidationError):
        response_model(RunEntry).model_validate(document | {"status": "lost"})


def test_times_of_responses_have_their_format() -> None:
    properties = component_schemas()["Summary"]["properties"]
    assert properties["created_at"]["format"] == "date-time"
    assert [entry.get("format") for entry in properties["finished_at"]["anyOf"]] == ["date-time", None]
