"""The first characters of the id of a run, instead of the whole id."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.run_ids import find_run
from noetl.api.service.errors import NotFoundError
from noetl.api.service.views import RunEntry, RunPage
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.store_contract.operations import start_run

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


def test_a_prefix_that_is_too_short_is_completed(noetl: Command, ids: list[str]) -> None:
    outcome = noetl("runs", "show", "123")
    assert outcome.err == f"noetl: run id `123` is too short; did you mean `{ids[2]}`?\n"
    assert noetl("runs", "show", "1234").exit_code == 0


def test_the_last_run_is_no_child_run(noetl: Command, folder: Path) -> None:
    (folder / "short.yaml").write_text(PLAYBOOK)
    calls = [
        f"{{name: {name}, run: [{{action: workflow, playbook: {called}}}]}}"
        for name, called in (("b", "short"), ("c", "middle"))
    ]
    for name, call in zip(("middle", "outer"), calls, strict=True):
        (folder / f"{name}.yaml").write_text(f"name: {name}\nsteps: [{call}]\n")
    assert noetl("run", "outer.yaml", "-q").exit_code == 0
    assert [run["playbook"] for run in noetl("runs", "list", "--json").json["items"]] == [
        "short",
        "middle",
        "outer",
    ]
    assert noetl("runs", "show", "last", "--json").json["playbook"] == "outer"


def test_a_prefix_is_compared_with_all_runs(
    noetl: Command, ids: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two oldest runs begin alike, and more than a page of newer runs does not."""
    numbers = itertools.count()
    monkeypatch.setattr("noetl.executor.engine.start.secrets.token_hex", lambda _: f"f{next(numbers):023x}")
    with closing(SqliteStore(str(folder / ".noetl" / "noetl.db"))) as store:
        for _ in range(1100):
            start_run(store, now=4e9)
    ambiguous = noetl("runs", "show", "abcdef")
    assert (ambiguous.exit_code, ambiguous.err) == (
        2,
        f"noetl: ambiguous run id `abcdef`; write more of it: {ids[1]}, {ids[0]}\n",
    )
    assert noetl("runs", "show", "abcdef0", "--json").json["workflow_id"] == ids[0]
    assert noetl("runs", "show", "12345678", "--json").json["workflow_id"] == ids[2]


class PagedRuns:
    """Runs whose pages may be empty although others follow, as those of DynamoDB."""

    place = "this store"

    def __init__(self, *pages: list[str]) -> None:
        self.pages = pages
        self.filters: list[RunFilter] = []

    def get(self, run_id: str) -> Any:
        if len(run_id) < 24:
            raise NotFoundError(f"unknown run `{run_id}`")
        return run_id

    def find(self, run_filter: RunFilter) -> RunPage:
        self.filters.append(run_filter)
        number = int(run_filter.cursor or 0)
        items = [RunEntry(workflow_id=run_id) for run_id in self.pages[number]]  # type: ignore[call-arg]
        more = str(number + 1) if number + 1 < len(self.pages) else None
        return RunPage(items=items, next_cursor=more)


def test_pages_are_read_until_the_prefix_is_known_to_be_of_one_run() -> None:
    only = "abcd" + "0" * 20
    runs = PagedRuns([], [only], [])
    found: Any = find_run(runs, "ABCD…")
    assert found == only
    assert [(wanted.id_prefix, wanted.cursor) for wanted in runs.filters] == [
        ("abcd", None),
        ("abcd", "1"),
        ("abcd", "2"),
    ]
    many = PagedRuns(*[[f"abcd{number:020}"] for number in range(50)])
    with pytest.raises(CommandError, match=r"ambiguous run id `abcd`.* and more"):
        find_run(many, "abcd")
    assert len(many.filters) == 6
