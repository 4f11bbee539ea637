"""What the code has no words for: the meaning of every key. Tests hold it to the code."""

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
}
"""The constructs that have a table of keys."""

KEYS: dict[tuple[str, str], str] = {
    ("playbook", "apiVersion"): "The version of the language.",
    ("playbook", "kind"): "What the file is.",
    ("playbook", "name"): "What runs are listed under.",
    ("playbook", "version"): "Free text, in quotes where it looks like a number.",
    ("playbook", "description"): "For people.",
    ("playbook", "input"): "[What a run takes](#inputs): for each name a type or a mapping.",
    ("playbook", "environment"): "[Configuration](#environment-and-variables).",
    ("playbook", "variables"): "[First values](#environment-and-variables) of names that actions may change.",
    ("playbook", "start"): "The step a run begins with: the first one unless given.",
    ("playbook", "mode"): "Whether branches run together.",
    ("playbook", "on_error"): "[What a failure does](#failures) that no case handles.",
    ("playbook", "retry"): "[How often](#retries) the `run` of a step is tried, for steps that do not say.",
    ("playbook", "timeout"): "How long a run may take. Past it the run ends as `timed_out`.",
    ("playbook", "finally"): "[A step that runs last](#the-last-step), whatever happened.",
    ("playbook", "tasks"): "[Tasks](#tasks): a list, or a mapping of names to lists of work.",
    ("playbook", "steps"): "[Steps](#steps), one at least.",
    ("playbook", "output"): "[The result of a run](#the-result).",
    ("input", "type"): "What its value must be. An `integer` is a `number`, and true is neither.",
    ("input", "default"): "Its value where none is given. An input without one must be given; `null` is one.",
    ("input", "enum"): "The only values it may have.",
    ("input", "description"): "For people.",
    ("step", "name"): "Printable text without blanks around it.",
    ("step", "description"): "For people.",
    ("step", "run"): "[The work](#steps) on entry: actions and calls of tasks.",
    ("step", "parallel"): "Whether the items of `run` go [together](#items-in-parallel).",
    ("step", "rule"): "[What comes next](#rules): cases, the first true one of which is taken.",
    ("step", "loop"): "Does `run` [for every item](#loops) of a list.",
    ("step", "repeat"): "Does `run` [again](#pauses) until a condition is true.",
    ("step", "join"): "When a step runs that [several branches](#branches-and-joins) reach.",
    ("step", "max_visits"): "[How often](#cycles) it may be entered in a run.",
    ("step", "retry"): "[How often](#retries) its `run` is tried.",
    ("step", "timeout"): "How long [one attempt](#timeouts) may take.",
    ("step", "delivery"): "Whether an attempt may be [made again](#retries) after a crash.",
    ("step", "on_error"): "The playbook's, for this step.",
    ("case", "case"): "[The guard](#rules): an expression, `default` or `error`.",
    ("case", "run"): "Where the branch goes, or the work that it ends with.",
    ("task", "name"): "As of a step. Where `tasks` is a mapping, its key is the name.",
    ("task", "description"): "For people.",
    ("task", "run"): "Actions and calls of other tasks.",
    ("task", "parallel"): "Whether they go together.",
    ("action", "action"): "The type.",
    ("action", "as"): "The name to save the result under.",
    ("action", "if"): "Skips the action unless it is true.",
    ("action", "retry"): "[How often](#retries) the action is tried, within one attempt of the step.",
    ("action", "timeout"): "How long [one attempt](#timeouts) may take.",
    ("action", "loop"): "Does it [for every item](#loops) of a list.",
    ("action", "on_error"): "[Forgives](#forgiven-failures) its failure.",
    ("call", "task"): "The name.",
    ("call", "with"): "The `args` of the task.",
    ("call", "as"): "The name to save the result of its last item under.",
    ("call", "if"): "Skips the task unless it is true.",
    ("call", "loop"): "Does it [for every item](#loops) of a list.",
    ("call", "on_error"): "[Forgives](#forgiven-failures) its failure.",
    ("loop", "items"): "The list, or a template that gives one.",
    ("loop", "as"): "What an item is called.",
    ("loop", "concurrency"): "How many items are at work at once, up to 32.",
    ("loop", "batch"): "How many items an invocation does.",
    ("loop", "on_error"): "`continue`: a failed item does not end the loop.",
    ("repeat", "until"): "The condition, over `result` and all names.",
    ("repeat", "every"): "How long to pause between two rounds.",
    ("repeat", "max"): "The most rounds.",
    ("retry", "attempts"): "How often in all.",
    ("retry", "delay"): "How long to wait before the second attempt.",
    ("retry", "backoff"): "How many times longer each wait is than the one before.",
    ("retry", "max_delay"): "The longest wait.",
    ("retry", "jitter"): "Whether each wait is shortened at random, by up to a half.",
    ("retry", "if"): "A guard over `error`: tries again only where it is true.",
}
"""The meaning of every key of the constructs."""

FILTERS = {
    "identifier": "the value as a quoted name, in SQL",
    "raw": "the value as it is, in a sink; always warned about (NP506)",
    "tojson": "the value as JSON; `tojson(indent=2)` on several lines",
    "fromjson": "the value that a JSON text says",
    "b64encode": "a text in base64",
    "b64decode": "the text that base64 stands for",
    "sha256": "the hash of a text, in hexadecimal",
    "regex_search": "the first match of a pattern: its groups as a list, without groups the whole match, or none",
    "regex_replace": "the text with every match of a pattern replaced: `regex_replace('\\s+', ' ')`",
    "to_datetime": "a time: of ISO 8601 text, of seconds since 1970, or of text and a `strptime` pattern; UTC unless it says",
    "sum": "the sum of numbers, or one list of many: `sum(attribute='amount')`, `sum(start=[])`",
    "strftime": "a time, or what `to_datetime` takes, as text: `strftime('%Y-%m-%d')`",
}
"""What our own filters give."""

METHODS_OF: dict[type, str] = {str: "a text", Mapping: "an object", list: "a list", datetime: "a time"}
"""The types whose methods are listed; the others are variations of these."""
