"""The records of a run: the run itself, its visits and claims, and the commit that ends an attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.executor.model.events import Event
    from noetl.executor.model.gates import GateKey, Slot, SlotRequest
    from noetl.executor.model.outbox import OutboxEntry
    from noetl.executor.model.postponement import Postponement
    from noetl.executor.model.wait_transition import AnswerDeclaration

END = "@end"
"""The pseudo-step whose visit ends a run: it evaluates the output and sets the final status."""

DEADLINE = "@deadline"
"""The pseudo-step whose visit is due at the deadline of a run."""


NEVER = 253402300799.0
"""The due time of a visit that only an answer makes due: the last second that a timestamp can represent."""


class RunStatus(StrEnum):
    """The status of a run. A run starts `queued`; the last six statuses are final.

    A `skipped` run has performed nothing, because a limit of its playbook was full.
    `waiting` and `paused` are not stored as statuses. They follow from the visits and from `Run.stop`.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED)


@frozen
class HistoryPosition:
    """The status of a run, and the number of the last entry of its history.

    The number grows with every entry. It is None if the store does not count entries.
    """

    status: RunStatus
    entry: int | None


class VisitStatus(StrEnum):
    """The status of a visit.

    `ready`, `retrying` and `waiting` visits can be claimed from `due_at` on: `retrying` after a failed
    attempt, `waiting` after a suspension. A `parked` visit belongs to a stopped or paused run; when that
    run continues, the visit is active again. `succeeded` and `failed` are final.
    `noetl.executor.model.transition` has the table of transitions.
    """

    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class FailedItem(TypedDict):
    """Item of a loop whose work failed: its number from 1, and its value as text, which may be cut."""

    number: int
    total: int
    value: str


class ErrorRecord(TypedDict):
    """A failure as playbooks, events and HTTP responses show it.

    `line` is that of the action in the playbook. `key` names the parameter whose `expression` failed, and
    `values` holds each name of the expression with its value as text, which may be cut. Records of earlier
    versions have none of the optional members.
    """

    type: str
    message: str
    action: str | None
    step: str | None
    attempt: int
    retryable: bool
    status: int | None
    details: Any
    line: NotRequired[int]
    key: NotRequired[str]
    expression: NotRequired[str]
    values: NotRequired[Mapping[str, str]]
    item: NotRequired[FailedItem]


Pointers = Mapping[str, tuple[int, str]]
"""For each name, the visit that holds its value: its causal clock and its id.

The greater clock is the later write.
"""


DEFAULT_TENANT = "default"
"""The tenant of runs and playbooks where no tenant is named."""

SERVICE_QUEUE = "service"
"""The queue of the runs that the workers of a service execute."""


@frozen
class RunEnding:
    """The end of a run: its final status, its result, its errors, and what is done after it."""

    status: RunStatus
    result: Any
    errors: Sequence[ErrorRecord]
    outbox: Sequence[OutboxEntry] = ()


@frozen
class WaitKey:
    """The key of an external wait: run, visit, and an id that is unique within the visit."""

    run_id: str
    visit_id: str
    id: str


@frozen
class Wait:
    """An external wait: the answer that arrived, when it arrived, and the last heartbeat."""

    id: str
    answer: Any = None
    answered_at: float | None = None
    last_heartbeat_at: float | None = None


@frozen
class TokenWait:
    """The wait that a token answers, and the tenant of its run.

    `declared` are the fields that an answer must have, or None if it may be any value.
    """

    key: WaitKey
    tenant: str
    declared: AnswerDeclaration | None
    answered_at: float | None
    is_closed: bool


@frozen
class ListedWait:
    """An open wait in the list of a tenant: the wait, its rank, its suspended visit, and the plan of its run.

    Waits with a smaller rank come first.
    """

    key: WaitKey
    rank: float
    visit: Visit
    playbook: str
    plan_hash: str


