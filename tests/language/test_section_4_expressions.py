"""Section 4 of the language, expressions: values, names, sinks and idempotency."""

from __future__ import annotations

from typing import Any

import pytest

from tests.language.sentences import OK, check_outcome, outcome, sentence
from tests.planner.findings import findings


def value_of(expression: str, head: str = "") -> Any:
    text = (
        f"{head}\nsteps: [{{name: a, run: [{{action: set, set: {{y: {expression}}}}}]}}]\n"
        f"output: {{y: '{{{{ y }}}}'}}"
    )
    found = outcome(text)
    assert found["status"] == "succeeded", found
    return found["result"]["y"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        sentence("a value that is one whole {{ expression }} keeps its type", "'{{ [1, 2] }}'", [1, 2]),
        sentence("blanks around it do not count", "'  {{ [1, 2] }} '", [1, 2]),
        sentence("a value with text around it is text", "'x{{ 1 }}'", "x1"),
        sentence("None works like none", "'{{ None is none }}'", True),
        sentence("True works like true, after `is`", "'{{ true is True }}'", True),
        sentence("False", "'{{ False }}'", False),
        sentence("b64encode", "\"{{ 'a' | b64encode }}\"", "YQ=="),
        sentence("b64decode", "\"{{ 'YQ==' | b64decode }}\"", "a"),
        sentence("fromjson", "\"{{ '[1]' | fromjson }}\"", [1]),
        sentence(
            "sha256",
            "\"{{ '' | sha256 }}\"",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        sentence("regex_replace", "\"{{ 'aab' | regex_replace('a+', 'c') }}\"", "cb"),
        sentence("regex_search", "\"{{ ('aab' | regex_search('b')) is not none }}\"", True),
        sentence("to_datetime, strftime", "\"{{ '2026-12-01' | to_datetime | strftime('%Y') }}\"", "2026"),
        sentence("range (up to 1,000,000)", "'{{ range(1000000) | length }}'", 1_000_000),
        sentence("lists of 1,000,000 items", "'{{ range(1000000) | list | sum }}'", 499_999_500_000),
        sentence("dict", "'{{ dict(a=1) }}'", {"a": 1}),
        sentence("`x | default(...)`", "'{{ steps.a.result | default(4) }}'", 4),
        sentence("run.id", "'{{ run.id is string }}'", True),
        sentence("step.name", "'{{ step.name }}'", "a"),
        sentence("step.visit and step.attempt (from 1)", "'{{ step.visit + step.attempt }}'", 2),
        sentence("now() is the same in an attempt", "'{{ now() == now() }}'", True),
    ],
)
def test_values(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        sentence("attr is not there", "\"{{ x | attr('a') }}\"", "NP402"),
        sentence("pprint is not there", "'{{ x | pprint }}'", "NP402"),
        sentence("xmlattr is not there", "'{{ x | xmlattr }}'", "NP402"),
        sentence("urlize is not there", "'{{ x | urlize }}'", "NP402"),
        sentence("format is not there", "'{{ x | format }}'", "NP402"),
        sentence("an unknown filter", "'{{ x | nonsense }}'", "NP402"),
        sentence("syntax", "'{{ x + }}'", "NP401"),
        sentence(
            "secrets only in action parameters whose declaration allows it", "'{{ secrets.X }}'", "NP406"
        ),
    ],
)
def test_refused_expressions(expression: str, code: str) -> None:
    text = f"variables: {{x: {{}}}}\nsteps: [{{name: a, run: [{{action: set, set: {{y: {expression}}}}}]}}]"
    assert [found for found, _ in findings(text)] == [code]


@pytest.mark.parametrize(
    ("head", "value"),
    [
        sentence("x: a variable", "variables: {x: 1}", 1),
        sentence("x: an input", "input: {x: {type: integer, default: 2}}", 2),
        sentence("x: an entry of `environment`", "environment: {x: 3}", 3),
    ],
)
def test_where_a_name_is_looked_up(head: str, value: Any) -> None:
    assert value_of("'{{ x }}'", head) == value


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        sentence(
            "a name that two of them define is NP305",
            f"variables: {{x: 1}}\nenvironment: {{x: 2}}\nsteps: [{{name: a, {OK}}}]",
            ["NP305"],
        ),
        sentence(
            "`set` and `as` may write a variable",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: set, set: {x: 2}}]}]",
            [],
        ),
        sentence(
            "a template inside SQL quotes is NP505",
            (
                "variables: {x: 1}\nsteps: [{name: a, run: [{action: postgres, connection: '{{ "
                "secrets.D }}', query: \"select '{{ x }}'\"}]}]"
            ),
            ["NP505"],
        ),
        sentence(
            "shell: a template inside quotes is NP509",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: \"echo '{{ x }}'\"}]}]",
            ["NP509"],
        ),
        sentence(
            "shell: backticks",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: 'echo `{{ x }}`'}]}]",
            ["NP509"],
        ),
        sentence(
            "shell: $( )",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: 'echo $({{ x }})'}]}]",
            ["NP509"],
        ),
        sentence(
            "shell: a comment",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: 'echo # {{ x }}'}]}]",
            ["NP509"],
        ),
        sentence(
            "`| raw` opts out and is NP506",
            "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: 'echo {{ x | raw }}'}]}]",
            ["NP506"],
        ),
    ],
)
def test_findings(text: str, codes: list[str]) -> None:
    assert [code for code, _ in findings(text)] == codes


