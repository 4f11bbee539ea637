"""The data of two runs for `noetl runs diff`, read from a store or a service up to a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from noetl.api.cli.display.run_board import parse_time
from noetl.api.cli.run_diff import ComparedRun, VisitKey, compare_runs, read_visits
from noetl.api.service.views import members
from noetl.executor.model.events import timestamp

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.executor.model.run import Run

MAX_READ_OUTPUTS = 50
"""Of how many visits of each run the results and the saved values are read. Each takes a request."""


def compare(runs: RunAccess, a: Run, b: Run) -> dict[str, Any]:
    """Return the differences of two runs, with those in outputs of MAX_READ_OUTPUTS common visits."""
    compared = [_read_run(runs, run) for run in (a, b)]
    common = [key for key in compared[0].visits if key in compared[1].visits]
    for run in compared:
        for key in common[:MAX_READ_OUTPUTS]:
            run.visits[key].outputs = _read_outputs(runs, run.workflow_id, key)
    return {**compare_runs(*compared), "outputs_not_compared": max(len(common) - MAX_READ_OUTPUTS, 0)}


def _read_run(runs: RunAccess, run: Run) -> ComparedRun:
    source = runs.source(run.id)
    # A service sends times in whole microseconds, so those of a store are rounded, too.
    started_at, finished_at = (parse_time(timestamp(time)) for time in (run.started_at, run.finished_at))
    seconds = None if started_at is None or finished_at is None else finished_at - started_at
    return ComparedRun(
        workflow_id=run.id,
        playbook=run.playbook,
        version=run.version,
        plan_hash=source.plan_hash,
        status=run.status.value,
        duration_ms=None if seconds is None else round(seconds * 1000, 3),
        source=source.source,
        input=runs.input(run.id).input,
        visits=read_visits(_events(runs, run.id)),
        result=run.result,
    )


def _read_outputs(runs: RunAccess, run_id: str, key: VisitKey) -> dict[str, Any]:
    step, number = key
    data = runs.step(run_id, step, number)
    return {"result": data.result, **{f"saved.{entry.name}": entry.value for entry in data.saved}}


def _events(runs: RunAccess, run_id: str) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = runs.events(run_id, cursor)
        yield from map(members, page.items)
        cursor = page.next_cursor
        if cursor is None:
            return
