"""The golden cases of runs that fail: each file shows what the user reads about the run of a playbook."""

from __future__ import annotations

from collections.abc import Mapping


def _set(expression: str, before: str = "") -> str:
    """Return a playbook whose only step sets a name."""
    action = f"      - action: set\n        set: {{x: '{expression}'}}\n"
    return f"steps:\n  - name: compute\n{before}    run:\n{action}"


_TIME = _set("{{ now() + 1 }}")
_TEXT_AND_NUMBER = "input: {n: {default: 1}}\n" + _set('{{ "a" ~ n + 2 }}')
_ITEM = "input: {products: {default: [{revenue: 10, units: 2}, {revenue: 5, units: 0}]}}\n" + _set(
    "{{ p.revenue / p.units }}", "    loop: {items: '{{ products }}', as: p}\n"
)
_NESTED = """\
input: {order: {default: {id: 7, customer: {name: Ada}}}}
steps:
  - name: send
    run:
      - {action: log, message: begin}
      - action: http
        method: post
        url: https://example.com/orders
        json:
          lines: [{id: "{{ order.id }}"}, {name: "{{ order.custmer.name }}"}]
"""
_GUARD = """\
input: {total: {default: "12"}}
steps:
  - name: check
    run: [{action: log, message: hi}]
    rule:
      - {case: "{{ total > 10 }}", run: [{action: log, message: large}]}
      - {case: default, run: []}
"""
_IF = """\
input: {total: {default: "12"}}
steps:
  - name: check
    run:
      - {action: log, message: hi, if: "{{ total > 10 }}"}
"""
_ITEMS = """\
input: {text: {default: abc}}
steps:
  - name: each
    loop: {items: "{{ text | length }}"}
    run: [{action: log, message: hi}]
"""
_REPEAT = """\
steps:
  - name: poll
    run: [{action: set, set: {state: waiting}}]
    repeat: {until: "{{ state == 'done' }}", max: 2}
"""
_TASK = """\
input: {n: {default: none}}
tasks: {show: {run: [{action: log, message: "{{ args.x }}"}]}}
steps:
  - name: call
    run:
      - {task: show, with: {x: "{{ n - 1 }}"}}
"""
_SECRET = """\
input: {header: {default: "a Tr0ub4dor3-horse"}}
steps:
  - name: call
    run:
      - {action: http, url: "https://example.com/", headers: {X-Key: "{{ secrets.TOKEN }}"}, if: "{{ false }}"}
      - {action: log, message: "{{ header - 1 }}"}
"""
_OUTPUT = """\
steps: [{name: a, run: [{action: set, set: {n: [1]}}]}]
output: {first: "{{ n[0] }}", last: "{{ n + 1 }}"}
"""

_LIST_ATTRIBUTE = """\
input: {rows: {default: [{amount: "1"}]}}
steps:
  - name: sum
    loop: {items: "{{ rows | groupby('amount') }}", as: group}
    run: [{action: log, message: "{{ group.grouper }}"}]
"""
_TEST_OF_A_FILTER = """\
input: {rows: {default: [{amount: "1"}]}}
steps:
  - name: select
    run: [{action: log, message: "{{ rows | selectattr('amount', 'match', '^1') | list }}"}]
"""
_OPEN_LIST = """\
steps: [{name: a, run: [{action: log, message: hi}]
"""
_OPEN_EXPRESSION = """\
steps:
  - name: a
    run: [{action: log, message: "{{ 1 + }}"}, {action: log, message: "{{ x"}]
"""
_ENVIRONMENT = """\
steps:
  - name: a
    run: [{action: log, message: "{{ environment.HOME }}"}]
"""
_DURATION = """\
input: {pause: {default: soon}}
steps:
  - name: rest
    run: [{action: wait, seconds: "{{ pause }}"}]
"""
_TIMEOUT_OF_A_RUN = """\
timeout: 10ms
steps:
  - name: rest
    run: [{action: wait, seconds: 9}]
"""
_MESSAGE_OF_AN_ITEM = """\
steps:
  - name: stop
    loop: {items: [a, b]}
    run: [{action: fail, type: NoStock, message: "no stock of {{ item }}"}]
"""
_SECRET_NOT_SET = """\
steps:
  - name: call
    run: [{action: http, url: "https://example.com/", headers: {X-Key: "{{ secrets.OTHER }}"}}]
"""
_FILE = """\
steps: [{name: read, run: [{action: file, read: orders.csv, format: csv}]}]
"""

_PLAYBOOKS: Mapping[str, str] = {
    "failed_time_arithmetic": _TIME,
    "failed_text_and_number": _TEXT_AND_NUMBER,
    "failed_item_of_a_loop": _ITEM,
    "failed_nested_parameter": _NESTED,
    "failed_guard": _GUARD,
    "failed_condition": _IF,
    "failed_items_of_a_loop": _ITEMS,
    "failed_repeat": _REPEAT,
    "failed_argument_of_a_task": _TASK,
    "failed_with_a_secret": _SECRET,
    "failed_output": _OUTPUT,
    "failed_attribute_of_a_list": _LIST_ATTRIBUTE,
    "unknown_test_of_a_filter": _TEST_OF_A_FILTER,
    "open_list": _OPEN_LIST,
    "open_expression": _OPEN_EXPRESSION,
    "unknown_environment_entry": _ENVIRONMENT,
    "failed_duration": _DURATION,
    "failed_by_the_timeout_of_the_run": _TIMEOUT_OF_A_RUN,
    "failed_on_purpose_in_a_loop": _MESSAGE_OF_AN_ITEM,
    "failed_without_a_secret": _SECRET_NOT_SET,
    "failed_file": _FILE,
}

FAILED_RUNS: Mapping[str, str] = {name: f"name: {name}\n{text}" for name, text in _PLAYBOOKS.items()}
"""The playbooks by the names of their cases."""
