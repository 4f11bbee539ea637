"""A newcomer adds an action type with one file: it is checked, drawn and executed as its declaration says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from noetl.api.cli.display.run_board import ActiveVisit, RunBoard, describe_wait
from noetl.executor.actions import catalogue, temporary_types
from noetl.executor.model.events import Event
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.draw import text
from noetl.testing.actions import ActionTester, ScriptedAction
from tests.testing import toy_action

ROOT = Path(__file__).parents[2]
PLAYBOOK = """
name: visit
input: {who: {type: string}}
steps:
  - name: only
    run:
      - {action: greet, greetings: {first: "{{ who }}", second: Bob}}
      - {action: log, message: "{{ first }} and {{ second }}"}
output: {first: "{{ first }}"}
"""


@pytest.fixture
def tester() -> ActionTester:
    return ActionTester(toy_action)


def test_the_names_that_it_saves_are_known_and_have_values(tester: ActionTester) -> None:
    assert tester.compile(PLAYBOOK).diagnostics == ()
    finished = tester.run(PLAYBOOK, {"who": "Ann"})
    assert finished.result == {"first": "Hello Ann"}
    assert finished.event_types()[-1] == "workflow.completed"


def test_a_name_that_it_does_not_save_is_unknown(tester: ActionTester) -> None:
    (finding,) = tester.compile(PLAYBOOK.replace("{{ second }}", "{{ third }}")).diagnostics
    assert (finding.code, finding.message) == (
        "NP301",
        "unknown name `third`: nothing in the playbook assigns it",
    )


def test_its_names_are_reported_at_their_keys(tester: ActionTester) -> None:
    (finding,) = tester.check({"greetings": {"input": "Ann"}})
    assert (finding.code, finding.message) == ("NP110", "`input` is a reserved name")


def test_a_drawing_shows_its_summary(tester: ActionTester) -> None:
    plan = tester.compile(PLAYBOOK).plan
    assert plan is not None
    with temporary_types(toy_action):
        assert "greet 2 people, log" in text.draw(plan, catalogue())


def test_a_secret_is_refused_except_where_it_may_be_read(tester: ActionTester) -> None:
    allowed = {"greetings": {"a": "Ann"}, "key": "{{ secrets.KEY }}"}
    assert tester.check(allowed) == ()
    leaked = {"greetings": {"a": "{{ secrets.KEY }}"}}
    assert [finding.code for finding in tester.check(leaked)] == ["NP406"]


def test_its_sink_is_checked_and_the_message_names_it(tester: ActionTester) -> None:
    (finding,) = tester.check({"greetings": {"a": "Ann"}, "door": "ftp://door.test"})
    assert (finding.code, finding.message) == ("NP508", "URL scheme `ftp` is not supported by `greet`")


def test_a_password_in_a_connection_string_is_reported() -> None:
    parameter = Parameter((Kind.STRING,), "A server.", is_connection_string=True)
    declaration = ActionDeclaration(
        "reach",
        "Reaches a server.",
        {"server": parameter, "note": replace(parameter, is_connection_string=False)},
    )
    tester = ActionTester(ScriptedAction(declaration))
    text = "host=db.test password=correct-horse"
    assert [finding.code for finding in tester.check({"server": text})] == ["NP507"]
    assert tester.check({"note": text}) == ()


def test_displays_say_what_it_waits_for() -> None:
    declaration = ActionDeclaration("approve", "Waits.", suspends=True, awaits="an approval")
    visit = ActiveVisit("only", 0.0, actions=("approve", "wait"))
    with temporary_types(ScriptedAction(declaration)):
        assert describe_wait(visit, "5 s") == "waits for an approval, 5 s left"
    assert describe_wait(visit, "5 s") == "waits for `approve`, 5 s left"


def test_a_run_that_it_waits_for_is_followed() -> None:
    declaration = ActionDeclaration(
        "delegate", "Runs elsewhere.", suspends=True, child_run=lambda state: state["id"]
    )
    waiting = Event("step.waiting", 0.0, "only", 1, payload={"actions": ["delegate"]})
    for known in (True, False):
        board = RunBoard()
        with temporary_types(*[ScriptedAction(declaration)] * known):
            board.apply(waiting)
        assert board.starts_runs is known


def test_its_handler_gets_rendered_parameters(tester: ActionTester) -> None:
    assert tester.perform({"greetings": {"a": "{{ who }}"}}, {"who": "Ann"}) == {"a": "Hello Ann"}


def test_an_installed_package_adds_it_to_the_command_line(tmp_path: Path) -> None:
    shutil.copy(toy_action.__file__, tmp_path / "greet_action.py")
    metadata = tmp_path / "greet_action-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: greet-action\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[noetl.actions]\ngreet = greet_action\n")
    (tmp_path / "play.yaml").write_text(PLAYBOOK)

    def noetl(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "noetl", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert "greet 2 people, log" in noetl("plan", "play.yaml")
    assert json.loads(noetl("run", "play.yaml", "--quiet", "-i", "who=Ann"))["first"] == "Hello Ann"


def test_the_page_for_authors_shows_this_module_and_every_field() -> None:
    page = Path(ROOT, "docs", "how-to", "add-an-action.md").read_text("utf-8")
    assert f"```python\n{Path(toy_action.__file__).read_text('utf-8')}```" in page
    for declared in (ActionDeclaration, Parameter):
        for field in fields(declared):
            assert f"\n| `{field.name}` |" in page
