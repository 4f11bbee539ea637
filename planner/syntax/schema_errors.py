"""What is wrong with the shape of a construct, in the words of the language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from noetl.planner.diagnostics.wording import (
    abbreviate,
    as_code,
    describe_value,
    join_words,
    quote_or_describe,
)
from noetl.planner.syntax.models import (
    ActionEntry,
    Case,
    DocumentPath,
    InputDeclaration,
    Loop,
    Model,
    Playbook,
    Repeat,
    RetryPolicy,
    Step,
    StepEntry,
    Task,
    TaskEntry,
)

MINIMAL = "the smallest playbook: {name: hello, steps: [{name: greet, run: [{action: log, message: hello}]}]}"


class SchemaViolation(NamedTuple):
    """The parts of a diagnostic. `at_key` is true where the key, not the value, has to be changed."""

    code: str
    message: str
    hint: str | None = None
    at_key: bool = False


_NOUNS: Mapping[type[Model], str] = {
    Playbook: "the playbook",
    InputDeclaration: "an input",
    Step: "a step",
    Task: "a task",
    Case: "a case",
    ActionEntry: "an action",
    TaskEntry: "a call of a task",
    StepEntry: "`{step: NAME}`",
    Loop: "`loop`",
    Repeat: "`repeat`",
    RetryPolicy: "`retry`",
}
_ITEMS: Mapping[str, type[Model]] = {"steps": Step, "tasks": Task, "rule": Case}
_PARTS: Mapping[str, type[Model]] = {"loop": Loop, "repeat": Repeat, "retry": RetryPolicy}
_ENTRIES: Mapping[str, type[Model]] = {"action": ActionEntry, "task": TaskEntry, "step": StepEntry}

ENTRY_KEYS = frozenset(_ENTRIES)

_NEXT = "what comes next is written in `rule`"
_GUARD = "the guard of a case is its `case`"
_WORK = "work stands in `run`"
_ON_ACTIONS = "write it on the actions of the task"
_MISPLACED: Mapping[type[Model], Mapping[str, str]] = {
    Playbook: {
        "vars": "first values of names are `variables`",
        "env": "configuration is `environment`",
        "params": "what a run takes is declared in `input`",
        "parameters": "what a run takes is declared in `input`",
        "outputs": "the result is `output`",
        "title": "write `name`",
    },
    Step: {
        **dict.fromkeys(
            ("next", "then", "goto", "transitions", "switch", "on_success", "on_failure", "catch"), _NEXT
        ),
        **dict.fromkeys(("action", "task", "tasks", "actions", "do", "call"), _WORK),
        **dict.fromkeys(("if", "when"), "a guard stands in a case of the `rule` that leads here"),
        **dict.fromkeys(
            ("needs", "depends_on", "dependencies"), "steps are led to: name this one in their `rule`"
        ),
        "as": "a result is saved by `as` on an action of `run`",
        "with": "`with` stands beside `task` in `run`",
        "id": "write `name`",
    },
    Task: {
        **dict.fromkeys(("steps", "actions", "do", "tasks"), _WORK),
        **dict.fromkeys(("retry", "timeout", "loop"), "write it on the actions"),
        **dict.fromkeys(("next", "then", "rule"), "tasks do not lead anywhere: `rule` belongs to a step"),
        **dict.fromkeys(
            ("args", "input", "params"), "a task is given its `args` by `with`, where it is called"
        ),
    },
    Case: {
        **dict.fromkeys(("if", "when", "condition"), _GUARD),
        **dict.fromkeys(("then", "next", "goto", "do", "steps", "step"), "what follows stands in `run`"),
        **dict.fromkeys(("default", "else"), "write `case: default`"),
    },
    TaskEntry: {
        **dict.fromkeys(("args", "params", "vars", "input"), "a task is given its `args` by `with`"),
        **dict.fromkeys(("retry", "timeout"), _ON_ACTIONS),
    },
    StepEntry: {
        "with": "a step takes no arguments: save what it needs by `set`",
        "if": "a condition is the guard of the case",
    },
    RetryPolicy: {"max": "write `attempts`", "count": "write `attempts`", "times": "write `attempts`"},
    Loop: {"over": "write `items`", "in": "write `items`", "until": "`until` belongs to `repeat`"},
    Repeat: {"while": "write `until`, the condition that ends it", "delay": "write `every`"},
}

_KINDS: Mapping[str, tuple[str, ...]] = {
    "string_type": ("text",),
    "bool_type": ("true", "false"),
    "int_type": ("a whole number",),
    "int_from_float": ("a whole number",),
    "float_type": ("a number",),
    "list_type": ("a list",),
    "dict_type": ("a mapping",),
    "model_type": ("a mapping",),
}
_FEW = 6
_DURATIONS = "durations are `500ms`, `5s`, `2m`, `1h`, `3d` or seconds as a number"


def model_at(path: DocumentPath, value: object) -> type[Model]:
    """The model of the mapping `value` that stands at `path`."""
    match path:
        case ():
            return Playbook
        case ("input", _):
            return InputDeclaration
        case (*_, "run", int()) if isinstance(value, dict):
            return next((model for key, model in _ENTRIES.items() if key in value), ActionEntry)
        case (*_, str(key), int()) if key in _ITEMS:
            return _ITEMS[key]
        case (*_, str(key)) if key in _PARTS:
            return _PARTS[key]
    raise ValueError(f"no construct stands at {path}")


def keys_of(model: type[Model]) -> list[str]:
    """The keys that a construct takes, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]


