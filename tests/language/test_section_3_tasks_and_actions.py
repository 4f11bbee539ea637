"""Section 3 of the language, tasks and actions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.ids import hash_secret
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness
from tests.language.sentences import OK, check_outcome, outcome, sentence
from tests.planner.findings import diagnose, findings

CALL = "steps: [{name: a, run: [{task: t}]}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "`tasks` may also be a mapping `name: [actions]`",
            "tasks: {t: [{action: set, set: {x: 1}}]}\n" + CALL,
            {"result": {"x": 1}},
        ),
        sentence(
            "what its actions save is saved in the run",
            "tasks: [{name: t, run: [{action: set, set: {x: 1}}]}]\n" + CALL,
            {"result": {"x": 1}},
        ),
        sentence(
            "tasks may call tasks",
            "tasks: {t: [{task: u}], u: [{action: set, set: {x: 1}}]}\n" + CALL,
            {"result": {"x": 1}},
        ),
        sentence(
            "`with` gives a task its `args`",
            (
                "tasks: {t: [{action: set, set: {x: '{{ args.y }}'}}]}\n"
                "steps: [{name: a, run: [{task: t, with: {y: [1]}}]}]\n"
            ),
            {"result": {"x": [1]}},
        ),
        sentence(
            "task calls take `as`, `if`",
            (
                "tasks: {t: [{action: set, set: {x: 1}}]}\n"
                "steps: [{name: a, run: [{task: t, as: r}, {task: t, if: '{{ false }}', as: s}]}]\n"
            ),
            {"result": {"x": 1, "r": {"x": 1}}},
        ),
        sentence(
            "task calls take `loop`",
            (
                "tasks: {t: [{action: set, set: {x: '{{ args.i }}'}}]}\n"
                "steps: [{name: a, run: [{task: t, with: {i: '{{ item }}'}, loop: {items: [1, 2]}, "
                "as: r}]}]\n"
            ),
            {"result": {"r": [{"x": 1}, {"x": 2}]}},
        ),
        sentence(
            "task calls take `on_error`",
            (
                "tasks: {t: [{action: fail, message: bad}]}\n"
                "steps: [{name: a, run: [{task: t, on_error: continue}]}]\n"
            ),
            {"status": "succeeded"},
        ),
        sentence(
            "`if` (skip unless true)",
            "steps: [{name: a, run: [{action: set, set: {x: 1}, if: '{{ false }}'}]}]",
            {"result": {}},
        ),
        sentence(
            "`set`: names to values, which do not see each other",
            "variables: {a: 1}\nsteps: [{name: s, run: [{action: set, set: {a: 2, b: '{{ a }}'}}]}]",
            {"result": {"a": 2, "b": 1}},
        ),
        sentence(
            "`log`: level in any case",
            "steps: [{name: a, run: [{action: log, message: ok, level: WARNING}]}]",
            {"status": "succeeded"},
        ),
        sentence(
            "`wait`: `seconds`",
            "steps: [{name: a, run: [{action: wait, seconds: 90}]}]",
            {"status": "succeeded"},
        ),
        sentence(
            "`wait`: `until`",
            "steps: [{name: a, run: [{action: wait, until: '2026-12-01T06:00:00Z'}]}]",
            {"status": "succeeded"},
        ),
        sentence(
            "`shell`: {exit_code, stdout, stderr}",
            "steps: [{name: a, run: [{action: shell, command: 'printf x', as: r}]}]",
            {"result": {"r": {"exit_code": 0, "stdout": "x", "stderr": ""}}},
        ),
        sentence(
            "`shell`: non-zero exit fails",
            "steps: [{name: a, run: [{action: shell, command: 'exit 3'}]}]",
            {"errors": ["CommandFailed"]},
        ),
        sentence(
            "`shell`: `parse: lines` adds `data`",
            (
                "steps: [{name: a, run: [{action: shell, command: 'echo a; echo b', parse: lines, as: "
                "r}]}]\noutput: {r: '{{ r.data }}'}"
            ),
            {"result": {"r": ["a", "b"]}},
        ),
        sentence(
            "`shell`: `parse: json` adds `data`",
            (
                "steps: [{name: a, run: [{action: shell, command: 'echo [1]', parse: json, as: r}]}]\n"
                "output: {r: '{{ r.data }}'}"
            ),
            {"result": {"r": [1]}},
        ),
    ],
)
def test_outcomes(text: str, expected: dict[str, Any]) -> None:
    check_outcome(text, {}, expected)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        sentence("not in a circle", "tasks: {t: [{task: u}], u: [{task: t}]}\n" + CALL, ["NP108"]),
        sentence("an unknown type", "steps: [{name: a, run: [{action: sett}]}]", ["NP501"]),
        sentence(
            "an unknown parameter",
            "steps: [{name: a, run: [{action: log, message: x, levle: info}]}]",
            ["NP502"],
        ),
        sentence("a missing parameter", "steps: [{name: a, run: [{action: log}]}]", ["NP503"]),
        sentence(
            "a parameter of the wrong type",
            "steps: [{name: a, run: [{action: log, message: x, fields: 3}]}]",
            ["NP504"],
        ),
    ],
)
def test_a_parameter_is_refused_at_compile_time(text: str, codes: list[str]) -> None:
    assert [code for code, _ in findings(text)] == codes


EXAMPLES = r"""
- {action: http, method: POST, url: "https://x.test/a/{{ id }}", headers: {X-A: b}, json: {a: 1},
    auth: {bearer: "{{ secrets.TOKEN }}"}, accept_status: [404], as: reply}
