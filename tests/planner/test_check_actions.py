from __future__ import annotations

import textwrap

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic

ACTION_CODES = frozenset(f"NP50{digit}" for digit in range(1, 10)) | {"NP403"}


def findings(*actions: str) -> list[tuple[str, str, Diagnostic]]:
    """Return code, marked text and diagnostic of each finding about actions, in order."""
    items = "".join(textwrap.indent(f"- {action}\n", " " * 6) for action in actions)
    text = f"name: t\ninput: {{x: any}}\nsteps:\n  - name: a\n    run:\n{items}"
    lines = text.splitlines()
    return [
        (found.code, lines[found.span.line - 1][found.span.column - 1 : found.span.end_column - 1], found)
        for found in compile_playbook(text, catalogue()).diagnostics
        if found.code in ACTION_CODES
    ]


def words(*actions: str) -> list[tuple[str, str]]:
    return [(code, word) for code, word, _ in findings(*actions)]


def only_finding(action: str) -> Diagnostic:
    ((_, _, found),) = findings(action)
    return found


VALID_ACTIONS = [
    '{action: http, method: post, url: "https://x.test/a/{{ x }}", headers: {X-A: b}, json: {a: 1}, accept_status: [404]}',
    '{action: http, url: "{{ x }}", auth: {bearer: "{{ secrets.T }}"}, as: reply, timeout: 5s, retry: 3}',
    '{action: http, url: "{{ x }}", if: "{{ x }}"}',
    (
        '{action: postgres, connection: "{{ secrets.D }}",'
        ' query: "select a from t where b = {{ x }}", fetch: one}'
    ),
    '{action: postgres, connection: "{{ secrets.D }}", query: ["select 1", "select {{ x }}"], params: {}}',
    "{action: file, read: a.csv, format: csv}",
    '{action: file, write: a.csv, content: "{{ x }}"}',
    '{action: shell, command: "wc -l {{ x }}", env: {A: b}, parse: lines}',
    '{action: shell, command: [wc, "-l", "\'{{ x }}\'"]}',
    '{action: python, function: "lib.orders:clean", args: {rows: "{{ x }}"}}',
    '{action: set, set: {total: "{{ x }}"}}',
    '{action: log, message: 5, level: WARNING, fields: {a: "{{ x }}"}}',
    "{action: fail, message: no rows, type: EmptyInput}",
    '{action: http, url: "{{ x }}", headers: "{{ x }}", follow_redirects: 2}',
    "{action: http, url: 'http://localhost:8080/', headers: null}",
    "{action: http, url: 'http://10.0.0.1/'}",
]


@pytest.mark.parametrize("action", VALID_ACTIONS)
def test_valid_actions_have_no_findings(action: str) -> None:
    assert words(action) == []


@pytest.mark.parametrize(
    ("action", "word", "reason"),
    [
        ("wait, until: tomorrow", "tomorrow", "write a time such as `2026-12-01T06:00:00Z`"),
        ("wait, seconds: soon", "soon", None),
        (
            "http, url: 'https://x.test', method: FETCH",
            "FETCH",
            "choices: `GET`, `HEAD`, `OPTIONS`, `POST`, `PUT`, `PATCH`, `DELETE`",
        ),
        ("python, function: foo", "foo", "write `package.module:name`"),
        ("python, function: 'lib:_clean'", "'lib:_clean'", "`_clean` is private to its module"),
        ("shell, command: ' '", "' '", "name the command to run"),
        ("shell, command: []", "[]", "name the command to run"),
        ("shell, command: ['', x]", "['', x]", "name the command to run"),
        ('shell, command: "a\\0b"', '"a\\0b"', "remove the NUL character"),
        ("s3, get: orders/x", "orders/x", "write `s3://BUCKET/KEY`"),
        ("s3, put: 's3://orders', content: x", "'s3://orders'", "write `s3://BUCKET/KEY`"),
        ("s3, delete: 's3:///x'", "'s3:///x'", "write `s3://BUCKET/KEY`"),
        ("s3, list: orders", "orders", "write `s3://BUCKET/PREFIX`"),
        ("lambda, function: 'my function'", "'my function'", "write the name of a function, or its ARN"),
        (
            "message, to: orders, body: x",
            "orders",
            "use the URL of a queue, or the ARN of a queue, a topic or a bus",
        ),
    ],
)
def test_values_that_can_never_work(action: str, word: str, reason: str | None) -> None:
    ((code, found, diagnostic),) = findings(f"{{action: {action}}}")
    assert (code, found, diagnostic.hint) == ("NP504", word, reason)


