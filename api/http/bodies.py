"""The JSON bodies of requests: their checks, and by that their schemas in `/openapi.json`.

Problem: a body must be refused with the member that is wrong, and the published schema must say the same.

Algorithm: each body is a pydantic model. Each member has an `Expected`, with which a problem describes it.
An unknown member is reported before all others, because it is probably a misspelt one.

Limits: the body is decoded before (`noetl.api.http.requests.decode_json`), so values are compared strictly.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
)

from noetl.api.http.openapi import SCHEMA_REFERENCE
from noetl.api.http.problems import Problem
from noetl.api.service.switches import MAX_WAIT_SECONDS
from noetl.executor.model.backfills import MAX_OPEN_RUNS
from noetl.executor.model.gates import MAX_UNITS
from noetl.executor.model.run_tags import MAX_TAG_LENGTH, MAX_TAGS
from noetl.executor.security.redaction import redact
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.limits import MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS
from noetl.planner.syntax.durations import parse_interval

MAX_IDS = 100
MAX_ID_LENGTH = 100
MIN_YEAR, MAX_YEAR = "2000", "2499"
_SHOWN_NAME_LENGTH = 100


class Expected(NamedTuple):
    """A description of the values that a member may have, in words that follow "must be"."""

    description: str


class RequestBody(BaseModel):
    """A JSON object that a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


Body = TypeVar("Body", bound=RequestBody)


