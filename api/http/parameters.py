"""Parameters of requests that routes declare: of the query, and headers.

FastAPI parses the declared parameters and describes them in `/openapi.json`. What it would pass over in
silence is refused by `check_parameters`: a parameter that the route does not declare, and one that is given
twice.

A header that may be repeated (RFC 9110, section 5.3) is declared as a list. It is described as text, because
a client sends one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args, get_origin

from fastapi import Header, Query, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from noetl.api.http.problems import Problem
from noetl.api.service.backfills import BACKFILLS_PER_PAGE, MAX_BACKFILLS
from noetl.api.service.cached_results import ENTRIES_PER_PAGE, CacheQuery
from noetl.api.service.calendar import (
    CALENDAR_TRIGGERS,
    MAX_CALENDAR_TRIGGERS,
    CalendarRequest,
)
from noetl.api.service.inbox import MAX_QUESTIONS, QUESTIONS_PER_PAGE
from noetl.api.service.limits import LIMITS_PER_PAGE, MAX_LIMITS_OF_PAGE
from noetl.api.service.loop_items import ITEMS_PER_PAGE, MAX_ITEMS_PER_PAGE, ItemQuery
from noetl.api.service.loop_states import ItemState
from noetl.api.service.notifications import MAX_NOTIFICATIONS, NOTIFICATIONS_PER_PAGE
from noetl.api.service.run_data import LINES_PER_PAGE
from noetl.api.service.run_lists import parse_step
from noetl.api.service.runs import EVENTS_PER_PAGE
from noetl.api.service.statistics import DEFAULT_RUNS, MAX_RUNS
from noetl.api.service.triggers import (
    FIRINGS_PER_PAGE,
    MAX_FIRINGS,
    MAX_NEXT_FIRINGS,
    MAX_TRIGGERS,
    TRIGGERS_PER_PAGE,
)
from noetl.executor.model.cached_results import MAX_LISTED
from noetl.executor.model.deliveries import DeliveryState
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import MAX_RUNS_PER_PAGE, RunFilter
from noetl.executor.model.tracing import parse_trace
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import replace
from noetl.planner.syntax.durations import parse_duration

MAX_WAIT_SECONDS = 25

LOCAL_TIME = (
    "^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?$"
)
"""Pattern of a time without a zone. Whether the month has the day is left to the parser."""

_EXAMPLE_OF_TIME = "a time such as 2026-01-31T09:30:00Z"

CURSOR_DESCRIPTION = "`next_cursor` of the page before."

_TIME = re.compile(LOCAL_TIME[1:-1].replace("T", "[Tt]") + r"([Zz]|[+-][0-9]{2}:[0-9]{2})?")

MAX_STATUSES = 16
MAX_TAGS = 10
MAX_TEXT_LENGTH = 200
MAX_PLAYBOOKS = 1000
MAX_OPENED_STEPS = 50
DEFAULT_FOLLOWED = 100
MAX_FOLLOWED = 200
STEP_PATTERN = "^[0-9]{1,9}(s|m|h|d)$"

_SHOWN_NAME_LENGTH = 100
_KEY_PATTERN = "^[\\x20-\\x7e]{1,255}$"


def _lines(example: str) -> WithJsonSchema:
    """Return the description of a header that may be repeated: the text of one line."""
    return WithJsonSchema({"type": "string", "examples": [example]})


InputText = Annotated[
    str | None,
    Query(
        alias="input",
        description="The run's input as a JSON object, where the body is YAML.",
        examples=['{"who": "you"}'],
    ),
]
"""The query parameter with the input of a run."""

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="For a stream: the id of the last event that the client has received.",
        examples=["3-1-7c0b1f2ad1f04b0d9f1e2a3c"],
    ),
]
"""The header with which a browser continues a stream."""


def _check_key(value: str) -> str:
    if not re.fullmatch(_KEY_PATTERN, value):
        raise ValueError("it must have 1 to 255 printable ASCII characters")
    return value


IdempotencyKey = Annotated[
    Annotated[str, AfterValidator(_check_key), WithJsonSchema({"type": "string", "pattern": _KEY_PATTERN})]
    | None,
    Header(
        alias="Idempotency-Key",
        description="The same key with the same request acts once. It is kept as long as the run.",
        examples=["order-4711"],
    ),
]
"""The header that makes it safe to send a request again."""


async def refuse_idempotency_key(request: Request) -> None:
    """Raise if a request has an `Idempotency-Key`. Its route starts something, and keeps no key.

    Raises:
        Problem: 400.
    """
    if "idempotency-key" in request.headers:
        detail = "`Idempotency-Key` has no effect here: the same request would act again. Leave it out."
        raise Problem(400, detail, slug="invalid-request")


class WaitHeaders(BaseModel):
    """The header of a request that may wait for a run."""

    prefer: Annotated[list[str] | None, _lines("wait=10")] = Field(
        default=None,
        alias="Prefer",
        description=f"`wait=N`: wait for the run for at most N seconds, {MAX_WAIT_SECONDS} at most.",
    )

    @property
    def wait_seconds(self) -> int | None:
        """The N of `Prefer: wait=N` (RFC 7240), at most `MAX_WAIT_SECONDS`.

        It is None without this preference, or if N is not a number: RFC 7240 says to ignore it then.
        """
        for preference in ",".join(self.prefer or ()).split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            value = value.strip().strip('"')
            if name.strip().lower() == "wait" and re.fullmatch(r"\d{1,9}", value, re.ASCII):
                return min(int(value), MAX_WAIT_SECONDS)
        return None


class StartHeaders(WaitHeaders):
    """The headers of a request that starts a run."""

    idempotency_key: IdempotencyKey = None
    traceparent: Annotated[
        list[str] | None, _lines("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    ] = Field(
        default=None,
        description="W3C Trace Context: the requests of the run and its log belong to this trace.",
    )
    tracestate: Annotated[list[str] | None, _lines("vendor=value")] = Field(
        default=None,
        description="W3C Trace Context: more of the trace, passed on as it is.",
    )

    @property
    def trace(self) -> str | None:
        """The trace of the request. W3C Trace Context says to ignore two headers `traceparent`."""
        parents = self.traceparent or ()
        return parse_trace(parents[0], self.tracestate or ()) if len(parents) == 1 else None


def _read_time(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Return the time that a text is.

    Raises:
        ValueError: it is not a time of RFC 3339, or its month does not have its day. pydantic would take a
            date or a number for a time, too.
    """
    if isinstance(value, str) and not _TIME.fullmatch(value):
        raise ValueError(f"it must be {_EXAMPLE_OF_TIME}")
    try:
        return read(value)
    except ValidationError:
        raise ValueError(f"this time does not exist; it must be {_EXAMPLE_OF_TIME}") from None


