"""Views of runs and playbooks: the JSON of HTTP responses, and the output of `--json`.

Problem: a response, its schema in `/openapi.json` and the objects of the service must agree.

Algorithm: each JSON object is a view, which the service returns. The fields of its class are the members of
the object, after those of its base. `members` converts it, and `noetl.api.http.schemas` derives its schema. A
field with a default is left out of the JSON object while it is None. Every other field is a member of each
object.

Cost: no conversion, because the attributes of a view are the members of its JSON object. The class of a view
is created at start-up, which takes 0.02 ms; a data class would take twenty times as long.

Limits: only the type checker compares the members with their types. JSON values of playbooks, such as
results, are passed through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, dataclass_transform

from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.run import ErrorRecord, FailedItem, Run, RunStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.plan import Plan

SCHEMA_NAMES: dict[type, str] = {ErrorRecord: "Failure", FailedItem: "FailedItem"}
"""The name under which `/openapi.json` publishes the schema of each view."""

DATE_TIME = "date-time"

Timestamp = Annotated[str, DATE_TIME]
"""A time of RFC 3339. Its annotation is the format that its schema names."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class View:
    """A JSON object that clients see. Its members are keyword arguments, in the order of the JSON object."""

    _optional_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, schema_name: str) -> None:
        SCHEMA_NAMES[cls] = schema_name
        own_names = tuple(name for name in cls.__annotations__ if name in vars(cls))
        cls._optional_names = (*cls._optional_names, *own_names)

    def __init__(self, /, **values: Any) -> None:
        for name in self._optional_names:
            if values.get(name) is None:
                values.pop(name, None)  # The attribute of the class is its value.
        vars(self).update(values)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return id(type(self))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
        )


def members(view: object) -> dict[str, Any]:
    """Return the members of the JSON object of a view, which must not be modified.

    Views among their values stay as they are. The function is the argument `default` of `json.dumps`, which
    calls it for those too.

    >>> members(WaitReport(until=None, actions=["wait"], workflows=[], retried=None))
    {'until': None, 'actions': ['wait'], 'workflows': []}

    Raises:
        TypeError: `view` is no view.
    """
    if not isinstance(view, View):
        raise TypeError(f"an object of the type {type(view).__name__} has no JSON form")
    return vars(view)


def to_json(view: View) -> Any:
    """Return the JSON object of a view, in which all views are objects."""
    return json.loads(json.dumps(view, default=members))


