"""Texts of the reference that are not in the code: the meaning of keys, filters and types.

Tests check that they are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from noetl.planner.syntax import models

CONSTRUCTS: dict[str, type[models.Model]] = {
    "playbook": models.Playbook,
    "input": models.InputDeclaration,
    "step": models.Step,
    "case": models.Case,
    "task": models.Task,
    "action": models.ActionEntry,
    "call": models.TaskEntry,
    "loop": models.Loop,
    "repeat": models.Repeat,
    "retry": models.RetryPolicy,
    "cache": models.CachePolicy,
    "trigger": models.TriggerDeclaration,
    "schedule": models.ScheduleDeclaration,
    "webhook": models.WebhookDeclaration,
    "auth": models.WebhookAuthDeclaration,
    "run-trigger": models.RunTriggerDeclaration,
    "catch-up": models.CatchUpPolicy,
    "notify": models.NotifyDeclaration,
    "late": models.LatePolicy,
}
"""The constructs that have a table of keys."""

KEYS: dict[tuple[str, str], str] = {
    ("playbook", "apiVersion"): "The version of the language.",
    ("playbook", "kind"): "The kind of the file.",
    ("playbook", "name"): "The name of the playbook and of its runs in lists.",
    ("playbook", "version"): "Any text. Quote it if it looks like a number.",
    ("playbook", "description"): "A text for readers.",
    ("playbook", "input"): "[The inputs of a run](#inputs): for each name a type or a mapping.",
    ("playbook", "triggers"): "[What starts runs](triggers.md) by itself, such as a schedule.",
    ("playbook", "notify"): "[The channels](notifications.md) that receive ends of runs, and late runs.",
    ("playbook", "environment"): "[Configuration](#environment-and-variables).",
    (
        "playbook",
        "variables",
    ): "[Initial values](#environment-and-variables) of names that actions may change.",
    ("playbook", "start"): "The first step of a run. Default: the first one in the list.",
    ("playbook", "mode"): "Whether branches run in parallel.",
    ("playbook", "on_error"): "[The effect of a failure](#failures) that no case handles.",
    ("playbook", "retry"): "[Attempts](#retries) at the `run` of a step without its own `retry`.",
    ("playbook", "timeout"): "The time limit of a run. After it the run ends as `timed_out`.",
    ("playbook", "finally"): "[The step that runs last](#the-last-step), also after a failure.",
    ("playbook", "tasks"): "[Tasks](#tasks): a list, or a mapping of names to lists of work.",
    ("playbook", "steps"): "[Steps](#steps), at least one.",
    ("playbook", "output"): "[The result of a run](#the-result).",
    ("input", "type"): "The type of the value. An `integer` is also accepted as a `number`; `true` is not.",
    (
        "input",
        "default",
    ): "The value if none is given. An input without a default is required. `null` is a default.",
    ("input", "enum"): "The only allowed values.",
    ("input", "description"): "A text for readers.",
    ("step", "name"): "Printable text without blanks at its start and end.",
    ("step", "description"): "A text for readers.",
    ("step", "run"): "[The work](#steps) of a visit: actions and calls of tasks.",
    ("step", "parallel"): "Whether the items of `run` run [in parallel](#items-in-parallel).",
    ("step", "rule"): "[The next steps](#rules): a list of cases. The first case that is true is taken.",
    ("step", "loop"): "Repeats `run` [for every item](#loops) of a list.",
    ("step", "repeat"): "Repeats `run` [until a condition is true](#pauses).",
    ("step", "join"): "When to run a step that [several branches](#branches-and-joins) reach.",
    ("step", "max_visits"): "[Limit of the visits](#cycles) in a run.",
    ("step", "retry"): "[Attempts](#retries) at its `run`.",
    ("step", "timeout"): "The time limit of [one attempt](#timeouts).",
    ("step", "cache"): "Uses an [earlier result](#cached-results) of its `run`: a duration or a mapping.",
    ("step", "delivery"): "Whether an attempt may be [repeated](#retries) after a crash.",
    ("step", "on_error"): "As in the playbook, for this step.",
    ("case", "case"): "[The guard](#rules): an expression, `default` or `error`.",
    ("case", "run"): "The steps that the branch continues with, or the work that it ends with.",
    ("task", "name"): "As for a step. If `tasks` is a mapping, its key is the name.",
    ("task", "description"): "A text for readers.",
    ("task", "run"): "Actions and calls of other tasks.",
    ("task", "parallel"): "Whether the items of `run` run in parallel.",
    ("action", "action"): "The type.",
    ("action", "as"): "The name to save the result under.",
    ("action", "if"): "A condition. The action is skipped unless it is true.",
    ("action", "retry"): "[Attempts](#retries) at the action, within one attempt of the step.",
    ("action", "timeout"): "The time limit of [one attempt](#timeouts).",
    ("action", "cache"): "Uses an [earlier result](#cached-results): a duration or a mapping.",
    ("action", "loop"): "Repeats the action [for every item](#loops) of a list.",
    ("action", "on_error"): "[Forgives](#forgiven-failures) its failure.",
    ("call", "task"): "The name.",
    ("call", "with"): "The `args` of the task.",
    ("call", "as"): "The name to save the result of its last item under.",
    ("call", "if"): "A condition. The task is skipped unless it is true.",
    ("call", "loop"): "Repeats the task [for every item](#loops) of a list.",
    ("call", "on_error"): "[Forgives](#forgiven-failures) its failure.",
    ("loop", "items"): "The list, or a template that evaluates to one.",
    ("loop", "as"): "The name of an item.",
    ("loop", "concurrency"): "The number of items at the same time, at most 32.",
    ("loop", "batch"): "The number of items in one invocation.",
    ("loop", "on_error"): "`continue`: a failed item does not end the loop.",
    ("repeat", "until"): "The condition, over `result` and all names.",
    ("repeat", "every"): "The pause between two rounds.",
    ("repeat", "max"): "The limit of the rounds.",
    ("retry", "attempts"): "The total number of attempts.",
    ("retry", "delay"): "The delay before the second attempt.",
    ("retry", "backoff"): "The factor by which each delay is longer than the one before.",
    ("retry", "max_delay"): "The longest delay.",
    ("retry", "jitter"): "Whether each delay is shortened at random, by up to a half.",
    ("retry", "if"): "A guard over `error`. Another attempt is made only if it is true.",
    ("cache", "key"): "A value with templates that takes the place of the values that the work reads.",
    ("cache", "ttl"): "How long a result is used, from `1s` to `365d`.",
    ("cache", "skip_effects"): "Whether a hit may skip effects outside of the run.",
    ("trigger", "name"): "Letters, digits, `_`, `-` and `.`; unique in the playbook.",
    ("trigger", "type"): "What the trigger waits for.",
    ("trigger", "input"): "[The inputs of its runs](#inputs-and-conditions), with templates.",
    ("trigger", "if"): "[A condition](#inputs-and-conditions). No run starts unless it is true.",
    ("schedule", "cron"): "[The times](#cron) at which it fires. One of `cron` and `every` is required.",
    ("schedule", "every"): "[The interval](#every) at which it fires, at least `1s`.",
    ("schedule", "timezone"): "The name of the zone of `cron`, and of `start` and `end` without an offset.",
    ("schedule", "start"): "The first time at which it may fire, in ISO 8601.",
    ("schedule", "end"): "The time from which on it does not fire, in ISO 8601.",
    ("schedule", "catch_up"): "[What happens to missed firings](#missed-firings). Default: `last`.",
    ("schedule", "overlap"): "`skip`: no run starts [while an earlier one goes on](#overlapping-runs).",
    ("schedule", "jitter"): "[The greatest delay](#jitter) of its firings, at most `24h`.",
    (
        "webhook",
        "path",
    ): "[The address](#addresses) after `/hooks/TENANT/`; unique among the webhooks of a tenant.",
    ("webhook", "auth"): "[How the sender is recognised](#senders).",
    ("webhook", "method"): "The only method that is accepted.",
    ("webhook", "max_bytes"): "The greatest size of a body, such as `512KiB`, at most `5MiB`.",
    (
        "webhook",
        "answer",
    ): "Whether the sender gets 202 at once, or waits for [the result](#answers) of the run.",
    ("webhook", "wait"): "With `answer: result`: how long the sender waits, at most `25s`.",
    (
        "webhook",
        "remember",
    ): "For how long [a repeated request](#repeated-requests) starts no second run, from `1m` to `365d`.",
    ("webhook", "key"): "[What tells a request from others](#repeated-requests).",
    ("auth", "scheme"): "The scheme of the signature.",
    ("auth", "secret"): "The secret, exactly one `{{ secrets.NAME }}`, or a list of up to 5.",
    ("auth", "header"): "With `hmac`: the header of the signature.",
    ("auth", "prefix"): "With `hmac`: text before the signature, such as `sha256=`.",
    ("auth", "algorithm"): "With `hmac`: the hash function. Default: `sha256`.",
    ("auth", "encoding"): "With `hmac`: the encoding of the signature. Default: `hex`.",
    (
        "auth",
        "tolerance",
    ): "With `stripe` and `standard`: how old a signed time may be, or how far ahead. Default: `5m`.",
    ("run-trigger", "playbook"): "The playbook whose ended runs it fires at.",
    ("run-trigger", "status"): "A list of the statuses of the runs.",
    ("run-trigger", "key"): "What tells a firing from others. Default: the run and the number of its ending.",
    (
        "notify",
        "failed",
    ): "The channels of runs that end as `failed`, `timed_out` or `completed_with_errors`.",
    ("notify", "succeeded"): "The channels of runs that end as `succeeded`.",
    ("notify", "cancelled"): "The channels of runs that end as `cancelled`.",
    ("notify", "late"): "[When a run is late](#late-runs): a duration, or a mapping with the channels.",
    ("late", "after"): "How long a run may take, from `1s` to `365d`.",
    ("late", "to"): "The channels of late runs. Default: those of `failed`.",
    ("catch-up", "mode"): "Which of the missed firings are performed.",
    ("catch-up", "within"): "With `all`: how long ago the first of them was, from `1s` to `30d`.",
    ("catch-up", "limit"): "With `all`: how many are performed, the newest ones.",
}
"""The meaning of every key of the constructs."""

FILTERS = {
    "identifier": "the value as a quoted identifier, in SQL",
    "raw": "the value unchanged, in a sink; always warned about (NP506)",
    "tojson": "the value as JSON; `tojson(indent=2)` on several lines",
    "fromjson": "the value of a JSON text",
    "b64encode": "a text in base64",
    "b64decode": "the text of a base64 encoding",
    "sha256": "the hash of a text, in hexadecimal",
    "regex_search": (
        "the first match of a pattern: its groups as a list, the whole match if it has no groups, or none"
    ),
    "regex_replace": "the text with every match of a pattern replaced: `regex_replace('\\s+', ' ')`",
    "to_datetime": (
        "a time: from ISO 8601 text, from seconds since 1970, or from text and a `strptime` pattern;"
        " default time zone: UTC"
    ),
    "sum": "the sum of numbers, or the concatenation of lists: `sum(attribute='amount')`, `sum(start=[])`",
    "strftime": "a time, or an argument of `to_datetime`, as text: `strftime('%Y-%m-%d')`",
}
"""The results of the filters that NoETL adds."""

METHODS_OF: dict[type, str] = {str: "a text", Mapping: "an object", list: "a list", datetime: "a time"}
"""The types whose methods are listed. Other types are variants of these."""

FAMILIES: dict[str, str] = {
    "NP0": "The text of a playbook",
    "NP1": "Steps and tasks",
    "NP2": "The flow",
    "NP3": "Names and their values",
    "NP4": "Expressions",
    "NP5": "Actions",
    "NP6": "Time limits",
    "NP7": "Size",
    "NP8": "Triggers and notifications",
    "NP9": "The planner itself",
}
"""The families of diagnostic codes, by the beginning of their codes."""
