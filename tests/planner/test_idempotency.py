from __future__ import annotations

import pytest

from tests.planner.findings import diagnose, findings, messages

SEND = "{action: message, to: 'https://sqs.eu-west-1.amazonaws.com/1/q', body: x}"
SHELL = "{action: shell, command: ls}"
INSERT = "{action: postgres, connection: '{{ secrets.D }}', query: 'insert into t values (1)'}"
SELECT = "{action: postgres, connection: '{{ secrets.D }}', query: 'select 1'}"
UPSERT = INSERT.replace("(1)", "(1) ON  CONFLICT do nothing")
COPY = "{action: postgres, connection: '{{ secrets.D }}', copy_from: {table: t, file: a.csv}}"
POST = "{action: http, method: POST, url: 'https://example.com'}"
LOG = "{action: log, message: x}"


def step(*run: str, more: str = "retry: 3,") -> str:
    return f"steps: [{{name: a, {more} run: [{', '.join(run)}]}}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (step(SEND), ["message"]),
        (step(SHELL), ["shell"]),
        (step(SHELL, more="retry: 1,"), []),
        (step(SHELL, more=""), []),
        ("retry: 2\n" + step(SHELL, more=""), ["shell"]),
        ("retry: 2\n" + step(SHELL, more="retry: 1,"), []),
        (step(INSERT), []),
        (step(INSERT, LOG), ["postgres"]),
        (step(COPY, LOG), ["postgres"]),
        (step(SELECT, LOG), []),
        (step(UPSERT, LOG), []),
        (step(INSERT, LOG, more="retry: 3, parallel: true,"), ["postgres"]),
        (step(LOG, INSERT, more="retry: 3, parallel: true,"), ["postgres"]),
        (step(INSERT, more="retry: 3, loop: {items: [1]},"), ["postgres"]),
        (step(POST, LOG), []),
        (step("{action: file, append: a, content: x}"), ["file"]),
        (step("{action: file, write: a, content: x}"), []),
        (step("{action: lambda, function: f}"), ["lambda"]),
        (step("{action: lambda, function: f, payload: {key: '{{ step.idempotency_key }}'}}"), []),
        (step("{action: shell, command: ls, env: {KEY: '{{ step.idempotency_key }}'}}"), []),
        (step("{action: shell, command: ls, retry: 2}", more=""), ["shell"]),
        (step(INSERT.replace("}'}", "}'}").replace("(1)'}", "(1)', retry: 2}"), more=""), []),
        (f"tasks: {{t: [{INSERT}]}}\n" + step("t", LOG), ["postgres"]),
        (f"tasks: {{t: [{INSERT}]}}\n" + step("t"), []),
        (f"tasks: {{t: [u], u: [{INSERT}, {LOG}]}}\n" + step("t"), ["postgres"]),
        (f"tasks: {{t: [{INSERT}]}}\n" + step("t", more=""), []),
        ("steps: [{name: a, retry: 3, rule: [{case: default, run: [" + SHELL + "]}]}]", []),
    ],
)  # fmt: skip
def test_actions_that_a_retry_may_repeat(text: str, expected: list[str]) -> None:
    assert [word for _, word in findings(text, "NP510")] == expected


def test_message_and_label() -> None:
    text = step(SHELL)
    assert messages(text, "NP510") == ["`shell` is not idempotent and may run up to 3 times"]
    (note,) = (d for d in diagnose(text) if d.code == "NP510")
    assert [label.text for label in note.labels] == ["this retry repeats it"]


def test_tasks_with_exponentially_many_call_paths() -> None:
    calls = "".join(f"  t{n}: [t{n + 1}, t{n + 1}]\n" for n in range(30))
    text = f"tasks:\n{calls}  t30: [{SHELL}]\n" + step("t0")
    assert [word for _, word in findings(text, "NP510")] == ["shell"]
