"""Schemas of the response bodies, for `/openapi.json` only.

Pydantic takes long to import, so nothing else imports this module. A class that is published under another
name than its own has that name as its `title`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from noetl.api.http.responses import SCHEMA_REFERENCE


class ResponseSchema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorSchema(ResponseSchema, title="Failure"):
    type: str
    message: str
    action: str | None
    step: str | None
    attempt: int
    retryable: bool
    status: int | None
    details: JsonValue


class RunLinksSchema(ResponseSchema, title="Links"):
    status: str
    result: str
    events: str
    graph: str
    cancel: str
    resume: str


class AcceptedRunSchema(ResponseSchema, title="Accepted"):
    workflow_id: str
    status: str
    playbook: str
    plan_hash: str
    links: RunLinksSchema


class RunResultSchema(ResponseSchema, title="Result"):
    workflow_id: str
    status: str
    result: JsonValue
    errors: list[ErrorSchema]


class WaitingForSchema(ResponseSchema, title="WaitingFor"):
    """Reasons that a step is `waiting`.

    `until` is the time at which it resumes without an answer, or null. `actions` are the types of the waiting
    actions, each once. `workflows` are the runs that it has started and waits for.
    `retried` is present if actions (their types) will be retried.
    """

    until: str | None
    actions: list[str]
    workflows: list[str]
    retried: list[str] | None = None


class LoopCountsSchema(ResponseSchema, title="LoopCounts"):
    """Progress of an unfinished loop at its latest pause, between batches or for a wait.

    `position` is the place of the loop in the step. `done` counts the finished items, `failed` those of them
    that failed.
    """

    position: str
    done: int
    failed: int
    total: int


class StepStatusSchema(ResponseSchema, title="StepStatus"):
    """Latest visit of a step.

    `waiting_for` is present if `status` is `waiting`. `loops` is present if a loop of an unfinished step has
    paused.
    """

    status: str
    visits: int
    attempt: int
    case: int | None
    error: ErrorSchema | None
    waiting_for: WaitingForSchema | None = None
    loops: list[LoopCountsSchema] | None = None


class RunProgressSchema(ResponseSchema, title="Progress"):
    steps: int
    finished: int
    running: int


class RunStatusSchema(ResponseSchema, title="Status"):
    """Status of a run and of its steps.

    `parent` is the run that started this one and waits for it. `resumed_from` is the run whose history this
    one continues. Each is present only if the run has one.
    """

    workflow_id: str
    status: str
    playbook: str
    parent: str | None = None
    resumed_from: str | None = None
    created_at: str
    started_at: str | None
    finished_at: str | None
    steps: dict[str, StepStatusSchema]
    progress: RunProgressSchema
    error: ErrorSchema | None


class RunSummarySchema(ResponseSchema, title="Summary"):
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


class RunPageSchema(ResponseSchema, title="RunPage"):
    items: list[RunSummarySchema]
    next_cursor: str | None


class RegisteredPlaybookSchema(ResponseSchema, title="Registered"):
    name: str
    version: str
    plan_hash: str
    created_at: str


class PlaybookPageSchema(ResponseSchema, title="PlaybookPage"):
    items: list[RegisteredPlaybookSchema]
    next_cursor: str | None


class PlaybookLinksSchema(ResponseSchema, title="PlaybookLinks"):
    self: str
    versions: str


class PlaybookSourceSchema(RegisteredPlaybookSchema, title="RegisteredText"):
    source: str
    links: PlaybookLinksSchema


class CallbackReceiptSchema(ResponseSchema, title="Taken"):
    """Confirmation that a callback was accepted."""

    status: Literal["accepted"]


class EventSchema(ResponseSchema, title="HistoryEntry"):
    id: str
    type: str
    at: str
    step: str | None
    visit: int | None
    attempt: int | None
    duration_ms: float | None
    payload: dict[str, JsonValue]


class EventPageSchema(ResponseSchema, title="EventPage"):
    items: list[EventSchema]
    next_cursor: str | None


class DiagnosticSchema(ResponseSchema, title="Finding"):
    code: str
    severity: str
    message: str
    line: int
    column: int
    end_line: int
    end_column: int
    hint: str | None


class EdgeSchema(ResponseSchema, title="Edge"):
    source: str
    target: str
    guard: str
    case: int


class GraphSchema(ResponseSchema, title="Graph"):
    start: str
    steps: dict[str, dict[str, JsonValue]]
    edges: list[EdgeSchema]


class PlanSchema(ResponseSchema, title="PlanAnswer"):
    name: str
    version: str | None
    hash: str
    diagnostics: list[DiagnosticSchema]
    graph: GraphSchema
    inputs: dict[str, JsonValue]
    statistics: dict[str, JsonValue]


class ProblemSchema(BaseModel, title="ProblemDocument"):
    """Problem document (RFC 9457).

    Further members depend on the type of the problem: `diagnostics`, `inputs`, `errors`, `reference`.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str


_BODIES: tuple[type[BaseModel], ...] = (
    AcceptedRunSchema,
    EventPageSchema,
    GraphSchema,
    PlanSchema,
    PlaybookPageSchema,
    ProblemSchema,
    RegisteredPlaybookSchema,
    PlaybookSourceSchema,
    RunResultSchema,
    RunPageSchema,
    RunStatusSchema,
    RunSummarySchema,
    CallbackReceiptSchema,
)
"""Schemas that routes name. Those that these contain are included with them."""


class _PublishedNames(GenerateJsonSchema):
    """A generator that names each schema by its title, which clients know."""

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(_published_names().get(name, name))


@cache
def _published_names() -> dict[str, str]:
    classes: list[type[BaseModel]] = [
        ProblemSchema,
        *ResponseSchema.__subclasses__(),
        *RegisteredPlaybookSchema.__subclasses__(),
    ]
    return {schema.__name__: str(schema.model_config.get("title")) for schema in classes}


@cache
def component_schemas() -> dict[str, Any]:
    """Return all schemas by their published names, for `components` of `/openapi.json`."""
    _, document = models_json_schema(
        [(body, "serialization") for body in _BODIES],
        ref_template=SCHEMA_REFERENCE,
        schema_generator=_PublishedNames,
    )
    schemas: dict[str, Any] = document["$defs"]
    return schemas
