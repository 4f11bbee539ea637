"""Describe violations of the schema in the words of the language."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from noetl.planner.diagnostics.diagnostic import suggest
from noetl.planner.diagnostics.wording import (
    abbreviate,
    as_code,
    describe_value,
    join_words,
    quote_or_describe,
)
from noetl.planner.limits import MAX_LIMIT, MAX_QUEUED
from noetl.planner.syntax.models import (
    TRIGGER_MODELS,
    ActionEntry,
    BucketDeclaration,
    CachePolicy,
    Case,
    CatchUpPolicy,
    DebouncePolicy,
    DocumentPath,
    EventDeclaration,
    FieldDeclaration,
    FolderDeclaration,
    InputDeclaration,
    LatePolicy,
    LimitDeclaration,
    Loop,
    Model,
    NotifyDeclaration,
    Playbook,
    QueueDeclaration,
    RateDeclaration,
    Repeat,
    RetryPolicy,
    RunTriggerDeclaration,
    ScheduleDeclaration,
    Step,
    StepEntry,
    Task,
    TaskEntry,
    TriggerDeclaration,
    WebhookAuthDeclaration,
    WebhookDeclaration,
    is_limits_path,
    trigger_tag,
)

MINIMAL_PLAYBOOK_HINT = (
    "the smallest playbook: {name: hello, steps: [{name: greet, run: [{action: log, message: hello}]}]}"
)


class SchemaViolation(NamedTuple):
    """The parts of a diagnostic. `at_key` is true if the diagnostic marks the key instead of the value."""

    code: str
    message: str
    hint: str | None = None
    at_key: bool = False


_NOUNS: Mapping[type[Model], str] = {
    Playbook: "the playbook",
    InputDeclaration: "an input",
    FieldDeclaration: "a field",
    Step: "a step",
    Task: "a task",
    Case: "a case",
    ActionEntry: "an action",
    TaskEntry: "a task call",
    StepEntry: "`{step: NAME}`",
    Loop: "`loop`",
    Repeat: "`repeat`",
    RetryPolicy: "`retry`",
    CachePolicy: "`cache`",
    LimitDeclaration: "a limit",
    DebouncePolicy: "`debounce`",
    RateDeclaration: "a rate",
    TriggerDeclaration: "a trigger",
    ScheduleDeclaration: "a trigger",
    RunTriggerDeclaration: "a trigger",
    FolderDeclaration: "a trigger",
    BucketDeclaration: "a trigger",
    EventDeclaration: "a trigger",
    QueueDeclaration: "a trigger",
    WebhookDeclaration: "a trigger",
    WebhookAuthDeclaration: "`auth`",
    CatchUpPolicy: "`catch_up`",
    NotifyDeclaration: "`notify`",
    LatePolicy: "`late`",
}
_ITEM_MODELS: Mapping[str, type[Model]] = {
    "steps": Step,
    "tasks": Task,
    "rule": Case,
    "triggers": TriggerDeclaration,
    "concurrency": LimitDeclaration,
    "rate": RateDeclaration,
}
_PART_MODELS: Mapping[str, type[Model]] = {
    "loop": Loop,
    "repeat": Repeat,
    "retry": RetryPolicy,
    "cache": CachePolicy,
    "catch_up": CatchUpPolicy,
    "concurrency": LimitDeclaration,
    "debounce": DebouncePolicy,
    "rate": RateDeclaration,
}
_ENTRY_MODELS: Mapping[str, type[Model]] = {"action": ActionEntry, "task": TaskEntry, "step": StepEntry}

ENTRY_KEYS = frozenset(_ENTRY_MODELS)

_USE_RULE = "write the next step in `rule`"
_USE_CASE = "write the guard as `case`"
_USE_RUN = "write the work in `run`"
_USE_WITH = "pass `args` to the task with `with`"
_USE_NOTIFY = "write `notify`, such as `notify: {failed: CHANNEL}`"
_USE_CONCURRENCY = "write `concurrency`, such as `concurrency: 3`"
_USE_RATE = "write `rate`, such as `rate: {limit: 100, per: 1m}`"
_RATE_INSTEAD = "write `rate: {limit: 100, per: 1m}` for how many begin in a time"
_RATE_HAS_NO_QUEUE = "remove it: a rate has no queue, its order is that of arrival"
_FOREIGN_LIMIT_KEYS = ("limits", "mutex", "pool", "semaphore", "max_parallel", "max_active_runs")
_FOREIGN_RATE_KEYS = ("throttle", "rate_limit", "ratelimit")
_USE_ACTIONS = "write it on the actions of the task"
_TRIGGER_KEY_HINTS = {
    **dict.fromkeys(("inputs", "params", "parameters", "args", "with"), "write `input`"),
    **dict.fromkeys(("when", "condition", "filter"), "write `if`"),
    "id": "write `name`",
}
_MISPLACED_KEY_HINTS: Mapping[type[Model], Mapping[str, str]] = {
    Playbook: {
        "vars": "write `variables` for the first values of names",
        "env": "write `environment` for configuration",
        "params": "declare the arguments of a run in `input`",
        "parameters": "declare the arguments of a run in `input`",
        "outputs": "write `output` for the result",
        "title": "write `name`",
        "playbook": "write its keys here, without `playbook`: only a body of HTTP in JSON has it",
        **dict.fromkeys(_FOREIGN_LIMIT_KEYS, _USE_CONCURRENCY),
        **dict.fromkeys(_FOREIGN_RATE_KEYS, _USE_RATE),
        **dict.fromkeys(("notifications", "alerts", "on_failure", "on_success"), _USE_NOTIFY),
    },
    InputDeclaration: {
        **dict.fromkeys(("required", "optional"), "write a `default` for an input that is not required"),
        **dict.fromkeys(("choices", "values", "options"), "write `enum`"),
    },
    FieldDeclaration: {
        **dict.fromkeys(("required", "optional"), "write a `default` for a field that is not required"),
        **dict.fromkeys(("choices", "values", "options"), "write `enum`"),
    },
    Step: {
        **dict.fromkeys(_FOREIGN_LIMIT_KEYS, _USE_CONCURRENCY),
        **dict.fromkeys(_FOREIGN_RATE_KEYS, _USE_RATE),
        **dict.fromkeys(
            ("next", "then", "goto", "transitions", "switch", "on_success", "on_failure", "catch"), _USE_RULE
        ),
        **dict.fromkeys(("action", "task", "tasks", "actions", "do", "call"), _USE_RUN),
        **dict.fromkeys(("if", "when"), "write a guard in a case of the `rule` that leads to this step"),
        **dict.fromkeys(
            ("needs", "depends_on", "dependencies"), "name this step in the `rule` of the step before it"
        ),
        "debounce": "write it on the playbook: it is about starts of runs",
        "as": "save a result with `as` on an action of `run`",
        "with": "write `with` next to `task` in `run`",
        "id": "write `name`",
    },
    Task: {
        **dict.fromkeys(("steps", "actions", "do", "tasks"), _USE_RUN),
        **dict.fromkeys(("retry", "timeout", "loop"), "write it on the actions"),
        **dict.fromkeys(("next", "then", "rule"), "write `rule` on a step: a task leads to no step"),
        **dict.fromkeys(("args", "input", "params"), "pass `args` with `with` where the task is called"),
    },
    Case: {
        **dict.fromkeys(("if", "when", "condition"), _USE_CASE),
        **dict.fromkeys(("then", "next", "goto", "do", "steps", "step"), "write the next steps in `run`"),
        **dict.fromkeys(("default", "else"), "write `case: default`"),
    },
    TaskEntry: {
        **dict.fromkeys(("args", "params", "vars", "input"), _USE_WITH),
        **dict.fromkeys(("retry", "timeout"), _USE_ACTIONS),
    },
    StepEntry: {
        "with": "save the values that the step needs with `set`: a step takes no arguments",
        "if": "write the condition as the guard of the case",
    },
    RetryPolicy: {"max": "write `attempts`", "count": "write `attempts`", "times": "write `attempts`"},
    CachePolicy: {
        **dict.fromkeys(("for", "expires", "max_age", "duration", "timeout"), "write `ttl`"),
        **dict.fromkeys(("unsafe", "force", "effects"), "write `skip_effects`"),
    },
    Loop: {"over": "write `items`", "in": "write `items`", "until": "write `until` in `repeat`"},
    Repeat: {"while": "write `until`, the condition that ends it", "delay": "write `every`"},
    ScheduleDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("tz", "zone", "time_zone"), "write `timezone`"),
        **dict.fromkeys(("schedule", "at", "on"), "write `cron`, such as `cron: 30 2 * * MON-FRI`"),
        **dict.fromkeys(("interval", "rate", "period"), "write `every`, such as `every: 10m`"),
        **dict.fromkeys(("catchup", "backfill", "misfire"), "write `catch_up`"),
        **dict.fromkeys(("concurrency", "max_runs", "max_active_runs"), "write `overlap: skip`"),
    },
    WebhookDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(
            ("url", "route", "endpoint", "uri", "address"), "write `path`, such as `path: stripe/paid`"
        ),
        **dict.fromkeys(("methods", "verb"), "write `method: POST` or `method: PUT`"),
        **dict.fromkeys(("secret", "scheme", "signature", "token"), "write it in `auth`"),
        **dict.fromkeys(("max_size", "size", "limit"), "write `max_bytes`, such as `max_bytes: 1MiB`"),
        **dict.fromkeys(("response", "respond", "reply"), "write `answer: accepted` or `answer: result`"),
        **dict.fromkeys(("timeout", "max_wait"), "write `wait`, such as `wait: 10s`"),
        **dict.fromkeys(
            ("dedupe", "deduplicate", "replay", "ttl"), "write `remember`, such as `remember: 7d`"
        ),
        **dict.fromkeys(("idempotency_key", "unique"), "write `key`"),
    },
    WebhookAuthDeclaration: {
        **dict.fromkeys(("type", "kind"), "write `scheme`"),
        **dict.fromkeys(("key", "secrets", "token", "password"), 'write `secret: "{{ secrets.NAME }}"`'),
        **dict.fromkeys(("hash", "digest"), "write `algorithm`"),
        **dict.fromkeys(("max_age", "skew", "leeway"), "write `tolerance`"),
    },
    RunTriggerDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("flow", "after", "on"), "write `playbook`"),
        **dict.fromkeys(("states", "statuses", "result"), "write `status`"),
    },
    FolderDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("directory", "dir", "path", "watch"), "write `folder`, such as `folder: orders`"),
        **dict.fromkeys(("pattern", "files", "match"), 'write `glob`, such as `glob: "*.csv"`'),
        **dict.fromkeys(("wait", "delay", "debounce"), "write `settle`, such as `settle: 2s`"),
    },
    QueueDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("queue", "url", "queue_url", "arn"), "write `sqs` and the URL of the queue"),
    },
    BucketDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("bucket_name", "path"), "write `bucket`, such as `bucket: orders`"),
        **dict.fromkeys(("folder", "glob", "suffix", "pattern"), "write `prefix`, or test the key in `if`"),
    },
    EventDeclaration: {
        **_TRIGGER_KEY_HINTS,
        **dict.fromkeys(("detail-type", "types", "event_type"), "write `detail_type`"),
        **dict.fromkeys(("pattern", "detail", "filter"), "write `if`, such as `if: trigger.detail.paid`"),
    },
    LimitDeclaration: {
        **dict.fromkeys(("max", "count", "units", "slots", "max_parallel"), "write `limit`"),
        **dict.fromkeys(("name", "pool", "semaphore", "ref"), "write `use` and the name of the limit"),
        **dict.fromkeys(("group", "by"), 'write `key`, such as `key: "{{ input.customer }}"`'),
        **dict.fromkeys(("timeout", "wait"), "write `max_wait`"),
        **dict.fromkeys(("per", "window", "rate"), _RATE_INSTEAD),
    },
    DebouncePolicy: {
        **dict.fromkeys(("delay", "for", "period", "time"), "write `wait`, such as `wait: 30s`"),
        **dict.fromkeys(("max_wait", "timeout", "limit"), "write `max`, such as `max: 5m`"),
        **dict.fromkeys(("group", "by", "per"), 'write `key`, such as `key: "{{ input.customer }}"`'),
    },
    RateDeclaration: {
        **dict.fromkeys(("max", "count", "units", "calls", "requests"), "write `limit`"),
        **dict.fromkeys(("name", "pool", "ref"), "write `use` and the name of the rate"),
        **dict.fromkeys(("group", "by"), 'write `key`, such as `key: "{{ input.customer }}"`'),
        **dict.fromkeys(("window", "period", "every", "interval"), "write `per`, such as `per: 1m`"),
        **dict.fromkeys(("timeout", "wait"), "write `max_wait`"),
        **dict.fromkeys(("fair", "max_queued", "priority"), _RATE_HAS_NO_QUEUE),
    },
    CatchUpPolicy: {
        **dict.fromkeys(("for", "max_age", "window"), "write `within`"),
        **dict.fromkeys(("max", "count"), "write `limit`"),
    },
    NotifyDeclaration: {
        **dict.fromkeys(("success", "on_success", "ok", "ended"), "write `succeeded`"),
        **dict.fromkeys(("failure", "on_failure", "error", "errors"), "write `failed`"),
        **dict.fromkeys(
            ("timed_out", "timeout", "completed_with_errors"), "write `failed`, which includes it"
        ),
        **dict.fromkeys(("cancel", "canceled"), "write `cancelled`"),
        **dict.fromkeys(("sla", "overdue", "deadline"), "write `late`, such as `late: 30m`"),
    },
    LatePolicy: {
        **dict.fromkeys(("for", "time", "duration", "limit"), "write `after`"),
        **dict.fromkeys(("channel", "channels", "notify"), "write `to`"),
    },
}

_ERROR_KINDS: Mapping[str, tuple[str, ...]] = {
    "string_type": ("text",),
    "bool_type": ("true", "false"),
    "int_type": ("a whole number",),
    "int_from_float": ("a whole number",),
    "float_type": ("a number",),
    "list_type": ("a list",),
    "dict_type": ("a mapping",),
    "model_type": ("a mapping",),
}
"""What a value must be, by the type of the pydantic error."""
_SHORT_FORMS = {"late": "a duration", "cache": "a duration", "retry": "a number of attempts"}
"""What else a mapping with this key may be."""
_KEYS_OF_WORK = frozenset({"action", "task", "step", "run"})
_KEYS_OF_PLAYBOOKS_ONLY = frozenset(
    {"triggers", "notify", "debounce", "finally", "apiVersion", "kind", "version"}
)
"""The keys of work, which `notify` does not do."""
_ACTION_IN_NOTIFY = "`notify` must name channels, not actions"
_USE_CHANNELS = "name a channel, such as `failed: ops`, or do the work in the step that `finally` names"
_MAX_LISTED_KEYS = 6
_MISSING_KEY_HINTS = {
    "steps": MINIMAL_PLAYBOOK_HINT,
    "case": "write `case: default` if the case has no condition",
    "auth": 'write `auth: {scheme: github, secret: "{{ secrets.NAME }}"}`',
    "folder": "write the folder, such as `folder: orders`",
    "bucket": "write the name of the bucket, such as `bucket: orders`",
    "source": "write the source of the events, such as `source: com.example.shop`",
    "path": "write the address of the webhook, such as `path: stripe/paid`",
    "type": "write what the trigger waits for, such as `type: schedule`",
    "playbook": "write the playbook whose ended runs it fires at, such as `playbook: import`",
    "after": "write how long a run may take, such as `after: 30m`",
}
_MAPPING_HINTS = {
    "input": "write each input as `NAME: TYPE`, such as `region: string`",
    "output": "write each value as `NAME: EXPRESSION`",
    "environment": "write each entry as `NAME: VALUE`",
    "variables": "write each variable as `NAME: VALUE`",
    "loop": "write `loop: {items: LIST}`",
    "repeat": "write `repeat: {until: CONDITION, max: COUNT}`",
    "retry": "write a number of attempts, or a mapping such as `{attempts: 3, delay: 5s}`",
    "cache": "write a duration, or a mapping such as `{key: VALUE, ttl: 1d}`",
    "catch_up": "write `none`, `last` or `all`, or a mapping such as `{mode: all, within: 1d}`",
    "auth": 'write `auth: {scheme: github, secret: "{{ secrets.NAME }}"}`',
    "triggers": "begin each trigger with `- name: NAME`",
    "notify": "write the channels of an event, such as `notify: {failed: CHANNEL}`",
    "late": "write a duration, or a mapping such as `{after: 30m, to: CHANNEL}`",
    "concurrency": "write a number, or a mapping such as `{key: TEMPLATE, limit: 3}`",
    "debounce": "write a mapping such as `{key: TEMPLATE, wait: 30s}`",
    "rate": "write a mapping such as `{limit: 100, per: 1m}`",
    "steps": "begin each step with `- name: NAME`",
    "tasks": "write the work of the task in `run`",
    "rule": "begin each case with `- case: CONDITION`",
}
"""How to write what must be a mapping, by its key or by that of the list which holds it."""

_DURATION_EXAMPLES = {"500ms": 0.5, "5s": 5.0, "2m": 120.0, "1h": 3600.0, "3d": 259_200.0}
"""Durations and their seconds. A hint shows those that a key allows."""


class _DurationBounds(NamedTuple):
    """The bounds of a duration in words that follow "a duration", and in seconds."""

    words: str
    least: float = 0.0
    most: float = math.inf


_UP_TO_A_YEAR = _DurationBounds("from 1 second to 365 days", 1.0)
_WINDOW = _DurationBounds("from 1 second to 31 days", 1.0)
_UP_TO_A_MONTH = _DurationBounds("from 1 second to 30 days", 1.0)
_DURATION_BOUNDS = {
    "cache": _UP_TO_A_YEAR,
    "ttl": _UP_TO_A_YEAR,
    "every": _DurationBounds("from 1 second to 36,500 days", 1.0),
    "within": _UP_TO_A_MONTH,
    "late": _UP_TO_A_YEAR,
    "after": _UP_TO_A_YEAR,
    "jitter": _DurationBounds("of at most 24 hours", most=86_400.0),
    "wait": _DurationBounds("of at most 25 seconds", most=25.0),
    "remember": _DurationBounds("from 1 minute to 365 days", 60.0),
    "settle": _DurationBounds("of at most 1 hour", most=3600.0),
    "tolerance": _DurationBounds("from 1 second to 1 day", 1.0, 86_400.0),
}
"""The bounds of durations that have other bounds than zero, by key. `every` has them in a trigger."""
_TYPE_ALIASES = {
    **dict.fromkeys(("list", "tuple"), "array"),
    **dict.fromkeys(("dict", "map", "mapping", "json"), "object"),
    **dict.fromkeys(("str", "text", "date", "datetime"), "string"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "double", "decimal"), "number"),
    "bool": "boolean",
}
"""Names of types in other languages, for inputs."""
_CHOICE_ALIASES: Mapping[str, Mapping[str, str]] = {
    "type": _TYPE_ALIASES,
    "when_full": {
        **dict.fromkeys(("wait", "block", "enqueue"), "queue"),
        **dict.fromkeys(("drop", "reject", "discard", "ignore"), "skip"),
        **dict.fromkeys(("cancel", "replace", "restart", "newest"), "cancel_oldest"),
    },
}
"""Words of other systems in place of the choices of a key."""
_CHOICE_HINTS = {
    ("when_full", "error"): "write `max_wait: 0s`: then a step fails at once, and a run is skipped",
    ("overlap", ""): "write `concurrency` on the playbook for runs that wait, or remove it: runs may overlap",
}
"""What to write instead of a word, or of any word, by key and word."""
_BOOLEAN_WORDS = {
    "yes": "true",
    "on": "true",
    "true": "true",
    "no": "false",
    "off": "false",
    "false": "false",
}


def model_at(path: DocumentPath, value: object) -> type[Model]:
    """Return the model of the mapping `value` at `path`."""
    match path:
        case ():
            return Playbook
        case ("input", _):
            return InputDeclaration
        case (*_, "run", int()) if isinstance(value, dict):
            return next((model for key, model in _ENTRY_MODELS.items() if key in value), ActionEntry)
        case ("triggers", int(), "auth"):
            return WebhookAuthDeclaration
        case ("notify",):
            return NotifyDeclaration
        case ("notify", "late"):
            return LatePolicy
        case ("triggers", int()):
            return TRIGGER_MODELS[trigger_tag(value)]
        case (*_, str(key), int()) if key in _ITEM_MODELS:
            return _ITEM_MODELS[key]
        case (*_, str(key)) if key in _PART_MODELS:
            return _PART_MODELS[key]
    raise ValueError(f"no model for the path {path}")


def keys_of(model: type[Model]) -> list[str]:
    """Return the keys of a construct as playbooks write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def find_intended_key(key: str, model: type[Model]) -> str | None:
    """Return the key of the construct that an unknown key most resembles, or None if there is none."""
    if key in _MISPLACED_KEY_HINTS.get(model, ()) or (model is NotifyDeclaration and key in _KEYS_OF_WORK):
        return None
    matches = get_close_matches(key, keys_of(model), n=1, cutoff=0.7)
    return matches[0] if matches else None


