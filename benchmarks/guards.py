"""The price of the guards of an honest template: `python -m benchmarks.guards`.

Each template is evaluated by NoETL, and by the sandbox of Jinja2 alone. The latter has similar access rules,
but no budget, no watchdog and no conversion to JSON values. Evaluations of both alternate, so that the load
of the machine changes both times alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from benchmarks import report
from noetl.planner.gc_control import gc_paused
from noetl.planner.templates.template import parse_template

ROWS = [
    {
        "id": n,
        "name": f" Name {n % 40} ",
        "kind": f"k{n % 9}",
        "price": n * 0.5,
        "tags": ["a", "b", f"c{n % 7}"],
    }
    for n in range(200)
]
NAMES: dict[str, Any] = {
    "rows": ROWS,
    "order": {"customer": {"name": " Ada Lovelace ", "age": 36}, "total": 12.5, "status": "open"},
    "numbers": list(range(200)),
    "words": [f"word{n}" for n in range(200)],
    "n": 7,
}
TEMPLATES = {
    "access": "{{ order.customer.name ~ order.status }}",
    "arithmetic": "{{ (n + 3) * order.total - n / 2 + n % 4 }}",
    "comparison": (
        "{{ order.total > 10 and order.status == 'open' and n in [1, 7, 9] and order.customer.age >= 18 }}"
    ),
    "filter chain": (
        "{{ order.customer.name | trim | lower | replace(' ', '-') | capitalize | truncate(20) }}"
    ),
    "methods": "{{ order.customer.name.strip().upper().split(' ')[0].startswith('A') }}",
    "loop": ("{% for row in rows %}{{ row.id }}: {{ row.name | trim }}, {{ row.price * 2 }}\n{% endfor %}"),
    "nested loop": (
        "{% for a in words %}{% for b in row %}{% if b > 1 %}{{ b }}{% endif %}{% endfor %}{% endfor %}"
    ),
    "list filters": (
        "{{ rows | selectattr('id', 'gt', 50) | map(attribute='name') | map('trim') | unique | sort"
        " | join(', ') }}"
    ),
    "tojson": "{{ rows | tojson }}",
    "assignments": (
        "{% set total = order.total * 1.19 %}{% set name = order.customer.name | trim %}"
        "{% set note = order.note | default('none') %}{{ name }}: {{ total | round(2) }} ({{ note }})"
    ),
    "separated list": (
        "{% for row in rows %}{{ row.name }}{% if row.id is even %}*{% elif row.price > 9 %}!{% endif %}"
        "{% if not loop.last %}, {% endif %}{% endfor %}"
    ),
    "groups": (
        "{% for price, group in rows | groupby('kind') %}{{ price }}: {{ group | sum(attribute='price') }},"
        " {{ group | length }}\n{% endfor %}"
    ),
    "sorted object": "{% for key, value in order.customer | dictsort %}{{ key }}={{ value }};{% endfor %}",
    "defaults": (
        "{{ order.coupon | default('none') ~ ', ' ~ (order.note | default(n))"
        " ~ (missing | default('', true)) }}"
    ),
    "dates": "{{ '2026-01-31T10:15:00+00:00' | to_datetime | strftime('%d.%m.%Y %H:%M') }}",
    "text": (
        "{{ ('#1: #2 EUR' | replace('#1', order.status.title()) | replace('#2', order.total | string)"
        " | center(24))[:20] }}"
    ),
    "sums": "{{ rows | map(attribute='price') | sum ~ ' of ' ~ rows | length }}",
    "object": (
        "{{ {'id': n, 'name': order.customer.name | trim, 'tags': rows[0].tags + ['x'],"
        " 'first': words[:3]} }}"
    ),
}
"""Honest templates, by their kind."""
NAMES["row"] = [1, 2, 3, 4, 5]

COLUMNS: Sequence[report.Column] = (
    ("template", lambda row: row["template"]),
    ("NoETL", lambda row: f"{row['seconds'] * 1e6:,.1f} µs"),
    ("Jinja2", lambda row: f"{row['jinja_seconds'] * 1e6:,.1f} µs"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
)


def compile_with_jinja(text: str) -> Callable[[], Any]:
    """Return a function that evaluates the template in the sandbox of Jinja2 alone."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    environment.filters |= {"to_datetime": datetime.fromisoformat, "strftime": datetime.strftime}
    if text.startswith("{{"):
        expression = environment.compile_expression(
            text.removeprefix("{{").removesuffix("}}"), undefined_to_none=False
        )
        return lambda: expression(NAMES)
    template = environment.from_string(text)
    return lambda: template.render(NAMES)


def measure(
    names: Iterable[str] = TEMPLATES, rounds: int = 40, seconds: float = 0.01
) -> list[dict[str, Any]]:
    """Return a row for each template. Each of the rounds takes about `seconds` for each of both."""
    with gc_paused():
        return [_row(name, rounds, seconds) for name in names]


def _row(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    template = parse_template(TEMPLATES[name])
    guarded: Callable[[], Any] = lambda: template.evaluate(NAMES.__getitem__)  # noqa: E731
    jinja = compile_with_jinja(TEMPLATES[name])
    guarded()
    calls = max(1, int(seconds / _seconds_of(guarded, 3)))
    pairs = [(_seconds_of(guarded, calls), _seconds_of(jinja, calls)) for _ in range(rounds)]
    return {
        "template": name,
        "seconds": median(pair[0] for pair in pairs),
        "jinja_seconds": median(pair[1] for pair in pairs),
        "ratio": median(pair[0] / pair[1] for pair in pairs),
    }


def _seconds_of(function: Callable[[], Any], calls: int) -> float:
    started = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - started) / calls


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guards", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="KIND", help=f"kinds of templates: {', '.join(TEMPLATES)}"
    )
    options = parser.parse_args()
    print(report.table("Honest templates", COLUMNS, measure(options.names or TEMPLATES)))


if __name__ == "__main__":
    main()