def test_statements_are_not_allowed_in_sinks() -> None:
    """`{% %}` is not allowed in sinks."""
    text = "variables: {x: 1}\nsteps: [{name: a, run: [{action: shell, command: '{% if x %}ls{% endif %}'}]}]"
    assert findings(text)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        sentence("shell.command as text: each value is shell-quoted", "'printf %s {{ x }}'", "a b; $HOME"),
        sentence(
            "as a list: one template is one argument and nothing is quoted",
            "[printf, '%s', '{{ x }}']",
            "a b; $HOME",
        ),
    ],
)
def test_shell_arguments(command: str, printed: str) -> None:
    text = (
        f"variables: {{x: 'a b; $HOME'}}\nsteps: [{{name: a, run: [{{action: shell, command: "
        f"{command}, as: r}}]}}]\noutput: {{r: '{{{{ r.stdout }}}}'}}"
    )
    check_outcome(text, {}, {"status": "succeeded", "result": {"r": printed}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        sentence("steps.NAME.status: pending where it was not visited", "steps.b.status", "pending"),
        sentence("steps.NAME.status", "steps.a.status", "succeeded"),
        sentence("steps.NAME.visits", "steps.a.visits", 1),
        sentence("steps.NAME.result", "steps.a.result", {"x": 1}),
        sentence("steps.NAME.error: none after success", "steps.a.error", None),
        sentence("steps.NAME.failures: else empty", "steps.a.failures", []),
    ],
)
def test_fields_of_steps(field: str, value: Any) -> None:
    """`steps.NAME`, as this branch's own history knows it."""
    text = f"""
        steps:
        - name: a
          run: [{{action: set, set: {{x: 1}}}}]
          rule: [{{case: "{{{{ not run.id }}}}", run: [b]}}, {{case: default, run: [c]}}]
        - {{name: b, {OK}}}
        - {{name: c, run: [{{action: set, set: {{y: "{{{{ {field} }}}}"}}}}]}}
        output: {{y: "{{{{ y }}}}"}}
    """
    check_outcome(text, {}, {"result": {"y": value}})


@pytest.mark.parametrize(
    ("run", "field", "value"),
    [
        sentence(
            "result.data of the last item of this step's `run`",
            "[{action: set, set: {x: 1}}, {action: set, set: {x: 2}}]",
            "result.data",
            {"x": 2},
        ),
        sentence(
            "a skipped item counts as success with no data",
            "[{action: set, set: {x: 1}, if: '{{ false }}'}]",
            "[result.success, result.skipped, result.data]",
            [True, True, None],
        ),
        sentence(
            "of a parallel step, `data` is the list",
            "[{action: set, set: {x: 1}}, {action: set, set: {z: 2}}]\n  parallel: true",
            "result.data",
            [{"x": 1}, {"z": 2}],
        ),
    ],
)
def test_result_in_a_rule(run: str, field: str, value: Any) -> None:
    text = (
        f"steps:\n- name: a\n  run: {run}\n  rule: [{{case: default, run: [{{action: set, set: "
        f"{{y: '{{{{ {field} }}}}'}}}}]}}]\noutput: {{y: '{{{{ y }}}}'}}"
    )
    check_outcome(text, {}, {"result": {"y": value}})


def test_different_work_never_shares_an_idempotency_key() -> None:
    """`step.idempotency_key` is a hash of run, visit, position of the action, loop index and repeat round."""
    text = """
        steps:
        - name: a
          max_visits: 2
          loop: {items: [1, 2]}
          run: [{action: set, set: {k: "{{ step.idempotency_key }}"}}]
          rule:
          - {case: "{{ step.visit < 2 }}", run: [b]}
          - {case: default, run: [c]}
        - name: b
          run: [{action: set, set: {first: "{{ steps.a.result }}", key: "{{ step.idempotency_key }}"}}]
          rule: [{case: default, run: [a]}]
        - name: c
          run: [{action: set, set: {second: "{{ steps.a.result }}"}}]
    """
    result = outcome(text)["result"]
    keys = [item["k"] for item in result["first"] + result["second"]] + [result["key"]]
    assert len(set(keys)) == len(keys) == 5