- {action: http, url: "https://x.test/items", paginate: {next: "{{ response.body.next }}", items: "{{
    response.body.items }}", max_pages: 100}, as: pages}
- {action: postgres, connection: "{{ secrets.DSN }}", query: "select * from t where id = {{ id }}",
    fetch: one, as: row}
- {action: postgres, connection: "{{ secrets.DSN }}", query: "insert into t (a, b) values (%(a)s,
    %(b)s)", rows: "{{ items }}"}
- {action: postgres, connection: "{{ secrets.DSN }}", copy_from: {table: t, file: orders.csv}}
- {action: file, read: orders.csv, format: csv, as: rows}
- {action: s3, get: "s3://bucket/key", format: json, as: doc}
- {action: shell, command: "wc -l {{ path }}", env: {A: b}, parse: lines, as: counted}
- {action: python, function: "lib.orders:clean", args: {rows: "{{ orders }}"}, as: cleaned}
- {action: set, set: {total: "{{ orders | sum(attribute='amount') }}"}}
- {action: fail, message: "no rows", type: EmptyInput}
- {action: wait, seconds: 90}
- {action: wait, until: "2026-12-01T06:00:00Z"}
- {action: callback, notify: {action: http, method: POST, url: "https://x.test/ask", json: {answer_to:
    "{{ callback.url }}"}}, timeout: 2d, as: decision}
- {action: callback, title: Approve?, details: {order: "{{ id }}"}, answer: {approved: boolean}, as:
    decision}
- {action: workflow, playbook: nightly, version: "3", input: {day: "{{ day }}"}, as: night}
- {action: message, to: "arn:aws:sns:eu-central-1:123456789012:topic", body: {a: 1}, attributes: {k:
    v}}
- {action: lambda, function: resize, payload: {key: "{{ key }}"}, as: resized}
"""


@pytest.mark.parametrize("action", re.split(r"^- ", EXAMPLES, flags=re.MULTILINE)[1:])
def test_an_example_of_an_action_compiles(action: str) -> None:
    text = (
        f"input: {{id: any, items: any, path: any, orders: any, day: any, key: any}}\n"
        f"steps: [{{name: a, run: [{action}]}}]"
    )
    assert [d.code for d in diagnose(text) if d.severity.value == "error"] == []


def test_every_type_of_the_language_exists() -> None:
    """The table of types."""
    work = {"http", "postgres", "file", "shell", "python", "s3", "message", "lambda"}
    control = {"set", "log", "fail", "wait", "callback", "workflow"}
    assert work | control <= set(catalogue())


@pytest.mark.parametrize(
    ("text", "format", "content"),
    [
        ("a:integer,b\n1,x\n", "csv", [{"a": 1, "b": "x"}]),
        ("[1]", "json", [1]),
        ("1\n2\n", "jsonl", [1, 2]),
        ("x", "text", "x"),
    ],
)
def test_formats_of_files(text: str, format: str, content: Any, tmp_path: Path) -> None:
    """`file`: `format: text|json|jsonl|csv`."""
    (tmp_path / "f").write_text(text)
    playbook = f"name: p\nsteps: [{{name: a, run: [{{action: file, read: f, format: {format}, as: r}}]}}]"
    harness = RunHarness(MemoryStore(), playbook, folder=tmp_path).finish()
    assert (harness.status, harness.result) == ("succeeded", {"r": content})


def test_a_skipped_action_saves_nothing() -> None:
    text = f"steps: [{{name: a, {OK}}}]"
    assert outcome(text)["result"] == {}


ASK = """
    steps:
    - name: ask
      run:
      - action: callback
        answer: {approved: boolean}
        notify: {action: file, write: token, content: "{{ callback.token }}"}
        as: decision
"""


def test_an_answer_is_checked_against_the_declared_fields(tmp_path: Path) -> None:
    """`callback`: `answer` declares fields as `input` does; what is sent in is checked against it."""
    harness = RunHarness(MemoryStore(), ASK, folder=tmp_path)
    while harness.execute_next():
        pass
    token = hash_secret((tmp_path / "token").read_text())
    with pytest.raises(RejectedError, match="approved"):
        harness.store.waits.answer(token, {"approved": "perhaps"}, harness.clock())
    harness.store.waits.answer(token, {"approved": True}, harness.clock())
    assert harness.finish().result == {"decision": {"approved": True}}
