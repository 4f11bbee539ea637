"""The pages of a callback's link: the form, and a sentence if there is nothing to answer.

They have no script, load nothing, and contain neither a token nor the address, so no other site learns them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import Response

from noetl.api.callback_form.fields import form_fields
from noetl.api.http.openapi import HTML_TYPE
from noetl.api.http.problems import Problem
from noetl.api.service.inbox_views import CallbackQuestion
from noetl.executor.model.json_values import begin_and_measure
from noetl.executor.model.large_json import is_large
from noetl.planner.diagnostics.terminal_text import to_printable, to_printable_lines

MAX_TITLE = 500
MAX_DETAILS = 20_000
"""How many characters of the details the page shows. The JSON of the address has all of them."""

MAX_ROWS = 100
"""How many members of the details are rows of a table. Details with more are shown as JSON."""

_HEADLINES = {
    "unknown-token": "Unknown link",
    "closed": "No answer is needed",
    "answered-otherwise": "Answered already",
    "too-many-requests": "Too many requests",
}


def question_page(
    question: CallbackQuestion,
    status: int = 200,
    typed: Mapping[str, str] | None = None,
    problem: Problem | None = None,
) -> Response:
    """Return the form of a question. After a refusal it has what was typed, and the problem at each field."""
    listed = [] if problem is None else problem.extras.get("fields", [])
    errors = {entry["name"]: entry["message"] for entry in listed}
    fields = form_fields(question, typed or {}, errors)
    names = {field.name for field in fields}
    remarks = [to_printable(message) for name, message in errors.items() if name not in names]
    if problem is not None and not errors:
        remarks = [_sentence(problem.detail)]
    rows, text = _describe_details(question.details)
    return _page(
        status,
        title=_cut(question.title or "A question", MAX_TITLE),
        rows=rows,
        text=text,
        fields=fields,
        remarks=remarks[:10],
        is_refused=problem is not None,
        expires=_format_time(question.expires_at),
        message=None,
    )


def accepted_page() -> Response:
    """Return the page after an answer."""
    return _message_page(202, "Thank you", "Your answer was accepted. You can close this page.")


def problem_page(problem: Problem) -> Response:
    """Return the page that says why there is no form."""
    headline = _HEADLINES.get(problem.slug or "", problem.title)
    response = _message_page(problem.status, headline, _sentence(problem.detail))
    response.headers.update(problem.headers or {})
    return response


def _message_page(status: int, title: str, message: str) -> Response:
    return _page(
        status,
        title=title,
        message=message,
        rows=[],
        text=None,
        fields=[],
        remarks=[],
        is_refused=False,
        expires=None,
    )


def _page(status: int, **names: Any) -> Response:
    style = _read("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    )
    safe_style = Markup(style)  # noqa: S704  The style is a file of this package.
    html = _template().render(style=safe_style, **names)
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
    }
    return Response(html.encode("utf-8", "replace"), status, headers, HTML_TYPE)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_read("page.html"))


@cache
def _read(name: str) -> str:
    return (files("noetl.api.callback_form") / name).read_text("utf-8")


def _describe_details(details: Any) -> tuple[list[tuple[str, str]], str | None]:
    """Return the details as rows of a table, or as one text. Long ones are cut."""
    if details is None:
        return [], None
    if isinstance(details, dict) and len(details) <= MAX_ROWS:
        left = MAX_DETAILS
        rows = []
        for name, value in details.items():
            shown = _write(value, max(left, 0))
            left -= len(shown)
            rows.append((_cut(name, MAX_TITLE), shown))
        return rows, None
    return [], _write(details, MAX_DETAILS)


def _write(value: Any, length: int) -> str:
    """Return a value as text with its lines. A large one is not indented: blanks could take all memory."""
    if isinstance(value, str):
        text, total = value[: length + 1], len(value)
    elif is_large(value):
        text, total = begin_and_measure(value, length + 1)
    else:
        text = json.dumps(value, ensure_ascii=False, indent=2)
        total = len(text)
    return _add_mark(to_printable_lines(text[: length + 1]), total, length)


def _cut(text: str, length: int) -> str:
    """Return a text on one line."""
    return _add_mark(to_printable(text[: length + 1]), len(text), length)


def _add_mark(printable: str, total: int, length: int) -> str:
    if max(len(printable), total) <= length:
        return printable
    return f"{printable[:length]}… ({max(len(printable), total):,} characters)"


def _sentence(text: str) -> str:
    printable = _cut(text, MAX_TITLE)
    return f"{printable[:1].upper()}{printable[1:]}".rstrip(".") + "."


def _format_time(text: str | None) -> str | None:
    return None if text is None else f"{text[:10]} {text[11:16]} UTC"
