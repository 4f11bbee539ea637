"""Comparison of work that has begun with the work in the new version.

Problem: a suspended visit continues at a position of its work, and a failed attempt has used idempotency keys
that are hashes of positions. In the new version, another action may be there.

Algorithm: structural comparison of the work up to the position, with the tasks that it calls.

Cost: linear in this work.

Limits: all work of the items of a loop must be equal, also behind a wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from noetl.planner.continuation.switch_state import Begun, BranchPosition
from noetl.planner.continuation.verdict import Reason
from noetl.planner.continuation.work_form import form_of, forms_of, hash_item_work, loop_form, strip_free
from noetl.planner.plan import Action, Plan, Step, TaskCall, Work

_ENTRY = re.compile(r"(?:run(?:~(?P<round>\d+))?|rule\.(?P<case>\d+))(?:\[\d+\])?\.(?P<index>\d+)(?![^/\[])")
"""The position of an action, up to the entry of the work of a step or of a case."""


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
    if begun is None or begun.is_suspended:
        return
    for case, index in _completed_items(begun):
        work = _entry(step, case, index)
        if work is not None:
            kind = work.type if isinstance(work, Action) else work.task
            message = f"`{kind}` {_completion(begun)}, and is done again, with the same key"
            yield Reason("NC151", message, step.name, work.line or step.line)


def compare_items(step: Step, branch: BranchPosition, inputs: AbstractSet[str]) -> list[Reason]:
    """Return the reason against other values of `inputs`, if items of a loop in the middle may read them."""
    begun = branch.begun
    if begun is None or not begun.is_suspended or not inputs:
        return []
    loops = [step.loop, *(work.loop for work in step.run)]
    if not any("input" in str(loop.items) for loop in loops if loop is not None):
        return []
    message = f"the loop of step `{step.name}` is in the middle, and its items may read the given inputs"
    return [Reason("NC110", message, step.name, step.line)]


def find_repeated_items(new: Plan, step: Step, branch: BranchPosition) -> Iterator[Reason]:
    """Yield a notice for each failed loop of a visit whose finished items are done again in the new plan."""
    for loop in () if branch.begun is None else branch.begun.loops:
        if loop.done and hash_item_work(new.tasks.get, step, loop.position) != loop.work:
            message = (
                f"{loop.done:,} of {loop.total:,} items of the loop of step `{step.name}` had succeeded, "
                "and are done again, with the same keys: their work has changed"
            )
            yield Reason("NC154", message, step.name, step.line)


def _compare_rounds(step: Step, begun: Begun) -> Iterator[Reason]:
    if begun.rounds and step.repeat is not None and begun.rounds >= step.repeat.max_rounds:
        message = f"`repeat` of step `{step.name}` has had {begun.rounds} rounds, and `max` is "
        yield Reason("NC110", f"{message}{step.repeat.max_rounds}", step.name, step.line)


def _compare_suspended(old: Plan, new: Plan, before: Step, step: Step, begun: Begun) -> Iterator[Reason]:
    places = () if begun.item is None else (begun.item, *begun.inside)
    if begun.case is not None:
        case = begun.case
        is_same = case < min(len(before.cases), len(step.cases)) and _continues(
            (old, before.cases[case].work), (new, step.cases[case].work), places
        )
        if not is_same:
            yield _changed(step, f"case {case + 1}, whose work is suspended,")
    elif before.parallel != step.parallel:
        yield _changed(step, "`parallel`")
    elif loop_form(before) != loop_form(step) or _reads_changed_values(old, new, before):
        message = f"the loop of step `{step.name}` is in the middle, and its items or its work have changed"
        yield Reason("NC110", message, step.name, step.line)
    elif step.loop is not None and _forms(old, before.run) != _forms(new, step.run):
        yield _changed(step, "the work of the items of its loop")
    elif not _continues((old, before.run), (new, step.run), places):
        yield _changed(step, "the work up to the place where it is suspended")


def _continues(
    before: tuple[Plan, Sequence[Work]], after: tuple[Plan, Sequence[Work]], places: tuple[int, ...]
) -> bool:
    """Return whether suspended work can continue in other work.

    `places` are the indexes of the suspended items, as in `Begun`. All of parallel work has begun.
    """
    (old, run), (new, other) = before, after
    end = places[0] if places else len(run)
    if len(other) < min(end + 1, len(run)) or _forms(old, run[:end]) != _forms(new, other[:end]):
        return False
    if end >= len(run):
        return True
    first, second = run[end], other[end]
    if len(places) == 1 or not isinstance(first, TaskCall) or not isinstance(second, TaskCall):
        return bool(_form(old, first) == _form(new, second))
    task, new_task = old.tasks[first.task], new.tasks[second.task]
    is_same_call = strip_free(first.to_json()) == strip_free(second.to_json())
    return (
        is_same_call
        and task.parallel == new_task.parallel
        and _continues((old, task.run), (new, new_task.run), places[1:])
    )


def _compare_completed(old: Plan, new: Plan, before: Step, step: Step, begun: Begun) -> Iterator[Reason]:
    for case, index in _completed_items(begun):
        earlier, later = _entry(before, case, index), _entry(step, case, index)
        if earlier is not None and later is not None and _form(old, earlier) != _form(new, later):
            place = "`run`" if case is None else f"case {case + 1}"
            message = (
                f"entry {index + 1} of {place} of step `{step.name}` {_completion(begun)}: "
                "other work there would get its idempotency key"
            )
            yield Reason("NC109", message, step.name, later.line or step.line)


def _completion(begun: Begun) -> str:
    """Return what is known of an action that an attempt has completed, as the verb of a sentence."""
    if begun.is_certain:
        return "was completed by a failed attempt"
    return "may have been completed by an attempt that has not reported its end"


def _entry(step: Step, case: int | None, index: int) -> Work | None:
    """Return an entry of the work of a step or of one of its cases, or None if there is none."""
    cases = [case.work for case in step.cases]
    works = step.run if case is None else cases[case] if case < len(cases) else ()
    return works[index] if index < len(works) else None


def _completed_items(begun: Begun) -> list[tuple[int | None, int]]:
    """Return the entries in which actions were completed that a failed attempt does again.

    Each is the index of a case, or None for `run`, and that of the entry. What a visit did before its case is
    suspended, or in an earlier round, is not done again.

    >>> _completed_items(Begun(completed=("run.0", "run.2/t.1", "run.2[1]", "run[3]", "rule.0.1")))
    [(None, 0), (None, 2), (0, 1)]
    >>> _completed_items(Begun(rounds=2, completed=("run.0", "run~1.0", "run~2.1")))
    [(None, 1)]
    >>> _completed_items(Begun(True, case=0, completed=("run.0", "rule.0.1")))
    [(0, 1)]
    """
    found: dict[tuple[int | None, int], None] = {}
    for position in begun.completed:
        match = _ENTRY.match(position)
        if match is None:
            continue
        is_earlier = begun.rounds and int(match["round"] or 0) != begun.rounds
        if match["case"] is not None:
            found[int(match["case"]), int(match["index"])] = None
        elif not is_earlier and begun.case is None:
            found[None, int(match["index"])] = None
    return sorted(found, key=lambda entry: (-1 if entry[0] is None else entry[0], entry[1]))


def _changed(step: Step, subject: str) -> Reason:
    message = f"step `{step.name}` is suspended, and {subject} has changed"
    return Reason("NC109", message, step.name, step.line)


def _reads_changed_values(old: Plan, new: Plan, before: Step) -> bool:
    """Return whether items of a loop may read the environment, which is filled in anew."""
    if old.header.environment == new.header.environment:
        return False
    loops = [before.loop, *(work.loop for work in before.run)]
    return any("environment" in str(loop.items) for loop in loops if loop is not None)


def _forms(plan: Plan, run: Iterable[Work]) -> list[Any]:
    return forms_of(plan.tasks.get, run)


def _form(plan: Plan, work: Work) -> Any:
    return form_of(plan.tasks.get, work)
