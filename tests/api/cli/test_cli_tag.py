"""The command `noetl runs tag`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.cli.conftest import Command

FINE = "name: fine\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"


@pytest.fixture
def run_id(noetl: Command) -> str:
    Path("fine.yaml").write_text(FINE)
    run_id: str = json.loads(noetl("run", "fine.yaml", "-q", "--json").out)["workflow_id"]
    return run_id


def test_tags_of_a_run_are_changed(noetl: Command, run_id: str) -> None:
    result = noetl("runs", "tag", run_id[:10], "env=prod", "<b>\x1b[31m")
    assert (result.exit_code, result.err) == (0, "")
    assert result.out.splitlines()[0] == "env=prod"
    assert "\x1b" not in result.out
    result = noetl("runs", "tag", "last", "env=test", "--remove", "<b>\x1b[31m", "--remove", "none", "--json")
    assert json.loads(result.out) == {"workflow_id": run_id, "tags": ["env=test"]}
    assert run_id in noetl("runs", "list", "--tag", "env=test").out
    assert noetl("runs", "list", "--tag", "env=prod").err == "no runs\n"
    assert noetl("runs", "tag", run_id).out == "env=test\n"
    assert noetl("runs", "tag", run_id, "--remove", "env").out == ""


@pytest.mark.parametrize("tag", ["", "x" * 101, "\udc80"])
def test_a_tag_that_no_run_may_have_is_refused(noetl: Command, run_id: str, tag: str) -> None:
    for arguments in ((tag,), ("--remove", tag)):
        result = noetl("runs", "tag", run_id, *arguments)
        message = "noetl: a tag must have 1 to 100 characters, in UTF-8\n"
        assert (result.exit_code, result.err) == (2, message)


def test_too_many_tags_are_refused(noetl: Command, run_id: str) -> None:
    result = noetl("runs", "tag", run_id, *(f"t{number}" for number in range(51)))
    assert result.exit_code == 2
    assert "the run would have 51 tags; a run has at most 50" in result.err
    unknown = noetl("runs", "tag", "0123456789", "x")
    assert (unknown.exit_code, "unknown run `0123456789`" in unknown.err) == (2, True)