@pytest.mark.parametrize(
    "action",
    [
        "wait, until: 2030-01-01",
        "wait, until: 'on {{ x }}'",
        "wait, until: '{{ x }}'",
        "python, function: 'lib.{{ x }}'",
        "shell, command: ['', '{{ x }}']",
        "shell, command: '{{ x }}'",
        "s3, get: '{{ x }}/key'",
        "s3, list: 's3://orders'",
        "lambda, function: 'arn:aws:lambda:eu-west-1:123456789012:function:resize:live'",
        "message, to: 'https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo', body: x",
        "message, to: 'arn:aws:events:eu-west-1:123456789012:event-bus/shop', body: {}",
    ],
)
def test_values_that_may_work(action: str) -> None:
    assert words(f"{{action: {action}}}") == []


def test_actions_of_tasks_steps_and_cases_are_checked() -> None:
    text = """
name: t
tasks:
  one: [{action: a1}]
steps:
  - name: a
    run:
      - {action: a2}
      - {task: one}
    rule:
      - case: default
        run: [{action: a3}]
"""
    found = compile_playbook(text, catalogue()).diagnostics
    assert [(d.code, d.message.split("`")[1]) for d in found if d.code in ACTION_CODES] == [
        ("NP501", "a1"),
        ("NP501", "a2"),
        ("NP501", "a3"),
    ]


def test_an_unknown_type_has_one_finding() -> None:
    found = only_finding("{action: htttp, urll: x}")
    assert (found.code, found.hint) == ("NP501", "did you mean `http`?")
    every_type = ", ".join(f"`{name}`" for name in catalogue())
    assert only_finding("{action: zzz}").hint == f"known types: {every_type}"
    assert words("{action: htttp}") == [("NP501", "htttp")]


def test_an_unknown_parameter() -> None:
    assert words("{action: log, message: a, levle: info}") == [("NP502", "levle")]
    assert only_finding("{action: log, message: a, levle: info}").hint == "did you mean `level`?"
    assert only_finding("{action: log, message: a, timeuot: 5s}").hint == "did you mean `timeout`?"
    assert (
        only_finding("{action: log, message: a, zzz: 5s}").hint == "parameters: `message`, `level`, `fields`"
    )


def test_a_misspelt_parameter_is_not_missing_as_well() -> None:
    assert words("{action: http, urll: 'https://x.test'}") == [("NP502", "urll")]
    assert words("{action: file, raed: a}") == [("NP502", "raed")]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("{action: http}", [("NP503", "http")]),
        ("{action: file, write: a}", [("NP503", "file")]),
        ("{action: file}", [("NP503", "file")]),
        ("{action: file, read: a, delete: b}", [("NP503", "delete")]),
        ("{action: postgres, connection: '{{ x }}', fetch: one}", [("NP503", "postgres")]),
        ("{action: python}", [("NP503", "python")]),
    ],
)
def test_missing_parameters(action: str, expected: list[tuple[str, str]]) -> None:
    assert words(action) == expected


@pytest.mark.parametrize(
    ("action", "word", "message"),
    [
        ("{action: log, message: a, fields: 5}", "5", "`fields` must be an object, not a number"),
        ("{action: log, message: a, fields: 'n={{ x }}'}", "'n={{ x }}'",
         "`fields` must be an object, not text"),
        ("{action: http, url: 5}", "5", "`url` must be text, not a number"),
        ("{action: http, url: null}", "null", "`url` must be text, not none"),
        ("{action: http, url: 'https://x.test', max_bytes: 1.5}", "1.5", "`max_bytes` must be a whole number, not a number"),
        ("{action: http, url: 'https://x.test', max_bytes: true}", "true", "`max_bytes` must be a whole number, not true"),
        ("{action: http, url: 'https://x.test', accept_status: all}", "all", "`accept_status` must be a list or a whole number, not text"),
        ("{action: set, set: [a]}", "[a]", "`set` must be an object, not a list"),
        ("{action: set, set: '{{ x }}'}", "'{{ x }}'", "`set` must be a literal mapping, not a template"),
        ("{action: log, message: a, level: loud}", "loud", "`level` cannot be `loud`"),
        ("{action: file, read: a, format: xml}", "xml", "`format` cannot be `xml`"),
        ("{action: http, url: 'https://x.test', method: FETCH}", "FETCH", "`method` cannot be `FETCH`"),
        ("{action: postgres, connection: '{{ x }}', query: '{{ x }}'}", "'{{ x }}'",
         "a statement cannot be a template: a template in `query` is a value"),
    ],
)  # fmt: skip
def test_wrong_kinds(action: str, word: str, message: str) -> None:
    ((code, found, diagnostic),) = findings(action)
    assert (code, found, diagnostic.message) == ("NP504", word, message)


