"""The states of steps that a graph shows, and the key of its drawing."""

from __future__ import annotations

import itertools

import pytest

from noetl.api.compute.jobs import graph_key
from noetl.api.service.step_reports import step_reports, step_states
from noetl.api.service.views import StepState
from noetl.executor.model.run import NEVER, ErrorRecord, RunStatus, VisitStatus
from noetl.executor.model.run_summary import StepVisits, VisitSummary
from noetl.planner.draw.run_marks import DrawnRun

ERROR = ErrorRecord(
    type="HttpError",
    message="no answer",
    action="http",
    step="a",
    attempt=1,
    retryable=True,
    status=None,
    details=None,
)


def visits_with(status: VisitStatus, error: ErrorRecord | None) -> StepVisits:
    summary = VisitSummary(
        id="v1",
        status=status,
        number=1,
        attempt=1,
        due_at=NEVER,
        started_at=1.0,
        finished_at=None,
        case=None,
        error=error,
        progress=None,
    )
    return StepVisits(summary, 1)


@pytest.mark.parametrize("status", RunStatus)
def test_states_are_those_of_the_reports(status: RunStatus) -> None:
    steps = {
        f"{state}-{number}": visits_with(state, error)
        for state, (number, error) in itertools.product(VisitStatus, enumerate((None, ERROR)))
    }
    names = ["never visited", *steps]
    states = step_states(status, names, steps)
    assert list(states) == names
    assert states == {name: report.status for name, report in step_reports(status, names, steps).items()}


def test_a_drawing_is_kept_for_the_states_that_it_shows() -> None:
    def key(**states: StepState) -> str:
        return graph_key("plan", DrawnRun(states, status="running", id="run"), "json")

    first = key(a=StepState.SUCCEEDED, b=StepState.PENDING)
    assert key(a=StepState.SUCCEEDED, b=StepState.PENDING) == first
    changed = [
        key(a=StepState.SUCCEEDED, b=StepState.RUNNING),
        key(a=StepState.PENDING, b=StepState.SUCCEEDED),
        key(a=StepState.SUCCEEDED, c=StepState.PENDING),
        key(a=StepState.SUCCEEDED),
        key(),
    ]
    assert len({first, *changed}) == 1 + len(changed)
