"""NP301 and NP504 for values whose type is known: from declarations, literals or results of actions."""

from __future__ import annotations

import pytest

from tests.planner.findings import findings, hints, messages

HEAD = """
input: {name: string, n: integer, x: number, flag: boolean, list: array, thing: object, some: any}
environment: {base: "https://a.test", most: 5, made: "{{ input.some }}"}
variables: {limit: 3, count: 0, made_up: "{{ input.some }}"}
"""
WORK = """
tasks:
  look: [{action: log, message: x}, {action: http, url: "https://a.test"}]
  inner: [look]
  both: [{action: log, message: x}, {action: log, message: y, loop: {items: [1]}}]
  unknown: [{action: file, read: a.txt}]
steps:
- name: a
  run:
  - {action: set, set: {count: "{{ count + 1 }}"}}
  - {action: shell, command: ls, as: listed}
  - {action: shell, command: ls, parse: json, as: parsed}
  - {action: shell, command: ls, loop: {items: [1]}, as: several}
  - {action: http, url: "https://a.test", paginate: {next: "{{ response.body.next }}"}, as: pages}
  - {action: postgres, connection: x, query: select 1, as: rows}
  - {action: postgres, connection: x, query: select 1, fetch: one, as: row}
  - {action: file, write: a.txt, content: x, as: written}
  - {task: inner, as: looked}
  - {task: both, as: pair}
  - {task: look, loop: {items: [1]}, as: looks}
  - {task: unknown, as: read}
  - {action: set, set: {made_here: 1}, as: named}
  - {action: file, read: a.txt, as: either}
  - {action: http, url: "https://a.test", as: either}
  - {action: http, url: "https://a.test", as: user}
  rule: [{case: "GUARD", run: [b]}, {case: default, run: [b]}]
- name: b
  run: [{action: log, message: "TEXT"}]
  LOOP
"""


def playbook(text: str = "x", *, guard: str = "{{ run.id }}", loop: str = "") -> str:
    return HEAD + WORK.replace("TEXT", text).replace("GUARD", guard).replace("LOOP", loop)


@pytest.mark.parametrize(
    ("read", "word"),
    [
        ("user.bdy", "bdy"),
        ("user.body.id ~ user.statuz", "statuz"),
        ("user['headerz']", "headerz"),
        ("user.status.code", "code"),
        ("listed.data", "data"),
        ("listed.stdout.lines", "lines"),
        ("parsed.stdot", "stdot"),
        ("rows.row", "row"),
        ("written.size", "size"),
        ("looked.bdy", "bdy"),
        ("pair.message", "message"),
        ("looks.body", "body"),
        ("several.stdout", "stdout"),
        ("named.made", "made"),
        ("steps.a.result.bdy", "bdy"),
        ("steps.a.failures.message", "message"),
        ("input.name.first", "first"),
        ("n.value", "value"),
        ("limit.upper", "upper"),
        ("environment.base.host", "host"),
        ("most.host", "host"),
        ("user.bdy if n else 1", "bdy"),
    ],
)
def test_attributes_that_a_value_cannot_have(read: str, word: str) -> None:
    assert findings(playbook(f"{{{{ {read} }}}}")) == [("NP301", word)]


@pytest.mark.parametrize(
    "read",
    [
        "user.body.anything",
        "user.headers.anything",
        "user.status",
        "user.items()",
        "user.bdy | default(1)",
        "user.bdy is defined",
        "parsed.data.anything",
        "pages.anything",
        "row.anything",
        "rows.rows",
        "either.anything",
        "written.bytes",
        "looked.body.anything",
        "pair[0].anything",
        "several.count(1)",
        "read.anything",
        "named.made_here.anything",
        "input.name.upper()",
        "input.thing.anything",
        "input.some.anything",
        "list.count(1)",
        "count.anything",
        "made_up.anything",
        "made.anything",
        "steps.a.result.body.anything",
        "steps.a.failures[0].error.anything",
        "x.numerator",
    ],
)
def test_attributes_that_a_value_may_have(read: str) -> None:
    assert findings(playbook(f"{{{{ {read} }}}}")) == []


def test_hints_for_unknown_attributes() -> None:
    assert hints(playbook("{{ user.bdy }}"), "NP301") == ["did you mean `body`?"]
    assert hints(playbook("{{ user.zzz }}"), "NP301") == ["attributes: `status`, `headers`, `body`"]
    assert messages(playbook("{{ input.n.zzz }}"), "NP301") == [
        "`input.n` (a whole number) has no attribute `zzz`"
    ]


def test_the_result_of_a_step_in_its_rule() -> None:
    assert findings(playbook(guard="{{ result.data.bdy }}")) == [("NP301", "bdy")]
    assert findings(playbook(guard="{{ result.data.body }}")) == []
    assert findings(playbook(guard="{{ result.failures.item }}")) == [("NP301", "item")]
    assert findings(playbook(guard="{{ result.failures[0].item.x }}")) == []
    for key in ("parallel: true", "loop: {items: [1]}"):
        list_result = playbook(guard="{{ result.data.body }}").replace("- name: a\n", f"- name: a\n  {key}\n")
        assert ("NP301", "body") in findings(list_result)
        assert ("NP301", "body") not in findings(list_result.replace("data.body", "data[0].body"))


def test_loop_names_hide_saved_names() -> None:
    loop = 'loop: {items: "{{ list }}", as: user}'
    assert findings(playbook("{{ user.bdy }}", loop=loop)) == []


