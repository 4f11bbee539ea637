"""Comparable forms of work: equal if and only if the work does the same, whatever its lines and limits are.

Problem: a run may continue in another version of its playbook only where the work that has begun is the same.

Algorithm: structural comparison of the work with the tasks that it calls, without what may change.

Cost: linear in this work.

Limits: two expressions with one meaning and different texts are different.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noetl.planner.plan import Step, Task, TaskCall, Work

_FREE_KEYS = frozenset({"line", "retry", "timeout_seconds", "cache", "batch", "concurrency", "rate"})
"""What may change in work that has begun: how often it is tried, for how long, and how many items at once."""

_PLACE = re.compile(r"(?:run(?:~\d+)?|rule\.(?P<case>\d+))(?:\.(?P<index>\d+))?")
"""The begin of a position: the step's own work or a case, and the entry if the position is in one."""

FindTask = Callable[[str], Task | None]
"""A function that returns the task with a name, or None if there is none."""


def forms_of(find_task: FindTask, run: Iterable[Work]) -> list[Any]:
    """Return comparable forms of work, with those of the tasks that it calls."""
    return [form_of(find_task, work) for work in run]


def form_of(find_task: FindTask, work: Work) -> Any:
    """Return the comparable form of an item of work."""
    form = strip_free(work.to_json())
    task = find_task(work.task) if isinstance(work, TaskCall) else None
    if task is None:
        return form
    return form, task.parallel, forms_of(find_task, task.run)


def strip_free(value: Any) -> Any:
    """Return JSON of work without what may change.

    >>> strip_free({"line": 3, "action": "log"})
    {'action': 'log'}
    """
    if isinstance(value, Mapping):
        return {key: strip_free(item) for key, item in value.items() if key not in _FREE_KEYS}
    return [*map(strip_free, value)] if isinstance(value, list | tuple) else value


def loop_form(step: Step) -> Any:
    """Return the comparable form of the loop of a step, or None."""
    return step.loop and strip_free(step.loop.to_json())


def hash_item_work(find_task: FindTask, step: Step, position: str) -> str:
    """Return a hash of the work that a loop at a position does for one of its items.

    It is that of the entry of `run` or of a case, or all of `run` for a loop of the step. The list of the
    items and `on_error` of the loop do not count.
    """
    match = _PLACE.match(position)
    case, index = (None, None) if match is None else (match["case"], match["index"])
    works = step.run if case is None else step.cases[int(case)].work if int(case) < len(step.cases) else ()
    if index is not None:
        works = works[int(index) : int(index) + 1]
    forms = [*map(_without_items, forms_of(find_task, works))]
    form = [forms, step.parallel, _without_items({"loop": loop_form(step)}) if index is None else None]
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _without_items(form: Any) -> Any:
    """Return the form of work without what its loop may change after items of it have finished."""
    if isinstance(form, tuple):
        return (_without_items(form[0]), *form[1:])
    if not isinstance(form, dict) or not isinstance(form.get("loop"), dict):
        return form
    loop = {key: value for key, value in form["loop"].items() if key not in ("items", "forgiving")}
    return {**form, "loop": loop}