class StepState(StrEnum):
    """The status of a step as clients see it: that of its latest visit; `pending` before it has started."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepCounts(View, schema_name="StepCounts"):
    """Numbers of the steps of a run: those that have finished, and all of its playbook."""

    done: int
    total: int


class RunEntry(View, schema_name="Summary"):
    """Run of a list.

    `headline` is present in lists: at most 120 characters with the first error, what the run waits for, or
    the step at work. It is empty if the run has succeeded. Otherwise, `steps` is present in lists too.
    For most runs that have succeeded, `step_count` is: the number of steps of the playbook.
    `trigger` is the name of the trigger that has started the run. `ending` is the status with which a
    run ends that is stopping, while its last steps are at work.
    """

    workflow_id: str
    status: RunStatus
    ending: RunStatus | None = None
    playbook: str
    version: str | None
    parent: str | None = None
    resumed_from: str | None = None
    trigger: str | None = None
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    tags: Sequence[str]
    headline: str | None = None
    steps: StepCounts | None = None
    step_count: int | None = None

    @classmethod
    def from_summary(
        cls,
        run: RunSummary,
        headline: str | None = None,
        steps: StepCounts | None = None,
        step_count: int | None = None,
    ) -> RunEntry:
        return cls(
            workflow_id=run.id,
            status=run.status,
            ending=run.ending,
            playbook=run.playbook,
            version=run.version,
            parent=parent_of(run),
            resumed_from=run.resumed_from,
            trigger=None if run.trigger is None else run.trigger["name"],
            created_at=timestamp(run.created_at),
            started_at=timestamp(run.started_at),
            finished_at=timestamp(run.finished_at),
            tags=run.tags,
            headline=headline,
            steps=steps,
            step_count=step_count,
        )


def parent_of(run: RunSummary) -> str | None:
    """Return the id of the run that has started `run` and waits for it, or None."""
    return None if run.parent is None else run.parent.run_id


class RunPage(View, schema_name="RunPage"):
    items: Sequence[RunEntry]
    next_cursor: str | None


class StatusCounts(View, schema_name="StatusCounts"):
    """Numbers of runs by status.

    `more` is true if there are more runs than `total`. The newest were counted then.
    """

    total: int
    more: bool
    statuses: Mapping[RunStatus, int]


class HistogramBucket(View, schema_name="HistogramBucket"):
    """Numbers of the runs that were created in one interval, by status."""

    start: Timestamp
    statuses: Mapping[RunStatus, int]


class ListReady(View, schema_name="ListReady"):
    """End of the runs with which a stream of a list begins. `more` is whether the list has a next page."""

    runs: int
    more: bool


class RemovedRun(View, schema_name="RemovedRun"):
    """Run that has left the list of a stream, or was deleted."""

    workflow_id: str


class RunHistogram(View, schema_name="Histogram"):
    """Numbers of runs by status, for each interval of their creation, the oldest first.

    `more` is true if there are more runs than `total`. The newest were counted then, so the numbers of older
    intervals are too small.
    """

    step_seconds: float
    total: int
    more: bool
    buckets: Sequence[HistogramBucket]


class SkippedRun(View, schema_name="SkippedRun"):
    """Run that a bulk request has not changed. `reason` is the type of a problem."""

    workflow_id: str
    reason: str
    detail: str


class BulkReport(View, schema_name="BulkReport"):
    """Result of a bulk request.

    `accepted` counts the runs that were changed, or had been before. `next_cursor` is present if the filter
    may select more runs.
    """

    accepted: int
    skipped: Sequence[SkippedRun]
    next_cursor: str | None


class RunResult(View, schema_name="Result"):
    workflow_id: str
    status: RunStatus
    result: Any
    errors: Sequence[ErrorRecord]

    @classmethod
    def from_run(cls, run: Run) -> RunResult:
        return cls(workflow_id=run.id, status=run.status, result=run.result, errors=run.errors)


class CurrentStatus(View, schema_name="CurrentStatus"):
    """The last event of a stream, and the output of `noetl runs cancel --json`.

    `ending` is the status with which a run ends that is stopping.
    """

    workflow_id: str
    status: RunStatus
    ending: RunStatus | None = None


class RunTags(View, schema_name="RunTags"):
    """Tags of a run after a change."""

    workflow_id: str
    tags: Sequence[str]


class QuestionReport(View, schema_name="Question"):
    """Question that a waiting action asks a person.

    `position` is the place of the action in the step. `answer` holds the declared fields of the answer, as
    `input` of a playbook declares inputs: `type`, `default`, `enum` and `description`. What the action does
    not have is left out.
    """

    position: str
    title: str | None = None
    details: Any = None
    answer: Mapping[str, Any] | None = None


class LimitWait(View, schema_name="LimitWait"):
    """The limit for which a step waits.

    `limit` is the name of the operator's limit, or of the playbook or the step (`PLAYBOOK.STEP`) that has it.
    `key` is the value of its key, or null. `queued_before` is how many runs or steps are before it in the
    queue. It is null for a unit of a rate, which is reserved for the time at which the step resumes.
    """

    limit: str
    key: str | None
    queued_before: int | None


class WaitReport(View, schema_name="WaitingFor"):
    """Reasons that a step is `waiting`.

    `until` is the time at which it resumes without an answer, or null. `actions` are the types of the waiting
    actions, each once. `workflows` are the runs that it has started and waits for.
    `retried` is present if actions (their types) will be retried, `questions` if actions ask a person.
    `limit` is present if the step waits for a limit; then no actions wait.
    """

    until: Timestamp | None
    actions: Sequence[str]
    workflows: Sequence[str]
    retried: Sequence[str] | None = None
    questions: Sequence[QuestionReport] | None = None
    limit: LimitWait | None = None


class ItemWait(View, schema_name="ItemWaitingFor"):
    """Reasons that an item of a loop waits or is retried. The members are those of `WaitingFor`."""

    actions: Sequence[str]
    workflows: Sequence[str]
    retried: Sequence[str] | None = None
    questions: Sequence[QuestionReport] | None = None


class LeftOutReport(View, schema_name="LeftOut"):
    """Reason that a step has succeeded without its work.

    `limit` is the limit with `when_full: skip` that was full, and `key` the value of its key. Without
    `limit`, a resume has given the result. `requester` is who has requested it.
    """

    limit: str | None = None
    key: str | None = None
    requester: str | None = None

    @classmethod
    def from_reason(cls, reason: Mapping[str, Any]) -> LeftOutReport:
        """Return the report of a reason that a visit or its event `step.skipped` has."""
        return cls(limit=reason.get("limit"), key=reason.get("key"), requester=reason.get("by"))


class LoopReport(View, schema_name="LoopCounts"):
    """Progress of a loop: at its latest pause, between batches or for a wait, or as its events report it.

    `position` is the place of the loop in the step. `done` counts the finished items, `failed` those of them
    that failed.
    """

    position: str
    done: int
    failed: int
    total: int


class JoinReport(View, schema_name="JoinReport"):
    """Steps from which a branch has arrived at a join that waits, and those from which one may arrive."""

    arrived: Sequence[str]
    missing: Sequence[str]


class ForgivenItem(View, schema_name="ForgivenItem"):
    """Failed item of a loop that continued: its number from 1, its beginning as JSON, and its error."""

    number: int
    value: str | None
    error: ErrorRecord | None


class StepReport(View, schema_name="StepStatus"):
    """Latest visit of a step.

    `waiting_for` is present if `status` is `waiting`. `left_out` is present if the step has succeeded without
    its work. `loops` is present if a loop of an unfinished step has
    paused. `failed_items` and `failed_item_count` are present if the last loop of a step that has succeeded
    continued after failures. They have the first of them, and their number. `reachable` and `join` are
    present in a run with its graph. They say whether a step that has not started may still run, and what a
    join waits for.
    """

    status: StepState
    visits: int
    attempt: int
    case: int | None
    error: ErrorRecord | None
    waiting_for: WaitReport | None = None
    left_out: LeftOutReport | None = None
    loops: Sequence[LoopReport] | None = None
    failed_items: Sequence[ForgivenItem] | None = None
    failed_item_count: int | None = None
    reachable: Literal["may", "never"] | None = None
    join: JoinReport | None = None


class RunProgress(View, schema_name="Progress"):
    steps: int
    finished: int
    running: int


class RunTrigger(View, schema_name="RunTrigger"):
    """Trigger that has started a run.

    `scheduled_at` is the instant of a schedule. `workflow_id` is the run at whose end a trigger of type `run`
    has fired. `backfill` is the backfill that has fired the trigger.
    """

    name: str
    type: str
    scheduled_at: Timestamp | None
    workflow_id: str | None = None
    backfill: str | None = None


def trigger_of(run: RunSummary) -> RunTrigger | None:
    """Return the trigger that has started a run, or None."""
    return None if run.trigger is None else RunTrigger(**run.trigger)


def starts_of(run: Run | RunSummary) -> int | None:
    """Return how many starts share a run, or None if it is one."""
    return run.starts if run.starts > 1 else None


class RunReport(View, schema_name="Status"):
    """Status of a run and of its steps.

    `parent` is the run that started this one and waits for it. `resumed_from` is the run whose history this
    one continues. `trigger` has started the run. Each is present only if the run has one. `begins_at` is
    present if the run waits for further starts, and `starts` if several starts share it: how many.
    """

    workflow_id: str
    status: RunStatus
    playbook: str
    version: str | None
    parent: str | None = None
    resumed_from: str | None = None
    trigger: RunTrigger | None = None
    created_at: Timestamp
    begins_at: Timestamp | None = None
    starts: int | None = None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    steps: Mapping[str, StepReport]
    progress: RunProgress
    error: ErrorRecord | None


class EventEntry(View, schema_name="HistoryEntry"):
    id: str
    type: str
    at: Timestamp
    step: str | None
    visit: int | None
    attempt: int | None
    duration_ms: float | None
    payload: Mapping[str, Any]

    @classmethod
    def from_event(cls, event: Event) -> EventEntry:
        seconds = event.duration_seconds
        duration_ms = None if seconds is None else round(seconds * 1000, 3)
        return cls(
            id=event.id,
            type=event.type,
            at=timestamp(event.at),
            step=event.step,
            visit=event.visit,
            attempt=event.attempt,
            duration_ms=duration_ms,
            payload=event.payload,
        )


class EventPage(View, schema_name="EventPage"):
    items: Sequence[EventEntry]
    next_cursor: str | None


class FixEntry(View, schema_name="Fix"):
    """Edit that fixes a finding: `text` replaces the range of the playbook."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str


