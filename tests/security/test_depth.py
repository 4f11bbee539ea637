"""Data that enters a run is at most 100 levels deep. Deeper data is a named error of its action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.json_values import MAX_DEPTH, TooDeepError, is_too_deep, nests_deeper, read_json
from noetl.executor.model.run import RunStatus
from noetl.executor.security.redaction import REVEALED_SECRETS
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness
from tests.http_server import serve

DEPTHS = [101, 900, 5_000, 500_000]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def run_one(work: dict[str, Any], folder: Path | None = None) -> RunHarness:
    """Return the finished run of one action, while a secret is known, so that all data is searched."""
    REVEALED_SECRETS.add("known-to-the-process")
    playbook = json.dumps({"name": "deep", "steps": [{"name": "only", "run": [{**work, "as": "data"}]}]})
    return RunHarness(MemoryStore(), playbook, folder=folder).finish()


def error_of(run: RunHarness) -> tuple[str, str]:
    assert run.status is RunStatus.FAILED
    (error,) = run.run.errors
    assert error["retryable"] is False and len(json.dumps(error)) < 20_000
    return error["type"], error["message"]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_deep_answer_is_an_error_of_http(depth: int) -> None:
    with serve(
        lambda exchange: exchange.reply(200, nested(depth).encode(), content_type="application/json")
    ) as server:
        error = error_of(run_one({"action": "http", "method": "POST", "url": server.url()}))
    assert error == ("LimitExceeded", "the body cannot be read: it is nested more than 100 levels deep")
    assert len(server.requests) == 1


def test_a_deep_body_of_a_failure_is_kept_as_text() -> None:
    with serve(
        lambda exchange: exchange.reply(400, nested(900).encode(), content_type="application/json")
    ) as server:
        run = run_one({"action": "http", "url": server.url()})
    assert error_of(run)[0] == "HTTPStatus"
    assert run.run.errors[0]["details"]["body"] == nested(900)


@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_output_of_commands_and_functions_is_an_error(depth: int, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(nested(depth))
    assert (
        error_of(run_one({"action": "file", "read": "deep.json", "format": "json"}, tmp_path))[0]
        == "FileError"
    )
    shell = {"action": "shell", "command": "cat deep.json", "parse": "json"}
    if depth <= 5_000:
        with pytest.raises(AssertionError):  # `CommandFailed` is retryable
            error_of(run_one(shell, tmp_path))
    assert run_one(shell, tmp_path).status is RunStatus.FAILED


def test_a_deep_result_of_a_function_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(
        "def make():\n    x = 1\n    for _ in range(900): x = [x]\n    return x\n"
    )
    kind, message = error_of(run_one({"action": "python", "function": "deep:make"}, tmp_path))
    assert kind == "FunctionFailed" and "nested" in message


def test_data_that_grows_on_a_cycle_is_an_error() -> None:
    playbook = """
        variables: {x: 1}
        steps:
        - name: grow
          run: [{action: set, set: {x: "{{ [x] }}"}}]
          max_visits: 3000
          rule: [{case: "{{ step.visit < 2000 }}", run: [grow]}]
        """
    run = RunHarness(MemoryStore(), playbook).finish()
    kinds = {visit.error["type"] for visit in run.visits if visit.error}
    assert kinds == {"LimitExceeded"} and len(run.visits) == MAX_DEPTH


def test_a_deep_value_of_postgres_is_an_error(postgres_dsn: str) -> None:
    query = "select (repeat('[', 900) || repeat(']', 900))::json as deep"
    kind, message = error_of(run_one({"action": "postgres", "connection": postgres_dsn, "query": query}))
    assert (kind, message) == ("LimitExceeded", "JSON in a row: it is nested more than 100 levels deep")


@pytest.mark.parametrize(
    ("text", "is_deep"),
    [
        (nested(100), False),
        (nested(101), True),
        ('{"a":' * 101 + "1" + "}" * 101, True),
        ("[" + "[]," * 5_000 + "1]", False),
        ("[" * 5_000, True),
        ('["' + "[" * 5_000 + '"]', False),
        ('["\\"' + "[" * 5_000 + '"]', False),
        ('"' + "[" * 5_000, False),
        ("][" * 5_000, False),
    ],
)
def test_the_depth_of_a_text_is_found_without_decoding(text: str, is_deep: bool) -> None:
    assert nests_deeper(text.encode(), MAX_DEPTH) is is_deep
    if is_deep:
        with pytest.raises(TooDeepError):
            read_json(text)


@pytest.mark.parametrize("depth", [1, 99, 100, 101, 5_000])
def test_the_depth_of_a_value_is_found_without_recursion(depth: int) -> None:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    assert is_too_deep(value) is (depth > MAX_DEPTH)
    assert not is_too_deep("x") and not is_too_deep([[], {}, 1])
