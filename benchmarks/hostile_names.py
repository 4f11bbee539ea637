"""Time and memory of every name that an expression may use: `python -m benchmarks.hostile_names`.

The expressions are generated from the lists of what is allowed, so a new filter is measured without an entry
here. Each name is applied to values of several kinds, once and in a loop. The size of the value, or the
number of rounds, starts above the budget and is halved until the expression is within it. So the largest
expression that passes and the smallest that is refused are both measured. Each runs in a process of its own.

Times are those of the processor in the thread, not of the clock. Other programs still slow a processor down,
since they share its caches and its cores. So a fixed piece of work is measured before and after each
evaluation, and its share of the fastest such work is the share by which the evaluation was slowed down.

`--dearest N` is a short sweep. It evaluates each expression only until a part of the budget is used, and
calculates the time of the whole budget from it. It then measures the N expressions that take longest.
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
from functools import partial
from statistics import median
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
ESTIMATED_UNITS = budget.BUDGET // 16
"""How many units are used at least to estimate the time of the whole budget."""
REPETITIONS = 4
"""How many times an expression is repeated that takes half of the limit or more. The median counts."""

SUBJECTS: dict[str, Callable[[int], Any]] = {
    "numbers": lambda n: list(range(n)),
    "decimals": lambda n: [i / 7 for i in range(n)],
    "shuffled": lambda n: [i * 1_000_003 % 2_000_003 / 7 for i in range(n)],
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


class UseEvaluation(NamedTuple):
    """The CPU seconds, the grown bytes and the units of an evaluation, and how it ended.

    `reference` is how many CPU seconds the reference work took next to it.
    """

    seconds: float
    grown: int
    units: int
    result: str
    reference: float

    @property
    def relative(self) -> float:
        """Return the time as a multiple of that of the reference work."""
        return self.seconds / self.reference


def _reference_seconds() -> float:
    """Return how long the reference work takes now: what filters do, in Python and in C."""
    started = time.thread_time()
    for start in range(0, 4_000, 20):
        texts = [f"Word {i}" for i in range(start, start + 20)]
        {text.upper(): len(text) for text in texts}
        " ".join(sorted(texts, reverse=True)).split("1")
    return time.thread_time() - started


def evaluate(case: NameUse, size: int) -> UseEvaluation:
    """Evaluate a case in this process."""
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
    _reference_seconds()
    references = [_reference_seconds() for _ in range(2)]
    before = _peak_memory()
    started = time.thread_time()
    try:
        template.evaluate(names.__getitem__)
        result = "a value"
    except EvaluationError as error:
        result = error.type
    seconds = time.thread_time() - started
    grown = _peak_memory() - before
    references += [_reference_seconds() for _ in range(2)]
    return UseEvaluation(seconds, grown, budget.used_units(), result, median(references))


def _peak_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _in_child(function: Callable[[], Any]) -> Any:
    """Return the JSON value that a function returns in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text)


def _evaluate_in_child(case: NameUse, size: int) -> UseEvaluation:
    return UseEvaluation(*_in_child(partial(evaluate, case, size)))


def _sizes(case: NameUse) -> Iterator[tuple[int, UseEvaluation]]:
    """Yield the sizes to measure, the largest first, with an evaluation of each.

    After the first size that passes, the last is the one that is expected to use the whole budget.
    """
    size = LARGEST
    while True:
        evaluation = _evaluate_in_child(case, size)
        yield size, evaluation
        if evaluation.result != "LimitExceeded" or size <= SMALLEST:
            break
        size //= 2
    if evaluation.result != "LimitExceeded" and size < LARGEST:
        size = int(size * min(0.99 * budget.BUDGET / evaluation.units, 2))
        yield size, _evaluate_in_child(case, size)


def measure(selected: Iterable[NameUse]) -> list[dict[str, Any]]:
    """Return a row for each case: its worst time and memory around the end of the budget.

    A case that fails for another reason counts as one that passes.
    """
    rows = []
    references = []
    for case in selected:
        row: dict[str, Any] = {"case": case, "relative": 0.0, "bytes": 0, "refused": None, "passed": None}
        for size, evaluation in _sizes(case):
            relative = evaluation.relative
            if evaluation.seconds > SECONDS / 2:
                repeated = (_evaluate_in_child(case, size).relative for _ in range(REPETITIONS))
                relative = median((relative, *repeated))
            references.append(evaluation.reference)
            row["bytes"] = max(row["bytes"], evaluation.grown)
            row["relative"] = max(row["relative"], relative)
            row["refused" if evaluation.result == "LimitExceeded" else "passed"] = size
        rows.append(row)
    fastest = _fastest(references)
    return [{**row, "seconds": row["relative"] * fastest} for row in rows]


def _fastest(references: Sequence[float]) -> float:
    """Return how long the reference work takes when other programs do not disturb it."""
    return sorted(references)[len(references) // 20]


def _estimate(case: NameUse) -> tuple[float, float]:
    """Return the time of the whole budget, in multiples of the reference work, and the time of that.

    The time of a case that ends at its largest size with few units is not extrapolated.
    """
    size = SMALLEST
    while True:
        evaluation = evaluate(case, size)
        units = evaluation.units
        is_last = evaluation.result == "LimitExceeded" or 2 * size > LARGEST
        if is_last or units >= ESTIMATED_UNITS:
            break
        while 2 * size <= LARGEST:
            size *= 2
            units *= 2
            if units >= ESTIMATED_UNITS:
                break
    is_extrapolated = ESTIMATED_UNITS // 4 <= evaluation.units < budget.BUDGET
    factor = budget.BUDGET / evaluation.units if is_extrapolated else 1.0
    relative = evaluation.relative
    if factor * evaluation.seconds > SECONDS / 2:
        relative = median((relative, *(evaluate(case, size).relative for _ in range(2))))
    return factor * relative, evaluation.reference


def estimate(selected: Iterable[NameUse]) -> list[tuple[float, NameUse]]:
    """Return the cases with the CPU seconds that each takes for the whole budget, the dearest first."""
    cases = list(selected)
    estimates = [_in_child(partial(_estimate, case)) for case in cases]
    fastest = _fastest([reference for _, reference in estimates])
    seconds = (relative * fastest for relative, _ in estimates)
    return sorted(zip(seconds, cases, strict=True), key=lambda pair: -pair[0])


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


ESTIMATE_COLUMNS: Sequence[report.Column] = (
    *COLUMNS[:3],
    ("CPU", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
)


def print_dearest(selected: Iterable[NameUse], number: int, share: float = 0.7) -> None:
    """Estimate the time of each expression, and measure those that take longest."""
    estimates = estimate(selected)
    dearest = estimates[:number]
    large = [{"case": case, "seconds": seconds} for seconds, case in dearest if seconds > share * SECONDS]
    print(f"{len(estimates):,} expressions, the whole budget takes {estimates[0][0] * 1e3:,.0f} ms at most")
    print(report.table("Estimates", ESTIMATE_COLUMNS, large))
    print_measurements((case for _, case in dearest), share)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_names", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these names, such as `| sort`")
    parser.add_argument("--share", type=float, default=0.7, help="show what takes this share of a limit")
    parser.add_argument("--dearest", type=int, metavar="N", help="estimate all, measure the dearest N")
    options = parser.parse_args(arguments)
    selected = (case for case in cases() if not options.names or case.name in options.names)
    if options.dearest:
        print_dearest(selected, options.dearest, options.share)
    else:
        print_measurements(selected, options.share)


if __name__ == "__main__":
    main()
