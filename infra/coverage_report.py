"""Coverage of the compiler and of the pure executor: a table by package, and every missing line and branch.

    python -m noetl.infra.coverage_report
    python -m noetl.infra.coverage_report --then-others -n auto  # options of pytest

With `--then-others`, the tests that measure nothing run afterwards, without tracing. So every test has run
once. The exit status is not 0 if a test fails. It is 1 if less than REQUIRED_PERCENT of the lines or of the
branches of a package are covered. `[tool.coverage]` in `pyproject.toml` lists the measured files.

Problem: measure whether the tests of these packages reach every line and every branch.

Algorithm: coverage.py traces a run of TESTS on all processors. This report sums its counts by folder.

Cost: tracing doubles the time of a test. So the run has only tests that are about the measured packages, and
property tests use the profile `brief`.

Limits: a covered branch was taken, and perhaps not checked. Tests of other packages, which also execute these
lines, do not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "build" / "coverage" / "report.json"

REQUIRED_PERCENT = 98.0
"""The smallest part of the lines, and of the branches, of each package that must be covered."""

TESTS = (
    "tests/planner",
    "tests/golden",
    "tests/executor",
    "tests/patterns",
    "tests/docs/test_pages.py",
    "tests/contract/test_memory.py",
    "tests/contract/test_lost_payloads.py",
    "tests/docs/test_reference.py",
    "tests/api/cli/test_cli_check.py",
    "tests/api/test_channel_release.py",
    "tests/api/test_durations.py",
    "tests/api/test_firing_evaluator.py",
    "tests/api/test_openapi.py",
    "tests/security/test_bombs.py",
    "tests/security/test_calls.py",
    "tests/security/test_depth.py",
    "tests/security/test_egress.py",
    "tests/security/test_encoded_secrets.py",
    "tests/security/test_folders.py",
    "tests/security/test_refusals.py",
    "tests/security/test_secret_hosts.py",
    "tests/security/test_secret_owners.py",
    "tests/security/test_secrets.py",
    "tests/security/test_stored_secrets.py",
    "tests/style/test_doctests.py",
)
"""The tests that are about the measured packages."""

LEFT_OUT = (
    # Clients of other systems:
    "tests/executor/actions/test_lambda_action.py",
    "tests/executor/actions/test_message_action.py",
    "tests/executor/actions/test_s3_action.py",
    "tests/executor/test_aws.py",
    "tests/executor/test_dynamo_history.py",
    "tests/executor/test_dynamo_store.py",
    "tests/executor/test_dynamo_plans.py",
    "tests/executor/test_dynamo_times.py",
    "tests/executor/test_late_expiry.py",
    "tests/executor/actions/test_http_action.py",
    "tests/executor/actions/test_python_action.py",
    "tests/executor/actions/test_shell_action.py",
    "tests/executor/test_mail.py",
    # Loops of workers, which are not measured:
    "tests/executor/test_notification_loop.py",
    "tests/executor/test_queue_loop.py",
    "tests/executor/test_trigger_loop.py",
    "tests/executor/test_worker_identity.py",
    # Commands and processes:
    "tests/golden/test_commands.py",
    "tests/planner/test_compile.py::test_the_plan_does_not_depend_on_the_hash_seed",
    "tests/planner/test_join_report.py::test_of_several_forks_the_same_one_is_named_in_every_process",
    # What tracing makes too slow:
    "tests/executor/actions/test_formats.py::test_content_that_a_format_cannot_represent[nested]",
    "tests/executor/test_json_length.py::test_what_is_not_json_has_no_text",
    "tests/executor/test_json_values.py::test_a_value_that_is_nested_too_deep_is_not_json",
    "tests/executor/test_kept_outcomes.py::test_an_outcome_waits_for_a_server_that_may_be_written",
    "tests/planner/test_growth.py::test_analysis_takes_few_evaluations_per_step",
    "tests/planner/test_growth.py::test_nested_forks_take_few_evaluations",
    "tests/planner/test_growth.py::test_sequential_mode_takes_few_more_evaluations",
    "tests/planner/test_hostile.py::test_the_cost_of_a_hostile_playbook_is_bounded",
    "tests/planner/test_weighted_cache.py::test_nothing_of_a_playbook_is_kept_after_its_compilation",
    "tests/planner/test_weighted_cache.py::test_parsed_templates_are_bounded_in_bytes",
    # Many random playbooks, each of which is executed in many ways. Of some, a part is measured:
    "tests/planner/test_agreement.py",
    "tests/planner/test_continuation.py::test_a_condition_that_is_switched_off_gives_no_reason",
    "tests/executor/test_corrected_restarts.py::test_random_runs_start_in_a_corrected_plan",
    "tests/executor/test_corrected_restarts.py::test_without_a_verdict_new_runs_go_wrong",
    *(
        f"tests/executor/test_past_restart.py::test_a_run_from_any_event_ends_as_the_run_itself[{chunk}]"
        for chunk in range(1, 5)
    ),
    "tests/executor/test_plan_switch.py::test_yes_is_sound_and_no_is_rarely_needless",
    "tests/executor/test_suspended_switches.py::test_yes_is_sound_and_no_is_rarely_needless",
    "tests/executor/test_switching.py::test_random_runs_end_in_their_new_plan[memory]",
    "tests/executor/test_switching.py::test_random_switches_are_undone[memory]",
    "tests/executor/test_sequential_switches.py::test_random_runs_in_sequential_mode_end_in_their_new_plan",
    # All changes of the clocks of all zones:
    "tests/planner/test_schedules.py::test_firings_around_each_change_equal_the_rule",
    # Texts of the sources:
    "tests/executor/test_transitions_once.py",
)
"""Slow tests in the same folders. The others reach enough lines and branches without them."""

THEN_OTHERS = "--then-others"

HEADINGS = ("package", "files", "lines", "missing", "covered", "branches", "missing", "covered")


class Counts(NamedTuple):
    """The lines and branches of a file or package, and how many of them no test has reached."""

    files: int = 0
    lines: int = 0
    missing_lines: int = 0
    branches: int = 0
    missing_branches: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(left + right for left, right in zip(self, other, strict=True)))

    @property
    def line_percent(self) -> float:
        """Percentage of the lines that are covered."""
        return _percent(self.lines, self.missing_lines)

    @property
    def branch_percent(self) -> float:
        """Percentage of the branches that are covered."""
        return _percent(self.branches, self.missing_branches)


def _percent(total: int, missing: int) -> float:
    return 100.0 if total == 0 else 100.0 * (total - missing) / total


def count_by_package(report: Mapping[str, Any]) -> dict[str, Counts]:
    """Return the counts of each package from the JSON report of coverage.py, ordered by name."""
    packages: dict[str, Counts] = defaultdict(Counts)
    for path, file in report["files"].items():
        summary = file["summary"]
        package = str(PurePosixPath(path).parent)
        packages[package] = packages[package].plus(
            Counts(
                1,
                summary["num_statements"],
                summary["missing_lines"],
                summary["num_branches"],
                summary["missing_branches"],
            )
        )
    return dict(sorted(packages.items()))


def table(packages: Mapping[str, Counts]) -> Iterator[str]:
    """Yield the lines of the table, with one row for each package and one for their sum."""
    total = Counts()
    for counts in packages.values():
        total = total.plus(counts)
    width = max(map(len, [*packages, HEADINGS[0]]))
    yield _row(width, HEADINGS)
    yield "-" * len(_row(width, HEADINGS))
    for package, counts in [*packages.items(), ("all", total)]:
        yield _row(
            width,
            (
                package,
                f"{counts.files:,}",
                f"{counts.lines:,}",
                f"{counts.missing_lines:,}",
                f"{counts.line_percent:.1f} %",
                f"{counts.branches:,}",
                f"{counts.missing_branches:,}",
                f"{counts.branch_percent:.1f} %",
            ),
        )


def _row(width: int, cells: Sequence[str]) -> str:
    return cells[0].ljust(width) + "".join(cell.rjust(10) for cell in cells[1:])


def shortfalls(packages: Mapping[str, Counts]) -> Iterator[str]:
    """Yield a message for each package of which too little is covered."""
    for package, counts in packages.items():
        for noun, percent in (("lines", counts.line_percent), ("branches", counts.branch_percent)):
            if percent < REQUIRED_PERCENT:
                yield (
                    f"{package}: {percent:.1f} % of the {noun} are covered, "
                    f"but {REQUIRED_PERCENT:g} % are required"
                )


def unmeasured_files(report: Mapping[str, Any], root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the files that the settings select and that no test has imported. Reports leave them out."""
    paths = {file.relative_to(root).as_posix() for file in root.rglob("*.py")} - report["files"].keys()
    included = {path for path in paths if any(fnmatch(path, pattern) for pattern in settings["include"])}
    return sorted(path for path in included if not any(fnmatch(path, p) for p in settings["omit"]))