def find_intended_entry_key(value: object) -> tuple[str, str] | None:
    """Return the first key of an entry that resembles `action`, `task` or `step`, and the intended key."""
    for key in value if isinstance(value, dict) else ():
        if matches := get_close_matches(key, _ENTRY_MODELS, n=1, cutoff=0.7):
            return key, matches[0]
    return None


def describe_unknown_key(key: str, model: type[Model]) -> SchemaViolation:
    """Return the violation for a key that the construct does not have."""
    if model in (NotifyDeclaration, LatePolicy) and key in _KEYS_OF_WORK:
        return SchemaViolation("NP850", _ACTION_IN_NOTIFY, _USE_CHANNELS, at_key=True)
    keys = keys_of(model)
    hint = _MISPLACED_KEY_HINTS.get(model, {}).get(key) or _name_owner(key, model)
    if intended := find_intended_key(key, model):
        hint = suggest(key, intended)
    elif hint is None and len(keys) <= _MAX_LISTED_KEYS:
        hint = f"use {join_words(as_code(keys))}"
    return SchemaViolation("NP010", f"unknown key `{abbreviate(key)}` in {_NOUNS[model]}", hint, at_key=True)


def _name_owner(key: str, model: type[Model]) -> str | None:
    """Return a hint that names the construct to which a misplaced key belongs, or None.

    >>> _name_owner("notify", Step), _name_owner("cron", WebhookDeclaration)
    ('it is a key of the playbook: write it there', 'triggers of type `schedule` have it')
    """
    if model is Step and key in _KEYS_OF_PLAYBOOKS_ONLY:
        return "it is a key of the playbook: write it there"
    types = [name for name, declaration in TRIGGER_MODELS.items() if key in keys_of(declaration)]
    if types and issubclass(model, TriggerDeclaration):
        return f"triggers of type {join_words(as_code(types), 'or')} have it"
    return None