@frozen
class Run:
    """One execution of a plan. Times are seconds since the epoch.

    `queue` names the workers that execute it: those of the service, or those of the process that started a
    local run. `stop` is the status of a run that is stopping, while running steps finish, or `paused` (see
    `ending`). `live` is the number of its branches, `failed_branches` the number of those that ended in an
    unhandled failure, and `resumes` how often it was resumed. `folder` is where a local run was started,
    `source` the file of its playbook; both are None in a service. `parent` is the wait of another run that
    the end of this run answers; `depth` is 0 for runs without a parent. `resumed_from` is the run whose
    history this run continues. `trace` is the W3C trace of the request that started it (see
    `noetl.executor.model.tracing`). `root` is the run with which its chain of child runs began, or None for
    a run that no run has started. `lost_payload` says that its input, environment and variables were deleted
    from the store. They are empty then. `trigger` has the name, the type and the time of the trigger that
    started it, or is None. A run that continues another one has the same. `late_at` is when the run is late;
    only the start of a run has it. So is it with `debounce`, which says how the start waits for further ones.
    `starts` is how many starts share the run.
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
    root: str | None = None
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
    lost_payload: str | None = None
    trigger: Mapping[str, Any] | None = None
    late_at: float | None = None
    debounce: Postponement | None = None
    starts: int = 1

    @property
    def is_joined(self) -> bool:
        """True if the start that returned this run has joined the run of an earlier one."""
        return self.debounce is not None and self.starts > 1

    @property
    def ending(self) -> RunStatus | None:
        """Status with which a stopping run ends, or None. A paused run does not end."""
        return None if self.stop is RunStatus.PAUSED else self.stop

    @property
    def is_paused(self) -> bool:
        """True if the run is paused, so that none of its visits starts."""
        return self.stop is RunStatus.PAUSED and not self.status.is_final


@frozen
class Progress:
    """The progress of a suspended visit. The field names are part of the stored format.

    `round` is the number of completed rounds of `repeat`. `journal` holds, for each position of the suspended
    work, what is needed to continue there (see `noetl.executor.engine.journal`). `counts` are those of its
    segments so far (see `noetl.executor.engine.visit_counts`). A retry keeps them, too.
    """

    round: int = 0
    journal: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@frozen
class BatchResult:
    """The outcomes of one batch of a loop.

    `loop` is the position of the loop, `first` the index of the first item.
    """

    loop: str
    first: int
    outcomes: Sequence[Any]


class FailureState(StrEnum):
    """The effect of a failed visit on its branch.

    `handled`: a case handled the failure. `ended`: the branch ended (`on_error: continue`). `open`: the run
    was stopped (`on_error: abort`), and a resume repeats the visit.
    """

    HANDLED = "handled"
    ENDED = "ended"
    OPEN = "open"


@frozen
class Visit:
    """One entry of a branch into a step.

    `number` counts the visits of the step from 1, `attempt` the attempts from 1. `fence` grows with every
    claim; the store refuses a commit with an older fence. `clock` is one more than the greatest clock among
    the causes of the visit (Lamport 1978). `names` are the pointers of the branch that made it. `due_at` is
    when the visit may be claimed; while it is running, the end of its lease. `started_at` is when the attempt
    was first claimed, `segment_started_at` when its current segment was: each suspension ends a segment.
    `result` is the data of its last item, `failures` the failed items of its loop. `progress` is set while
    the visit is suspended; `saved` then holds the names saved so far. `lost_payload` says that its outcome or
    its outputs were deleted from the store. They are empty then, and saved names have the value None.
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
    failures: tuple[Mapping[str, Any], ...] = ()
    case: int | None = None
    error: ErrorRecord | None = None
    failure: FailureState | None = None
    progress: Progress | None = None
    lost_payload: str | None = None

    @property
    def has_ended_branch(self) -> bool:
        """True if its failure was unhandled. Then no step sees what it saved; only a resume uses it."""
        return self.failure in (FailureState.ENDED, FailureState.OPEN)


@frozen
class Lease:
    """The worker that claims, and the seconds for which its claim is valid unless it is renewed."""

    worker: str
    seconds: float


@frozen
class Claim:
    """A visit that a worker holds until `visit.due_at`, and its run.

    `prefetched` are visits that were read with it, with their outputs, because the step of the visit reads
    them. `slots` are those that the visit has since the claim, and it needs no others. With `is_admitted`,
    its run is known to hold all slots that it needs.
    """

    run: Run
    visit: Visit
    prefetched: tuple[Visit, ...] = ()
    slots: tuple[Slot, ...] = ()
    is_admitted: bool = False


@frozen
class Branch:
    """A branch that enters a step. `id` is the id of the visit, or of the arrival if `is_arrival` (at a
    join).

    With `is_absorbed` the branch ends if another branch has already made the same visit. `is_counted` is true
    if the visits of the step are counted, because it is on a cycle.
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
    """The atomic write at the end of an attempt. The store writes all of it atomically, or nothing.

    `visit` is the new state of the visit, with the fence of the claim. `branches` enter the next steps.
    `counter_changes` is added to the live counters of joins, `branches_change` to the live counter of the
    run. A join whose counter the commit decreases fires with a clock greater than `left_clock`. `stop` is set
    if the run stops here, and `error` if the reason is an unhandled failure. `batch_results` are added to the
    results of loops. `awaits` are the ids of the waits whose answers make a suspended visit due. `is_finally`
    is true for the finally step, after which only the end of the run follows. With `may_have_children`, the
    visit may have started child runs and waited for them; those that have not ended are cancelled when the
    visit ends. With `gives_back`, all slots of the visit are given back (`noetl.executor.model.gates`). If it
    holds each of them, and the worker knows them, they are `held_slots`. With
    `is_queued`, the suspended visit waits for one of its slots, or of its run's. It is due at once if none of
    them waits any more. `requests` are those of the visit that the first branch enters, and they do not
    queue. If this branch arrives at a join, they are those of each new visit of its step. If the commit
    claims such a visit, this takes its slots, up to the first gate that is full.
    """

    visit: Visit
    branches: tuple[Branch, ...] = ()
    counter_changes: Mapping[str, int] = field(default_factory=dict)
    left_clock: int = 0
    branches_change: int = 0
    failed_branches: int = 0
    stop: RunStatus | None = None
    error: ErrorRecord | None = None
    events: tuple[Event, ...] = ()
    batch_results: tuple[BatchResult, ...] = ()
    awaits: tuple[str, ...] = ()
    is_finally: bool = False
    may_have_children: bool = False
    gives_back: bool = False
    is_queued: bool = False
    requests: tuple[SlotRequest, ...] = ()
    held_slots: tuple[Slot, ...] = ()


@frozen
class CommitResult:
    """The consequences of a commit for the worker that has made it.

    `following` is the visit that it has claimed, or None. `slots` are those that this visit has got. At the
    `freed` gates, others wait for units that were given back.
    """

    following: Visit | None = None
    slots: tuple[Slot, ...] = ()
    freed: tuple[GateKey, ...] = ()