def test_durations() -> None:
    assert words("{action: wait, seconds: 5x}") == [("NP504", "5x")]
    assert words("{action: wait, seconds: 5s}", "{action: wait, seconds: '{{ x }}s'}") == []


def test_templates_inside_sql_quotes() -> None:
    query = """action: postgres
  connection: "{{ x }}"
  query: |
    select '{{ x }}', {{ x }} -- {{ x.a }}
    from t where a = $$ {{ x.b }} $$ and b = '{{ x | raw }}'"""
    found = findings(query)
    assert [(code, word) for code, word, _ in found] == [
        ("NP505", "{{ x }}"),
        ("NP505", "{{ x.a }}"),
        ("NP505", "{{ x.b }}"),
        ("NP506", "{{ x | raw }}"),
    ]
    assert [d.message for _, _, d in found][:3] == [
        "template inside quotes",
        "template inside a comment",
        "template inside dollar quotes",
    ]
    assert str(found[0][2].hint).startswith("remove the quotes")


def test_templates_inside_shell_quotes() -> None:
    command = """action: shell
  command: |
    echo '{{ x }}' {{ x }} "{{ x.a }}" `{{ x.b }}` $({{ x.c }}) # {{ x.d }}
    cat <<EOF
    {{ x.e }}
    EOF
    echo {{ x }} \\{{ x.f }}"""
    assert words(command) == [
        ("NP509", "{{ x }}"),
        ("NP509", "{{ x.a }}"),
        ("NP509", "{{ x.b }}"),
        ("NP509", "{{ x.c }}"),
        ("NP509", "{{ x.d }}"),
        ("NP509", "{{ x.e }}"),
        ("NP509", "{{ x.f }}"),
    ]


@pytest.mark.parametrize(
    "action",
    [
        "{action: shell, command: 'ls {{ x | raw }}'}",
        "{action: shell, command: \"ls '{{ x | raw }}'\"}",
        "{action: http, url: 'https://x.test/{{ x | raw }}'}",
        "{action: postgres, connection: '{{ x }}', query: 'select {{ x | raw }}'}",
        "{action: postgres, connection: '{{ x }}', query: ' {{ x | raw }} '}",
    ],
)
def test_raw_is_a_warning(action: str) -> None:
    found = only_finding(action)
    assert (found.code, found.severity) == ("NP506", "warning")


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("{action: shell, command: 'ls {% if x %}a{% endif %}'}", "{% if x %}"),
        ("{action: http, url: 'https://x.test/{% if x %}a{% endif %}'}", "{% if x %}"),
        ("{action: postgres, connection: '{{ x }}', query: 'select {% if x %}1{% endif %}'}", "{% if x %}"),
    ],
)
def test_blocks_are_not_allowed_in_sinks(action: str, word: str) -> None:
    assert words(action) == [("NP403", word)]


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("{action: http, url: 'http://169.254.169.254/latest'}", "169.254.169.254"),
        ("{action: http, url: 'http://169.254.169.254/{{ x }}'}", "169.254.169.254"),
        ("{action: http, url: 'http://[fd00:ec2::254]:80/'}", "[fd00:ec2::254]"),
        ("{action: http, url: 'http://2852039166?a'}", "2852039166"),
        ("{action: http, url: 'http://a@0xA9FEA9FE/'}", "0xA9FEA9FE"),
        ("{action: http, url: 'http://Metadata.Google.Internal./'}", "Metadata.Google.Internal."),
        ("{action: http, url: 'file:///etc/passwd'}", "file"),
        ("{action: http, url: 'ftp://{{ x }}/'}", "ftp"),
        ("{action: http, url: x.test/a}", "x.test/a"),
    ],
)
def test_urls_that_are_never_allowed(action: str, word: str) -> None:
    assert words(action) == [("NP508", word)]


