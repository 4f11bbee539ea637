"""The command `noetl runs cancel` with several ids, or with a filter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run import RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.planner.compile import compile_playbook
from tests.api.cli.conftest import Command

TEXT = "name: held\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]\n"


@pytest.fixture
def ids() -> list[str]:
    """Return the ids of three runs of a service, whose workers are away."""
    Path(".noetl").mkdir()
    store = open_store("sqlite:///.noetl/noetl.db")
    plan = compile_playbook(TEXT, catalogue()).plan
    assert plan is not None
    runs = create_services(store, catalogue()).runs
    started = [runs.start(plan, StartRequest(tags=(f"n={number}",))).id for number in range(3)]
    store.close()
    return started


def test_several_runs_are_cancelled(noetl: Command, ids: list[str]) -> None:
    result = noetl("runs", "cancel", *ids[:2])
    assert (result.exit_code, result.err.count("is being cancelled")) == (0, 2)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_run_that_is_ending_as_failed_is_not_being_cancelled(
    noetl: Command, ids: list[str], options: tuple[str, ...]
) -> None:
    store = open_store("sqlite:///.noetl/noetl.db")
    store.runs.stop(ids[0], RunStatus.FAILED, 1.0)
    store.close()
    result = noetl("runs", "cancel", ids[0], *options)
    assert result.exit_code == 0
    if options:
        assert json.loads(result.out)["ending"] == "failed"
    else:
        words = "is already ending as failed; its last steps are not cancelled"
        assert result.err == f"run {ids[0]} {words}\n"


def test_a_filter_needs_a_confirmation(noetl: Command, ids: list[str]) -> None:
    refused = noetl("runs", "cancel", "--tag", "n")
    assert refused.exit_code == 2
    assert refused.err == "noetl: the filter selects 3 runs; repeat the command with --yes\n"
    result = noetl("runs", "cancel", "--tag", "n=1", "--yes", "--json")
    assert (result.exit_code, json.loads(result.out)["workflow_id"]) == (0, ids[1])
    assert noetl("runs", "cancel", "--tag", "none", "--yes").err == "no runs\n"


def test_ids_and_a_filter_are_not_combined(noetl: Command, ids: list[str]) -> None:
    for arguments in ((ids[0], "--tag", "n"), ("--yes",)):
        result = noetl("runs", "cancel", *arguments)
        assert (result.exit_code, "by their ids or by a filter" in result.err) == (2, True)
    ended = noetl("runs", "cancel", "--status", "failed", "--yes")
    assert (ended.exit_code, "--status must be an open status" in ended.err) == (2, True)
