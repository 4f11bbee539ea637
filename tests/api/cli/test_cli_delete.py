"""The command `noetl runs delete`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from noetl.api.cli import run_filters
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.cli.conftest import Command

FINE = "name: fine\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
HELD = "name: held\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


@pytest.fixture
def ids(noetl: Command) -> list[str]:
    """Return the ids of two runs that have ended, and of one of a service that has not."""
    Path("fine.yaml").write_text(FINE)
    for _ in range(2):
        assert noetl("run", "fine.yaml", "-q").exit_code == 0
    store = open_store("sqlite:///.noetl/noetl.db")
    plan = compile_playbook(HELD, catalogue()).plan
    assert plan is not None
    held = create_services(store, catalogue()).runs.start(plan, StartRequest()).id
    ended = [run.id for run in store.runs.find(RunFilter(playbook="fine"))[0]]
    store.close()
    return [*ended, held]


def test_runs_are_deleted(noetl: Command, ids: list[str]) -> None:
    result = noetl("runs", "delete", ids[0][:10], ids[1], ids[0], "--yes")
    assert (result.exit_code, result.out) == (0, "")
    assert result.err == f"run {ids[0]} is deleted\nrun {ids[1]} is deleted\n"
    again = noetl("runs", "delete", ids[0], "--yes")
    assert (again.exit_code, f"unknown run `{ids[0]}`" in again.err) == (2, True)
    listed = noetl("runs", "list")
    assert [id in listed.out for id in ids] == [False, False, True]


def test_a_deletion_needs_a_confirmation(
    noetl: Command, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = noetl("runs", "delete", ids[0])
    assert refused.exit_code == 2
    assert refused.err == "noetl: 1 run would be deleted; repeat the command with --yes\n"
    questions: list[str] = []

    def answer(question: str, **_: object) -> bool:
        questions.append(question)
        return len(questions) > 1

    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(run_filters, "sys", terminal)
    monkeypatch.setattr(typer, "confirm", answer)
    declined = noetl("runs", "delete", *ids[:2])
    assert (declined.exit_code, declined.err) == (2, "noetl: nothing was changed\n")
    assert noetl("runs", "delete", *ids[:2]).exit_code == 0
    assert questions == ["Delete 2 runs?"] * 2


def test_a_run_that_has_not_ended_is_refused_and_the_others_are_deleted(
    noetl: Command, ids: list[str]
) -> None:
    sentence = f"run {ids[2]} has not ended; cancel it first, or wait for its end"
    alone = noetl("runs", "delete", "last", "--yes")
    assert (alone.exit_code, alone.err) == (1, f"noetl: {sentence}\n")
    result = noetl("runs", "delete", ids[2], ids[0], "-y")
    assert result.exit_code == 1
    lines = [f"noetl: {sentence}", f"run {ids[0]} is deleted", "noetl: 1 of 2 runs were refused"]
    assert result.err.splitlines() == lines


def test_the_runs_of_a_filter_are_deleted(noetl: Command, ids: list[str]) -> None:
    refused = noetl("runs", "delete", "--playbook", "fine")
    assert (refused.exit_code, refused.err) == (
        2,
        "noetl: the filter selects 2 runs; repeat the command with --yes\n",
    )
    result = noetl("runs", "delete", "--since", "1d", "--yes")
    assert (result.exit_code, result.err.count("is deleted")) == (0, 2)
    assert noetl("runs", "delete", "--since", "1d", "--yes").err == "no runs\n"
    assert ids[2] in noetl("runs", "list").out


def test_a_child_run_of_a_filter_is_deleted_with_its_parent(noetl: Command) -> None:
    Path("fine.yaml").write_text(FINE)
    Path("parent.yaml").write_text(
        "name: parent\nsteps: [{name: a, run: [{action: workflow, playbook: fine, as: x}]}]\n"
    )
    assert noetl("run", "parent.yaml", "-q").exit_code == 0
    refused = noetl("runs", "delete", "--playbook", "fine", "--yes")
    assert (refused.exit_code, "which is kept; delete run" in refused.err) == (1, True)
    result = noetl("runs", "delete", "--since", "1d", "--yes")
    assert (result.exit_code, result.err.count("is deleted")) == (0, 2)
    assert noetl("runs", "list").err == "no runs\n"


def test_the_filter_of_a_deletion_names_ended_runs(noetl: Command, ids: list[str]) -> None:
    for arguments in ((), (ids[0], "--playbook", "fine"), ("--yes",)):
        result = noetl("runs", "delete", *arguments)
        assert result.exit_code == 2
    result = noetl("runs", "delete", "--status", "running", "--yes")
    message = "noetl: open runs cannot be deleted; --status must be a final status\n"
    assert (result.exit_code, result.err) == (2, message)
