"""The work of a plan, and the texts with templates in it, each with its path in the document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from noetl.planner.plan import Action, Cache, Loop, Plan, Retry, Step, TaskCall, Work
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.templates.parser import has_template


class PlacedWork(NamedTuple):
    """An action or a call of a task, its path, and the step that contains it, if any."""

    path: DocumentPath
    work: Work
    step: Step | None = None


class PlacedText(NamedTuple):
    """A text that has a template, its path, and the step whose rule or repetition evaluates it, if any."""

    path: DocumentPath
    text: str
    rule_of: Step | None = None


def find_all_work(plan: Plan) -> Iterator[PlacedWork]:
    """Yield all work of steps, cases and tasks."""
    for number, step in enumerate(plan.steps.values()):
        for index, work in enumerate(step.run):
            yield PlacedWork(("steps", number, "run", index), work, step)
        for position, case in enumerate(step.cases):
            for index, work in enumerate(case.work):
                yield PlacedWork(("steps", number, "rule", position, "run", index), work, step)
    for name, task in plan.tasks.items():
        for index, work in enumerate(task.run):
            yield PlacedWork(("tasks", name, "run", index), work)


def find_all_texts(plan: Plan) -> Iterator[PlacedText]:
    """Yield all texts with templates that runs evaluate after their start."""
    for path, value in _find_values(plan):
        yield from (PlacedText(*found) for found in find_texts_in(value, path))
    for number, step in enumerate(plan.steps.values()):
        for position, case in enumerate(step.cases):
            path = ("steps", number, "rule", position, "case")
            yield from (PlacedText(*found, step) for found in find_texts_in(case.guard, path))
        until = None if step.repeat is None else step.repeat.until
        for found in find_texts_in(until, ("steps", number, "repeat", "until")):
            yield PlacedText(*found, step)


def find_texts_in(value: Any, path: DocumentPath) -> Iterator[tuple[DocumentPath, str]]:
    """Yield each text in a value that has a template, with its path."""
    if isinstance(value, str):
        if has_template(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from find_texts_in(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from find_texts_in(item, (*path, index))


def _find_values(plan: Plan) -> Iterator[tuple[DocumentPath, Any]]:
    for number, step in enumerate(plan.steps.values()):
        yield from _values_around(step.loop, step.retry, step.cache, ("steps", number))
        for section, limits in (("concurrency", step.concurrency), ("rate", step.rate)):
            for index, limit in enumerate(limits):
                yield ("steps", number, section, index, "key"), limit.key
                yield ("steps", number, section, index, "fair"), limit.fair
        yield ("steps", number, "priority"), step.priority
    for placed in find_all_work(plan):
        work, path = placed.work, placed.path
        yield (*path, "if"), work.condition
        if isinstance(work, TaskCall):
            yield from _values_around(work.loop, None, None, path)
            yield (*path, "with"), work.args
        elif isinstance(work, Action):
            yield from _values_around(work.loop, work.retry, work.cache, path)
            yield from (((*path, name), value) for name, value in work.parameters.items())
    yield ("output",), plan.header.output


def _values_around(
    loop: Loop | None, retry: Retry | None, cache: Cache | None, path: DocumentPath
) -> Iterable[tuple[DocumentPath, Any]]:
    if loop is not None:
        yield (*path, "loop", "items"), loop.items
    if retry is not None:
        yield (*path, "retry", "if"), retry.condition
    if cache is not None:
        yield (*path, "cache", "key"), cache.key
