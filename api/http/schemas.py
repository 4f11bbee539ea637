"""The shapes of the bodies that HTTP answers with, as `/openapi.json` describes them. Nothing else needs them."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from noetl.api.http.responses import REFERENCE
from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.json_schema import models_json_schema


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Failure(_Answer):
    type: str
    message: str
    action: str | None
    step: str | None
    attempt: int
    retryable: bool
    status: int | None
    details: JsonValue


class Links(_Answer):
    status: str
    result: str
    events: str
    graph: str
    cancel: str
    resume: str


class Accepted(_Answer):
    workflow_id: str
    status: str
    playbook: str
    plan_hash: str
    links: Links


class Result(_Answer):
    workflow_id: str
    status: str
    result: JsonValue
    errors: list[Failure]


class WaitingFor(_Answer):
    """What makes a step that is `waiting` go on: the time comes, or one of the actions (their types, each once) has its
    answer. `until` is null when there is no such time, `workflows` are the runs that it has started and waits for.
    `retried` is there when actions (their types) are to be tried again.
    """

    until: str | None
    actions: list[str]
    workflows: list[str]
    retried: list[str] | None = None


class LoopCounts(_Answer):
    """How far an unfinished loop had come when it paused last, between batches or to wait. `position` is where it stands in
    the step. `done` counts all items that are over, `failed` those of them that failed.
    """

    position: str
    done: int
    failed: int
    total: int


class StepStatus(_Answer):
    """The latest visit of a step. `waiting_for` is there when `status` is `waiting`, `loops` when a loop of an unfinished
    step has paused.
    """

    status: str
    visits: int
    attempt: int
    case: int | None
    error: Failure | None
    waiting_for: WaitingFor | None = None
    loops: list[LoopCounts] | None = None


class Progress(_Answer):
    steps: int
    finished: int
    running: int


class Status(_Answer):
    """`parent` is the run that started this one and waits for it, `resumed_from` the one whose history it goes on with. Each
    is there only where there is such a run.
    """

    workflow_id: str
    status: str
    playbook: str
    parent: str | None = None
    resumed_from: str | None = None
    created_at: str
    started_at: str | None
    finished_at: str | None
    steps: dict[str, StepStatus]
    progress: Progress
    error: Failure | None


class Summary(_Answer):
    workflow_id: str
    status: str
    playbook: str
    version: str | None
    parent: str | None = None
    resumed_from: str | None = None
    created_at: str
    started_at: str | None
    finished_at: str | None
    tags: list[str]


class RunPage(_Answer):
    items: list[Summary]
    next_cursor: str | None


class Registered(_Answer):
    name: str
    version: str
    plan_hash: str
    created_at: str


class PlaybookPage(_Answer):
    items: list[Registered]
    next_cursor: str | None


class PlaybookLinks(_Answer):
    self: str
    versions: str


class RegisteredText(Registered):
    source: str
    links: PlaybookLinks


class Taken(_Answer):
    """What came in for a callback has been taken."""

    status: Literal["accepted"]


class HistoryEntry(_Answer):
    id: str
    type: str
    at: str
    step: str | None
    visit: int | None
    attempt: int | None
    duration_ms: float | None
    payload: dict[str, JsonValue]


class EventPage(_Answer):
    items: list[HistoryEntry]
    next_cursor: str | None


class Finding(_Answer):
    code: str
    severity: str
    message: str
    line: int
    column: int
    end_line: int
    end_column: int
    hint: str | None


class Edge(_Answer):
    source: str
    target: str
    guard: str
    case: int


class Graph(_Answer):
    start: str
    steps: dict[str, dict[str, JsonValue]]
    edges: list[Edge]


class PlanAnswer(_Answer):
    name: str
    version: str | None
    hash: str
    diagnostics: list[Finding]
    graph: Graph
    inputs: dict[str, JsonValue]
    statistics: dict[str, JsonValue]


class ProblemDocument(BaseModel):
    """RFC 9457. Further members depend on the problem: `diagnostics`, `inputs`, `errors`, `reference`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str


_NAMED = (
    Accepted,
    EventPage,
    Graph,
    PlanAnswer,
    PlaybookPage,
    ProblemDocument,
    Registered,
    RegisteredText,
    Result,
    RunPage,
    Status,
    Summary,
    Taken,
)
"""Those that routes name; what these consist of comes along."""


@cache
def schemas() -> dict[str, Any]:
    """The schema of every shape, by its name."""
    _, found = models_json_schema([(shape, "serialization") for shape in _NAMED], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas
