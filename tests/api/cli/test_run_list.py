"""The table of `noetl runs list`."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.api.cli.display.console import write_table
from noetl.api.cli.display.run_list import format_runs

RUN: dict[str, Any] = {
    "workflow_id": "1" * 24,
    "status": "failed",
    "playbook": "close",
    "version": "2",
    "created_at": "2026-01-31T09:30:00.123456Z",
    "started_at": "2026-01-31T09:30:01.000000Z",
    "finished_at": "2026-01-31T09:31:01.000000Z",
    "tags": ["nightly", "eu"],
    "parent": "2" * 24,
    "headline": "check: no",
    "steps": {"done": 5, "total": 11},
}


def test_a_row_has_the_facts_of_a_run() -> None:
    assert format_runs([RUN], with_header=False) == [
        (
            "1" * 24,
            "failed",
            "2026-01-31T09:30:00Z",
            "1 m 0 s",
            "5/11",
            "close 2",
            "nightly,eu",
            "of 22222222  check: no",
        )
    ]


def test_an_open_run_has_no_duration_and_a_list_for_persons_has_a_header() -> None:
    run = {**RUN, "finished_at": None, "version": None, "tags": [], "headline": ""}
    del run["parent"], run["steps"]
    header, row = format_runs([run], with_header=True)
    assert (header[0], header[-1], len(header)) == ("ID", "WHAT", len(row))
    assert row[3:] == ("", "", "close", "", "")
    (row,) = format_runs([{**run, "step_count": 11}], with_header=False)
    assert row[4] == "11"
    assert format_runs([], with_header=True) == []


@pytest.mark.parametrize("columns", [40, 80, 400])
def test_a_table_on_a_terminal_is_no_wider_than_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    write_table(format_runs([RUN, {**RUN, "headline": "x" * 90}], with_header=True))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert (len(lines) == 3) is (columns == 400)
    words = "".join(lines).replace(" ", "")
    assert "2026-01-31T09:30:00Z" in words and "x" * 90 in words and "nightly,eu" in words


def test_a_table_in_a_file_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(format_runs([RUN, RUN], with_header=False))
    assert len(capsys.readouterr().out.splitlines()) == 2
