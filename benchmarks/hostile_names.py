"""Time and memory of every name that an expression may use: `python -m benchmarks.hostile_names`.

The expressions are generated from the lists of what is allowed, so a new filter is measured without an entry
here. Each name is applied to values of several kinds, once and in a loop. The size of the value, or the
number of rounds, starts above the budget and is halved until the expression is within it. So the largest
expression that passes and the smallest that is refused are both measured. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from benchmarks import report
from noetl.planner.templates import budget
from noetl.planner.templates.filters import FILTERS
from noetl.planner.templates.functions import Function
from noetl.planner.templates.sandbox import CALLABLE_ATTRIBUTES, FUNCTIONS, JINJA_FILTERS, JINJA_TESTS
from noetl.planner.templates.template import EvaluationError, parse_template

SECONDS = 0.1
"""How much time of the processor an expression may take."""
BYTES = 64 * 1024 * 1024
"""How much memory an expression may take."""
LARGEST = 2**17
SMALLEST = 2**7
REPETITIONS = 4
"""How many times an expression is repeated that takes half of the limit or more. The shortest time counts."""

SUBJECTS: dict[str, Callable[[int], Any]] = {
    "numbers": lambda n: list(range(n)),
    "decimals": lambda n: [i / 7 for i in range(n)],
    "words": lambda n: [f"Word {i}" for i in range(n)],
    "rows": lambda n: [{"id": i, "name": f"n{i % 97}", "tags": ["a", "b"]} for i in range(n // 4)],
    "lists": lambda n: [[i, i] for i in range(n // 4)],
    "object": lambda n: {f"Key {i}": i for i in range(n)},
    "digits": lambda n: [10**1200 + i for i in range(n // 64)],
    "text": lambda n: "aB c-" * n,
    "letters": lambda n: "x" * (8 * n),
    "markup": lambda n: '<&"\n' * n,
    "wide": lambda n: "é 😀ß" * n,
    "number text": lambda n: "9" * n,
    "JSON": lambda n: json.dumps([{"a": i, "b": [1.5, "x"]} for i in range(n // 8)]),
}
"""Functions that create a value of about a size, by kind."""
SHORT_SUBJECTS = {
    "short text": "Some <text> with 50 characters, of 7 words and more.",
    "number": 12345,
    "large number": 10**1200,
    "decimal": 0.1,
    "row": {"id": 1, "name": "n1", "tags": ["a", "b"]},
    "short list": [3, 1, 2, 3],
    "page": "Some text with many words. " * 40,
    "list": list(range(256)),
    "moment": datetime(2026, 1, 31, tzinfo=UTC),
    "time": "2026-01-31T10:15:00+00:00",
    "JSON": '{"a": [1, 2.5, null], "b": {"c": "text"}}',
}
"""Values to which a name is applied in each round of a loop."""
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "batch": ("(1)", "(1000, 'x')"),
    "b64decode": ("",),
    "center": ("(20)", "(100000)"),
    "dictsort": ("", "(by='value')"),
    "filesizeformat": ("", "(true)"),
    "groupby": ("('id')", "('name')"),
    "indent": ("", "(1000)", "('ab', true, true)"),
    "int": ("", "(0, 16)"),
    "join": ("", "('--')", "(attribute='id')"),
    "map": ("('string')", "(attribute='id')", "('default', 'x')", "('wordcount')", "('tojson')"),
    "max": ("", "(attribute='id')"),
    "min": ("", "(attribute='id')"),
    "regex_replace": ("('[a-z]', 'y')", "('(a+)(b*)', '\\\\2')"),
    "regex_search": ("('(a|b)*z$')", "('x')"),
    "reject": ("('odd')", "('in', [1, 2])", "('none')"),
    "rejectattr": ("('id')", "('name', 'eq', 'n1')"),
    "replace": ("('a', 'b')", "('x', 'yyyy')"),
    "round": ("", "(2)", "(-3, 'floor')"),
    "select": ("('odd')", "('in', [1, 2])", "('string')"),
    "selectattr": ("('id')", "('name', 'eq', 'n1')"),
    "slice": ("(1)", "(1000)"),
    "sort": ("", "(reverse=true, case_sensitive=true)", "(attribute='id')", "(attribute='name,id')"),
    "strftime": ("('%d.%m.%Y %H:%M')", "('%c' * 90)"),
    "sum": ("", "(attribute='id')", "(start=[])"),
    "to_datetime": ("", "('%Y-%m-%dT%H:%M:%S%z')"),
    "tojson": ("", "(indent=8)"),
    "trim": ("", "('xy <')"),
    "truncate": ("", "(10, true)", "(60, false, '...' * 20)"),
    "unique": ("", "(attribute='id')"),
    "wordwrap": ("", "(1)", "(9, false)"),
    # Tests.
    "divisibleby": ("(7)",),
    **dict.fromkeys(["==", "!=", "<", "<=", ">", ">=", "in", "sameas"], ("(subject)", "(other)")),
    **dict.fromkeys(["eq", "equalto", "ne", "ge", "gt", "greaterthan"], ("(subject)", "(other)")),
    **dict.fromkeys(["le", "lessthan", "lt"], ("(subject)", "(other)")),
    # Methods.
    **dict.fromkeys(["count", "find", "index", "rfind", "rindex"], ("('x')", "('xyz')")),
    **dict.fromkeys(["startswith", "endswith", "removeprefix", "removesuffix"], ("('xx')", "(subject)")),
    **dict.fromkeys(["partition", "rpartition"], ("(' ')", "('xyz')")),
    **dict.fromkeys(["split", "rsplit"], ("()", "('x')", "(' ', 3)")),
    **dict.fromkeys(["strip", "lstrip", "rstrip"], ("()", "('xyaB <-c ')")),
    "get": ("('Key 1')", "('none', 1)"),
}
"""The arguments with which a name is called, if not without any."""
METHOD_ARGUMENTS = {"join": ("(subject)", "('abc')"), "replace": ("('a', 'b')", "('x', 'yyyy')")}
FUNCTION_CALLS = {
    "range": "range(size) | list",
    "dict": "dict(subject | list)",
    "now": "now()",
    "uuid": "uuid()",
}
OPERATORS = (
    *("subject + other", "subject - 3", "subject * 2", "2 * subject", "subject / 7", "subject // 7"),
    *("subject % 7", "subject ** 2", "-subject", "subject ~ other", "subject == other", "subject < other"),
    *("subject >= other", "3 in subject", "'zz' in subject", "subject in [other]", "subject not in other"),
    *("subject[1:]", "subject[::-1]", "subject[3]", "subject['id']", "subject.id", "[subject, subject]"),
    *("{subject: 1}", "{'a': subject, 'b': other}", "subject and other", "not subject", "subject if other"),
)


class NameUse(NamedTuple):
    """An expression that reads `subject`. It is evaluated once for a large value, or in a loop."""

    name: str
    expression: str
    kind: str
    in_loop: bool


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each name with the expressions that use it."""
    own_filters = [name for name in FILTERS if " " not in name]
    for name in sorted({*JINJA_FILTERS, *own_filters}):
        for arguments in ARGUMENTS.get(name, ("",)):
            yield f"| {name}", f"subject | {name}{arguments}"
    for name in JINJA_TESTS:
        for arguments in ARGUMENTS.get(name, ("",)):
            yield f"is {name}", _test(name, arguments)
    for name in sorted(CALLABLE_ATTRIBUTES):
        for arguments in METHOD_ARGUMENTS.get(name) or ARGUMENTS.get(name, ("()",)):
            yield f".{name}()", f"subject.{name}{arguments}"
    for name in sorted(FUNCTIONS):
        yield f"{name}()", FUNCTION_CALLS[name]
    for operator in OPERATORS:
        yield operator, operator