def _read_integer(value: Any) -> Any:
    """Return the value. pydantic would take `1_0`, `1.0` and ` 1` for whole numbers, too.

    Raises:
        ValueError: it is a text that is no whole number.
    """
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise ValueError("it must be a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(_read_integer)]
"""A whole number in decimal digits."""

# Outside of a model, the schema has bounds as `minimum` and `maximum` only if they are before the validator.
VisitNumber = Annotated[int, Field(ge=1), BeforeValidator(_read_integer)]
"""The number of a visit."""

PlaybookCount = Annotated[int, Field(ge=1, le=MAX_PLAYBOOKS), BeforeValidator(_read_integer)]
"""The most playbooks of a page."""

FiringCount = Annotated[int, Field(ge=0, le=MAX_NEXT_FIRINGS), BeforeValidator(_read_integer)]
"""How many firings to come are shown."""

Time = Annotated[
    datetime,
    WrapValidator(_read_time),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date-time", "pattern": "^[1-9]"},
                {"type": "string", "pattern": LOCAL_TIME},
            ]
        }
    ),
]
"""A time of RFC 3339. Its zone may be missing, and is UTC then."""


_LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def _to_seconds(time: datetime | None) -> float | None:
    """Return the seconds since the epoch. The year 10000 counts as the end of 9999."""
    if time is None:
        return None
    seconds = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    return min(seconds, _LAST_SECOND)


def _check_form(value: object) -> object:
    """Raise ValueError with examples for a text that is no duration, before its pattern is compared."""
    if isinstance(value, str) and re.fullmatch(STEP_PATTERN, value) is None:
        raise ValueError(f"`{abbreviate(value)}` is no duration of whole units, such as `15m`, `1h` or `1d`")
    return value


def _check_step(value: str) -> str:
    parse_step(value)
    return value


def _check_duration(value: str) -> str:
    parse_duration(value)
    return value


