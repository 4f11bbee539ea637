"""The JSON Schema of the language for editors: the models and the parameters of every action type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from noetl.planner.catalogue import ActionDeclaration, Catalogue, Kind, Parameter
from noetl.planner.limits import MAX_LIMIT
from noetl.planner.schedules.schedule import CatchUpMode
from noetl.planner.syntax.durations import (
    parse_catch_up_time,
    parse_debounce_time,
    parse_duration,
    parse_interval,
    parse_jitter,
    parse_late_time,
    parse_remember_time,
    parse_settle_time,
    parse_tolerance,
    parse_ttl,
    parse_webhook_wait,
    parse_window,
)
from noetl.planner.syntax.instants import check_instant
from noetl.planner.syntax.models import (
    TRIGGER_MODELS,
    CachePolicy,
    CatchUpPolicy,
    InputType,
    LatePolicy,
    Playbook,
    RetryPolicy,
    expand_channels,
    expand_limit,
    expand_secret,
)
from noetl.planner.syntax.sizes import parse_body_size
from noetl.planner.trigger_sources import MAX_WEBHOOK_BYTES

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DURATION = {
    "description": "`500ms`, `5s`, `2m`, `1h`, `3d` or a number of seconds.",
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"}],
}
_PARSERS_OF_DURATIONS = (
    parse_duration,
    parse_ttl,
    parse_interval,
    parse_jitter,
    parse_catch_up_time,
    parse_remember_time,
    parse_settle_time,
    parse_tolerance,
    parse_webhook_wait,
    parse_late_time,
    parse_debounce_time,
    parse_window,
)
_SIZE = {
    "description": "`512KiB`, `1MiB` or a number of bytes.",
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_WEBHOOK_BYTES},
        {"type": "string", "pattern": r"^\d+(\.\d+)?(B|kB|KB|MB|KiB|MiB)$"},
    ],
}
_INSTANT = {
    "description": "An instant in ISO 8601. Without an offset it is a time of `timezone`.",
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\d",
}
_DECLARATION = {"anyOf": [{"enum": list(get_args(InputType))}, {"$ref": "#/$defs/InputDeclaration"}]}
_TEMPLATE = {"type": "string", "pattern": r"\{[{%]"}
_KIND_SCHEMAS: Mapping[Kind, dict[str, Any]] = {
    Kind.STRING: {"type": "string"},
    Kind.INTEGER: {"type": "integer"},
    Kind.NUMBER: {"type": "number"},
    Kind.BOOLEAN: {"type": "boolean"},
    # Generators of clients need both: without them, no member and no item is allowed.
    Kind.OBJECT: {"type": "object", "additionalProperties": True},
    Kind.ARRAY: {"type": "array", "items": {}},
    Kind.DURATION: _DURATION,
    Kind.ACTION: {"$ref": "#/$defs/ActionEntry"},
    Kind.ANY: {},
}


class _WrittenFormGenerator(GenerateJsonSchema):
    """A generator that describes the values before conversion. The models describe the converted values."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        function = schema["function"]["function"]
        if function in _PARSERS_OF_DURATIONS:
            return dict(_DURATION)
        if function is check_instant:
            return dict(_INSTANT)
        if function is parse_body_size:
            return dict(_SIZE)
        converted = super().function_before_schema(schema)
        if function in (expand_secret, expand_channels):
            return {"anyOf": [{"type": "string"}, converted]}
        if function is expand_limit:
            return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, *converted["oneOf"]]}
        if schema["schema"].get("cls") is RetryPolicy:
            return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, converted]}
        if schema["schema"].get("cls") in (CachePolicy, LatePolicy):
            return {"anyOf": [*_DURATION["anyOf"], converted]}
        if schema["schema"].get("cls") is CatchUpPolicy:
            return {"anyOf": [{"enum": list(get_args(CatchUpMode))}, converted]}
        return converted


def build_json_schema(catalogue: Catalogue) -> dict[str, Any]:
    """Return the schema of a playbook that may use the action types of the catalogue."""
    schema = Playbook.model_json_schema(by_alias=True, schema_generator=_WrittenFormGenerator)
    definitions = schema["$defs"]
    common = {**definitions["ActionEntry"]["properties"], "action": {}}
    definitions["ActionEntry"] = _action_entry_schema(catalogue, common)
    for trigger_type, model in TRIGGER_MODELS.items():
        definitions[model.__name__]["properties"]["type"] = {"const": trigger_type, "type": "string"}
    _accept_short_forms(schema)
    for definition in (schema, *definitions.values()):
        _drop_titles(definition)
    return {"$schema": _DIALECT, "title": "NoETL playbook", **schema}


