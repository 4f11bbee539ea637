"""Responses with large values, which are written in parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noetl.api.compute.jobs import CompareJob
from noetl.api.http.responses import JsonResponse, LargeJsonResponse
from noetl.api.service.data_views import RunInput, SavedValue
from noetl.api.service.run_diff import ComparedPair, ComparedRun
from noetl.planner.frozen import replace

ROWS = [{"n": n, "text": 'é"\ud800'} for n in range(10_000)]


@pytest.mark.parametrize(
    "view",
    [
        RunInput(workflow_id="a", input={"rows": ROWS}),
        SavedValue(name="n", value=ROWS),
        RunInput(workflow_id="a", input={"small": 1}),
    ],
)
def test_large_values_are_written_as_by_other_responses(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = JsonResponse(view).body
    lengths: list[int] = []
    dumps = json.dumps

    def count(value: Any, **options: Any) -> str:
        text = dumps(value, **options)
        lengths.append(len(text))
        return text

    monkeypatch.setattr("noetl.api.http.responses.json.dumps", count)
    assert LargeJsonResponse([view]).body == b"[" + bytes(expected) + b"]"
    assert max(lengths) < max(len(expected) // 4, 100)


def test_runs_with_large_values_are_compared_by_another_process() -> None:
    small = ComparedRun("a", "p", None, "h", "succeeded", None, "name: p", {"n": 1}, {})
    for large in (replace(small, input={"rows": ROWS}), replace(small, result=ROWS)):
        jobs = [CompareJob(ComparedPair(small, other)) for other in (small, large)]
        assert [job.is_light for job in jobs] == [True, False]
