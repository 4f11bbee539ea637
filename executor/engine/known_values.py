"""Values of which a part may be unknown, and templates over them.

A template is evaluated if all that it reads is known. Otherwise its value is unknown, and its text stands for
it, in which the expressions that have a value are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from noetl.executor.model.json_length import TooLongError
from noetl.executor.security.redaction import MASK
from noetl.executor.security.secret_sources import SecretReference
from noetl.planner.frozen import frozen
from noetl.planner.templates.budget import MAX_TEXT, LimitExceeded
from noetl.planner.templates.evaluator import to_text
from noetl.planner.templates.template import (
    EvaluationError,
    Expression,
    Template,
    has_template,
    is_true,
    parse_template,
)

_MAX_SEARCHED = 10_000
"""How many parts of a value are searched for unknown ones. A value with more of them counts as unknown."""


@frozen
class UnknownValue:
    """A value that only a run knows. `text` is the template that gives it."""

    text: str


def evaluate(value: Any, names: Mapping[str, Any], write: Callable[[Any], str] = to_text) -> Any:
    """Return a value with its templates evaluated, at any depth. Parts of the result may be unknown.

    `write` returns the text of a value within a longer text, or raises TooLongError.

    >>> evaluate({"a": "{{ n + 1 }}", "b": "{{ m }} of {{ n }}"}, {"n": 1, "m": UnknownValue("{{ m }}")})
    {'a': 2, 'b': UnknownValue(text='{{ m }} of 1')}

    Raises:
        EvaluationError: a template has no value, although all that it reads is known.
    """
    if isinstance(value, str):
        return _evaluate_text(value, names, write) if has_template(value) else value
    if isinstance(value, Mapping):
        return {key: evaluate(item, names, write) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [evaluate(item, names, write) for item in value]
    return value


def evaluate_guard(guard: str, names: Mapping[str, Any]) -> bool | None:
    """Return whether a guard is true, or None if that is unknown.

    Raises:
        EvaluationError: as `evaluate`.
    """
    value = evaluate(guard, names)
    return None if isinstance(value, UnknownValue) else is_true(value)


def is_known(value: Any) -> bool:
    """Return whether no part of a value is unknown.

    >>> is_known([1, {"a": None}]), is_known({"a": [UnknownValue("{{ x }}")]})
    (True, False)
    """
    remaining, parts = _MAX_SEARCHED, [value]
    while parts:
        part = parts.pop()
        remaining -= 1
        if isinstance(part, UnknownValue) or remaining < 0:
            return False
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, list | tuple):
            parts += part
    return True


def _evaluate_text(text: str, names: Mapping[str, Any], write: Callable[[Any], str]) -> Any:
    template = parse_template(text)
    if template.is_expression or template.parts is None:
        if _reads_known(template, names):
            return template.evaluate(names.__getitem__)
        return _find_argument(template, names) or UnknownValue(text.strip())
    is_all_known = _reads_known(template, names)
    filled: list[str] = []
    left = MAX_TEXT
    for part in template.parts:
        filled.append(part if isinstance(part, str) else _fill_in(part, names, write))
        left -= len(filled[-1])
        if left < 0 and not is_all_known:
            return UnknownValue(text)
        if left < 0:
            raise EvaluationError("LimitExceeded", f"the text is longer than {MAX_TEXT:,} characters")
    joined = "".join(filled)
    return joined if is_all_known else UnknownValue(joined)


def _find_argument(template: Template, names: Mapping[str, Any]) -> UnknownValue | None:
    """Return an unknown argument of a task, which is shown as the template at its call."""
    path = template.access_path or ()
    value = _read(path, names) if path[:1] == ("args",) else None
    return value if isinstance(value, UnknownValue) else None


def _fill_in(part: Expression, names: Mapping[str, Any], write: Callable[[Any], str]) -> str:
    """Return the text of an expression within a text: its value, or its source."""
    value = _evaluate_text("{{ " + part.source.strip() + " }}", names, write)
    if isinstance(value, UnknownValue):
        return value.text
    try:
        return write(value)
    except (TooLongError, LimitExceeded) as problem:
        message = f"{{{{ {part.source.strip()} }}}}: {problem}"
        raise EvaluationError("LimitExceeded", message) from None


def _reads_known(template: Template, names: Mapping[str, Any]) -> bool:
    return all(is_known(_read(path, names)) for path in template.reads)


def _read(path: tuple[str, ...], names: Mapping[str, Any]) -> Any:
    """Return the value of an access path as far as it leads, for the search of unknown parts."""
    value = names.get(path[0])
    for key in path[1:]:
        if not isinstance(value, Mapping) or key not in value:
            return value
        value = value[key]
    return value


def shown_value(value: Any) -> Any:
    """Return a value as JSON data. What is unknown is the text of its template."""
    if isinstance(value, UnknownValue):
        return value.text
    if isinstance(value, SecretReference):
        return MASK
    if isinstance(value, Mapping):
        return {key: shown_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_value(item) for item in value]
    return value