def build_component_schemas(catalogue: Catalogue, reference: str) -> dict[str, dict[str, Any]]:
    """Return the same schema as separate schemas by name, of which `Playbook` is the first.

    `reference` is the place of a schema, with `{model}` for its name. The names of all others begin with
    `Playbook`, too. Each action type has a schema of its own, which `action` selects. So generators of
    clients can make a type of each, which they cannot make of conditions.
    """
    schema = build_json_schema(catalogue)
    definitions = schema.pop("$defs")
    conditions = definitions["ActionEntry"].pop("allOf")
    actions = {
        _action_name(condition["if"]["properties"]["action"]["const"]): condition["then"]
        for condition in conditions
    }
    mapping = {}
    for action_type in sorted(catalogue):
        name = _action_name(action_type)
        action = actions[name]
        action["type"] = "object"
        action["properties"]["action"] = {"const": action_type, "type": "string"}
        action["required"] = ["action", *action.get("required", ())]
        mapping[action_type] = f"#/$defs/{name}"
    definitions["ActionEntry"] = {
        "description": definitions["ActionEntry"]["description"],
        "oneOf": [{"$ref": place} for place in mapping.values()],
        "discriminator": {"propertyName": "action", "mapping": mapping},
    }
    del schema["$schema"]
    named = {"": schema, **definitions, **actions}
    return {f"Playbook{name}": _refer(part, reference) for name, part in named.items()}


def _action_name(action_type: str) -> str:
    return "".join(word.capitalize() for word in action_type.replace("-", "_").split("_")) + "Action"


def _refer(part: Any, reference: str) -> Any:
    """Return a part of a schema in which each reference to a definition is one to a schema by name."""
    if isinstance(part, dict):
        return {key: _refer(value, reference) for key, value in part.items()}
    if isinstance(part, list):
        return [_refer(value, reference) for value in part]
    if isinstance(part, str) and part.startswith("#/$defs/"):
        return reference.format(model=f"Playbook{part.removeprefix('#/$defs/')}")
    return part


def _action_entry_schema(catalogue: Catalogue, common: Mapping[str, Any]) -> dict[str, Any]:
    types = sorted(catalogue)
    return {
        "description": "An action: its type, the type's parameters, and what is common to all types.",
        "type": "object",
        "required": ["action"],
        "properties": {"action": {"enum": types, "description": "The type of the action."}},
        "allOf": [
            {
                "if": {"properties": {"action": {"const": action_type}}, "required": ["action"]},
                "then": _action_type_schema(catalogue[action_type], common),
            }
            for action_type in types
        ],
    }


def _action_type_schema(declaration: ActionDeclaration, common: Mapping[str, Any]) -> dict[str, Any]:
    parameters = declaration.parameters
    schema: dict[str, Any] = {
        "description": declaration.description,
        "properties": {**common, **{name: _parameter_schema(p) for name, p in parameters.items()}},
        "additionalProperties": False,
    }
    if required := [name for name, parameter in parameters.items() if parameter.required]:
        schema["required"] = required
    if declaration.at_most_one:
        schema["not"] = {"required": [*declaration.at_most_one]}
    if declaration.one_of:
        schema["oneOf"] = [{"required": [name]} for name in declaration.one_of]
    if dependent := {name: list(p.requires) for name, p in parameters.items() if p.requires}:
        schema["dependentRequired"] = dependent
    return schema


def _parameter_schema(parameter: Parameter) -> dict[str, Any]:
    if Kind.ANY in parameter.kinds:
        return {"description": parameter.description}
    if parameter.declares_fields:
        fields = {"type": "object", "minProperties": 1, "additionalProperties": _DECLARATION}
        return {"description": parameter.description, **fields}
    kinds: list[dict[str, Any]] = [_KIND_SCHEMAS[kind] for kind in parameter.kinds]
    if parameter.suggested_keys:
        kinds[parameter.kinds.index(Kind.OBJECT)] = _open_object(parameter.suggested_keys)
    if parameter.fields:
        return {"description": parameter.description, **_fields_schema(parameter.fields)}
    if parameter.choices:
        kinds = [{"enum": list(parameter.choices)}]
    return {"description": parameter.description, "anyOf": [*kinds, _TEMPLATE]}


def _open_object(suggested: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the schema of an object that may also have other keys than the suggested ones."""
    properties = {
        key: _open_object(dict.fromkeys(inner, ())) if inner else {} for key, inner in suggested.items()
    }
    return {**_KIND_SCHEMAS[Kind.OBJECT], "properties": properties}


def _fields_schema(fields: Mapping[str, Parameter]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _parameter_schema(field) for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.required],
        "additionalProperties": False,
    }


def _accept_short_forms(schema: dict[str, Any]) -> None:
    """Allow `name: type` for an input, and `name: [entries]` for a task, in place of a mapping."""
    inputs = next(form for form in schema["properties"]["input"]["anyOf"] if form.get("type") == "object")
    inputs["additionalProperties"] = {
        "anyOf": [{"enum": list(get_args(InputType))}, inputs["additionalProperties"]]
    }
    tasks = schema["properties"]["tasks"]
    entries = schema["$defs"]["Task"]["properties"]["run"]
    listed = {key: tasks.pop(key) for key in ("type", "items")}
    tasks["anyOf"] = [listed, {"type": "object", "additionalProperties": entries}]


def _drop_titles(definition: dict[str, Any]) -> None:
    """Remove the titles that pydantic generates, because they repeat the keys."""
    definition.pop("title", None)
    for property_schema in definition.get("properties", {}).values():
        property_schema.pop("title", None)
