"""What is remembered of a run: its record, its visits, and the one write that commits a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Any, TypedDict

from noetl.executor.model.events import Event
from noetl.planner.frozen import frozen

END = "@end"
"""The pseudo-step whose visit ends a run: it evaluates the output and sets the final status."""

DEADLINE = "@deadline"
"""The pseudo-step whose visit is due when a run is out of time."""


NEVER = 253402300799.0
"""When nothing but an answer from outside makes a visit due: the last second that a timestamp can name."""


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def is_final(self) -> bool:
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)


class VisitStatus(StrEnum):
    """`ready` waits for a worker (from `due_at` on), `retrying` is ready after a failed attempt, `waiting` after a pause that
    the playbook asked for; `parked` waits for a resume.
    """

    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class ErrorRecord(TypedDict):
    """A failure as playbooks, events and answers see it."""

    type: str
    message: str
    action: str | None
    step: str | None
    attempt: int
    retryable: bool
    status: int | None
    details: Any


Pointers = Mapping[str, tuple[int, str]]
"""Which visit holds a name: its causal clock and its id. The greater clock is the later write."""


SERVICE_QUEUE = "service"
"""The queue of the runs that the workers of a service walk."""


@frozen
class WaitKey:
    """Which wait: the run, the visit, and the id that the wait has at its visit."""

    run_id: str
    visit_id: str
    id: str


@frozen
class Wait:
    """What is known of an answer that a visit waits for: what was sent and when, and the last sign of life."""

    id: str
    answer: Any = None
    answered_at: float | None = None
    last_heartbeat_at: float | None = None


@frozen
class Run:
    """One execution of a plan. Times are seconds since the epoch.

    `queue` is whose workers walk it: those of the service, or the process that started the local run it belongs to.
    `stop` is the ending a run is heading for while running steps finish; `live` counts its branches; `failed_branches`
    those that ended in an unhandled failure; `resumes` how often it was resumed. `folder` is where a local run was
    started and `source` the file of its playbook; both are None for runs of a service. `parent` is the wait of another
    run that this one answers when it ends; `depth` is 0 for runs that no run started. `resumed_from` is the run whose
    history this one goes on with. `trace` is the W3C `traceparent` of whoever started it.
    """

    id: str
    tenant: str
    playbook: str
    version: str | None
    plan_hash: str
    status: RunStatus
    origin: str
    queue: str
    input: Mapping[str, Any]
    environment: Mapping[str, Any]
    variables: Mapping[str, Any]
    tags: Sequence[str]
    folder: str | None
    created_at: float
    source: str | None = None
    parent: WaitKey | None = None
    depth: int = 0
    resumed_from: str | None = None
    trace: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    live: int = 0
    failed_branches: int = 0
    stop: RunStatus | None = None
    resumes: int = 0
    result: Any = None
    error: ErrorRecord | None = None
    errors: Sequence[ErrorRecord] = ()


@frozen
class Progress:
    """How far the work of a visit has come when it is done in several invocations.

    `round` is the number of rounds of `repeat` that are done. `journal` tells for the positions of the work that paused
    what is needed to go on there: `docs/decisions/0005-invocation-segments.md`.
    """

    round: int = 0
    journal: Mapping[str, Any] = field(default_factory=dict)


@frozen
class BatchResult:
    """What a batch adds to the result of the loop at a position: outcomes of its items, which begin at index `first`."""

    loop: str
    first: int
    outcomes: Sequence[Any]


class FailureState(StrEnum):
    """What became of a branch at a visit that failed: a case handled it, it ended there, or it still stands there."""

    HANDLED = "handled"
    ENDED = "ended"
    OPEN = "open"


@frozen
class Visit:
    """One time a step is entered.

    `number` counts the visits of the step from 1, `attempt` the attempts from 1. `fence` grows with every claim; a
    commit that carries an older one is refused. `clock` is one more than the greatest clock among its causes
    (Lamport, 1978). `names` are the pointers the visit was handed. `due_at` is when it may be claimed: while it is
    running, the end of its lease. `started_at` is when the attempt was first claimed, `piece_at` when the piece of it
    was that is at work: after a pause another one begins. `result` is the data of its last
    item. `progress` is known of work that has paused; `saved` is then what it had saved so far.
    """

    id: str
    run_id: str
    step: str
    status: VisitStatus
    clock: int
    names: Pointers
    number: int = 1
    attempt: int = 1
    claims: int = 0
    fence: int = 0
    worker: str | None = None
    due_at: float = 0.0
    started_at: float | None = None
    segment_started_at: float | None = None
    finished_at: float | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    case: int | None = None
    error: ErrorRecord | None = None
    failure: FailureState | None = None
    progress: Progress | None = None

    @property
    def has_ended_branch(self) -> bool:
        """Whether its failure was handled by nothing: what it has saved is for a resume to go on with, and nobody sees it."""
        return self.failure in (FailureState.ENDED, FailureState.OPEN)


@frozen
class Lease:
    """Who claims, and for how many seconds a claim holds unless it is renewed."""

    worker: str
    seconds: float


@frozen
class Claim:
    """A visit that this worker holds until `visit.due_at`, and the run it belongs to. `loaded` are visits that were read with
    it, with what they saved: of those that its step reads.
    """

    run: Run
    visit: Visit
    prefetched: tuple[Visit, ...] = ()


@frozen
class Branch:
    """A branch on its way to a step: the id of the visit it makes there, or of its arrival at a join (`joins`).

    With `is_absorbed` it ends where another has made the same visit before. `counted` is true when the visits of the step
    are.
    """

    id: str
    step: str
    clock: int
    names: Pointers
    is_arrival: bool = False
    is_counted: bool = False
    is_absorbed: bool = False


@frozen
class Commit:
    """Everything that finishing an attempt changes, written in one piece or not at all.

    `visit` is the record as it will stand, carrying the fence of the claim. `live` is what is added to the live
    counters of joins, `branches_change` to the number of branches of the run. `stop` is given when the run ends here,
    and `error` when an unhandled failure is why. `parts` are what batches of loops add to their results, and `awaits` the
    waits whose answers the visit waits for when it pauses. `last` is true of the step that runs last, behind which there is
    only the end of the run. `seen` are the names that the next branch sees, where branches go one after another. With
    `waited` the visit may have started runs that it waited for: those that are not done when it is over are cancelled.
    """

    visit: Visit
    branches: tuple[Branch, ...] = ()
    live_changes: Mapping[str, int] = field(default_factory=dict)
    branches_change: int = 0
    failed_branches: int = 0
    stop: RunStatus | None = None
    error: ErrorRecord | None = None
    events: tuple[Event, ...] = ()
    batch_results: tuple[BatchResult, ...] = ()
    awaits: tuple[str, ...] = ()
    is_finally: bool = False
    next_names: Pointers | None = None
    may_have_children: bool = False
