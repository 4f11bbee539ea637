"""A small sample of the requests that schemathesis generates. `generated_requests` sends more of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.generated_requests import send_generated_requests


@pytest.mark.timeout(600)
def test_generated_requests_are_answered_as_the_document_says(tmp_path: Path) -> None:
    done = send_generated_requests(
        tmp_path,
        *("--max-examples", "2", "--seed", "1", "--no-shrink"),
        phases=("examples", "coverage", "fuzzing"),
    )
    assert done.returncode == 0, done.stdout
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[1]) > 200
