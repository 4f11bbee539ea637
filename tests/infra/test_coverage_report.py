"""Tests of the report of the coverage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noetl.infra.coverage_report import (
    LEFT_OUT,
    ROOT,
    TESTS,
    Counts,
    count_by_package,
    measures,
    shortfalls,
    table,
    unmeasured_files,
)


def report(**files: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return a JSON report of coverage.py from the numbers of lines and branches, each with the missing."""
    keys = ("num_statements", "missing_lines", "num_branches", "missing_branches")
    return {
        "files": {
            path.replace("__", "/") + ".py": {"summary": dict(zip(keys, counts, strict=True))}
            for path, counts in files.items()
        }
    }


def test_counts_of_files_are_added_up_for_each_folder() -> None:
    packages = count_by_package(
        report(b__c__x=(10, 1, 4, 2), b__y=(1, 0, 0, 0), b__c__z=(30, 3, 4, 0), a__x=(5, 5, 0, 0))
    )
    assert packages == {"a": Counts(1, 5, 5), "b": Counts(1, 1), "b/c": Counts(2, 40, 4, 8, 2)}
    assert list(packages) == ["a", "b", "b/c"]


def test_the_table_has_a_row_for_each_package_and_their_sum() -> None:
    rows = [*table({"a/b": Counts(1, 1000, 15, 0, 0), "c": Counts(2, 1000, 5, 200, 1)})]
    assert [row.split() for row in rows[2:]] == [
        ["a/b", "1", "1,000", "15", "98.5", "%", "0", "0", "100.0", "%"],
        ["c", "2", "1,000", "5", "99.5", "%", "200", "1", "99.5", "%"],
        ["all", "3", "2,000", "20", "99.0", "%", "200", "1", "99.5", "%"],
    ]
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("counts", "nouns"),
    [
        (Counts(1, 100, 2, 50, 1), []),
        (Counts(1, 0, 0, 0, 0), []),
        (Counts(1, 100, 3, 50, 1), ["lines"]),
        (Counts(1, 100, 2, 50, 2), ["branches"]),
        (Counts(1, 100, 3, 50, 2), ["lines", "branches"]),
    ],
)
def test_too_little_coverage_of_a_package_is_a_problem(counts: Counts, nouns: list[str]) -> None:
    messages = [*shortfalls({"fine": Counts(1, 10), "planner/x": counts})]
    percents = {"lines": counts.line_percent, "branches": counts.branch_percent}
    assert messages == [
        f"planner/x: {percents[noun]:.1f} % of the {noun} are covered, but 98 % are required"
        for noun in nouns
    ]


def test_a_selected_file_that_no_test_imports_is_named(tmp_path: Path) -> None:
    for path in ("a/b/used.py", "a/b/unused.py", "a/omitted.py", "c/other.py", "c/used.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    measured = report(a__b__used=(1, 0, 0, 0))
    settings = {"include": ["a/*", "c/used.py"], "omit": ["a/omitted.py"]}
    assert unmeasured_files(measured, tmp_path, settings) == ["a/b/unused.py", "c/used.py"]


def test_every_test_that_the_report_runs_or_leaves_out_exists() -> None:
    for path, _, function in (test.partition("::") for test in (*TESTS, *LEFT_OUT)):
        assert (ROOT / path).exists(), path
        name = function.split("[")[0]
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), function


def test_the_other_tests_are_those_that_measure_nothing() -> None:
    """Two files that measure, one with a test that does not, and one file that does not."""
    files = ("executor/test_kept_outcomes.py", "executor/test_skips.py", "contract/test_transitions.py")

    def collect(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
        command += (f"tests/{file}" for file in files)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if "::" in line]

    nodes, untraced = collect(), collect("-p", "tests.other_tests")
    assert untraced == [node for node in nodes if not measures(node)]
    assert {node.split("::")[0] for node in untraced} == {f"tests/{file}" for file in (files[0], files[2])}
