"""A small sample of the requests that schemathesis generates. `generated_requests` sends more of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.api.generated_requests import PARTS, send_generated_requests

LEAST_REQUESTS = {"examples,fuzzing": 100, "coverage": 1000, "stateful": 50}


def check_part(phases: str, finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stdout
    counted = re.search(r"(\d+) generated, (\d+) passed", finished.stdout)
    assert counted is not None, finished.stdout
    assert int(counted[1]) > LEAST_REQUESTS[phases]


@pytest.mark.timeout(600)
def test_generated_requests_are_answered_as_the_document_says(tmp_path: Path) -> None:
    parts = send_generated_requests(tmp_path, "--seed", "1", "--no-shrink")
    for phases, finished in zip(PARTS, parts, strict=True):
        check_part(phases, finished)
    followed = re.search(r"API Links: +(\d+) covered", parts[-1].stdout)
    assert followed is not None
    assert int(followed[1]) >= 10


@pytest.mark.timeout(300)
def test_generated_requests_on_postgres(tmp_path: Path, postgres_store_dsn: str) -> None:
    """Send fewer requests than to SQLite, because what they find is nearly always in front of the store."""
    phases = ("examples,fuzzing", "stateful")
    finished = send_generated_requests(
        tmp_path, "--seed", "2", "--no-shrink", store_url=postgres_store_dsn, parts=phases
    )
    for name, part in zip(phases, finished, strict=True):
        check_part(name, part)
