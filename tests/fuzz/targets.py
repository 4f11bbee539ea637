"""The fuzzed functions: they take any bytes and raise if a promise about bad input is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from noetl.api.http.bodies import REQUEST_BODIES, parse_body
from noetl.api.http.problems import Problem
from noetl.api.http.requests import decode_json
from noetl.executor.actions import catalogue
from noetl.executor.model.json_values import MAX_DEPTH
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.render import CheckedFile, render_concise, render_full, render_json
from noetl.planner.templates.template import EvaluationError, TemplateProblem, parse_template

SCOPE: dict[str, Any] = {
    "number": 3,
    "text": "one two",
    "items": [1, "two", {"key": None}],
    "record": {"key": "value", "inner": {"list": [3, 1, 2]}},
    "flag": True,
    "nothing": None,
    "when": "2024-02-29T12:00:00Z",
}
"""The names that a fuzzed template may read."""


class BrokenPromiseError(Exception):
    """An input was neither accepted as promised nor refused as promised."""


class Target(NamedTuple):
    """A fuzzed function, and tokens that the fuzzer inserts into its input."""

    run: Callable[[bytes], None]
    tokens: tuple[str, ...]


def read_playbook(data: bytes) -> None:
    """Compile a playbook: there is a plan or an error, and each diagnostic can be shown in every format.

    Raises:
        BrokenPromiseError: there is neither a plan nor an error, or a position is outside of the text.
    """
    compilation = compile_playbook(data, catalogue())
    errors = [found for found in compilation.diagnostics if found.severity is Severity.ERROR]
    if (compilation.plan is None) != bool(errors):
        raise BrokenPromiseError(f"a plan: {compilation.plan is not None}, errors: {len(errors)}")
    text = data.decode("utf-8", "replace")
    files = [CheckedFile("fuzzed.yaml", text, compilation.diagnostics)]
    for rendered in (*render_full(files), *render_concise(files)):
        str(rendered)
    json.loads(render_json(files))
    if any(found.span.line > text.count("\n") + text.count("\r") + 2 for found in compilation.diagnostics):
        raise BrokenPromiseError("the position of a diagnostic is outside of the text")


def evaluate_template(data: bytes) -> None:
    """Evaluate a template: the value is JSON, or there is a named error.

    Raises:
        ValueError: the value is not JSON.
    """
    try:
        value = parse_template(data.decode("utf-8", "replace")).evaluate(SCOPE.__getitem__)
    except (TemplateProblem, EvaluationError):
        return
    json.dumps(value, allow_nan=False)


def parse_request_body(data: bytes) -> None:
    """Decode a body: it is refused with a problem, or it has the same value for every parser.

    Raises:
        BrokenPromiseError: the value changes when it is written and read again, or is too deep.
        ValueError: the value cannot be written in UTF-8.
    """
    try:
        value = decode_json(data, "The body")
    except Problem:
        return
    if json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) != value:
        raise BrokenPromiseError("the value changes when it is written and read again")
    if depth_of(value) > MAX_DEPTH:
        raise BrokenPromiseError(f"a body of depth {depth_of(value)} is accepted")
    for model in REQUEST_BODIES:
        try:
            parse_body(model, value)
        except Problem as problem:
            json.dumps(problem.detail)


def depth_of(value: object) -> int:
    """Return the number of nested lists and objects of a JSON value."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else [*outer, None])
    ]:
        depth += 1
    return depth


TARGETS: Mapping[str, Target] = {
    "reader": Target(
        read_playbook,
        ("name: ", "steps:", "- name: ", "run: ", "rule: ", "{{ ", " }}", "&a ", "*a", "!!str ", "|\n", "? "),
    ),
    "templates": Target(
        evaluate_template,
        (
            *("{{ ", " }}", "{% for x in items %}", "{% endfor %}", "{% if ", "{% endif %}", *SCOPE),
            *(" | ", "map(", "regex_search(", "range(", "loop.index", " ~ ", " * ", "10 ** ", ".format("),
        ),
    ),
    "bodies": Target(
        parse_request_body,
        (
            '"playbook":',
            '"input":',
            '"tags":',
            '"from":',
            "\\ud83d\\ude00",
            "1e30",
            "-0.0",
            "[[",
            "]]",
            "null",
        ),
    ),
}
