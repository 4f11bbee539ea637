"""Output of commands: what a playbook or a service says never reaches a terminal as a control sequence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noetl.planner.diagnostics.terminal_text import format_json, to_printable_lines
from tests.api.cli import conftest
from tests.http_server import StubExchange, serve

noetl, folder = conftest.noetl, conftest.folder

Command = Callable[..., Any]

HOSTILE = "\x1b[31m\x9b1m\x85\x7f\u202e\u2066\u2028\u2029\u200e\ufeff\r\U000e0001x"
"""Escape sequences, C1 controls, marks of direction, ends of lines, and an invisible tag."""

PLAYBOOK = (
    "name: hostile\ninput: {text: string}\n"
    "steps: [{name: a, run: [{action: set, set: {t: '{{ input.text }}'}}]}]\noutput: {'said': '{{ t }}'}\n"
)
FAILS = (
    "name: fails\ninput: {text: string}\n"
    "steps: [{name: a, run: [{action: fail, message: '{{ input.text }}'}]}]\n"
)


def assert_harmless(text: str) -> None:
    assert [character for line in text.split("\n") for character in line if not character.isprintable()] == []


@pytest.fixture
def hostile_input(folder: Path) -> str:
    (folder / "hostile.yaml").write_text(PLAYBOOK)
    (folder / "fails.yaml").write_text(FAILS)
    (folder / "input.json").write_text(json.dumps({"text": HOSTILE}))
    return "input.json"


def test_the_result_of_a_run_has_escapes(noetl: Command, hostile_input: str) -> None:
    for options in ((), ("--json",)):
        outcome = noetl("run", "hostile.yaml", "--input", hostile_input, *options)
        assert json.dumps(HOSTILE) in json.dumps(json.loads(outcome.out))
        assert_harmless(outcome.out + outcome.err)


def test_errors_and_histories_are_harmless(noetl: Command, hostile_input: str) -> None:
    failed = noetl("run", "fails.yaml", "--input", hostile_input)
    assert failed.exit_code == 1
    assert_harmless(failed.out + failed.err)
    run_id = json.loads(noetl("runs", "list", "--json").out)["items"][0]["workflow_id"]
    for command in ("show", "events"):
        for options in ((), ("--json",)):
            outcome = noetl("runs", command, run_id, *options)
            assert outcome.exit_code == 0
            assert "\ufffd" in outcome.out or "\\u009b" in outcome.out
            assert_harmless(outcome.out + outcome.err)


def reply_with(body: Any, exchange: StubExchange) -> None:
    exchange.reply_json(body)


def test_answers_of_a_service_are_harmless(noetl: Command, hostile_input: str) -> None:
    finished = {"workflow_id": "a", "result": {"said": HOSTILE}, "errors": []}
    error = {"step": HOSTILE, "type": HOSTILE, "message": HOSTILE}

    for body in (
        finished | {"status": "succeeded"},
        finished | {"status": "failed", "errors": [error]},
    ):
        with serve(partial(reply_with, body)) as server:
            for options in ((), ("--json",)):
                outcome = noetl("submit", "hostile.yaml", "--url", server.url(""), "--wait", *options)
                assert_harmless(outcome.out + outcome.err)
    assert "\\u009b" in outcome.out


def test_a_plan_is_harmless(noetl: Command, folder: Path) -> None:
    text = json.dumps({"name": "p", "steps": [{"name": "a", "run": [{"action": "log", "message": HOSTILE}]}]})
    (folder / "p.yaml").write_text(text)
    outcome = noetl("plan", "p.yaml", "--format", "json")
    assert outcome.exit_code == 0
    assert json.dumps(HOSTILE) in json.dumps(json.loads(outcome.out))
    assert_harmless(outcome.out)


def test_json_keeps_its_value() -> None:
    value = {HOSTILE: [HOSTILE, "é 日本 😀", 1.5, None]}
    assert json.loads(format_json(value)) == value
    assert "é 日本 😀" in format_json(value)
    assert_harmless(format_json(value))


def test_lines_stay_lines() -> None:
    assert to_printable_lines("a\n\nb\n") == "a\n\nb\n"
    assert_harmless(to_printable_lines(HOSTILE))


def test_only_the_console_and_binary_output_write_to_stdout() -> None:
    root = Path(sys.modules["noetl.api"].__path__[0])
    writers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "sys.stdout.write" in path.read_text("utf-8") or "typer.echo" in path.read_text("utf-8")
    }
    assert writers == {"cli/display/console.py"}