class RunConditions(BaseModel):
    """The query parameters that select runs."""

    status: list[RunStatus] = Field(
        default_factory=list,
        max_length=MAX_STATUSES,
        description="Only runs with this status. May be repeated: a run has one of them.",
    )
    playbook: str | None = Field(None, description="Only runs of the playbook with this name.")
    tag: list[str] = Field(
        default_factory=list,
        max_length=MAX_TAGS,
        description=(
            "Only runs with this tag. `KEY` also finds `KEY=VALUE`. May be repeated: a run has all of them."
        ),
        examples=[["env=prod"]],
    )
    since: Time | None = Field(
        None,
        description="Only runs that were created then or later. Without a zone, the time is in UTC.",
    )
    until: Time | None = Field(
        None, description="Only runs that were created before then. Without a zone, the time is in UTC."
    )
    parent: str | None = Field(None, description="Only runs that this run has started and waits for.")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TEXT_LENGTH,
        description="Only runs whose id begins with this.",
        examples=["7c0b1f2a"],
    )
    q: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TEXT_LENGTH,
        description=(
            "Only runs with this text: at the beginning of the id, in the name of the playbook, or in the"
            " headline. It is no pattern. Capital letters of ASCII are as small ones."
        ),
        examples=["timeout"],
    )

    def to_filter(self) -> RunFilter:
        """Return the filter of the query. A time without a zone is in UTC."""
        return RunFilter(
            statuses=tuple(self.status),
            playbook=self.playbook,
            tags=tuple(self.tag),
            since=_to_seconds(self.since),
            until=_to_seconds(self.until),
            parent=self.parent,
            text=self.q,
            id_prefix=self.id,
        )


class RunQuery(RunConditions):
    """The query parameters of a list of runs."""

    sort: Literal["-created_at", "created_at"] = Field(
        "-created_at", description="The order: `created_at` begins with the oldest run."
    )
    limit: WholeNumber = Field(100, ge=1, le=MAX_RUNS_PER_PAGE, description="The most runs of the page.")
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)

    def to_filter(self) -> RunFilter:
        """Return the filter of the query with its order and page."""
        return replace(
            super().to_filter(),
            is_oldest_first=self.sort == "created_at",
            limit=self.limit,
            cursor=self.cursor,
        )


class ListStreamQuery(RunConditions):
    """The query parameters of the stream of a list of runs."""

    limit: WholeNumber = Field(
        DEFAULT_FOLLOWED, ge=1, le=MAX_FOLLOWED, description="How many of the newest runs are followed."
    )

    def to_filter(self) -> RunFilter:
        """Return the filter of the query with the number of its runs."""
        return replace(super().to_filter(), limit=self.limit)


class PlaybookQuery(BaseModel):
    """The query parameters of the list of playbooks."""

    q: Annotated[
        str | None,
        Field(max_length=MAX_TEXT_LENGTH, description="A part of the name. Case makes no difference."),
    ] = None
    include: Annotated[
        Literal["statistics"] | None,
        Field(
            description="`statistics`: also how the latest runs ended. A page has at most 50 playbooks then."
        ),
    ] = None
    limit: WholeNumber = Field(100, ge=1, le=MAX_PLAYBOOKS, description="The most playbooks of the page.")
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class ComparisonQuery(BaseModel):
    """The query parameters of a comparison: two runs."""

    a: str = Field(description="The id of a run.", examples=["7c0b1f2ad1f04b0d9f1e2a3c"])
    b: str = Field(description="The id of the other run.", examples=["9d1b1f2ad1f04b0d9f1e2a3c"])


class StatisticsQuery(BaseModel):
    """The query parameters of the statistics of a playbook."""

    playbook: str = Field(description="The name of the playbook.", examples=["greet"])
    runs: WholeNumber = Field(DEFAULT_RUNS, ge=1, le=MAX_RUNS, description="How many of the newest runs.")


class BulkQuery(RunConditions):
    """The query parameters of a request that changes many runs."""

    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)

    def to_selection(self) -> RunFilter | None:
        """Return the filter of the query, or None if it has no condition."""
        run_filter = self.to_filter()
        return None if run_filter == RunFilter() else replace(run_filter, cursor=self.cursor)


class HistogramQuery(RunConditions):
    """The query parameters of a histogram of runs."""

    step: Annotated[str, BeforeValidator(_check_form), AfterValidator(_check_step)] = Field(
        "15m",
        description="The length of an interval: `15m`, `1h` or `1d`; at least a second and at most 366 days.",
        pattern=STEP_PATTERN,
    )

    @property
    def step_seconds(self) -> float:
        """The length of an interval in seconds."""
        return parse_step(self.step)