def _as_whole_number(value: Any) -> Any:
    """Return a number without a fraction as an integer, and other values unchanged.

    JSON has one kind of number.

    >>> _as_whole_number(3.0), _as_whole_number(3.5), _as_whole_number(True)
    (3, 3.5, True)
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber: TypeAlias = Annotated[int, BeforeValidator(_as_whole_number)]
PositiveNumber: TypeAlias = Annotated[int, Field(ge=1), BeforeValidator(_as_whole_number)]
"""The bound comes before the validator, or the schema does not have it."""


class PlaybookReferenceBody(RequestBody):
    """A registered playbook: a version, or the one that an alias names. Without `version`, the live one."""

    name: str
    version: str | None = None


def _playbook_form(value: Any) -> str | None:
    """Return the form of a playbook. An object with only `name` and `version` is a reference.

    One with `alias` is a wrong reference, not a playbook that lacks its steps.
    """
    if isinstance(value, PlaybookReferenceBody):
        return "reference"
    if isinstance(value, dict):
        is_reference = "name" in value and value.keys() <= {"name", "version", "alias"}
        return "reference" if is_reference else "object"
    return "text" if isinstance(value, str) else None


PlaybookObject = Annotated[
    dict[str, Any], WithJsonSchema({"$ref": SCHEMA_REFERENCE.format(model="Playbook")})
]
"""A playbook as a JSON object. The compiler checks it, so the schema is that of the compiler."""

REDACTED = AfterValidator(redact)
"""A mark of members that become a part of a run: they lose the values of secrets, as all that is stored."""

ObjectMember = Annotated[dict[str, Any] | None, Expected("an object"), REDACTED]
PLAYBOOK_EXPECTED = Expected("the text of a playbook or an object")


TAGS_EXPECTED = Expected(f"at most {MAX_TAGS} strings of 1 to {MAX_TAG_LENGTH} characters")


PlaybookForm = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[PlaybookReferenceBody, Tag("reference")]
    | Annotated[PlaybookObject, Tag("object")],
    Discriminator(_playbook_form),
    PLAYBOOK_EXPECTED,
]


class SubmissionBody(RequestBody):
    """A playbook, with the input, the variables and the tags of its run."""

    playbook: PlaybookForm = Field(description="The playbook as text or JSON, or `{name, version?}`.")
    input: ObjectMember = None
    variables: ObjectMember = None
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_TAG_LENGTH)]] | None,
        Field(max_length=MAX_TAGS),
        TAGS_EXPECTED,
        REDACTED,
    ] = None


class PlaybookBody(RequestBody):
    """A playbook."""

    playbook: Annotated[str | PlaybookObject, PLAYBOOK_EXPECTED] = Field(
        description="The playbook, as text or as JSON."
    )


class DraftBody(RequestBody):
    """The draft of a playbook, and the line at which a person writes."""

    text: Annotated[str, Expected("text")] = Field(description="The text, which may have errors.")
    line: Annotated[PositiveNumber | None, Expected("a whole number from 1")] = Field(
        None, description="A line of the text, from 1. The answer has the names in scope there."
    )


class ResumeBody(RequestBody):
    """The corrected input of a run, and the step or the event at which a new run starts instead.

    With `playbook`, the run continues in another version of its playbook, or the new run starts there.
    """

    input: Annotated[ObjectMember, Field(description="Values that replace those of the run's input.")] = None
    step: Annotated[str | None, Expected("the name of a step")] = Field(
        None, alias="from", description="The step at which a new run starts."
    )
    event: Annotated[str | None, Expected("an event: its number or its id, as text")] = Field(
        None, alias="at", description="The event after which a new run starts: its number from 1, or its id."
    )
    skip: Annotated[
        ObjectMember,
        Field(description="Results of failed or parked steps by their names; these steps are not performed."),
    ] = None
    dry_run: Annotated[bool, Expected("true or false")] = Field(
        default=False, description="Only report what would be done again."
    )
    all_items: Annotated[bool, Expected("true or false")] = Field(
        default=False, description="Failed loops do all of their items again, not only those that are open."
    )
    drop_siblings: Annotated[bool, Expected("true or false")] = Field(
        default=False, description="With `from`: the branches next to the step do not continue."
    )
    playbook: Annotated[PlaybookForm | None, PLAYBOOK_EXPECTED] = Field(
        None, description="The version in which the run continues: text or JSON, or `{name, version?}`."
    )
    given: Annotated[ObjectMember, Expected("an object")] = Field(
        None,
        alias="set",
        description="With `playbook`: values of its inputs, and of names that the run lacks.",
    )
    renamed: Annotated[dict[str, str] | None, Expected("an object of step names by step name")] = Field(
        None,
        alias="map",
        description="With `playbook`: the new names of steps, by the names in the old version.",
    )
    wait: Annotated[float | None, Field(ge=0, le=MAX_WAIT_SECONDS), Expected("seconds from 0 to 60")] = Field(
        None, description="With `playbook`: how long the run is held until its running steps have ended."
    )


class AnswerBody(RequestBody):
    """An answer to a question of a waiting step."""

    step: Annotated[str, Expected("the name of a step")] = Field(description="The step that asks.")
    visit: Annotated[PositiveNumber | None, Expected("a whole number from 1")] = Field(
        None, description="The number of the visit. Default: the latest."
    )
    position: Annotated[str | None, Expected("the position of an action")] = Field(
        None, description="The place of the action, if the step asks several questions."
    )
    answer: Any = Field(None, description="The answer: any value, or an object with the declared fields.")


TagsMember = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_TAG_LENGTH)]],
    Field(max_length=MAX_TAGS),
    TAGS_EXPECTED,
    REDACTED,
]


class TagsBody(RequestBody):
    """A change of the tags of a run."""

    add: TagsMember = Field([], description="New tags. `KEY=VALUE` replaces the earlier tags with this key.")
    remove: TagsMember = Field([], description="Tags, or keys of tags, that the run loses.")


class BulkBody(RequestBody):
    """The runs that a bulk request names."""

    ids: Annotated[
        list[Annotated[str, Field(max_length=MAX_ID_LENGTH)]],
        Field(min_length=1, max_length=MAX_IDS),
        Expected(f"a list of 1 to {MAX_IDS} ids of runs"),
    ] = Field(description="The ids of runs.")


class MigrationBody(RequestBody):
    """The version in which runs continue, and the runs if a body names them."""

    playbook: Annotated[PlaybookForm | None, PLAYBOOK_EXPECTED] = Field(
        None, description="The version: text or JSON, or `{name, version?}`. Needed without `undo`."
    )
    undo: Annotated[bool, Expected("true or false")] = Field(
        False, description="Whether the runs return to the versions that they had before."
    )
    ids: Annotated[
        list[Annotated[str, Field(max_length=MAX_ID_LENGTH)]] | None,
        Field(min_length=1, max_length=MAX_IDS),
        Expected(f"a list of 1 to {MAX_IDS} ids of runs"),
    ] = Field(None, description="The ids of runs. Without them, the query selects the runs.")
    given: Annotated[ObjectMember, Expected("an object")] = Field(
        None, alias="set", description="Values of inputs, and of names that the runs lack."
    )
    renamed: Annotated[dict[str, str] | None, Expected("an object of step names by step name")] = Field(
        None, alias="map", description="The new names of steps, by the names in the old version."
    )
    dry_run: Annotated[bool, Expected("true or false")] = Field(
        False, description="Whether to count the runs that may continue, and to change nothing."
    )


def _check_time(value: str) -> str:
    """Return the text of a time of RFC 3339.

    Raises:
        ValueError: it is no time, has no zone, or lies outside of the years that a clock may have.
    """
    if datetime.fromisoformat(value.upper()).tzinfo is None or not MIN_YEAR <= value[:4] <= MAX_YEAR:
        raise ValueError("it must be a time such as 2026-01-31T09:30:00Z")
    return value


JsonTime = Annotated[
    str,
    AfterValidator(_check_time),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "^2[0-4]"}),
]
"""A time of RFC 3339 with its zone, as text."""


class FireBody(RequestBody):
    """A firing of a trigger by hand."""

    instant: Annotated[JsonTime | None, Expected("a time such as 2026-01-31T09:30:00Z")] = Field(
        None, alias="at", description="An instant of the schedule. Without it, the trigger fires now."
    )
    input: Annotated[ObjectMember, Field(description="Values that replace those of the trigger's input.")] = (
        None
    )
    data: Annotated[
        ObjectMember, Field(description="For a webhook: what its templates read under `trigger`.")
    ] = None
    run: Annotated[str | None, Expected("the id of a run")] = Field(
        None, description="For a trigger that awaits runs: the id of an ended run of the awaited playbook."
    )


class LimitBody(RequestBody):
    """A limit of how many runs or steps may be in progress at once, or a rate at which they begin."""

    units: Annotated[WholeNumber, Expected("a whole number from 0 to 10,000")] = Field(
        ge=0,
        le=MAX_UNITS,
        description="How many may be held at once, or begin in a window of a rate. 0 lets nothing start.",
    )
    kind: Annotated[Literal["runs", "steps"], Expected("`runs` or `steps`")] = Field(
        description="What the limit bounds."
    )
    per: Annotated[
        float | None,
        Field(ge=MIN_WINDOW_SECONDS, le=MAX_WINDOW_SECONDS),
        Expected("a number of seconds from 1 to 2,678,400"),
    ] = Field(None, description="The window of a rate in seconds. Without it, the limit is no rate.")


class ChannelBody(RequestBody):
    """A channel to which notifications are sent."""

    url: Annotated[str, Expected("an address, or `{{ secrets.NAME }}`")] = Field(
        description=(
            "The address, or `{{ secrets.NAME }}`. For `eventbridge`, the name or the ARN of a bus;"
            " for `email`, `smtps://USER@HOST/?from=…&to=…`."
        )
    )
    type: Annotated[
        Literal["webhook", "slack", "email", "eventbridge"],
        Expected("`webhook`, `slack`, `email` or `eventbridge`"),
    ] = "webhook"
    events: Annotated[
        list[Literal["failed", "succeeded", "cancelled", "late"]],
        Expected("a list of `failed`, `succeeded`, `cancelled` and `late`"),
    ] = Field(default_factory=list, description="The events of all runs that it receives.")
    secret: Annotated[str | None, Expected("a text")] = Field(
        None,
        description=(
            "The secret that signs, for `webhook`: `whsec_` and base64, `{{ secrets.NAME }}`, or `new`."
            " For `email`, the password of the user, as `{{ secrets.NAME }}`."
        ),
    )


class AliasBody(RequestBody):
    """The version that an alias of a playbook names."""

    version: Annotated[str, Expected("a version, as text")] = Field(
        description="A registered version of the playbook."
    )


class TriggerResumeBody(RequestBody):
    """A request to resume a trigger, with the use of the firings that were missed during its pause."""

    catch_up: Annotated[Literal["none", "last", "all"], Expected("`none`, `last` or `all`")] = Field(
        "none", description="Which of the missed firings are performed."
    )


def _check_interval(value: str) -> str:
    """Return the text of a duration.

    Raises:
        ValueError: it is no duration, or is too short.
    """
    parse_interval(value)
    return value


Interval = Annotated[
    str,
    AfterValidator(_check_interval),
    WithJsonSchema({"type": "string", "pattern": r"^[1-9][0-9]{0,3}(s|m|h|d)$"}),
]
"""A duration of at least a second, as text."""

_EXPECTED_TIME = Expected("a time such as 2026-01-31 or 2026-01-31T09:30:00Z")


class BackfillBody(RequestBody):
    """A backfill of a trigger: from a time to another, or for a list of partitions."""

    playbook: Annotated[str, Expected("the name of a playbook"), Field(description="The name of a playbook.")]
    trigger: Annotated[
        str,
        Expected("the name of a trigger"),
        Field(description="The name of a trigger of its live version, of type `schedule`."),
    ]
    start: Annotated[str | None, _EXPECTED_TIME] = Field(
        None,
        alias="from",
        description="The first instant. A time without an offset is one of the zone of the trigger.",
    )
    end: Annotated[str | None, _EXPECTED_TIME] = Field(
        None, alias="to", description="The time before which all instants are."
    )
    interval: Annotated[Interval | None, Expected("a duration such as `1d`")] = Field(
        None,
        alias="every",
        description="The distance of the instants. Without it, they are those of the schedule.",
    )
    partitions: Annotated[
        list[str | int | float] | None, Expected("a list of texts and numbers, each with at most 256 bytes")
    ] = Field(None, description="The list of the partitions, instead of `from` and `to`.")
    limit: Annotated[
        int,
        Field(ge=1, le=MAX_OPEN_RUNS),
        BeforeValidator(_as_whole_number),
        Expected(f"a whole number from 1 to {MAX_OPEN_RUNS}"),
    ] = Field(1, description="How many runs may be open at once.")
    redo: Annotated[Literal["failed", "all"] | None, Expected("`failed` or `all`")] = Field(
        None, description="Which partitions that had a run before get another one. Default: none."
    )


class BackfillCancelBody(RequestBody):
    """The cancellation of a backfill."""

    runs: Annotated[bool, Expected("true or false")] = Field(
        False, description="Whether its open runs are cancelled, too."
    )


class BackfillRetryBody(RequestBody):
    """A retry of the failed runs of a backfill."""

    fresh: Annotated[bool, Expected("true or false")] = Field(
        False, description="Whether new runs are started. Otherwise the failed runs are resumed."
    )


REQUEST_BODIES: tuple[type[RequestBody], ...] = (
    SubmissionBody,
    PlaybookBody,
    DraftBody,
    ResumeBody,
    AnswerBody,
    BulkBody,
    MigrationBody,
    TagsBody,
    FireBody,
    TriggerResumeBody,
    BackfillBody,
    BackfillCancelBody,
    BackfillRetryBody,
    AliasBody,
    ChannelBody,
    LimitBody,
)


def parse_body(model: type[Body], value: Any) -> Body:
    """Return the body that a decoded JSON value is.

    Raises:
        Problem: 422, with the member that is wrong as `key`.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _problem_of(model, value, error) from None


def _problem_of(model: type[RequestBody], value: Any, error: ValidationError) -> Problem:
    """Return the problem of the first unknown member, or else of the first wrong member."""
    if not isinstance(value, dict):
        return _invalid_body("The body must be a JSON object.", None)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    unknown_key = next((key for key in value if key not in fields), None)
    if unknown_key is not None:
        all_keys = ", ".join(f"`{key}`" for key in fields)
        hint = did_you_mean(unknown_key, fields) or f"the keys are {all_keys}"
        return _invalid_body(
            f"Unknown key `{unknown_key[:_SHOWN_NAME_LENGTH]}` in the body; {hint}", unknown_key
        )
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = str(first["loc"][0])
    if first["loc"][1:2] == ("reference",):
        return _invalid_body(
            "A registered playbook must be named by `name` and `version`, both strings. `version` may be an"
            " alias, or missing.",
            key,
        )
    if first["type"] == "missing":
        return _invalid_body(f"The body has no `{key}`.", key)
    expected = next(entry for entry in fields[key].metadata if isinstance(entry, Expected))
    return _invalid_body(f"`{key}` must be {expected.description}.", key)


def _invalid_body(detail: str, key: str | None) -> Problem:
    return Problem(422, detail, slug="invalid-body", key=key)
