"""The first characters of the id of a run, instead of the whole id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli import run_ids

Command = Callable[..., Any]

PLAYBOOK = "name: short\nsteps: [{name: a, run: [{action: log, message: hi}]}]\n"


@pytest.fixture
def ids(noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of three runs, two of which begin alike."""
    (folder / "short.yaml").write_text(PLAYBOOK)
    ids = ["abcdef" + "0" * 18, "abcdef" + "1" * 18, "12345678" + "2" * 16]
    new_ids = iter(ids)
    monkeypatch.setattr("noetl.executor.engine.start.secrets.token_hex", lambda _: next(new_ids))
    for _ in ids:
        assert noetl("run", "short.yaml", "-q").exit_code == 0
    return ids


@pytest.mark.parametrize("prefix", ["1234", "12345678", "ABCDEF0"])
def test_an_unambiguous_prefix_is_enough(noetl: Command, ids: list[str], prefix: str) -> None:
    shown = noetl("runs", "show", prefix, "--json")
    assert (shown.exit_code, shown.json["workflow_id"]) == (
        0,
        next(i for i in ids if i.startswith(prefix.lower())),
    )
    for command in ("events", "watch"):
        assert noetl("runs", command, prefix, "--json").exit_code == 0
    assert "has succeeded" in noetl("runs", "resume", prefix).err
    assert "has already ended" in noetl("runs", "cancel", prefix).err


def test_an_ambiguous_prefix_names_the_runs(noetl: Command, ids: list[str]) -> None:
    outcome = noetl("runs", "show", "abcd")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err == f"noetl: ambiguous run id `abcd`; write more of it: {ids[1]}, {ids[0]}\n"


def test_a_prefix_that_is_too_short_is_completed(
    noetl: Command, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = noetl("runs", "show", "123")
    assert outcome.err == f"noetl: run id `123` is too short; did you mean `{ids[2]}`?\n"
    # Where a page does not hold all runs, a short prefix might also be that of an older run.
    monkeypatch.setattr(run_ids, "COMPARED_RUNS", 2)
    assert "too short" in noetl("runs", "show", "1234567").err
    assert noetl("runs", "show", "12345678").exit_code == 0
