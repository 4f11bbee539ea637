"""Expressions and templates: section 4 of the language reference, on plain Jinja2."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, reduce
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError, nodes
from jinja2.environment import TemplateExpression

Names = Mapping[str, Any]


class EvaluationFailure(Exception):
    """A template without a value; `type` is an error type of section 7."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class _Jinja(Environment):
    """Jinja2, strict about undefined names. A key of an object takes precedence over a method."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return (
            obj[attribute]
            if isinstance(obj, Mapping) and attribute in obj
            else super().getattr(obj, attribute)
        )


def _sum(values: Iterable[Any], attribute: str | None = None, start: Any = None) -> Any:
    summands = [value[attribute] if attribute else value for value in values]
    if start is None:
        start = [] if summands and isinstance(summands[0], list) else 0
    return reduce(operator.add, summands, start)


def _to_datetime(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_JINJA = _Jinja(undefined=StrictUndefined, keep_trailing_newline=True)
_JINJA.filters |= {
    "tojson": lambda value, indent=None: json.dumps(to_data(value), indent=indent, ensure_ascii=False),
    "fromjson": json.loads,
    "sum": _sum,
    "to_datetime": _to_datetime,
    "strftime": lambda value, pattern: value.strftime(pattern),
}
_JINJA.tests |= {name: _JINJA.tests[name.lower()] for name in ("None", "True", "False")}
_JINJA.globals = {"range": range, "dict": dict, "now": lambda: datetime(2026, 1, 1, tzinfo=UTC)}


def to_data(value: Any) -> Any:
    """Return a value as JSON data. An undefined value anywhere in it is `UndefinedName`."""
    match value:
        case StrictUndefined():
            str(value)  # raises
        case Mapping():
            return {str(key): to_data(entry) for key, entry in value.items()}
        case str() | int() | float() | bool() | None:
            return value
        case datetime():
            return value.isoformat()
        case _ if isinstance(value, Iterable):
            return [to_data(entry) for entry in value]
    raise EvaluationFailure("TemplateError", f"no data: {type(value).__name__}")


@lru_cache(10_000)
def _expression(text: str) -> nodes.Expr | None:
    """Return the expression if the text is one whole `{{ expression }}`, blanks around it aside."""
    match _JINJA.parse(text.strip()).body:
        case [nodes.Output(nodes=[nodes.Expr() as only])] if not isinstance(only, nodes.TemplateData):
            return only
    return None


@lru_cache(10_000)
def _compiled(text: str) -> TemplateExpression | Any:
    if _expression(text) is None:
        return _JINJA.from_string(text).render
    return _JINJA.compile_expression(text.strip()[2:-2].strip("-"), undefined_to_none=False)


def evaluate(text: str, names: Names) -> Any:
    """Return the value of a template: of its own type if it is a whole expression, else text."""
    try:
        return to_data(_compiled(text)(dict(names)))
    except UndefinedError as error:
        raise EvaluationFailure("UndefinedName", str(error)) from error
    except EvaluationFailure:
        raise
    except Exception as error:
        raise EvaluationFailure("TemplateError", str(error)) from error


def render(value: Any, names: Names) -> Any:
    """Evaluate the templates at any depth of a value; keys are never templates."""
    match value:
        case str():
            return evaluate(value, names) if "{" in value else value
        case dict():
            return {key: render(entry, names) for key, entry in value.items()}
        case list():
            return [render(entry, names) for entry in value]
    return value


def condition_holds(value: Any, names: Names) -> bool:
    """Return whether `if`, `until` or `retry.if` is true: the value counts, not its text."""
    return bool(render(value, names))


@lru_cache(10_000)
def _parts_read(guard: str, name: str) -> frozenset[str]:
    """Return what a guard reads of a name: `success` for `result.success`, empty for the name."""
    tree = _JINJA.parse(guard)
    parts = {"" for node in tree.find_all(nodes.Name) if node.name == name}
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        match node:
            case nodes.Getattr(node=nodes.Name(name=owner), attr=part) if owner == name:
                parts.add(part)
            case nodes.Getitem(node=nodes.Name(name=owner), arg=nodes.Const(value=str() as part)) if (
                owner == name
            ):
                parts.add(part)
    return frozenset(parts)


def is_error_aware(guard: str) -> bool:
    """Return whether a guard reads `error`, `result.success` or `result.error` (section 2)."""
    aware = _parts_read(guard, "error") or _parts_read(guard, "result") & {"success", "error"}
    return guard == "error" or bool(aware)


def guard_is_true(guard: Any, names: Names) -> bool:
    """Evaluate a guard. After a success a guard that reads a part of `error` is not true (section 2)."""
    if guard in ("default", "error"):
        return guard == "default" or names["error"] is not None
    try:
        return bool(evaluate(guard, names))
    except EvaluationFailure:
        if names["error"] is None and _parts_read(guard, "error") - {""}:
            return False
        raise