def run_coverage(*arguments: str) -> int:
    """Run a command of coverage.py in the root of the repository. Return its exit status."""
    command = [sys.executable, "-m", "coverage", *arguments]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "brief"}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


def measures(node: str) -> bool:
    """Return whether a test counts for the coverage. `node` is its id in pytest.

    >>> measures("tests/planner/test_compile.py::test_empty"), measures("tests/api/test_jwt.py::test_empty")
    (True, False)
    """
    return node.startswith(TESTS) and not node.startswith(LEFT_OUT)


def measure(pytest_options: Iterable[str]) -> int:
    """Run the tests and write the reports. Return the exit status of the first command that fails, or 0.

    The reports are also written if a test fails.
    """
    REPORT.unlink(missing_ok=True)
    left_out = [f"--deselect={path}" for path in LEFT_OUT]
    commands = (
        ("erase",),
        ("run", "-m", "pytest", "--quiet", "--timeout=600", *left_out, *pytest_options, *TESTS),
        ("combine", "--quiet"),
        ("report",),
        ("json", "--quiet", "-o", str(REPORT)),
    )
    return next(filter(None, [run_coverage(*command) for command in commands]), 0)


def run_others(pytest_options: Iterable[str]) -> int:
    """Run the tests that measure nothing. Return the exit status."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.other_tests", *pytest_options]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


def main(arguments: Sequence[str]) -> int:
    """Measure, print the reports, and return the exit status."""
    options = [argument for argument in arguments if argument != THEN_OTHERS]
    options = options or ["-n", "auto", "--dist", "worksteal"]
    status = measure(options)
    if THEN_OTHERS in arguments:
        status = run_others(options) or status
    if not REPORT.exists():
        return status
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["coverage"]["run"]
    packages = count_by_package(report)
    print("", *table(packages), "", sep="\n")
    problems = [*shortfalls(packages)]
    problems += (f"{path}: no test imports it" for path in unmeasured_files(report, ROOT, settings))
    for problem in problems:
        print(problem, file=sys.stderr)
    return status or int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
