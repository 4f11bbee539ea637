"""The commands `noetl runs pause` and `noetl runs unpause`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.cli.conftest import Command

TEXT = "name: held\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


@pytest.fixture
def ids() -> list[str]:
    """Return the ids of two runs of a service, whose workers are away."""
    Path(".noetl").mkdir()
    store = open_store("sqlite:///.noetl/noetl.db")
    plan = compile_playbook(TEXT, catalogue()).plan
    assert plan is not None
    runs = create_services(store, catalogue()).runs
    started = [runs.start(plan, StartRequest()).id for _ in range(2)]
    store.close()
    return started


def test_several_runs_are_paused_and_unpaused(noetl: Command, ids: list[str]) -> None:
    for command, status in (("pause", "paused"), ("pause", "paused"), ("unpause", "queued")):
        result = noetl("runs", command, ids[0][:8], "last")
        assert (result.exit_code, result.out) == (0, "")
        assert sorted(result.err.splitlines()) == sorted(f"run {id} is {status}" for id in ids)


def test_a_paused_run_is_shown_as_paused(noetl: Command, ids: list[str]) -> None:
    paused = noetl("runs", "pause", ids[0], "--json")
    assert json.loads(paused.out) == {"workflow_id": ids[0], "status": "paused"}
    listed = noetl("runs", "list", "--status", "paused", "--json")
    assert [run["workflow_id"] for run in json.loads(listed.out)["items"]] == [ids[0]]
    shown = noetl("runs", "show", ids[0])
    assert "paused" in shown.out
    assert "workflow.paused" in noetl("runs", "events", ids[0]).out
    assert noetl("runs", "graph", ids[0], "-f", "mermaid").exit_code == 0


def test_a_refusal_says_how_to_continue(noetl: Command, ids: list[str]) -> None:
    assert noetl("runs", "pause", ids[0]).exit_code == 0
    resumed = noetl("runs", "resume", ids[0])
    assert resumed.exit_code != 0
    assert f"run {ids[0]} is paused; unpause it, and it continues" in resumed.err
    assert noetl("runs", "cancel", ids[0]).exit_code == 0
    refused = noetl("runs", "pause", ids[0])
    assert refused.exit_code != 0
    assert f"run {ids[0]} is already ending, so it cannot be paused; wait for its end" in refused.err
    unknown = noetl("runs", "pause", "nosuch")
    assert unknown.exit_code == 2


def test_the_runs_of_a_filter_are_paused_and_unpaused(noetl: Command, ids: list[str]) -> None:
    for command, status in (("pause", "paused"), ("unpause", "queued")):
        refused = noetl("runs", command, "--search", ids[0])
        assert (refused.exit_code, "repeat the command with --yes" in refused.err) == (2, True)
        result = noetl("runs", command, "--search", ids[0], "--yes")
        assert (result.exit_code, result.err.splitlines()) == (0, [f"run {ids[0]} is {status}"])
        assert noetl("runs", command, "--search", ids[0], "-y").err == "no runs\n"
    assert "there are ids and a filter" in noetl("runs", "pause", ids[0], "--search", "x").err
    assert "no run is named" in noetl("runs", "unpause", "--yes").err
    assert "only open runs can be paused" in noetl("runs", "pause", "--status", "failed").err
    assert "only paused runs can be unpaused" in noetl("runs", "unpause", "--status", "queued").err


def test_an_unpaused_local_run_is_continued_by_a_resume(noetl: Command) -> None:
    Path("held.yaml").write_text("name: held\nsteps: [{name: a, run: [{action: fail, message: no}]}]\n")
    assert noetl("run", "held.yaml").exit_code == 1
    store = open_store("sqlite:///.noetl/noetl.db")
    (run,), _ = store.runs.find(RunFilter())
    store.runs.resume(run.id, store.clock(), deadline_at=None, values={})
    store.close()
    assert noetl("runs", "pause", run.id).exit_code == 0
    result = noetl("runs", "unpause", run.id)
    assert result.exit_code == 0
    assert f"continue it with `noetl runs resume {run.id}`" in result.err
