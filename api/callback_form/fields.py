"""The fields of the form: a control for each declared field, and the answer that a submitted form means.

Problem: a form has only texts, and a declared field has a type. What was typed must stay if it does not fit.

Algorithm: each text is read as the type of its field. A text that does not fit stays a text, so the check of
the answer refuses it and names the field.

Limits: an empty text is no value, except for a field of type string with a text as default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from noetl.api.http.problems import Problem
from noetl.api.http.requests import decode_json
from noetl.api.service.inbox_views import AnswerChoice, CallbackQuestion
from noetl.executor.errors import RejectedError
from noetl.executor.model.declared_values import DeclaredFields
from noetl.executor.model.json_values import write_json
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen
from noetl.planner.plan import Input

ANSWER, JSON = "answer", "json"
"""Names of the fields if the callback declares none: the choice, and another value as JSON."""

MAX_RADIO_OPTIONS = 7
MAX_SHOWN_LABEL = 200

_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,300}", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d{1,300})?([eE][+-]?\d{1,4})?", re.ASCII)
_HINTS = {
    "integer": "A whole number",
    "number": "A number",
    "object": "A JSON object",
    "array": "A JSON array",
}
_HINT_OF_ANY = "JSON, or text"

_Choices = Mapping[tuple[str | None, str], AnswerChoice]
"""The choices by the name of their field and the JSON of their value."""


@frozen
class FieldOption:
    """A value that can be chosen, and where it leads, or an empty text if the plan does not say it."""

    value: str
    label: str
    leads_to: str
    is_chosen: bool


@frozen
class FormField:
    """A field of the form. `control` is `radio`, `select`, `line` or `text`."""

    name: str
    control: str
    label: str
    hint: str
    text: str
    required: bool
    options: tuple[FieldOption, ...]
    error: str


def form_fields(
    question: CallbackQuestion, typed: Mapping[str, str], errors: Mapping[str, str]
) -> list[FormField]:
    """Return the fields of a form.

    `typed` are the texts of the form that was sent, and `errors` are its problems.
    """
    # In reverse, so that the first choice of a value stays.
    choices = {(choice.field, write_json(choice.value)): choice for choice in reversed(question.choices)}
    if question.answer is None:
        return _free_fields(choices, typed, errors)
    fields = DeclaredFields.of_answer(question.answer).fields
    return [
        _declared_field(name, field, choices, typed.get(name), errors.get(name, ""))
        for name, field in fields.items()
    ]


def answer_from_form(typed: Mapping[str, str], declared: Mapping[str, Mapping[str, Any]] | None) -> Any:
    """Return the answer that a submitted form means.

    >>> answer_from_form({"n": "7", "ok": "true"}, {"n": {"type": "integer"}, "ok": {"type": "boolean"}})
    {'n': 7, 'ok': True}

    Raises:
        RejectedError: `invalid_answer`, if a form without declared fields has no value.
    """
    if declared is None:
        return _free_answer(typed)
    fields = DeclaredFields.of_answer(declared).fields
    answer: dict[str, Any] = {}
    for name, text in typed.items():
        field = fields.get(name)
        if field is None:
            answer[name] = text
        elif text or (field.type == "string" and field.enum is None and isinstance(field.default, str)):
            answer[name] = _read_value(field, text)
    return answer


def _declared_field(name: str, field: Input, choices: _Choices, typed: str | None, error: str) -> FormField:
    values = field.enum or ((True, False) if field.type == "boolean" else ())
    default = "" if field.required or field.default is None else _write_value(field, field.default)
    chosen = default if typed is None else typed
    options = [_make_option(value, name, choices, chosen) for value in values]
    if options and not field.required and field.default is None:
        options.append(FieldOption("", "No answer", "", is_chosen=not chosen))
    if options:
        control = "radio" if len(options) <= MAX_RADIO_OPTIONS else "select"
    else:
        control = "line" if field.type in ("integer", "number") else "text"
    hint = "" if options else _HINTS.get(field.type, _HINT_OF_ANY if field.type == "any" else "")
    words = [_shown(field.description).rstrip(".")] if field.description else []
    return FormField(
        name,
        control,
        _shown(name),
        ". ".join([*words, *([hint] if hint else [])]),
        chosen,
        field.required,
        tuple(options),
        _shown(error),
    )


def _free_fields(choices: _Choices, typed: Mapping[str, str], errors: Mapping[str, str]) -> list[FormField]:
    chosen = typed.get(ANSWER, "")
    options = [_make_option(value, None, choices, chosen) for value in (True, False)]
    options.append(FieldOption(JSON, "Another value, as JSON", "", is_chosen=chosen == JSON))
    choice = FormField(
        ANSWER, "radio", "Answer", "", chosen, True, tuple(options), _shown(errors.get(ANSWER, ""))
    )
    text = FormField(
        JSON, "text", "Another value", "JSON", typed.get(JSON, ""), False, (), _shown(errors.get(JSON, ""))
    )
    return [choice, text]


def _free_answer(typed: Mapping[str, str]) -> Any:
    unknown = [name for name in typed if name not in (ANSWER, JSON)]
    if unknown:
        message = f"unknown field `{unknown[0]}`; send `{ANSWER}`, which is true, false or `{JSON}`"
        raise _invalid_answer(unknown[0], message)
    match typed.get(ANSWER, ""):
        case "true":
            return True
        case "false":
            return False
        case "json":
            try:
                return decode_json(typed.get(JSON, "").encode(), "The value")
            except Problem as problem:
                raise _invalid_answer(JSON, problem.detail) from problem
    raise _invalid_answer(ANSWER, "choose an answer")


def _invalid_answer(name: str, message: str) -> RejectedError:
    return RejectedError("invalid_answer", message, fields=[{"name": name, "message": message}])


def _make_option(value: Any, field: str | None, choices: _Choices, chosen: str) -> FieldOption:
    text = write_json(value)
    labels = {"true": "Yes", "false": "No"} if isinstance(value, bool) else {}
    label = labels.get(text) or (value if isinstance(value, str) else text)
    choice = choices.get((field, text))
    is_chosen = chosen in (text, value) if isinstance(value, str) else chosen == text
    return FieldOption(text, _shown(label), "" if choice is None else _describe_target(choice), is_chosen)


def _describe_target(choice: AnswerChoice) -> str:
    if choice.targets:
        return f"leads to {', '.join(map(_shown, choice.targets))}"
    return f"takes case {choice.case + 1}, the last of this branch"


def _read_value(field: Input, text: str) -> Any:
    """Return a text as the type of its field, or as it is if it does not fit."""
    if field.enum is not None:
        written = {write_json(value): value for value in field.enum}
        return written.get(text, text)
    match field.type:
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
        case "integer" if _WHOLE_NUMBER.fullmatch(text.strip()):
            return int(text)
        case "number" if _NUMBER.fullmatch(text.strip()):
            number = int(text) if _WHOLE_NUMBER.fullmatch(text.strip()) else float(text)
            return number if math.isfinite(number) else text
        case "object" | "array" | "any":
            try:
                return decode_json(text.encode(), "The value")
            except Problem:
                return text
    return text.replace("\r\n", "\n")


def _write_value(field: Input, value: Any) -> str:
    is_text = field.type == "string" and field.enum is None and isinstance(value, str)
    return value if is_text else write_json(value)


def _shown(text: str) -> str:
    printable = to_printable(text)
    return printable if len(printable) <= MAX_SHOWN_LABEL else f"{printable[: MAX_SHOWN_LABEL - 1]}…"