@pytest.mark.parametrize(
    "url", ["{{ x }}/a", "http://{{ x }}", "http://169.254.{{ x }}/", "{{ x }}://a/", "http://127.0.0.1:5/"]
)
def test_urls_that_may_be_allowed(url: str) -> None:
    assert words(f"{{action: http, url: '{url}'}}") == []


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("{action: postgres, connection: 'postgresql://ann:Tr0ub4dor@db/x', query: select 1}", "Tr0ub4dor"),
        (
            "{action: postgres, connection: 'postgresql://ann:Tr0ub4dor@{{ x }}/x', query: select 1}",
            "Tr0ub4dor",
        ),
        ("{action: postgres, connection: 'host=db password=Tr0ub4dor', query: select 1}", "Tr0ub4dor"),
        ("{action: http, url: 'https://x.test', auth: {bearer: 9f8e7d6c5b4a}}", "9f8e7d6c5b4a"),
        (
            "{action: http, url: 'https://x.test', auth: {basic: {username: a, password: Tr0ub4dor}}}",
            "Tr0ub4dor",
        ),
        (
            "{action: http, url: 'https://x.test', headers: {Authorization: Bearer 9f8e7d6c5b4a}}",
            "9f8e7d6c5b4a",
        ),
        ("{action: http, url: 'https://x.test', headers: {X-Api-Key: 9f8e7d6c5b4a}}", "9f8e7d6c5b4a"),
        ("{action: http, url: 'https://x.test', json: {a: [{db_password: Tr0ub4dor}]}}", "Tr0ub4dor"),
        ("{action: shell, command: deploy, env: {AWS_KEY: AKIAIOSFODNN7ABCDEFG}}", "AKIAIOSFODNN7ABCDEFG"),
        ("{action: shell, command: 'git clone https://ann:Tr0ub4dor@x.test/a'}", "Tr0ub4dor"),
    ],
)
def test_literal_secrets_are_reported(action: str, word: str) -> None:
    ((code, found, diagnostic),) = findings(action)
    assert (code, found, diagnostic.severity) == ("NP507", word, "warning")
    assert "Tr0ub4dor" not in diagnostic.message + str(diagnostic.hint)


@pytest.mark.parametrize(
    "action",
    [
        "{action: postgres, connection: 'postgresql://ann:{{ secrets.P }}@db/x', query: select 1}",
        "{action: postgres, connection: 'postgresql://postgres:postgres@localhost/x', query: select 1}",
        "{action: postgres, connection: 'postgresql://ann@db/x', query: select 1}",
        "{action: http, url: 'https://x.test', auth: {bearer: '{{ secrets.T }}'}}",
        "{action: http, url: 'https://x.test', headers: {Authorization: 'Bearer {{ secrets.T }}'}}",
        "{action: http, url: 'https://x.test', headers: {Authorization: 'Bearer <token>'}}",
        "{action: http, url: 'https://x.test', auth: {basic: {username: ann, password: changeme}}}",
        "{action: http, url: 'https://x.test', auth: {bearer: your-token-here}}",
        "{action: http, url: 'https://x.test', auth: {bearer: xxxxxxxxxxxx}}",
        "{action: http, url: 'https://x.test', json: {password: '***', token: next page, secret: 'no'}}",
        "{action: http, url: 'https://x.test/a:b@c'}",
        "{action: set, set: {password_hint: something long, tokens: 500000, key: order_number_5}}",
    ],
)
def test_references_and_placeholders_are_not_secrets(action: str) -> None:
    assert words(action) == []


def test_nested_actions_are_checked() -> None:
    nested = "{action: callback, notify: {action: http, urll: x, as: a, json: {to: '{{ callback.url }}'}}}"
    assert words(nested) == [("NP502", "urll"), ("NP502", "as")]
    assert words("{action: callback, notify: {url: x}}") == [("NP504", "{url: x}")]


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("paginate: {next: '{{ response.body.next }}', items: '{{ response.body }}', max_pages: 5}", []),
        ("paginate: {nxt: '{{ x }}'}", [("NP502", "nxt")]),
        ("paginate: {max_pages: '{{ x }}'}", [("NP503", "paginate")]),
        ("paginate: {next: '{{ x }}', max_pages: many}", [("NP504", "many")]),
        ("paginate: '{{ x }}'", [("NP504", "'{{ x }}'")]),
        ("paginate: [1]", [("NP504", "[1]")]),
    ],
)
def test_fields_of_parameters_are_checked(parameter: str, expected: list[tuple[str, str]]) -> None:
    assert words(f"{{action: http, url: 'https://x.test', {parameter}}}") == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select {{ x }} from {{ t | identifier }}", []),
        ("select 'a{{ x }}'", [("NP505", "{{ x }}")]),
        ("{{ x }}", [("NP504", '"{{ x }}"')]),
        ("select {{ x | raw }}", [("NP506", "{{ x | raw }}")]),
    ],
)
def test_statements_in_fields_are_checked_as_sql(query: str, expected: list[tuple[str, str]]) -> None:
    assert (
        words(f"{{action: postgres, connection: '{{{{ x }}}}', copy_to: {{query: \"{query}\", file: a}}}}")
        == expected
    )


