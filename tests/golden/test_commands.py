"""Wrong commands: their whole output and exit code is that of `tests/golden/commands/NAME.txt`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.command_cases import COMMAND_CASES, COMMANDS_FOLDER, CommandCase, run_case


@pytest.mark.parametrize("case", COMMAND_CASES, ids=lambda case: case.name)
def test_the_output_of_a_wrong_command_is_unchanged(
    case: CommandCase, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`python -m tests.golden` regenerates the outputs."""
    output = run_case(case, tmp_path, request.getfixturevalue("postgres_dsn") if case.needs_postgres else "")
    assert output == case.path.read_text(encoding="utf-8")
    assert "Traceback" not in output
    assert "NP900" not in output


def test_every_file_belongs_to_a_case() -> None:
    assert set(COMMANDS_FOLDER.glob("*")) == {case.path for case in COMMAND_CASES}