class DiagnosticEntry(View, schema_name="Finding"):
    code: str
    severity: Severity
    message: str
    line: int
    column: int
    end_line: int
    end_column: int
    hint: str | None
    fix: FixEntry | None = None


class EdgeEntry(View, schema_name="Edge"):
    source: str
    target: str
    guard: str
    case: int


class PlanGraph(View, schema_name="Graph"):
    start: str
    steps: Mapping[str, Mapping[str, Any]]
    edges: Sequence[EdgeEntry]


def plan_graph(plan: Plan, states: Mapping[str, str] | None = None) -> PlanGraph:
    """Return the graph of a plan. With the states of its steps in a run, each step has its `status`."""
    steps = {name: step.to_json() for name, step in plan.steps.items()}
    for name, state in (states or {}).items():
        steps[name]["status"] = state
    return PlanGraph(start=plan.header.start, steps=steps, edges=[EdgeEntry(**edge) for edge in plan.edges()])


class PlaybookSummary(View, schema_name="PlaybookSummary"):
    """Latest runs of a playbook: those of the last 30 days, at most 100. `more` is whether there are others.

    `success_rate` is the part of the ended runs that have succeeded, from 0 to 1. Runs that were cancelled do
    not count. `median_ms` and `p95_ms` are durations of the runs that have succeeded. `last_run` is when the
    newest run was created, also before these days.
    """

    runs: int
    more: bool
    success_rate: float | None
    median_ms: float | None
    p95_ms: float | None
    last_run: Timestamp | None
    last_status: RunStatus | None


class PlaybookEntry(View, schema_name="Registered"):
    """Version of a playbook in the registry. `statistics` is present if it was requested.

    `live_version` is the version that triggers and starts by name use. It is the newest one unless `pinned`
    is true. `aliases` are the other aliases of the playbook, with their versions.
    `diagnostics` are the warnings of its registration, such as one about a source that the service may not
    read.
    """

    name: str
    version: str
    plan_hash: str
    registered_at: Timestamp
    registered_by: str | None
    live_version: str
    pinned: bool
    aliases: Mapping[str, str]
    statistics: PlaybookSummary | None = None
    diagnostics: Sequence[DiagnosticEntry] | None = None


class AliasEntry(View, schema_name="Alias"):
    """Alias of a playbook, which names a version. `live` follows the newest one unless `pinned` is true.

    `changed_at` and `changed_by` say when and by whom this version was promoted. They are null if it was not.
    """

    name: str
    version: str
    pinned: bool
    changed_at: Timestamp | None
    changed_by: str | None


class AliasPage(View, schema_name="AliasPage"):
    items: Sequence[AliasEntry]


class PlaybookPage(View, schema_name="PlaybookPage"):
    items: Sequence[PlaybookEntry]
    next_cursor: str | None
