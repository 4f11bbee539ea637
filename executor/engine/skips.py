"""Steps that a resume leaves out, with the results that are given for them.

Problem: a result is given by hand. The actions `set` after the work that is left out read parts of it, and so
do cases and later steps. A run with a wrong result would fail at once, or after it has changed something.

Algorithm: the run is followed as long as it is certain what it does. The access paths on the way are read in
the result before anything is changed. A template that tests whether a value exists is not read. Of guards,
only plain names are evaluated.

Cost: linear in the templates of at most MAX_FOLLOWED_STEPS steps.

Limits: nothing is certain behind a guard that reads other names, a join, a loop, a task, or parallel work. In
sequential mode, the same holds behind a fork.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import Visit
from noetl.executor.model.visit_transition import ALL_ITEMS, reopen
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.plan import Action, Case, Step, Work
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import (
    EvaluationError,
    is_true,
    parse_template,
    read_access,
)

_TESTS_VALUES = re.compile(r"\b(default|d|is|if|or|and|not|get)\b")
"""Words of expressions that may have a value although a part of the result is missing."""

MAX_FOLLOWED_STEPS = 50
"""The number of steps behind a skipped one of which the reads are checked."""


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


def find_item_marks(visits: Sequence[Visit]) -> dict[str, Mapping[str, Any]]:
    """Return the marks with which a resume does all items of failed loops again, by the ids of visits."""
    return {
        visit.id: {ALL_ITEMS: True}
        for visit in visits
        if visit.progress is not None and visit.progress.journal and reopen(visit, 0.0) is not None
    }


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


def check_skipped_result(
    step: Step, result: Any, step_of: Callable[[str], Step], *, is_sequential: bool = False
) -> None:
    """Check that the result that is given for a step has what is certainly saved and read of it.

    `step_of` returns the steps of the plan by their names. The `set` actions of the step save and read parts
    of the result, its cases read them, and so do later steps.

    Raises:
        RejectedError: `incomplete_result`.
    """
    item, later = split_run(step)
    check = _ResultCheck(step, step_of, is_sequential=is_sequential)
    if isinstance(item, Action) and is_set(item):
        names = catalogue()[item.type].saved_names(item.parameters)
        missing = [name for name in names if not isinstance(result, Mapping) or name not in result]
        if missing:
            shown = ", ".join(f"`{name}`" for name in missing)
            raise check.refuse(f"has no {shown}, which `set` saves", item.line)
    if item is not None and item.save_as is not None:
        check.known[item.save_as] = result
    for action in later:
        check.perform(action, "`set`")
    if not later:
        check.known["steps"] = {step.name: {"result": result}}
    outcome = {} if later else {"result": Outcome(data=result).as_result()}
    check.follow(step, outcome)


class _ResultCheck:
    """The reads of a given result that are certain. `known` has the names of which the value is known.

    What follows is certain up to a guard that reads other names, a join, and in sequential mode a fork.
    """

    def __init__(self, step: Step, step_of: Callable[[str], Step], *, is_sequential: bool) -> None:
        self.step = step
        self.step_of = step_of
        self.is_sequential = is_sequential
        self.known: dict[str, Any] = {}
        self.seen = {step.name}

    def refuse(self, problem: str, line: int | None) -> RejectedError:
        where = f" (line {line})" if line else ""
        return RejectedError(
            "incomplete_result", f"the result that is given for step `{self.step.name}` {problem}{where}"
        )

    def perform(self, work: Work, reader: str) -> bool:
        """Check the reads of work, and forget what it saves. Return whether it is certain what follows."""
        if not isinstance(work, Action) or work.loop is not None:
            return False
        if work.condition is None:
            self.check_texts(_texts_of(work.parameters), reader, work.line)
        saved = [*catalogue()[work.type].saved_names(work.parameters), work.save_as]
        for name in saved:
            self.known.pop(name or "", None)
        return True

    def check_texts(self, texts: Iterable[str], reader: str, line: int | None) -> None:
        """Check that the known names have the parts that texts read."""
        for text in texts:
            for path in () if _TESTS_VALUES.search(text) else parse_template(text).reads:
                if self.is_known(path):
                    try:
                        read_access(path, self.known.__getitem__)
                    except EvaluationError:
                        problem = f"has no `{'.'.join(path)}`, which {reader} reads"
                        raise self.refuse(problem, line) from None

    def is_known(self, path: AccessPath) -> bool:
        is_of_step = path[:3] == ("steps", self.step.name, "result")
        return path[0] in self.known and (path[0] != "steps" or is_of_step)

    def follow(self, step: Step, outcome: Mapping[str, Any]) -> None:
        """Check the cases of a step, and the steps that certainly follow it."""
        names = dict(self.known)
        self.known |= outcome
        case = self.find_case(step)
        self.known = names
        if case is None or len(self.seen) > MAX_FOLLOWED_STEPS:
            return
        for work in case.work:
            if not self.perform(work, f"a case of step `{step.name}`"):
                return
        if self.is_sequential and len(case.targets) > 1:
            return
        known = dict(self.known)
        for target in case.targets:
            self.known = dict(known)
            following = self.step_of(target)
            if target not in self.seen and following.join is None and self.known:
                self.seen.add(target)
                self.enter(following)

    def enter(self, step: Step) -> None:
        """Check the work of a step that certainly begins, and what follows it."""
        if step.loop is not None or step.parallel or step.repeat is not None:
            return
        if all(self.perform(work, f"step `{step.name}`") for work in step.run):
            self.follow(step, {})

    def find_case(self, step: Step) -> Case | None:
        """Return the case that is certainly taken if the work succeeds, or None. Check what guards read."""
        for case in step.cases:
            if case.guard is None:
                return case
            self.check_texts([case.guard], f"a case of step `{step.name}`", step.line)
            template = parse_template(case.guard)
            path = next(iter(template.reads), ())
            if not (template.is_access and path and self.is_known(path)):
                return None
            if is_true(read_access(path, self.known.__getitem__)):
                return case
        return None


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