def test_invalid_templates_are_not_reported_twice() -> None:
    assert (
        words("{action: shell, command: 'echo {{ x'}", "{action: http, url: 'https://x.test/{{ x | zzz }}'}")
        == []
    )


@pytest.mark.parametrize(
    ("notify", "found"),
    [
        ("{action: log, message: x, as: y}", ["NP502 6:39"]),
        ("{action: log, message: x, retry: lots}", ["NP012 6:46"]),
        ("{action: log, message: x, retry: {attempts: 0}}", ["NP012 6:57"]),
        ("{action: log, message: x, timeout: soon, loop: {items: [1]}}", ["NP012 6:48", "NP502 6:54"]),
        ("{action: wait, seconds: 1}", ["NP504 6:22"]),
        ("{action: logg, message: x}", ["NP501 6:22"]),
        ('{action: log, message: "{{ callback.ulr }}"}', ["NP301 6:49"]),
        ("{action: log}", ["NP503 6:22"]),
        ("hello", ["NP504 6:13"]),
        ('{action: log, message: "{{ callback.url }}", retry: 2, timeout: 5s}', []),
    ],
)
def test_the_action_of_a_callback(notify: str, found: list[str]) -> None:
    text = f"name: x\nsteps:\n- name: a\n  run:\n  - action: callback\n    notify: {notify}\n"
    diagnostics = compile_playbook(text, catalogue()).diagnostics
    assert [f"{d.code} {d.span.line}:{d.span.column}" for d in diagnostics] == found


def test_the_fields_of_an_answer_are_like_inputs() -> None:
    """Compare the findings about a field with those about an input that is declared alike."""
    declarations = [
        "bool", "{type: string, defualt: x}", "{enum: []}", "{type: integer, enum: [1, b]}", "{enum: a}",
        "{type: integer, default: a}", "{type: string, enum: [a], default: b}", "{choices: [a]}", "[string]",
        "", "1", "boolean", "{type: number, default: 1, enum: [1, 2.5], description: A number.}",
        "{default: null}", "{description: 1}", "{type: [string]}",
    ]  # fmt: skip

    def declared(text: str) -> list[tuple[str, str, str | None]]:
        lines = text.splitlines()
        return [
            (found.code, lines[found.span.line - 1][found.span.column - 1 :], found.hint)
            for found in compile_playbook(text, catalogue()).diagnostics
            if found.code in ("NP010", "NP012", "NP110")
        ]

    steps = "steps: [{name: a, run: [{action: log, message: x}]}]\n"
    found = []
    for declaration in declarations:
        field = (
            f"name: t\nsteps:\n- name: a\n  run:\n  - action: callback\n    answer:\n     f: {declaration}"
        )
        as_input = declared(f"name: t\n{steps}input:\n f: {declaration}")
        as_field = declared(field)
        assert [(code, word) for code, word, _ in as_field] == [(code, word) for code, word, _ in as_input]
        for (_, _, hint), (_, _, expected) in zip(as_field, as_input, strict=True):
            assert hint == (expected and expected.replace("an input", "a field"))
        found += as_field
    assert len(found) >= 12


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("{a: {description: '{{ x }}'}}", [("NP504", "'{{ x }}'")]),
        ("{a: {type: string, enum: [b, '{{ x }}']}}", [("NP504", "'{{ x }}'")]),
        ("{a: '{{ x }}'}", [("NP504", "'{{ x }}'")]),
        ("'{{ x }}'", [("NP504", "'{{ x }}'")]),
        ("[boolean]", [("NP504", "[boolean]")]),
        ("{a: boolean}", []),
        ("{item: boolean, error: string}", []),
        ("", []),
    ],
)
def test_an_answer_is_declared_without_templates(answer: str, expected: list[tuple[str, str]]) -> None:
    assert words(f"{{action: callback, answer: {answer}}}") == expected