def describe_missing_key(key: str, model: type[Model]) -> SchemaViolation:
    """Return the violation for a required key that the construct lacks."""
    hint = _MISSING_KEY_HINTS.get(key)
    return SchemaViolation("NP011", f"missing key `{key}` in {_NOUNS[model]}", hint, at_key=True)


def describe_invalid_entry(value: object) -> SchemaViolation:
    """Return the violation for an entry of `run` that is not a name and lacks `action`, `task` and `step`."""
    if not isinstance(value, dict):
        message = f"an entry of `run` must be an action, a task or a name, not {describe_value(value)}"
        return SchemaViolation("NP012", message, "write `action: TYPE` and its parameters, or `task: NAME`")
    if misspelt := find_intended_entry_key(value):
        key, intended = misspelt
        message = f"unknown key `{abbreviate(key)}` in an entry of `run`"
        return SchemaViolation("NP010", message, suggest(key, intended), at_key=True)
    hint = "begin it with `action: TYPE`, and write the parameters next to it"
    if len(value) == 1:
        key = abbreviate(next(iter(value)))
        hint = f"if `{key}` is a type, write `action: {key}` and the parameters next to it"
    return SchemaViolation("NP011", "missing key `action` or `task` in an entry of `run`", hint)


def describe_wrong_value(
    path: DocumentPath, value: object, errors: Sequence[Mapping[str, Any]]
) -> SchemaViolation:
    """Return the violation for the value at `path`. The pydantic errors say why it matches no alternative.

    The path of a part of a `FieldDeclaration` begins with `"field"` and the name of the field.
    """
    key = next(part for part in reversed(path) if isinstance(part, str))
    kind, context = errors[0]["type"], errors[0].get("ctx", {})
    if path[0] == "notify" and _is_work(value):
        return SchemaViolation("NP850", _ACTION_IN_NOTIFY, _USE_CHANNELS)
    if path[0] in ("concurrency", "rate", "steps") and (
        violation := _describe_wrong_limit(path, value, kind)
    ):
        return violation
    if kind == "too_long":
        return SchemaViolation(
            "NP012", f"`{key}` must have at most {context['max_length']} entries", at_key=True
        )
    if kind == "too_short":
        code = "NP011" if path == ("steps",) else "NP012"
        return SchemaViolation(code, f"`{key}` must have at least one entry", at_key=True)
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        message = f"`{key}` must be {join_words(as_code(choices))}, not {quote_or_describe(value)}"
        return SchemaViolation("NP012", message, _find_choice_hint(key, value, choices))
    if kind == "value_error":
        return _describe_wrong_quantity(path, key, value)
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']:g}" if "ge" in context else f"at most {context['le']:g}"
        return SchemaViolation("NP012", f"`{key}` must be {bound}")
    kinds = list(
        dict.fromkeys(
            word for error in errors for word in _ERROR_KINDS.get(error["type"], ("another value",))
        )
    )
    if _is_declaration(path):
        kinds.insert(0, "a type")
    elif path[0] == "notify" and "a list" in kinds:
        kinds = ["the name of a channel", "a list of names"]
    elif key in _SHORT_FORMS:
        kinds.insert(0, _SHORT_FORMS[key])
    message = f"{_subject_of(path, key)} must be {join_words(kinds)}, not {describe_value(value)}"
    return SchemaViolation("NP012", message, _value_hint(path, kinds, value))


