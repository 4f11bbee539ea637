"""The pydantic models of the constructs of the playbook language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.limits import MAX_LIMIT, MAX_LIMITS, MAX_PRIORITY, MAX_QUEUED, WhenFull
from noetl.planner.notify import MAX_CHANNELS
from noetl.planner.polled_sources import DEFAULT_SETTLE_SECONDS
from noetl.planner.schedules.schedule import MAX_CATCH_UP, MAX_CATCH_UP_SECONDS, CatchUpMode
from noetl.planner.syntax.durations import (
    parse_catch_up_time,
    parse_debounce_time,
    parse_duration,
    parse_interval,
    parse_jitter,
    parse_late_time,
    parse_remember_time,
    parse_settle_time,
    parse_tolerance,
    parse_ttl,
    parse_webhook_wait,
    parse_window,
)
from noetl.planner.syntax.instants import check_instant
from noetl.planner.syntax.sizes import parse_body_size
from noetl.planner.trigger_sources import EndedStatus, WebhookScheme

DocumentPath = tuple[str | int, ...]
"""The keys and indexes that lead from the root of a document to a value: `("steps", 0, "name")`."""

Duration = Annotated[float, BeforeValidator(parse_duration)]
Instant = Annotated[str, BeforeValidator(check_instant)]
InputType = Literal["string", "integer", "number", "boolean", "object", "array", "any"]
OnError = Literal["abort", "continue"]


class Model(BaseModel):
    """The base of all constructs. `path` leads to the construct in the document."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, hide_input_in_errors=True)
    _path: DocumentPath = PrivateAttr(default=())

    @property
    def path(self) -> DocumentPath:
        # Reading `self._path` would use the `__getattr__` of pydantic, which is ten times slower.
        private = self.__pydantic_private__
        return private["_path"] if private else ()


class InputDeclaration(Model):
    type: InputType = "any"
    default: Any = None
    enum: Annotated[list[Any], Field(min_length=1)] | None = None
    description: str | None = None


class FieldDeclaration(InputDeclaration):
    """The declaration of a field in a parameter of an action, as `input` declares one."""


class RetryPolicy(Model):
    attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    delay: Duration = 1.0
    backoff: Annotated[float, Field(ge=1, le=100)] = 2.0
    max_delay: Duration = 300.0
    jitter: bool = True
    if_: str | bool | None = Field(default=None, alias="if")


def _expand_retry(value: object) -> object:
    return {"attempts": value} if isinstance(value, int) and not isinstance(value, bool) else value


RetryField = Annotated[RetryPolicy, BeforeValidator(_expand_retry)]


DEFAULT_TTL_SECONDS = 86_400.0
"""The `ttl` of a cache without one."""


class CachePolicy(Model):
    key: Any = None
    ttl: Annotated[float, BeforeValidator(parse_ttl)] = DEFAULT_TTL_SECONDS
    skip_effects: bool = False


def _expand_cache(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"ttl": value} if isinstance(value, str) or is_number else value


CacheField = Annotated[CachePolicy, BeforeValidator(_expand_cache)]


class BaseLimitDeclaration(Model):
    """The keys that limits and rates have. `use` names a limit of the operator."""

    use: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] | None = None
    key: str | None = None
    when_full: WhenFull = "queue"
    max_wait: Duration | None = None


class LimitDeclaration(BaseLimitDeclaration):
    """One limit of how many runs or visits are in progress at once."""

    max_queued: Annotated[int, Field(ge=1, le=MAX_QUEUED)] | None = None
    fair: str | None = None


class RateDeclaration(BaseLimitDeclaration):
    """One limit of how many runs or attempts begin in a window of time."""

    when_full: Literal["queue", "skip"] = "queue"
    per: Annotated[float, BeforeValidator(parse_window)] | None = None


def expand_limit(value: object) -> object:
    """Return the mapping that a number alone stands for."""
    return {"limit": value} if isinstance(value, int) and not isinstance(value, bool) else value


def limits_tag(value: object) -> str:
    """Return which form `concurrency` or `rate` has: a list of limits, or one limit."""
    return "list" if isinstance(value, list) else "mapping"


def is_limits_path(path: DocumentPath) -> bool:
    """Return whether a path leads to the limits or the rates of the playbook or of a step.

    >>> is_limits_path(("steps", 0, "concurrency")), is_limits_path(("steps", 0, "loop", "concurrency"))
    (True, False)
    """
    is_of_owner = len(path) == 1 or (len(path) == 3 and path[0] == "steps")
    return path[-1:] in (("concurrency",), ("rate",)) and is_of_owner


