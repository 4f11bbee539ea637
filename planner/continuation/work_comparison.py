"""Comparison of work that has begun with the work in the new version.

Problem: a suspended visit continues at a position of its work, and a failed attempt has used idempotency keys
that are hashes of positions. In the new version, another action may be there.

Algorithm: structural comparison of the work up to the position, with the tasks that it calls.

Cost: linear in this work.

Limits: an entry of `run` counts as one unit: the work behind a wait inside a task must be equal as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from noetl.planner.continuation.switch_state import Begun, BranchPosition
from noetl.planner.continuation.verdict import Reason
from noetl.planner.plan import Action, Plan, Step, TaskCall, Work

_FREE_KEYS = frozenset({"line", "retry", "timeout_seconds", "cache", "batch", "concurrency"})
"""What may change in work that has begun: how often it is tried, for how long, and how many items at once."""


def compare_begun_work(
    old: Plan, new: Plan, before: Step, step: Step, branch: BranchPosition
) -> list[Reason]:
    """Return the reasons against a continuation of a visit, whose step is `before` in the old plan."""
    begun = branch.begun
    if begun is None:
        return []
    suspended = [*_compare_suspended(old, new, before, step, begun)] if begun.is_suspended else []
    return suspended or [*_compare_completed(old, new, before, step, begun), *_compare_rounds(step, begun)]


def find_repeated_actions(old: Plan, before: Step, step: Step, branch: BranchPosition) -> Iterator[Reason]:
    """Yield a notice for each action that a failed attempt has completed, and that is done again."""
    begun = branch.begun
    for index in _completed_items(begun) if begun is not None and not begun.is_suspended else ():
        if index < len(step.run):
            work = step.run[index]
            kind = work.type if isinstance(work, Action) else work.task
            message = f"`{kind}` was completed by a failed attempt and is done again, with the same key"
            yield Reason("NC151", message, step.name, work.line or step.line)


def _compare_rounds(step: Step, begun: Begun) -> Iterator[Reason]:
    if begun.rounds and step.repeat is not None and begun.rounds >= step.repeat.max_rounds:
        message = f"`repeat` of step `{step.name}` has had {begun.rounds} rounds, and `max` is "
        yield Reason("NC110", f"{message}{step.repeat.max_rounds}", step.name, step.line)


def _compare_suspended(old: Plan, new: Plan, before: Step, step: Step, begun: Begun) -> Iterator[Reason]:
    if begun.case is not None:
        yield from _compare_case(old, new, before, step, begun.case)
        return
    end = None if begun.item is None else begun.item + 1
    if before.parallel != step.parallel:
        yield _changed(step, "`parallel`")
    elif _loop_form(before) != _loop_form(step) or _reads_changed_values(old, new, before):
        message = f"the loop of step `{step.name}` is in the middle, and its items or its work have changed"
        yield Reason("NC110", message, step.name, step.line)
    elif _forms(old, before.run[:end]) != _forms(new, step.run[:end]):
        yield _changed(step, "the work up to the place where it is suspended")


def _compare_case(old: Plan, new: Plan, before: Step, step: Step, case: int) -> Iterator[Reason]:
    work = before.cases[case].work if case < len(before.cases) else ()
    if case >= len(step.cases) or _forms(old, work) != _forms(new, step.cases[case].work):
        yield _changed(step, f"case {case + 1}, whose work is suspended,")


def _compare_completed(old: Plan, new: Plan, before: Step, step: Step, begun: Begun) -> Iterator[Reason]:
    for index in _completed_items(begun):
        if index < len(before.run) and index < len(step.run):
            if _forms(old, before.run[index : index + 1]) != _forms(new, step.run[index : index + 1]):
                message = (
                    f"entry {index + 1} of `run` was completed by a failed attempt of step `{step.name}`: "
                    "other work there would get its idempotency key"
                )
                yield Reason("NC109", message, step.name, step.run[index].line or step.line)


def _completed_items(begun: Begun) -> list[int]:
    """Return the indexes of the entries of `run` in which actions of this round were completed.

    >>> _completed_items(Begun(completed=("run.0", "run.2/t.1", "rule.0")))
    [0, 2]
    >>> _completed_items(Begun(rounds=2, completed=("run.0", "run~1.0", "run~2.1")))
    [1]
    """
    heads = [position.split("/")[0].split(".") for position in begun.completed]
    if begun.rounds:
        heads = [head for head in heads if head[0] == f"run~{begun.rounds}"]
    return sorted(
        {int(head[1]) for head in heads if head[0].startswith("run") and len(head) > 1 and head[1].isdigit()}
    )


def _changed(step: Step, subject: str) -> Reason:
    message = f"step `{step.name}` is suspended, and {subject} has changed"
    return Reason("NC109", message, step.name, step.line)


def _loop_form(step: Step) -> Any:
    return step.loop and _strip(step.loop.to_json())


def _reads_changed_values(old: Plan, new: Plan, before: Step) -> bool:
    """Return whether items of a loop may read the environment, which is filled in anew."""
    if old.header.environment == new.header.environment:
        return False
    loops = [before.loop, *(work.loop for work in before.run)]
    return any("environment" in str(loop.items) for loop in loops if loop is not None)


def _forms(plan: Plan, run: Iterable[Work]) -> list[Any]:
    """Return comparable forms of work, with those of the tasks that it calls."""
    return [_form(plan, work) for work in run]


def _form(plan: Plan, work: Work) -> Any:
    form = _strip(work.to_json())
    if isinstance(work, TaskCall) and work.task in plan.tasks:
        task = plan.tasks[work.task]
        return form, task.parallel, _forms(plan, task.run)
    return form


def _strip(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strip(item) for key, item in value.items() if key not in _FREE_KEYS}
    return [*map(_strip, value)] if isinstance(value, list | tuple) else value