def _find_choice_hint(key: str, value: object, choices: Sequence[str]) -> str | None:
    """Return how to write a word that is none of the choices of a key, or None if that is not known."""
    if not isinstance(value, str):
        return None
    intended = _CHOICE_ALIASES.get(key, {}).get(value)
    if intended in choices:
        return f"write `{intended}`"
    if hint := _CHOICE_HINTS.get((key, value)) or _CHOICE_HINTS.get((key, "")):
        return hint
    matches = get_close_matches(value, choices, n=1, cutoff=0.6)
    return suggest(value, matches[0] if matches else None)


def _describe_wrong_limit(path: DocumentPath, value: object, kind: str) -> SchemaViolation | None:
    """Return the violation for a wrong number, or for a wrong form, of `concurrency` or `rate`."""
    owner, key = path[:-1], path[-1]
    is_of_limit = is_limits_path(owner) or is_limits_path(owner[:-1])
    is_short = is_limits_path(path) and kind in ("greater_than_equal", "less_than_equal")
    is_number = key == "limit" and is_of_limit
    if key == "per" and is_of_limit and kind == "value_error":
        message = f"`per` must be a duration {_WINDOW.words}, not {quote_or_describe(value)}"
        return SchemaViolation("NP830", message, _show_durations(_WINDOW))
    if is_short or is_number:
        message = f"`{key}` must be a whole number from 1 to {MAX_LIMIT:,}, not {quote_or_describe(value)}"
        return SchemaViolation("NP830", message, _hint_of_limit(value, "3"))
    if key == "max_queued" and (is_limits_path(owner) or is_limits_path(owner[:-1])):
        message = f"`{key}` must be a whole number from 1 to {MAX_QUEUED:,}, not {quote_or_describe(value)}"
        return SchemaViolation("NP830", message, _hint_of_limit(value, "100"))
    if is_limits_path(path) and kind == "model_type":
        forms = "a mapping or a list" if key == "rate" else "a number, a mapping or a list"
        message = f"`{key}` must be {forms}, not {describe_value(value)}"
        return SchemaViolation("NP012", message, _MAPPING_HINTS[str(key)])
    return None