Limits = Annotated[
    Annotated[LimitDeclaration, Tag("mapping")]
    | Annotated[list[LimitDeclaration], Field(min_length=1, max_length=MAX_LIMITS), Tag("list")],
    Discriminator(limits_tag),
]
LimitsField = Annotated[Limits, BeforeValidator(expand_limit)]
"""The value of `concurrency`: a number, a limit, or a list of limits."""


RatesField = Annotated[
    Annotated[RateDeclaration, Tag("mapping")]
    | Annotated[list[RateDeclaration], Field(min_length=1, max_length=MAX_LIMITS), Tag("list")],
    Discriminator(limits_tag),
]
"""The value of `rate`: a rate, or a list of rates."""

Priority = Annotated[float, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | str
"""The value of `priority`: a number, or a template."""


class DebouncePolicy(Model):
    key: str | None = None
    wait: Annotated[float, BeforeValidator(parse_debounce_time)]
    longest: Annotated[float, BeforeValidator(parse_debounce_time)] | None = Field(default=None, alias="max")


class Loop(Model):
    items: str | list[Any]
    as_: str = Field(default="item", alias="as")
    concurrency: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] | None = None
    on_error: OnError = "abort"


class Repeat(Model):
    until: str
    every: Duration = 0.0
    max: Annotated[int, Field(ge=1)]


class TaskEntry(Model):
    """`{task: NAME, with: {...}}`"""

    task: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    as_: str | None = Field(default=None, alias="as")
    if_: str | bool | None = Field(default=None, alias="if")
    loop: Loop | None = None
    on_error: Literal["continue"] | None = None


class ActionEntry(Model):
    """`{action: TYPE, ...}`.

    `parameters` holds the keys that not all types share. `declaration` is that of the type, or None if the
    type is unknown.
    """

    model_config = ConfigDict(extra="allow")

    action: str
    as_: str | None = Field(default=None, alias="as")
    if_: str | bool | None = Field(default=None, alias="if")
    retry: RetryField | None = None
    timeout: Duration | None = None
    cache: CacheField | None = None
    loop: Loop | None = None
    on_error: Literal["continue"] | None = None

    _declaration: ActionDeclaration | None = PrivateAttr(default=None)
    _saved_names: tuple[tuple[str, DocumentPath], ...] = PrivateAttr(default=())

    @property
    def parameters(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}

    @property
    def declaration(self) -> ActionDeclaration | None:
        private = self.__pydantic_private__
        return private["_declaration"] if private else None

    @property
    def saved_names(self) -> tuple[tuple[str, DocumentPath], ...]:
        """The names that the type of the action saves itself, each with its path, without `as`."""
        private = self.__pydantic_private__
        return private["_saved_names"] if private else ()

    @property
    def never_succeeds(self) -> bool:
        """True if an action of this type always ends in a failure."""
        return self.declaration is not None and self.declaration.never_succeeds


class StepEntry(Model):
    """`{step: NAME}`, allowed only in a case."""

    step: str


def _entry_tag(value: object) -> str:
    if isinstance(value, str):
        return "name"
    if isinstance(value, dict):
        for key in ("action", "task", "step"):
            if key in value:
                return key
    return "invalid"


Entry = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[ActionEntry, Tag("action")]
    | Annotated[TaskEntry, Tag("task")]
    | Annotated[StepEntry, Tag("step")],
    Discriminator(_entry_tag),
]
"""An entry of `run`. A plain string names a task; in a case, it names a step or a task."""


class Case(Model):
    case: str | bool
    run: list[Entry] = Field(default_factory=list)


class Step(Model):
    name: str
    description: str | None = None
    run: list[Entry] | None = None
    parallel: bool = False
    rule: list[Case] | None = None
    loop: Loop | None = None
    repeat: Repeat | None = None
    join: Literal["all", "any", "each"] = "all"
    max_visits: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    retry: RetryField | None = None
    timeout: Duration | None = None
    cache: CacheField | None = None
    concurrency: LimitsField | None = None
    rate: RatesField | None = None
    priority: Priority | None = None
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    on_error: OnError | None = None

    @property
    def limits(self) -> Sequence[LimitDeclaration]:
        """The limits of its visits."""
        return list_limits(self.concurrency)

    @property
    def rates(self) -> Sequence[RateDeclaration]:
        """The rates of its attempts."""
        return list_limits(self.rate)

    @property
    def limits_and_rates(self) -> Sequence[BaseLimitDeclaration]:
        """The limits of its visits, and the rates of its attempts."""
        return (*self.limits, *self.rates)