@pytest.mark.parametrize("items", ["input.n", "user.status", "base", "input.thing", "user", "limit"])
def test_loops_over_other_values_than_lists(items: str) -> None:
    text = playbook(loop=f'loop: {{items: "{{{{ {items} }}}}"}}')
    assert [code for code, _ in findings(text)] == ["NP504"]
    action = playbook().replace('message: "x"', f'message: x, loop: {{items: "{{{{ {items} }}}}"}}')
    assert [code for code, _ in findings(action)] == ["NP504"]


@pytest.mark.parametrize(
    "items", ["abc", "x {{ list }}", "{{ n }},{{ n }}", "{% for x in list %}{{ x }}{% endfor %}"]
)
def test_loops_over_text(items: str) -> None:
    assert findings(playbook(loop=f"loop: {{items: '{items}'}}")) == [("NP504", f"'{items}'")]


@pytest.mark.parametrize(
    "items",
    ["list", "looked.body", "user.body", "input.some", "count", "several", "input.thing | list", "rows.rows"],
)
def test_loops_over_values_that_may_be_lists(items: str) -> None:
    assert findings(playbook(loop=f'loop: {{items: "{{{{ {items} }}}}"}}')) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{{ input.name > 5 }}", "input.name"),
        ("{{ 5 <= name }}", "name"),
        ("{{ user.status < '400' }}", "user.status"),
        ("{{ listed.stdout >= input.n }}", "listed.stdout"),
        ("{{ 'late' if x > 'a' else 'soon' }}", "x"),
        ("{% for found in [name > 5] %}{{ name < 5 }}{% endfor %}", "name"),
    ],
)
def test_text_compared_with_a_number(text: str, word: str) -> None:
    assert findings(playbook(text)) == [("NP504", word)]


@pytest.mark.parametrize(
    "text",
    [
        "{{ input.name > 'm' }}",
        "{{ input.n > 1.5 }}",
        "{{ flag > 0 }}",
        "{{ input.name == 5 }}",
        "{{ input.name | int > 5 }}",
        "{{ some > 5 }}",
        "{{ count > 'x' }}",
        "{{ name is number and name > 5 }}",
        "{{ 1 if flag else name > 5 }}",
        "{% set name = 1 %}{{ name > 5 }}",
    ],
)
def test_comparisons_that_are_valid_or_not_always_evaluated(text: str) -> None:
    assert findings(playbook(text)) == []


def test_a_guard_that_compares_text_with_a_number_is_never_true() -> None:
    assert [code for code, _ in findings(playbook(guard="{{ input.name > 5 }}"))] == ["NP203"]
    assert findings(playbook(guard="{{ user.status > '5' }}")) == [("NP504", "user.status")]


def test_broken_steps_have_no_type() -> None:
    broken = playbook("{{ steps.a.result.bdy }}").replace("as: user}", "as: user}\n  - {acton: log}")
    assert "NP301" not in [code for code, _ in findings(broken)]


def test_the_fields_of_a_declared_answer_are_known() -> None:
    text = """
        name: t
        steps:
        - name: a
          run:
          - {action: callback, answer: {yes: boolean, note: {default: x}, broken: [1]}, as: reply}
          - {action: log, message: "{{ %s }}"}
    """
    assert findings(text % "reply.yse", "NP301") == [("NP301", "yse")]
    assert findings(text % "reply.yes ~ reply.note.anything ~ reply.broken.anything", "NP301") == []
    assert findings(text.replace("answer: {", "details: {") % "reply.anything", "NP301") == []


FLOW_CONTROL = "steps: [{name: a, SECTION, run: [{action: set, set: {rows: '{{ [] }}', of: {a: 1}}}]}]\n"


@pytest.mark.parametrize("of_step", [True, False])
@pytest.mark.parametrize(
    ("section", "word"),
    [
        ("concurrency: {limit: 1, key: '{{ input.thing }}'}", "'{{ input.thing }}'"),
        ("concurrency: [{limit: 2}, {limit: 1, key: '{{ input.list }}'}]", "'{{ input.list }}'"),
        ("concurrency: {use: api, fair: '{{ input.thing }}'}", "'{{ input.thing }}'"),
        ("rate: {limit: 1, per: 1m, key: '{{ input.list }}'}", "'{{ input.list }}'"),
        ("priority: '{{ input.name }}'", "'{{ input.name }}'"),
        ("priority: '{{ input.list }}'", "'{{ input.list }}'"),
        ("priority: '{{ name }}'", "'{{ name }}'"),
        ("concurrency: {limit: 1, key: '{{ thing }}'}", "'{{ thing }}'"),
        ("concurrency: {limit: 1, key: '{{ input.n }}', fair: '{{ input.flag }}'}", None),
        ("concurrency: {limit: 1, key: '{{ input.some }} {{ input.thing }}'}", None),
        ("priority: '{{ input.x }}'", None),
        ("priority: '{{ input.some }}'", None),
        ("priority: '{{ input.name | int }}'", None),
    ],
)
def test_keys_and_priorities_of_a_wrong_type(section: str, word: str | None, *, of_step: bool) -> None:
    text = FLOW_CONTROL.replace("SECTION", section if of_step else "timeout: 5s")
    text = HEAD + ("" if of_step else f"{section}\n") + text
    assert findings(text) == ([] if word is None else [("NP504", word)])


def test_the_key_of_a_debounce_of_a_wrong_type() -> None:
    section = "debounce: {wait: 5s, key: '{{ input.thing }}'}\n"
    text = HEAD + section + FLOW_CONTROL.replace("SECTION", "timeout: 5s")
    assert messages(text) == ["`key` must be text, a number or a Boolean, but `input.thing` is an object"]