def _hint_of_limit(value: object, example: str) -> str:
    """Return what may be written instead of a value that is no number in the range of a limit."""
    if isinstance(value, str) and value.strip().isdecimal():
        return "remove the quotes"
    if isinstance(value, str) and "{{" in value:
        return f"write a number such as {example}, or name a limit of an operator with `use`"
    return f"write a number such as {example}"


def _is_work(value: object) -> bool:
    """Return whether a value of `notify` is written as an action, or has one."""
    values = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) and not _KEYS_OF_WORK.isdisjoint(item) for item in values)


def _describe_wrong_quantity(path: DocumentPath, key: str, value: object) -> SchemaViolation:
    """Return the violation for a value that is no duration, no instant or no size."""
    if key in ("start", "end"):
        message = f"`{key}` must be an instant of the years 1970 to 2999, not {quote_or_describe(value)}"
        return SchemaViolation("NP012", message, "write a time such as `2030-01-31T08:00:00Z`")
    if key == "max_bytes":
        message = f"`{key}` must be a size of at most 5 MiB, not {quote_or_describe(value)}"
        return SchemaViolation("NP012", message, "write `512KiB`, `1MiB` or a number of bytes")
    bounds = _DURATION_BOUNDS.get(key) if path[0] == "triggers" or key != "every" else None
    bounds = _UP_TO_A_MONTH if path[0] == "debounce" else bounds
    described = f"a duration {bounds.words}" if bounds else "a duration"
    message = f"`{key}` must be {described}, not {quote_or_describe(value)}"
    return SchemaViolation("NP012", message, _show_durations(bounds or _DurationBounds("")))


