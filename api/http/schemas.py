"""Schemas of requests and responses, for `/openapi.json` only.

Those of requests are the models that check them. Those of responses are derived from the views that are sent.
That of a playbook is derived from the models of the compiler and the declarations of the action types.

Later versions may add members to responses, so the schemas of responses allow further ones. Those of
requests forbid them, because the checks do.

Building the models takes longer than all the rest of the start, so nothing else imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core.core_schema import TaggedUnionSchema

from noetl.api.http.bodies import REQUEST_BODIES
from noetl.api.http.openapi import SCHEMA_REFERENCE
from noetl.api.service.views import DATE_TIME, SCHEMA_NAMES, Timestamp
from noetl.executor.actions import catalogue
from noetl.planner.syntax.json_schema import build_component_schemas


@cache
def response_model(view: type) -> type[BaseModel]:
    """Return the pydantic model with the fields of a view or of a typed dictionary."""
    hints = get_type_hints(view, include_extras=True)
    fields: dict[str, Any] = {}
    for name in hints:
        if name.startswith("_"):
            continue
        if get_origin(hints[name]) is NotRequired:
            fields[name] = (_model_type(get_args(hints[name])[0]) | None, None)
        else:
            fields[name] = (_model_type(hints[name]), _default_of(view, name))
    return create_model(SCHEMA_NAMES[view], __doc__=view.__doc__, **fields)


def _default_of(view: type, name: str) -> Any:
    """Return the default of a member of a view, which a base may declare; without one, an ellipsis."""
    owners = (vars(owner) for owner in view.__mro__ if owner.__module__ != dict.__module__)
    return next((members[name] for members in owners if name in members), ...)


def _model_type(hint: Any) -> Any:
    """Return the type of a field with the model of each view in it."""
    if hint in SCHEMA_NAMES:
        return response_model(hint)
    if hint is Any:
        return JsonValue
    if hint == Timestamp:
        return Annotated[str, Field(json_schema_extra={"format": DATE_TIME})]
    arguments = [_model_type(argument) for argument in get_args(hint)]
    match get_origin(hint):
        case origin if origin is Union or origin is UnionType:
            return reduce(or_, arguments)
        case origin if arguments and origin is not Literal:
            return origin[tuple(arguments)]
    return hint


class _SchemaGenerator(GenerateJsonSchema):
    """A generator for which a tagged union allows several alternatives to match.

    Its tag is computed from the value, so the schemas of the alternatives may overlap.
    """

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> dict[str, Any]:
        generated = super().tagged_union_schema(schema)
        return {"anyOf": generated.pop("oneOf"), **generated}


@cache
def component_schemas() -> Mapping[str, Any]:
    """Return all schemas by their published names, for `components` of `/openapi.json`."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((response_model(view), "serialization") for view in SCHEMA_NAMES),
        *((body, "validation") for body in REQUEST_BODIES),
    ]
    _, document = models_json_schema(models, ref_template=SCHEMA_REFERENCE, schema_generator=_SchemaGenerator)
    schemas: dict[str, Any] = document["$defs"]
    return schemas | build_component_schemas(catalogue(), SCHEMA_REFERENCE)
