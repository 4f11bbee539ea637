"""The playbooks that a plan calls, and their pictures on its page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from noetl.api.pictures import lay_out
from noetl.executor.actions import catalogue
from noetl.planner.catalogue import PlaybookCall
from noetl.planner.draw.called_playbooks import CalledPlaybook, find_calls
from noetl.planner.draw.page import write_page
from noetl.planner.plan import Action, Case, Step, Task
from tests.planner.test_draw import forked_plan, plan_of


def call(**parameters: Any) -> Action:
    return Action("workflow", parameters)


def test_calls_of_steps_cases_and_tasks_are_found_once() -> None:
    step = Step(
        "a",
        run=(
            call(playbook="first"),
            call(playbook="second", version="2"),
            call(playbook="second", alias="stable"),
            Action("log", {"message": "x"}),
        ),
        cases=(Case(None, work=(call(playbook="third"), call(playbook="first"))),),
    )
    plan = replace(plan_of(step), tasks={"t": Task((call(playbook="fourth"),))})
    calls = find_calls(plan, catalogue())
    assert list(map(str, calls)) == ["first", "second@2", "second@stable", "third", "fourth"]


def test_calls_that_are_known_only_in_a_run_are_left_out() -> None:
    run = (
        call(playbook="{{ name }}"),
        call(playbook="known", version="{{ version }}"),
        call(playbook="known", alias="{{ alias }}"),
        call(playbook=7),
        call(playbook="any", version=7),
        call(),
        Action("not_installed", {}),
    )
    assert find_calls(plan_of(Step("a", run=run)), catalogue()) == (PlaybookCall("any"),)


def test_the_page_has_a_folded_picture_of_each_called_playbook() -> None:
    layout = lay_out(forked_plan(), catalogue())
    called = (
        CalledPlaybook(PlaybookCall("one", "1"), layout),
        CalledPlaybook(PlaybookCall("<two>"), problem="it is not here"),
    )
    page = write_page(layout, None, "", (), called)
    assert page.count("<svg") == 2
    assert "<details><summary><bdi>one@1</bdi>: " in page
    assert "<p><bdi>&lt;two&gt;</bdi>: it is not here</p>" in page
    assert "Called playbooks" not in write_page(layout, None, "")
