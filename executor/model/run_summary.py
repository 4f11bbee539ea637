"""Records of a run and of its visits without their payloads: for lists, and for the status.

Problem: input, environment and result of a run may have megabytes. A list of runs shows none of them.

Algorithm: a record of its own for each purpose (projection). Stores read only the columns of the record, and
a caller cannot reach a payload through it.

Cost: constant for each run of a list. The status has one visit for each step, however often it was visited.

Limits: a step that waits shows its journal, whose size `PayloadLimits` bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.model.json_values import write_json
from noetl.executor.model.run import ErrorRecord, Progress, Run, RunStatus, Visit, VisitStatus, WaitKey
from noetl.planner.frozen import frozen


@frozen
class RunSummary:
    """The part of a run that a list shows. The fields are those of `Run`, without any payload."""

    id: str
    tenant: str
    playbook: str
    version: str | None
    plan_hash: str
    status: RunStatus
    origin: str
    queue: str
    tags: Sequence[str]
    folder: str | None
    parent: WaitKey | None
    resumed_from: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    stop: RunStatus | None
    resumes: int
    trigger: Mapping[str, Any] | None = None
    starts: int = 1

    @property
    def ending(self) -> RunStatus | None:
        """Status with which a run ends that is stopping, or None."""
        return None if self.stop is RunStatus.PAUSED or self.status.is_final else self.stop


@frozen
class ResultText:
    """Result of a run. `text` is its JSON, which was not decoded. It is `null` until the end."""

    run_id: str
    status: RunStatus
    text: str
    errors: Sequence[ErrorRecord]


@frozen
class VisitSummary:
    """The part of a visit that the status of its run shows. The fields are those of `Visit`."""

    id: str
    status: VisitStatus
    number: int
    attempt: int
    due_at: float
    started_at: float | None
    finished_at: float | None
    case: int | None
    error: ErrorRecord | None
    progress: Progress | None


MAX_READ_JOURNAL = 4096
"""How many characters the journal of a waiting step may have if its run is read together with others."""


@frozen
class StepVisits:
    """The visits of one step of a run: the latest, and the number that have started."""

    latest: VisitSummary
    started: int


@frozen
class RunOverview:
    """The part of a run that its status shows: its summary, its error, its visits by step.

    `damage` says why the run was set aside, or is None. A damaged run may have no visits here.
    """

    summary: RunSummary
    error: ErrorRecord | None
    steps: dict[str, StepVisits]
    damage: str | None = None


VisitPlace = tuple[str, int]
"""The name of a step, and the number of a visit of it."""


@frozen
class StartedVisit:
    """A visit without its outputs, and how many visits of its step have started.

    `entered_at` is when the visit was created, or None if that is unknown.
    """

    visit: Visit
    started: int
    entered_at: float | None


def summarize(run: Run) -> RunSummary:
    """Return the summary of a run."""
    return RunSummary(
        id=run.id,
        tenant=run.tenant,
        playbook=run.playbook,
        version=run.version,
        plan_hash=run.plan_hash,
        status=run.status,
        origin=run.origin,
        queue=run.queue,
        tags=run.tags,
        folder=run.folder,
        parent=run.parent,
        resumed_from=run.resumed_from,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        stop=run.stop,
        resumes=run.resumes,
        trigger=run.trigger,
        starts=run.starts,
    )


def write_result(run: Run) -> ResultText:
    """Return the result of a run as text."""
    return ResultText(run.id, run.status, write_json(run.result), run.errors)


def summarize_visit(visit: Visit) -> VisitSummary:
    """Return the summary of a visit."""
    return VisitSummary(
        id=visit.id,
        status=visit.status,
        number=visit.number,
        attempt=visit.attempt,
        due_at=visit.due_at,
        started_at=visit.started_at,
        finished_at=visit.finished_at,
        case=visit.case,
        error=visit.error,
        progress=visit.progress,
    )


def has_started(visit: Visit | VisitSummary) -> bool:
    """Return whether a worker has claimed a visit, in this attempt or before."""
    return visit.started_at is not None or visit.attempt > 1 or visit.progress is not None


def latest_visits(visits: Sequence[Visit]) -> dict[str, StepVisits]:
    """Return the visits of each step, from all visits of a run in the order of their creation."""
    counts: dict[str, int] = {}
    latest: dict[str, Visit] = {}
    for visit in visits:
        counts[visit.step] = counts.get(visit.step, 0) + has_started(visit)
        latest[visit.step] = visit
    return {step: StepVisits(summarize_visit(visit), counts[step]) for step, visit in latest.items()}
