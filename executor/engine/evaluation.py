"""The place where expressions of starts, firings and corrections are evaluated: here, or another process.

Problem: these expressions come from authors of playbooks and take up to a second. A service evaluates them
while it answers requests, on threads that share one interpreter with all requests.

Algorithm: an evaluation is data with a method, so another process can perform it. A service sets the
evaluator of its threads for the time of a request or of a loop. Without one, as in a worker or a function,
the thread evaluates itself. Light evaluations only insert the values of names. They always stay on the
thread, because they take less time than the way to another process.

Cost: one look at a context variable.

Limits: those of the evaluator. What a step evaluates is not concerned, as steps have threads of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

MAX_LIGHT_LENGTH = 4096
"""The characters of all texts with templates that are evaluated where the request is."""

_LOOKUP = re.compile(r"\{\{ ?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)* ?\}\}")
"""A template that inserts the value of a name: no call, no operator, no filter."""


class Evaluation(Protocol):
    """An evaluation of expressions. It can be pickled, and so can its result and its exceptions."""

    @property
    def is_light(self) -> bool: ...

    def evaluate(self) -> Any:
        """Return the result, evaluated by this thread."""
        ...


Evaluator: TypeAlias = Callable[[Evaluation, str], Any]
"""A function that returns the result of an evaluation for a tenant, or raises its exception."""

_evaluator: ContextVar[Evaluator | None] = ContextVar("evaluator", default=None)


@contextmanager
def evaluated_by(evaluator: Evaluator | None) -> Iterator[None]:
    """Let an evaluator perform what this thread evaluates during the block. None is the thread itself."""
    token = _evaluator.set(evaluator)
    try:
        yield
    finally:
        _evaluator.reset(token)


def evaluate(evaluation: Evaluation, tenant: str) -> Any:
    """Return the result of an evaluation for a tenant, by the evaluator of this thread if it is not light.

    Raises:
        RejectedError: `service_busy`, if the evaluator has too much work.
        Exception: as the evaluation, and as the evaluator.
    """
    evaluator = _evaluator.get()
    if evaluator is None or evaluation.is_light:
        return evaluation.evaluate()
    return evaluator(evaluation, tenant)


def has_light_texts(value: Any) -> bool:
    """Return whether the texts in a value only insert the values of names, and are short together.

    >>> has_light_texts({"a": ["{{ x.y }}", 1]}), has_light_texts("{{ x | upper }}")
    (True, False)
    """
    templates = [text for text in _texts(value) if "{" in text]
    if sum(map(len, templates)) > MAX_LIGHT_LENGTH:
        return False
    return not any("{{" in text or "{%" in text for text in (_LOOKUP.sub("", text) for text in templates))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
