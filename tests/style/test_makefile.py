"""`make help` lists every command of the Makefile, and CI calls only commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", "")


@pytest.fixture(scope="module")
def commands() -> set[str]:
    match = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert match
    return set(match[1].split())


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_lists_every_command(commands: set[str], arguments: list[str]) -> None:
    done = subprocess.run(["make", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make (\S+) +\S.*$", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(commands)


def test_ci_calls_commands_that_exist(commands: set[str]) -> None:
    called = re.findall(
        r"\bmake (\S+)(?: [A-Z_]+=\S+)?(?: #.*)?$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE
    )
    assert {"check", "check-commits", "test"} <= {*called} <= commands
