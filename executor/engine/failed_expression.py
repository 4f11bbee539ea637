"""Facts about an expression that has failed: its text, and the values of the names that it reads.

They are computed after the failure, so an expression that succeeds costs nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from noetl.executor.engine.preview import cut, preview
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.templates.template import (
    EvaluationError,
    Lookup,
    Template,
    has_template,
    parse_template,
    read_access,
)

MAX_EXPRESSION = 500
"""How many characters of an expression a report shows."""

MAX_NAMES = 8
"""How many names of an expression a report shows."""

_REFUSALS = ("ParameterError", "ForbiddenAddress")
"""The types of failures that concern the value of a parameter."""

_FIRST_NAME = re.compile(r"`(\w+)`")

UNDEFINED = "undefined"
"""What a report shows for a name without a value. Texts have quotes in a report, so it is not one."""


def expression_error(problem: EvaluationError, template: Template, lookup: Lookup) -> ActionError:
    """Return the failure of an action whose template has no value, with its text and its names."""
    error = ActionError(problem.type, problem.message, retryable=False)
    return error.with_place(describe_expression(template, lookup))


def name_parameter(
    error: ActionError, declaration: ActionDeclaration, parameters: Mapping[str, Any], lookup: Lookup
) -> ActionError:
    """Return the failure of an action, with the expression of the parameter whose value was refused.

    The message begins with the name of the parameter. A forbidden address is that of the destination. Values
    are left out if the parameter may contain secrets.
    """
    if error.type not in _REFUSALS or error.place:
        return error
    named = _FIRST_NAME.match(error.message)
    key = named[1] if named is not None and named[1] in parameters else None
    if key is None and error.type == "ForbiddenAddress" and declaration.destination is not None:
        key = declaration.destination.parameter
    text = parameters.get(key or "")
    if key is None or not isinstance(text, str) or not has_template(text):
        return error
    place = describe_expression(parse_template(text), lookup)
    if key not in declaration.parameters or declaration.parameters[key].secrets:
        del place["values"]
    return error.with_place({"key": key, **place})


def describe_expression(template: Template, lookup: Lookup) -> dict[str, Any]:
    """Return the text of a failed template, and each name that it reads with its value as text."""
    values = {}
    for path in islice((path for path in template.reads if path[0] != "secrets"), MAX_NAMES):
        shown = _preview_access(path, lookup)
        if shown is not None:
            values[".".join(path)] = shown
    return {"expression": cut(template.source.strip(), MAX_EXPRESSION), "values": values}


def _preview_access(path: tuple[str, ...], lookup: Lookup) -> str | None:
    """Return the value of an access path as text, or None if it is a function or cannot be read."""
    try:
        value = read_access(path, lookup)
    except EvaluationError as error:
        return UNDEFINED if error.type == "UndefinedName" else None
    except ActionError:
        return None
    return None if callable(value) else preview(value)