class EventQuery(BaseModel):
    """The query parameters of the history of a run."""

    cursor: str | None = Field(None, description="The id of an event of the run.")
    limit: WholeNumber = Field(
        EVENTS_PER_PAGE, ge=1, le=EVENTS_PER_PAGE, description="The most events of the page."
    )
    ticket: str | None = Field(
        None,
        description="For a stream: a ticket instead of a key or token.",
        examples=["WyJkZWZhdWx0Il0.c2ln"],
    )
    """Access control reads it before, as no route is entered without credentials."""


_EVENT_TEXT = Annotated[str, Field(min_length=1, max_length=60)]
EVENT_DESCRIPTION = "An event of the run: its id, or its number from 1. All is shown as it was after it."
"""The description of the parameter `at`."""


class StepQuery(BaseModel):
    """The query parameters of the data of a step."""

    name: str = Field(description="The name of the step.", examples=["hello"])
    visit: VisitNumber | None = Field(
        None, description="The number of the visit, from 1. Default: the latest."
    )
    complete: bool = Field(False, description="Whether the result and saved values are not cut.")
    event: _EVENT_TEXT | None = Field(None, alias="at", description=EVENT_DESCRIPTION, examples=["1"])


class DrawingQuery(BaseModel):
    """The query parameters of a run at a glance, and of its drawing."""

    include: Literal["graph"] | None = Field(
        None, description="`graph`: also the drawing of the run, and the cursor of its later events."
    )
    open: list[str] = Field(
        default_factory=list,
        max_length=MAX_OPENED_STEPS,
        description=(
            "With `graph`: the name of a step. The group of steps to which it belongs is drawn open. May be"
            " repeated. Unknown names change nothing."
        ),
    )
    event: _EVENT_TEXT | None = Field(None, alias="at", description=EVENT_DESCRIPTION, examples=["1"])