DeclaredLimit = TypeVar("DeclaredLimit", bound=BaseLimitDeclaration)


def list_limits(written: DeclaredLimit | list[DeclaredLimit] | None) -> Sequence[DeclaredLimit]:
    """Return the limits of a `concurrency`, or the rates of a `rate`."""
    if written is None:
        return ()
    return written if isinstance(written, list) else (written,)


class Task(Model):
    name: str
    description: str | None = None
    run: list[Entry]
    parallel: bool = False
    _run_path: DocumentPath = PrivateAttr(default=())

    @property
    def run_path(self) -> DocumentPath:
        """The path of the entries: under `run`, or directly under the name if `tasks` maps names to lists."""
        return self._run_path or (*self._path, "run")


class CatchUpPolicy(Model):
    mode: CatchUpMode
    max_age: Annotated[float, BeforeValidator(parse_catch_up_time)] = Field(
        default=MAX_CATCH_UP_SECONDS, alias="within"
    )
    limit: Annotated[int, Field(ge=1, le=MAX_CATCH_UP)] = MAX_CATCH_UP


def _expand_catch_up(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


MAX_WEBHOOK_SECRETS = 5
"""How many secrets of a webhook are valid at the same time."""

TriggerType = Literal["schedule", "webhook", "run", "folder", "queue", "s3", "event"]


class TriggerDeclaration(Model):
    """A trigger: it starts runs of the playbook."""

    name: str
    type: TriggerType
    input: dict[str, Any] = Field(default_factory=dict)
    if_: str | bool | None = Field(default=None, alias="if")


class ScheduleDeclaration(TriggerDeclaration):
    """A trigger that fires at times. `start` and `end` are texts, and `timezone` decides."""

    cron: str | None = None
    interval: Annotated[float, BeforeValidator(parse_interval)] | None = Field(default=None, alias="every")
    timezone: str = "UTC"
    start: Instant | None = None
    end: Instant | None = None
    catch_up: Annotated[CatchUpPolicy, BeforeValidator(_expand_catch_up)] | None = None
    overlap: Literal["skip"] | None = None
    jitter: Annotated[float, BeforeValidator(parse_jitter)] = 0.0


class KeyedTriggerDeclaration(TriggerDeclaration):
    """A trigger that may have a `key`, which tells its firings from each other."""

    key: str | None = None


def expand_secret(value: object) -> object:
    """Return the list of secrets that a single one stands for."""
    return [value] if isinstance(value, str) else value


class WebhookAuthDeclaration(Model):
    """The recognition of the sender of a webhook. A key that is not written is None, or an empty list."""

    scheme: WebhookScheme
    secret: Annotated[
        list[str], Field(min_length=1, max_length=MAX_WEBHOOK_SECRETS), BeforeValidator(expand_secret)
    ] = Field(default_factory=list)
    header: str | None = None
    prefix: str | None = None
    algorithm: Literal["sha1", "sha256", "sha512"] | None = None
    encoding: Literal["hex", "base64"] | None = None
    tolerance: Annotated[float, BeforeValidator(parse_tolerance)] | None = None


class WebhookDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires at requests to an address. `address` is its `path`."""

    address: str = Field(alias="path")
    auth: WebhookAuthDeclaration
    method: Literal["POST", "PUT"] = "POST"
    max_bytes: Annotated[int, BeforeValidator(parse_body_size)] = 1024 * 1024
    answer: Literal["accepted", "result"] = "accepted"
    wait: Annotated[float, BeforeValidator(parse_webhook_wait)] = 10.0
    remember: Annotated[float, BeforeValidator(parse_remember_time)] = 7 * 86_400.0


def _succeeded() -> list[EndedStatus]:
    return ["succeeded"]


class RunTriggerDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires when a run of another playbook has ended."""

    playbook: str
    status: Annotated[list[EndedStatus], Field(min_length=1)] = Field(
        default_factory=_succeeded, json_schema_extra={"default": ["succeeded"]}
    )


class FolderDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires at files of a folder."""

    folder: str
    glob: str = "*"
    settle: Annotated[float, BeforeValidator(parse_settle_time)] = DEFAULT_SETTLE_SECONDS


class QueueDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires at messages of a queue. `url` is its key `sqs`."""

    url: str | None = Field(default=None, alias="sqs")
    table: str | None = None
    max_receives: Annotated[int, Field(ge=1, le=1000)] | None = None


class BucketDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires at objects that are written to a bucket of S3."""

    bucket: str
    prefix: str | None = None


MAX_DETAIL_TYPES = 20
"""How many types of events a trigger may name."""


def expand_detail_types(value: object) -> object:
    """Return the list of types of events that a single one stands for."""
    return [value] if isinstance(value, str) else value


class EventDeclaration(KeyedTriggerDeclaration):
    """A trigger that fires at events of Amazon EventBridge."""

    source: str
    detail_type: (
        Annotated[
            list[str], Field(min_length=1, max_length=MAX_DETAIL_TYPES), BeforeValidator(expand_detail_types)
        ]
        | None
    ) = None


def trigger_tag(value: object) -> str:
    """Return the type of a trigger. One without a valid type is described as a schedule."""
    type_name = value.get("type") if isinstance(value, dict) else None
    return type_name if isinstance(type_name, str) and type_name in TRIGGER_MODELS else "schedule"


AnyTrigger = Annotated[
    Annotated[ScheduleDeclaration, Tag("schedule")]
    | Annotated[WebhookDeclaration, Tag("webhook")]
    | Annotated[RunTriggerDeclaration, Tag("run")]
    | Annotated[FolderDeclaration, Tag("folder")]
    | Annotated[QueueDeclaration, Tag("queue")]
    | Annotated[BucketDeclaration, Tag("s3")]
    | Annotated[EventDeclaration, Tag("event")],
    Discriminator(trigger_tag),
]
"""A trigger of any type."""

TRIGGER_MODELS: Mapping[str, type[TriggerDeclaration]] = {
    "schedule": ScheduleDeclaration,
    "webhook": WebhookDeclaration,
    "run": RunTriggerDeclaration,
    "folder": FolderDeclaration,
    "queue": QueueDeclaration,
    "s3": BucketDeclaration,
    "event": EventDeclaration,
}
"""The models of triggers by type."""


def expand_channels(value: object) -> object:
    """Return the list of channels that a name alone stands for."""
    return [value] if isinstance(value, str) else value


Channels = Annotated[
    list[str], Field(min_length=1, max_length=MAX_CHANNELS), BeforeValidator(expand_channels)
]
"""The names of channels, or one name."""


class LatePolicy(Model):
    after: Annotated[float, BeforeValidator(parse_late_time)]
    receivers: Channels | None = Field(default=None, alias="to")


def _expand_late(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"after": value} if isinstance(value, str) or is_number else value


class NotifyDeclaration(Model):
    """The channels that receive events of runs. A late run is one that has not ended in time."""

    failed: Channels | None = None
    succeeded: Channels | None = None
    cancelled: Channels | None = None
    late: Annotated[LatePolicy, BeforeValidator(_expand_late)] | None = None


class Playbook(Model):
    api_version: Literal["noetl.io/v1"] = Field(default="noetl.io/v1", alias="apiVersion")
    kind: Literal["Playbook"] = "Playbook"
    name: str
    version: str | None = None
    description: str | None = None
    input: dict[str, InputDeclaration] | None = None
    triggers: list[AnyTrigger] = Field(default_factory=list)
    notify: NotifyDeclaration | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    variables: dict[str, Any] = Field(default_factory=dict)
    start: str | None = None
    mode: Literal["parallel", "sequential"] = "parallel"
    on_error: OnError = "abort"
    concurrency: LimitsField | None = None
    debounce: DebouncePolicy | None = None
    rate: RatesField | None = None
    priority: Priority | None = None
    retry: RetryField | None = None
    timeout: Duration | None = None
    finally_: str | None = Field(default=None, alias="finally")
    tasks: list[Task] = Field(default_factory=list)
    steps: Annotated[list[Step], Field(min_length=1)]
    output: dict[str, Any] | None = None

    @property
    def limits(self) -> Sequence[LimitDeclaration]:
        """The limits of its runs."""
        return list_limits(self.concurrency)

    @property
    def rates(self) -> Sequence[RateDeclaration]:
        """The rates of its runs."""
        return list_limits(self.rate)

    @property
    def limits_and_rates(self) -> Sequence[BaseLimitDeclaration]:
        """The limits and the rates of its runs."""
        return (*self.limits, *self.rates)