def _show_durations(bounds: _DurationBounds) -> str:
    """Return a hint with examples of durations within bounds."""
    fitting = [text for text, seconds in _DURATION_EXAMPLES.items() if bounds.least <= seconds <= bounds.most]
    return f"write {', '.join(as_code(fitting))} or a number of seconds"


def _is_declaration(path: DocumentPath) -> bool:
    """Return whether the value at `path` declares an input, or a field of a parameter."""
    return path[:-1] in (("input",), ("field",))


def _subject_of(path: DocumentPath, key: str) -> str:
    match path:
        case (("input" | "field") as noun, str(name)):
            return f"{noun} `{abbreviate(name)}`"
        case (*_, str(parent), int()) if parent in _ITEM_MODELS:
            return _NOUNS[_ITEM_MODELS[parent]]
    return f"`{key}`"


def _value_hint(path: DocumentPath, kinds: Sequence[str], value: object) -> str | None:
    hint = None
    if value is None:
        hint = "write a value after the key, or remove the key"
    elif "a mapping" in kinds:
        key = next(part for part in reversed(path) if isinstance(part, str))
        is_declaration = _is_declaration(path)
        short_form = "write a type, or a mapping such as `{type: string}`"
        hint = short_form if is_declaration else _MAPPING_HINTS.get(key)
        if is_limits_path(path[:-1]):
            hint = "write a mapping such as `{limit: 3}` or `{use: NAME}`"
            if path[-2] == "rate":
                hint = "write a mapping such as `{limit: 100, per: 1m}` or `{use: NAME}`"
        if path[0] == "triggers" and key == "input":
            hint = "write each input as `NAME: VALUE`"
    elif path == ("steps",) and isinstance(value, dict):
        hint = "begin each step with `- name: NAME`"
    elif path[-2:] == ("loop", "items"):
        hint = 'write a list, or a template that gives one, such as `"{{ range(5) | list }}"`'
    elif "text" in kinds and isinstance(value, bool | int | float):
        hint = "quote the value"
    elif "a list" in kinds and isinstance(value, str | dict):
        hint = "begin each entry with `- `, or write the list in brackets"
    elif "true" in kinds and isinstance(value, str):
        hint = f"write `{_BOOLEAN_WORDS[value.lower()]}`" if value.lower() in _BOOLEAN_WORDS else None
    elif {"a whole number", "a number"} & set(kinds) and isinstance(value, str) and value.strip().isdecimal():
        hint = "remove the quotes"
    return hint
