"""`noetl runs show --step` and `noetl runs logs`: what a step received, did, saved and wrote."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli.display.step_data import format_log_line

Command = Callable[..., Any]

PLAYBOOK = """\
name: reported
steps:
  - name: "<b>a"
    run:
      - {action: set, set: {total: 3, text: "\\e[31mred"}}
      - {action: shell, command: "printf 'one\\ntwo\\n'; echo no >&2; exit 4", on_error: continue}
      - {action: log, level: error, message: "\\e[31mred", fields: {n: 1}}
    rule:
      - {case: "{{ total > 5 }}", run: [later]}
      - {case: default, run: [later]}
  - name: later
    loop: {items: [2, 0], as: n, on_error: continue}
    run:
      - {action: log, message: "{{ n }}"}
      - {action: set, set: {y: "{{ 1 / n }}"}}
"""


@pytest.fixture
def reported(noetl: Command, folder: Path) -> str:
    (folder / "reported.yaml").write_text(PLAYBOOK)
    id: str = noetl("run", "reported.yaml", "--json").json["workflow_id"]
    return id


def test_a_step_is_shown_with_its_data(noetl: Command, reported: str) -> None:
    shown = noetl("runs", "show", "last", "--step", "<b>a")
    assert (shown.exit_code, shown.err) == (0, "")
    assert "\x1b" not in shown.out
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    for line in (
        'set: {"total":3,"text":"\\u001b[31mred"}',
        "command: printf 'one two '; echo no >&2; exit 4",
        "total: 3",
        "case 1 {{ total > 5 }} false",
        "case 2 → later",
        "CommandFailed: exit code 4: no",
    ):
        assert line in lines, shown.out
    assert sum("CommandFailed" in line for line in lines) == 1


def test_the_failed_items_of_a_loop_are_shown(noetl: Command, reported: str) -> None:
    shown = noetl("runs", "show", reported, "--step", "later")
    assert "run  2 of 2 items, 1 failed" in shown.out
    failed = shown.out.partition("failed items\n")[2]
    assert failed.startswith("  2  0  TemplateError: ")


def test_json_has_the_members_of_the_response(noetl: Command, reported: str) -> None:
    data = noetl("runs", "show", reported, "--step", "later", "--visit", "1", "--json").json
    assert (data["workflow_id"], data["step"], data["visit"]) == (reported, "later", 1)
    assert [failure["index"] for failure in data["failures"]] == [2]


def test_the_log_has_the_lines_of_commands_and_items(noetl: Command, reported: str) -> None:
    shown = noetl("runs", "logs", "last")
    assert "\x1b" not in shown.out
    lines = [line[14:] for line in shown.out.splitlines()]
    assert lines[:4] == [
        "<b>a  shell  stdout  one",
        "two",
        "<b>a  shell  stderr  no",
        '<b>a  log  error  ␛[31mred  {"n":1}',
    ]
    assert sorted(lines[4:]) == ["later  log item 1  info  2", "later  log item 2  info  0"]
    of_step = noetl("runs", "logs", reported, "--step", "later", "--json")
    assert [json.loads(line)["item"] for line in of_step.out.splitlines()] in ([1, 2], [2, 1])
    assert noetl("runs", "logs", reported, "--follow").out == shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "last", "--step", "latr"), "unknown step `latr`; did you mean `later`?"),
        (("show", "last", "--step", "later", "--visit", "2"), "has no visit 2; it has 1"),
        (("show", "last", "--visit", "2"), "--visit needs --step"),
        (("logs", "last", "--step", "latr"), "unknown step `latr`; did you mean `later`?"),
    ],
)
def test_what_does_not_exist_is_named(
    noetl: Command, reported: str, arguments: tuple[str, ...], message: str
) -> None:
    outcome = noetl("runs", *arguments)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert message in outcome.err


def test_an_empty_store_has_no_last_run(noetl: Command, reported: str, folder: Path) -> None:
    outcome = noetl("runs", "show", "last", "--store", "sqlite:///empty.db")
    assert outcome.exit_code == 2


def test_a_cut_line_says_so() -> None:
    line = {
        "logged_at": "2026-01-31T09:30:00.123456Z",
        "step": "a",
        "action": "shell",
        "stream": "stdout",
        "text": "x\n",
        "cut": 20_000,
    }
    assert format_log_line(line).splitlines() == [
        "09:30:00.123  a  shell  stdout  x",
        "              (the first of 20,000 characters)",
    ]


def test_the_items_of_a_loop_are_a_table(noetl: Command, reported: str) -> None:
    shown = noetl("runs", "items", "last", "--step", "later")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert (shown.exit_code, shown.err) == (0, "")
    assert lines[:4] == [
        "later visit 1 2 items: 1 succeeded, 1 failed",
        "item state value details",
        "1 succeeded",
        "2 failed 0 TemplateError: item 2 of 2: `set.y`: division by zero",
    ]
    assert "values n = 0" in lines, shown.out
    failed = noetl("runs", "items", reported, "--step", "later", "--state", "failed", "--json").json
    assert (failed["counts"], [item["number"] for item in failed["items"]]) == (
        {"succeeded": 1, "failed": 1},
        [2],
    )


def test_items_are_listed_in_pages(noetl: Command, reported: str) -> None:
    first = noetl("runs", "items", reported, "--step", "later", "--limit", "1")
    assert first.err.startswith("more items: --cursor ")
    cursor = first.err.split()[-1]
    second = noetl("runs", "items", reported, "--step", "later", "--limit", "1", "--cursor", cursor)
    assert ("1     succeeded" in first.out, "2     failed" in second.out, second.err) == (True, True, "")


def test_a_step_without_a_loop_has_no_items(noetl: Command, reported: str) -> None:
    result = noetl("runs", "items", reported, "--step", "<b>a")
    assert (result.exit_code, result.err) == (2, "noetl: step `<b>a` has no loop\n")
    broken = noetl("runs", "items", reported, "--step", "later", "--state", "broken")
    assert broken.exit_code == 2
    assert "--state" in broken.err


def test_a_run_shows_the_counts_of_its_loops(noetl: Command, reported: str) -> None:
    assert "\nlater: 2 of 2 items, 1 failed\n" in noetl("runs", "show", reported).out
    report = noetl("runs", "show", reported, "--json").json
    assert report["steps"]["later"]["loops"] == [{"position": "run", "done": 2, "failed": 1, "total": 2}]


def test_a_worker_is_shown_by_its_host_and_process(noetl: Command) -> None:
    noetl("run", "-", "-q", stdin="name: one\nsteps:\n- {name: a, run: [{action: set, set: {x: 1}}]}\n")
    process = f"{socket.gethostname()} process {os.getpid()}"
    assert f"worker {process}\n" in noetl("runs", "events", "last").out
    assert f"by {process}\n" in noetl("runs", "show", "last", "--step", "a").out
