"""The commands `noetl runs migrate` and `noetl check --runs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import FakeClock, RunHarness
from noetl.testing.store_contract.switches import CORRECTED, WAITING, execute_until_it_waits

Command = Callable[..., Any]


@pytest.fixture
def waiting(noetl: Command, folder: Path) -> list[str]:
    """Ids of three runs that wait."""
    store = SqliteStore(str(folder / ".noetl" / "noetl.db"))
    ids = []
    for _ in range(3):
        harness = RunHarness(store, WAITING, clock=FakeClock(float(int(store.clock()))))
        execute_until_it_waits(harness)
        ids.append(harness.id)
    store.close()
    Path("play.yaml").write_text(f"name: play\n{dedent(CORRECTED)}")
    return ids


def test_runs_migrate_and_say_so(noetl: Command, waiting: list[str]) -> None:
    before = noetl("check", "play.yaml", "--runs")
    assert (before.exit_code, "play: 3 runs could continue in this version" in before.err) == (0, True)
    dry = noetl("runs", "migrate", "--playbook", "play", "--to", "play.yaml", "--dry-run")
    assert (dry.exit_code, dry.err) == (0, "3 runs could continue in this version\n")
    single = noetl("runs", "migrate", waiting[0], "--to", "play.yaml")
    assert single.err == "1 run continues in this version\n"
    rest = noetl("runs", "migrate", "--playbook", "play", "--to", "play.yaml", "--yes", "--json")
    assert (rest.json["accepted"], rest.json["skipped"]) == (3, [])
    assert "workflow.migrated" in noetl("runs", "events", waiting[2]).out


def test_a_migration_is_undone(noetl: Command, waiting: list[str]) -> None:
    noetl("runs", "migrate", "--playbook", "play", "--to", "play.yaml", "--yes")
    dry = noetl("runs", "migrate", "--playbook", "play", "--undo", "--dry-run")
    assert (dry.exit_code, dry.err) == (0, "3 runs could return to the version before\n")
    single = noetl("runs", "migrate", waiting[0], "--undo")
    assert (single.exit_code, single.err) == (0, "1 run returns to the version before\n")
    rest = noetl("runs", "migrate", "--playbook", "play", "--undo", "--yes")
    assert rest.exit_code == 1
    assert rest.err.splitlines()[0] == "2 runs return to the version before"
    assert f"1 run has no switch to another version that stands: {waiting[0]}" in rest.err
    events = noetl("runs", "events", waiting[1], "--json").json["items"]
    first, second = (event["payload"] for event in events if event["type"] == "workflow.migrated")
    assert (second["from"], second["to"]) == (first["to"], first["from"])
    assert second["by"]


def test_runs_that_cannot_continue_are_counted_by_reason(noetl: Command, waiting: list[str]) -> None:
    Path("play.yaml").write_text(
        Path("play.yaml").read_text().replace("name: b,", "name: z,").replace("[b]", "[z]")
    )
    checked = noetl("check", "play.yaml", "--runs")
    assert checked.exit_code == 1
    assert "play: 0 runs could continue in this version" in checked.err
    assert "play: 3 runs cannot continue in this version: NC102: step `b` has begun" in checked.err
    migrated = noetl("runs", "migrate", "--playbook", "play", "--to", "play.yaml", "--yes")
    assert migrated.exit_code == 1
    assert "3 runs cannot continue in this version: NC102" in migrated.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--playbook", "play", "--to", "9", "--yes"], "unknown version `9` of playbook `play`"),
        (["--playbook", "play", "--to", "", "--yes"], "--to is empty; name a version or a file"),
        (["--to", "9"], "no run is named"),
        (["--playbook", "play"], "a migration needs --to VERSION, or --undo without"),
        (["--playbook", "play", "--undo", "--to", "9"], "a migration needs --to VERSION, or --undo without"),
        (["--playbook", "play", "--undo", "--set", "a=1"], "or --undo without --to, --set and --map"),
        (
            ["--playbook", "play", "--status", "failed", "--to", "9"],
            "runs that have ended are resumed in another version",
        ),
    ],
)
def test_wrong_request_is_a_sentence(
    noetl: Command, waiting: list[str], options: list[str], sentence: str
) -> None:
    outcome = noetl("runs", "migrate", *options)
    assert outcome.exit_code == 2
    assert sentence in outcome.err


def test_where_names_the_option_of_the_condition(noetl: Command) -> None:
    outcome = noetl("runs", "migrate", "--playbook", "order", "--to", "2", "--where", "status=waiting")
    assert outcome.exit_code == 2
    assert "unknown option `--where` of `noetl runs migrate`; each condition is an option" in outcome.err
