"""A second try of a test does not find what the first one has left in a shared service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tool_environments import ROOT

TESTS = """
import pytest

@pytest.fixture(scope="SCOPE")
def service():
    entries = []
    yield entries
    entries.append("ended")

@pytest.fixture(scope="module")
def registered(service):
    service.append("registered")
    return service

firsts = []

def test_first(service):
    service.append("left")

def test_repeated(registered):
    assert registered == (["registered"] if firsts else ["left", "registered"])
    assert not firsts or firsts[0][-1] == "ended"
    firsts.append(registered)
    assert len(firsts) == 2

def test_next(service):
    assert service is firsts[1]
"""


@pytest.mark.parametrize("scope", ["session", "module"])
def test_a_second_try_has_a_new_service(tmp_path: Path, scope: str) -> None:
    path = tmp_path / "test_tries.py"
    path.write_text(TESTS.replace("SCOPE", scope))
    options = (
        "-p",
        "tests.second_tries",
        "-p",
        "no:cacheprovider",
        "-q",
        "--reruns",
        "1",
        f"--rootdir={tmp_path}",
    )
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "3 passed, 1 rerun" in result.stdout, result.stdout + result.stderr