def _test(name: str, arguments: str) -> str:
    if name.isidentifier() and name != "in":
        return f"subject is {name}{arguments}"
    operand = arguments.strip("()")
    return f"[subject] | select('{name}', {operand}) | list"


def cases() -> Iterator[NameUse]:
    for name, expression in expressions():
        for kind in SUBJECTS:
            yield NameUse(name, expression, kind, in_loop=False)
        for kind in SHORT_SUBJECTS:
            yield NameUse(name, expression, kind, in_loop=True)


def text_of(case: NameUse, size: int) -> str:
    """Return the template of a case. In a loop, `size` is the number of rounds."""
    if case.in_loop:
        return f"{{% for i in range({size}) %}}{{% set x = {case.expression} %}}{{% endfor %}}"
    is_lazy = case.name.split()[-1] in (
        "batch",
        "map",
        "reject",
        "rejectattr",
        "select",
        "selectattr",
        "slice",
    )
    suffix = " | list | length" if is_lazy else ""
    return f"{{% set x = {case.expression}{suffix} %}}"


def evaluate(case: NameUse, size: int) -> tuple[float, int, int, str]:
    """Return the CPU seconds, the grown bytes and the units of an evaluation, and how it ended."""
    subject = SHORT_SUBJECTS[case.kind] if case.in_loop else SUBJECTS[case.kind](size)
    other = SHORT_SUBJECTS[case.kind] if case.in_loop else SUBJECTS[case.kind](size)
    names: dict[str, Any] = {
        "subject": subject,
        "other": other,
        "size": size,
        "now": Function(lambda: datetime.now(UTC)),
        "uuid": Function(lambda: "0b7a2cbb-7d27-4d0c-8a39-4f0a6a3c1d10"),
    }
    template = parse_template(text_of(case, size))
    with suppress(EvaluationError):  # compiles
        template.evaluate({**names, "subject": [], "other": [], "size": 1}.__getitem__)
    before = _peak_memory()
    started = time.thread_time()
    try:
        template.evaluate(names.__getitem__)
        result = "a value"
    except EvaluationError as error:
        result = error.type
    seconds = time.thread_time() - started
    return seconds, _peak_memory() - before, budget.used_units(), result


