"""The problem documents of wrong requests stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.problem_documents import GOLDEN, REQUESTS, problem_documents

pytestmark = pytest.mark.anyio


async def test_every_wrong_request_has_its_problem_document(tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert expected == await problem_documents(tmp_path)
    assert len(expected) == len(REQUESTS)
