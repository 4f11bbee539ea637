"""Time and memory of hostile expressions until they are refused: `python -m benchmarks.hostile_expressions`.

Each expression is made to take all memory or a long time. It is evaluated in a process of its own, which
measures the time of its processor, and how much its memory grows above that of an honest expression.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import report
from noetl.planner.templates import budget
from noetl.planner.templates.template import EvaluationError, TemplateProblem, parse_template

LONG = "'x' * 8000000"
OTHER = "'x' * 7999999 ~ 'y'"
NEEDLE = "'x' * 1000000 ~ 'y' ~ 'x' * 1000000"
WIDE = "'😀' * 2000000"
MILLION = "range(1000000)"
NAMES: dict[str, Any] = {
    "rows": [{"id": n, "name": f"n{n}"} for n in range(20_000)],
    "object": {str(n): n for n in range(100_000)},
    "numbers": list(range(100_000)),
    "text": "a" * 1_000_000,
    "large": int("9" * 4299 + "8"),
    "larger": int("9" * 4300),
}
EXPRESSIONS = {
    "recursion": "{% set r = range(1000) %}{% for x in r recursive %}{{ (loop or 1)(r) }}{% endfor %}",
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "short nested loops": "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(3) %}"
    "{{ c * a }}{% endfor %}{% endfor %}{% endfor %}",
    "loops of 1 item": "{% for a in range(100000) %}{% for b in [1] %}{% for c in [1] %}{% for d in [1] %}"
    "{{ c }}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
    "long loop": "{% for a in range(1000000) %}0123456789{% endfor %}",
    "loop with attributes": "{% for a in range(1000000) %}{{ loop.index }}{{ loop.previtem }}{% endfor %}",
    "loop with filters": "{% for a in range(1000000) %}{{ a | string | trim | upper | title }}{% endfor %}",
    "loop with methods": "{% for a in range(1000000) %}{{ 'abc'.upper().split('B')[0].strip() }}{% endfor %}",
    "loop with membership": "{% for i in range(100000) %}{{ -1 in numbers }}{% endfor %}",
    "loop with searches": "{% for i in range(100000) %}{{ text.count('ab') }}{% endfor %}",
    "loop with sorting": "{% for i in range(1000) %}{{ numbers | sort | first }}{% endfor %}",
    "loop with patterns": "{% for i in range(100000) %}{{ 'aXbX' | regex_replace('X', 'y') }}{% endfor %}",
    "loop with dates": (
        "{% for i in range(100000) %}{{ '2026-01-31' | to_datetime | strftime('%d.%m.') }}{% endfor %}"
    ),
    "loop with JSON": "{% for i in range(100000) %}{{ '[1, {\"a\": 3}]' | fromjson | tojson }}{% endfor %}",
    "loop with keys": "{% for i in range(1000000) %}{{ object.get('1') }}{{ object['2'] }}{% endfor %}",
    "a long row of filters": "{{ " + MILLION + " | map('string') | map('upper') | map('length') | sum }}",
    "filters on filters": "{{ numbers" + " | map('string') | map('int')" * 20 + " | list }}",
    "selections": "{{ range(400000) | select('in', " + MILLION + " | list) | list }}",
    "sums": "{{ [" + ", ".join([MILLION + " | sum"] * 30) + "] }}",
    "repeated text": "{{ 'x' * 10 ** 9 }}",
    "many texts": "{{ [" + ", ".join([LONG] * 12) + "] }}",
    "many wide texts": "{{ [" + ", ".join([WIDE] * 20) + "] }}",
    "many lists": "{{ [" + ", ".join([MILLION + " | list"] * 20) + "] }}",
    "many copies": "{% set x = " + MILLION + " | list %}{{ [" + "x[:], " * 20 + "] }}",
    "many objects": "{{ [" + "dict(object), " * 100 + "] }}",
    "JSON lists": "{{ ('[' ~ '[],' * 2700000 ~ '0]') | fromjson }}",
    "JSON objects": "{{ ('[' ~ '{},' * 2700000 ~ '0]') | fromjson }}",
    "JSON numbers": "{{ ('[' ~ '1.5,' * 2090000 ~ '0]') | fromjson }}",
    "JSON keys": "{{ ('{' ~ '\"a\":{' * 100000) | fromjson }}",
    "shared copies": "{{ [[[]] * 1000000] * 10 }}",
    "converted rows": "{{ [[false, rows[0]]] * 100000 }}",
    "shared comparison": "{% set a = [1, 1] %}{% set b = [1, 1] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 31
    + "{{ a == b }}",
    "shared text": "{% set a = [0] * 1000 %}{% set b = [a] * 1000 %}{% set c = [b] * 1000 %}{{ c }}",
    "shared key": "{% set a = (1,) * 1000 %}{% set b = (a,) * 1000 %}{% set c = (b,) * 1000 %}{{ {c: 1} }}",
    "shared subscript": (
        "{% set a = (1,) * 1000 %}{% set b = (a,) * 1000 %}{% set c = (b,) * 1000 %}{{ {}[c] }}"
    ),
    "shared argument": (
        "{% set a = (1,) * 1000 %}{% set b = (a,) * 1000 %}{% set c = (b,) * 1000 %}{{ object.get(c) }}"
    ),
    "shared JSON": "{{ (['x' * 8000000] * 1000) | tojson }}",
    "sorted long texts": "{{ (['X' * 8000000] * 1000) | sort }}",
    "sorted attributes": "{{ ([{'a': 'X' * 8000000}] * 1000) | sort(attribute='a') }}",
    "sorted lists": "{{ ([['x' * 8000000]] * 1000000) | sort }}",
    "sorted numbers": "{{ [" + ", ".join([MILLION + " | sort(reverse=true)"] * 9) + "] }}",
    "groups": "{{ (rows * 10) | groupby('id') | length }}",
    "largest": "{{ (['X' * 8000000] * 1000) | max }}",
    "joined": "{{ (['x' * 1000] * 10000) | join }}",
    "joined numbers": "{{ [" + ", ".join(["numbers | join"] * 60) + "] | length }}",
    "search of an equal text": "{{ (" + OTHER + ") in ([" + LONG + "] * 1000000) }}",
    "count of an equal text": "{{ ([" + LONG + "] * 1000000).count(" + OTHER + ") }}",
    "strip": "{{ (" + LONG + ").strip('y' * 4000000 ~ 'x') }}",
    "reverse search": "{{ (" + LONG + ").rfind(" + NEEDLE + ") }}",
    "forward search": "{{ (" + LONG + ").find(" + NEEDLE + ") }}",
    "search of nearly all": "{{ ('a' * 7998097 ~ 'baa') in ('a' * 8000000) }}",
    "loop with short searches": "{% set n = 'a' * 600 ~ 'b' ~ 'a' * 600 %}{% set h = 'a' * 2499 %}"
    "{% for i in range(9000) %}{{ n in h }}{% endfor %}",
    "search of a large integer": "{{ larger in ([large] * 1000000) }}",
    "sorted large integers": "{{ ([large, larger] * 150000) | sort }}",
    "unique large integers": "{{ ([large, larger] * 150000) | unique | list }}",
    "repeated large integers": "{{ [large] * 300000 }}",
    "wrapped text": "{{ (" + LONG + ") | wordwrap(1) }}",
    "wrapped lines": "{{ ('x\v' * 4000000) | wordwrap }}",
    "wrapped words": "{{ ('a-' * 4000000) | wordwrap(1) }}",
    "titles": "{{ ('x ' * 4000000) | title }}",
    "tags": "{{ ('<a>' * 2600000) | striptags }}",
    "escaped": "{{ ('&' * 8000000) | escape }}",
    "quoted": "{{ ('ä' * 2600000) | urlencode }}",
    "split": "{{ ('ab ' * 2700000).split() }}",
    "lines": "{{ ('ab\n' * 2700000).splitlines() }}",
    "characters": "{{ (" + LONG + ") | list }}",
    "batches": "{{ (" + LONG + ") | batch(1) | list }}",
    "counted words": (
        "{{ ('a ' * 4000000) | wordcount }}{{ ('a ' * 4000000) | wordcount }}{{ ('a ' * 4000000) |"
        " wordcount }}"
    ),
    "time formats": "{{ '2026' | to_datetime(' a' * 1000000) }}",
    "name of a filter": "{{ [1] | map(('\\0' * 8000000,) * 20) | list }}",
    "missing item": "{{ [1].index(['\\0' * 8000000] * 20) }}",
    "powers": "{{ 2 ** 10000000 }}",
    "digits": "{{ ('f' * 8000) | int(base=16) }}",
    "padding": "{{ ('x\n' * 100000) | indent('y' * 1000000) }}",
    "pattern": "{{ 'a' | regex_search('(?:(?:a{9999,}){9999,}){9999,}') }}",
    "pattern with backtracking": "{{ ('ab' * 4000000 ~ 'x') | regex_search('^(a|b)*$') }}",
    "pattern with groups": "{{ text | regex_search('(((a*)*)*)*b') }}",
    "many matches": "{{ (" + LONG + ") | regex_replace('a|x', 'bb') }}",
    "quadratic matches": "{{ ('a' * 100000) | regex_replace('a.*b|a', 'c') }}",
}
"""Expressions by what they do to take time or memory."""

COLUMNS: Sequence[report.Column] = (
    ("expression", lambda row: row["expression"]),
    ("CPU", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("memory", lambda row: f"{row['bytes'] / 2**20:,.0f} MiB"),
    ("units", lambda row: f"{row['units'] / 2**20:,.1f} Mi"),
    ("result", lambda row: row["result"]),
)


def evaluate(text: str) -> tuple[float, int, str]:
    """Return the CPU seconds and the units of an evaluation, and the type of its error or `a value`."""
    started = time.thread_time()
    try:
        template = parse_template(text)
        started = time.thread_time()
        template.evaluate(NAMES.__getitem__)
        result = "a value"
    except TemplateProblem as problem:
        result = problem.code
    except EvaluationError as error:
        result = error.type
    return time.thread_time() - started, budget.used_units(), result


def _peak_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measure(name: str) -> dict[str, Any]:
    evaluate("{{ [1, 2] | map('string') | join(text[:10]) | regex_replace('a', 'b') | length }}")
    before = _peak_memory()
    seconds, units, result = evaluate(EXPRESSIONS[name])
    grown = _peak_memory() - before
    return {"expression": name, "seconds": seconds, "bytes": grown, "units": units, "result": result}


def measure(names: Iterable[str] = EXPRESSIONS) -> list[dict[str, Any]]:
    """Return a row for each expression."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(_measure, names, chunksize=1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_expressions", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"expressions: {', '.join(EXPRESSIONS)}")
    options = parser.parse_args()
    print(report.table("Hostile expressions", COLUMNS, measure(options.names or EXPRESSIONS)))


if __name__ == "__main__":
    main()
