"""A small sample of the requests that schemathesis generates. `generated_requests` sends more of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.generated_requests import PARTS, send_generated_requests

LEAST_REQUESTS = {"examples,fuzzing": 100, "coverage": 1000, "stateful": 50}


@pytest.mark.timeout(600)
def test_generated_requests_are_answered_as_the_document_says(tmp_path: Path) -> None:
    parts = send_generated_requests(tmp_path, "--seed", "1", "--no-shrink")
    for phases, done in zip(PARTS, parts, strict=True):
        assert done.returncode == 0, done.stdout
        counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert counted is not None, done.stdout
        assert int(counted[1]) > LEAST_REQUESTS[phases]
    followed = re.search(r"API Links: +(\d+) covered", parts[-1].stdout)
    assert followed is not None
    assert int(followed[1]) >= 10