def _peak_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _evaluate_in_child(case: NameUse, size: int) -> tuple[float, int, int, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, json.dumps(evaluate(case, size)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    seconds, grown, units, result = json.loads(text)
    return seconds, grown, units, result


def measure(selected: Iterable[NameUse]) -> list[dict[str, Any]]:
    """Return a row for each case: its worst time and memory around the end of the budget.

    A case that fails for another reason counts as one that passes.
    """
    rows = []
    for case in selected:
        size = LARGEST
        row: dict[str, Any] = {"case": case, "seconds": 0.0, "bytes": 0, "refused": None, "passed": None}
        while size >= SMALLEST:
            seconds, grown, units, result = _evaluate_in_child(case, size)
            if seconds > SECONDS / 2:
                # Other programs of the machine only add to a time.
                repeated = (_evaluate_in_child(case, size)[0] for _ in range(REPETITIONS))
                seconds = min(seconds, *repeated)
            row["bytes"] = max(row["bytes"], grown)
            row["seconds"] = max(row["seconds"], seconds)
            if result == "LimitExceeded":
                row["refused"] = size
            else:
                row["passed"] = size
                row["units"] = units
                row["result"] = result
                break
            size //= 2
        rows.append(row)
    return rows


COLUMNS: Sequence[report.Column] = (
    ("expression", lambda row: row["case"].expression),
    ("value", lambda row: row["case"].kind),
    ("in a loop", lambda row: "yes" if row["case"].in_loop else ""),
    ("CPU", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("memory", lambda row: f"{row['bytes'] / 2**20:,.0f} MiB"),
    ("passes", lambda row: f"{row['passed']:,}" if row["passed"] else "-"),
    ("refused", lambda row: f"{row['refused']:,}" if row["refused"] else "-"),
)


def print_measurements(selected: Iterable[NameUse], share: float = 0.7) -> None:
    """Print the expressions that take this share of a limit."""
    rows = measure(selected)
    large = [row for row in rows if row["seconds"] > share * SECONDS or row["bytes"] > share * BYTES]
    print(f"{len(rows):,} expressions, {len(large):,} of them above {share:.0%} of a limit")
    print(report.table("Names of expressions", COLUMNS, sorted(large, key=lambda row: -row["seconds"])))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_names", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these names, such as `| sort`")
    parser.add_argument("--share", type=float, default=0.7, help="show what takes this share of a limit")
    options = parser.parse_args()
    print_measurements(
        (case for case in cases() if not options.names or case.name in options.names), options.share
    )


if __name__ == "__main__":
    main()