def meant(word: str, model: type[Model]) -> str | None:
    """The key of the construct that an unknown one is a slip of, if there is one."""
    if word in _MISPLACED.get(model, ()):
        return None
    found = get_close_matches(word, keys_of(model), n=1, cutoff=0.7)
    return found[0] if found else None


def meant_entry(value: object) -> tuple[str, str] | None:
    """The key of an entry that is a slip of `action`, `task` or `step`, and which of them; None if there is none."""
    for key in value if isinstance(value, dict) else ():
        if found := get_close_matches(key, _ENTRIES, n=1, cutoff=0.7):
            return key, found[0]
    return None


def unknown_key(key: str, model: type[Model]) -> SchemaViolation:
    """A key that the construct does not have."""
    keys = keys_of(model)
    hint = _MISPLACED.get(model, {}).get(key)
    if slip := meant(key, model):
        hint = f"did you mean `{slip}`?"
    elif hint is None and len(keys) <= _FEW:
        hint = f"it takes {join_words(as_code(keys), 'and')}"
    return SchemaViolation("NP010", f"{_NOUNS[model]} has no key `{abbreviate(key)}`", hint, at_key=True)


def missing_key(key: str, model: type[Model]) -> SchemaViolation:
    """A key that the construct cannot do without."""
    return SchemaViolation(
        "NP011", f"{_NOUNS[model]} needs `{key}`", MINIMAL if key == "steps" else None, at_key=True
    )


def not_an_entry(value: object) -> SchemaViolation:
    """Something in a `run` that is neither a name nor has `action`, `task` or `step`."""
    if not isinstance(value, dict):
        message = f"an entry of `run` is an action, a task or a name, not {describe_value(value)}"
        return SchemaViolation("NP012", message, "write `action: TYPE` and its parameters, or `task: NAME`")
    if slip := meant_entry(value):
        return SchemaViolation(
            "NP010",
            f"an entry of `run` has no key `{abbreviate(slip[0])}`",
            f"did you mean `{slip[1]}`?",
            at_key=True,
        )
    hint = "begin it with `action: TYPE`, and write the parameters beside it"
    if len(value) == 1:
        key = abbreviate(next(iter(value)))
        hint = f"if `{key}` is a type, write `action: {key}` and the parameters beside it"
    return SchemaViolation("NP011", "an entry of `run` needs `action:` or `task:`", hint)


def describe_wrong_value(
    path: DocumentPath, value: object, errors: Sequence[Mapping[str, Any]]
) -> SchemaViolation:
    """The mistake of the value at `path`; the errors say why it is none of the alternatives there."""
    key = next(part for part in reversed(path) if isinstance(part, str))
    kind, context = errors[0]["type"], errors[0].get("ctx", {})
    if kind == "too_short":
        return SchemaViolation(
            "NP011" if path == ("steps",) else "NP012", f"`{key}` needs at least one entry", at_key=True
        )
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        found = get_close_matches(value, choices, n=1, cutoff=0.6) if isinstance(value, str) else []
        hint = f"did you mean `{found[0]}`?" if found else None
        return SchemaViolation(
            "NP012", f"`{key}` takes {join_words(as_code(choices))}, not {quote_or_describe(value)}", hint
        )
    if kind == "value_error":
        return SchemaViolation(
            "NP012", f"`{key}` takes a duration, not {quote_or_describe(value)}", _DURATIONS
        )
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']:g}" if "ge" in context else f"at most {context['le']:g}"
        return SchemaViolation("NP012", f"`{key}` is {bound}")
    kinds = list(
        dict.fromkeys(word for error in errors for word in _KINDS.get(error["type"], ("another value",)))
    )
    if key == "retry":
        kinds.insert(0, "a number of attempts")
    message = f"{_subject(path, key)} {join_words(kinds)}, not {describe_value(value)}"
    return SchemaViolation("NP012", message, _way_out(path, kinds, value))


def _subject(path: DocumentPath, key: str) -> str:
    match path:
        case ("input", str(name)):
            return f"the input `{abbreviate(name)}` is a type or"
        case (*_, str(parent), int()) if parent in _ITEMS:
            return f"{_NOUNS[_ITEMS[parent]]} is"
    return f"`{key}` takes"


def _way_out(path: DocumentPath, kinds: Sequence[str], value: object) -> str | None:
    if value is None:
        return "write a value after the key, or leave the key out"
    if path == ("steps",) and isinstance(value, dict):
        return "begin each step with `- name: NAME`"
    if "text" in kinds and isinstance(value, bool | int | float):
        return "write it in quotes"
    if "a list" in kinds and isinstance(value, str | dict):
        return "begin each entry with `- `, or write the list in brackets"
    if "true" in kinds and isinstance(value, str):
        truth = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        return f"write `{truth[value.lower()]}`" if value.lower() in truth else None
    if {"a whole number", "a number"} & set(kinds) and isinstance(value, str) and value.strip().isdecimal():
        return "write it without quotes"
    return None