class ItemsQuery(BaseModel):
    """The query parameters of the items of a loop."""

    step: str = Field(description="The name of the step.", examples=["hello"])
    visit: VisitNumber | None = Field(
        None, description="The number of the visit, from 1. Default: the latest."
    )
    loop: str | None = Field(
        None, description="The position of the loop in the step. Default: the last that has begun."
    )
    state: ItemState | None = Field(None, description="Only items with this state.")
    limit: WholeNumber = Field(
        ITEMS_PER_PAGE, ge=1, le=MAX_ITEMS_PER_PAGE, description="The most items of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)

    def to_query(self) -> ItemQuery:
        return ItemQuery(self.step, self.visit, self.loop, self.state, self.cursor, self.limit)


class LogQuery(BaseModel):
    """The query parameters of the log of a run."""

    step: str | None = Field(None, description="Only lines of this step.")
    q: str = Field(
        "", max_length=MAX_TEXT_LENGTH, description="Only lines with this text. Case makes no difference."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)
    limit: WholeNumber = Field(
        LINES_PER_PAGE, ge=1, le=LINES_PER_PAGE, description="The most lines of the page."
    )


class CacheConditions(BaseModel):
    """The query parameters that select cached results."""

    playbook: str | None = Field(None, description="Only results of this playbook.", examples=["nightly"])
    step: str | None = Field(None, description="Only results of this step.")
    key: str | None = Field(
        None, max_length=MAX_TEXT_LENGTH, description="Only results whose key or digest begins with this."
    )
    older_than: (
        Annotated[
            str, Field(pattern=STEP_PATTERN), BeforeValidator(_check_form), AfterValidator(_check_duration)
        ]
        | None
    ) = Field(None, description="Only results that are older: `15m`, `1h` or `1d`.")

    def to_query(self) -> CacheQuery:
        seconds = None if self.older_than is None else parse_duration(self.older_than)
        return CacheQuery(self.playbook, self.step, self.key, seconds)


class CacheListQuery(CacheConditions):
    """The query parameters of a list of cached results."""

    limit: WholeNumber = Field(
        ENTRIES_PER_PAGE, ge=1, le=MAX_LISTED, description="The most results of the list."
    )


class InboxQuery(BaseModel):
    """The query parameters of the inbox."""

    order: Literal["expires"] = Field(
        "expires", description="What expires first comes first. There is no other order."
    )
    limit: WholeNumber = Field(
        QUESTIONS_PER_PAGE, ge=1, le=MAX_QUESTIONS, description="The most questions of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class LimitQueueQuery(BaseModel):
    """The query parameters of what holds units of a limit or waits for them."""

    limit: WholeNumber = Field(
        LIMITS_PER_PAGE, ge=1, le=MAX_LIMITS_OF_PAGE, description="The most entries of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class LimitListQuery(LimitQueueQuery):
    """The query parameters of the list of limits."""

    in_use: bool = Field(False, description="Limits of playbooks and steps in use, not those of operators.")


class NotificationQuery(BaseModel):
    """The query parameters of the list of notifications."""

    state: DeliveryState | None = Field(None, description="Only notifications in this state.")
    limit: WholeNumber = Field(
        NOTIFICATIONS_PER_PAGE, ge=1, le=MAX_NOTIFICATIONS, description="The most notifications of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class TriggerListQuery(BaseModel):
    """The query parameters of the list of triggers."""

    playbook: str | None = Field(None, description="Only triggers of this playbook.", examples=["nightly"])
    limit: WholeNumber = Field(
        TRIGGERS_PER_PAGE, ge=1, le=MAX_TRIGGERS, description="The most triggers of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class FiringQuery(BaseModel):
    """The query parameters of the firings of a trigger."""

    limit: WholeNumber = Field(
        FIRINGS_PER_PAGE, ge=1, le=MAX_FIRINGS, description="The most firings of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class BackfillQuery(BaseModel):
    """The query parameters of the list of backfills."""

    limit: WholeNumber = Field(
        BACKFILLS_PER_PAGE, ge=1, le=MAX_BACKFILLS, description="The most backfills of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)


class CalendarQuery(BaseModel):
    """The query parameters of the calendar of schedules."""

    since: Time | None = Field(
        None, description="The first time of the calendar. Without a zone, it is in UTC. Default: a week ago."
    )
    until: Time | None = Field(
        None,
        description=(
            "The end of the calendar, at most 45 days later. Without a zone, it is in UTC."
            " Default: two weeks later."
        ),
    )
    playbook: str | None = Field(None, description="Only schedules of this playbook.", examples=["nightly"])
    trigger: str | None = Field(None, description="Only schedules with this name.", examples=["early"])
    limit: WholeNumber = Field(
        CALENDAR_TRIGGERS, ge=1, le=MAX_CALENDAR_TRIGGERS, description="The most triggers of the page."
    )
    cursor: str | None = Field(None, description=CURSOR_DESCRIPTION)

    def to_request(self) -> CalendarRequest:
        """Return the request of the query. A time without a zone is in UTC."""
        return CalendarRequest(
            self.playbook,
            self.trigger,
            _to_seconds(self.since),
            _to_seconds(self.until),
            self.limit,
            self.cursor,
        )


async def check_parameters(request: Request) -> None:
    """Raise unless the route of a request declares all parameters of its query.

    Each is given once, and so is a header that the route declares, unless it may be repeated.
    It is no plain function, because FastAPI would call that on a thread.

    Raises:
        Problem: 400.
    """
    dependant = request.scope["route"].dependant
    if query := request.query_params:
        declared = _declared_names(dependant.query_params)
        for name in query:
            if name not in declared:
                raise _unknown_parameter(name, tuple(declared))
            if len(query.getlist(name)) > 1 and not declared[name]:
                raise _repeated(f"query parameter `{name}`")
    for name, may_repeat in _declared_names(dependant.header_params).items():
        if not may_repeat and len(request.headers.getlist(name)) > 1:
            raise _repeated(f"header `{name}`")


def _declared_names(fields: Iterable[Any]) -> dict[str, bool]:
    """Return the names of declared parameters, and whether each may be repeated."""
    names: dict[str, bool] = {}
    for field in fields:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, info in annotation.model_fields.items():
                names[info.alias or name] = _is_list(info.annotation)
        else:
            names[field.alias] = _is_list(annotation)
    return names


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) is list for part in (annotation, *get_args(annotation)))


def _unknown_parameter(name: str, declared: Sequence[str]) -> Problem:
    detail = f"Unknown query parameter `{name[:_SHOWN_NAME_LENGTH]}`"
    if hint := did_you_mean(name, declared):
        return Problem(400, f"{detail}; {hint}", slug="invalid-request")
    listed = (
        f"; the parameters are {', '.join(f'`{known}`' for known in declared)}."
        if declared
        else "; there is none."
    )
    return Problem(400, detail + listed, slug="invalid-request")


def _repeated(subject: str) -> Problem:
    return Problem(400, f"The {subject} is given twice.", slug="invalid-request")
