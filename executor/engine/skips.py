"""Steps that a resume leaves out, with the results that are given for them.

Problem: a result is given by hand. The actions `set` after the work that is left out read parts of it, and a
run with a wrong result would fail at once.

Algorithm: the access paths in these actions are read in the result before anything is changed. A template
that tests whether a value exists is not read.

Cost: linear in the templates of these actions.

Limits: what cases and later steps read of the result is not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Visit
from noetl.executor.model.visit_transition import reopen
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.plan import Action, Step, Work
from noetl.planner.templates.template import EvaluationError, parse_template, read_access

_TESTS_VALUES = re.compile(r"\b(default|d|is|if|or|and|not|get)\b")
"""Words of expressions that may have a value although a part of the result is missing."""


def find_skips(
    run_id: str,
    visits: Sequence[Visit],
    names: Sequence[str],
    results: Mapping[str, Any],
    requester: str | None,
) -> dict[str, Mapping[str, Any]]:
    """Return the visits that a resume leaves out, each with its result and who requests it.

    `visits` are those of the run, `names` the steps of its plan, and `results` those of steps.

    Raises:
        RejectedError: `unknown_step`; `not_skippable`, if no visit of a step has failed or is parked.
    """
    skips: dict[str, Mapping[str, Any]] = {}
    for step, result in results.items():
        if step not in names:
            # The package of the step function has no diagnostics, and workers do not come here.
            from noetl.planner.diagnostics.diagnostic import did_you_mean

            hint = did_you_mean(step, names) or "`noetl runs show` lists the steps of the run"
            raise RejectedError("unknown_step", f"unknown step `{step}`; {hint}")
        stopped = [visit for visit in visits if visit.step == step and reopen(visit, 0.0) is not None]
        if not stopped:
            message = f"step `{step}` of run {run_id} has neither failed nor stopped before its end"
            raise RejectedError("not_skippable", f"{message}; only such steps can be skipped")
        entry = {"result": redact_for_storage(result), "by": requester}
        skips |= dict.fromkeys((visit.id for visit in stopped), entry)
    return skips


def split_run(step: Step) -> tuple[Work | None, tuple[Work, ...]]:
    """Return the item of `run` whose result is given for a step, and the `set` actions after it.

    It is the last one that is no `set`, or else the last one. It is None if the result is that of all items.
    """
    if step.loop is not None or step.parallel or not step.run:
        return None, ()
    numbers = [index for index, item in enumerate(step.run) if not is_set(item)]
    last = numbers[-1] if numbers else len(step.run) - 1
    return step.run[last], step.run[last + 1 :]


def is_set(item: Work) -> bool:
    """Return whether an item of work is a `set`, which has no outside effect."""
    return isinstance(item, Action) and item.loop is None and catalogue()[item.type].saves_given_values


def check_skipped_result(step: Step, result: Any) -> None:
    """Check that the result that is given for a step has what its `set` actions save and read.

    Raises:
        RejectedError: `incomplete_result`.
    """
    item, later = split_run(step)
    if item is None:
        return
    if isinstance(item, Action) and is_set(item):
        names = catalogue()[item.type].saved_names(item.parameters)
        missing = [name for name in names if not isinstance(result, Mapping) or name not in result]
        if missing:
            shown = ", ".join(f"`{name}`" for name in missing)
            raise _incomplete(step, f"has no {shown}, which `set` saves", item)
    known = {} if item.save_as is None else {item.save_as: result}
    for action in later:
        if isinstance(action, Action) and action.condition is None:
            _check_reads(step, action, known)


def _check_reads(step: Step, action: Action, known: dict[str, Any]) -> None:
    """Check that the known names have the parts that an action reads. Names that it saves are not known."""
    for text in _texts_of(action.parameters):
        template = parse_template(text)
        for path in () if _TESTS_VALUES.search(text) else template.reads:
            if path[0] in known:
                try:
                    read_access(path, known.__getitem__)
                except EvaluationError:
                    raise _incomplete(step, f"has no `{'.'.join(path)}`, which `set` reads", action) from None
    for name in catalogue()[action.type].saved_names(action.parameters):
        known.pop(name, None)


def _texts_of(value: Any) -> Iterator[str]:
    """Yield the texts in a parameter."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_of(item)


def _incomplete(step: Step, problem: str, action: Action) -> RejectedError:
    line = f" (line {action.line})" if action.line else ""
    return RejectedError(
        "incomplete_result", f"the result that is given for step `{step.name}` {problem}{line}"
    )
