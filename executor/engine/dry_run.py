"""A dry run: the steps that a run would visit and the actions it would perform, without performing any.

Problem: show what a playbook would do outside before it does it, although what it does depends on answers
that only the outside can give.

Algorithm: abstract interpretation over the values *known* and *unknown* (constant propagation: Kildall 1973).
The values that `set` assigns are known, the results of all other actions are not. A case is taken if its
guard is known to be true, and possible if the value of its guard is unknown. Each step is walked once, after
all steps that lead to it, except on the way back of a cycle. Where paths meet, a name is known if all of them
agree. A name that a cycle saves is unknown in it and after it, since only its first round is walked.

Cost: one evaluation of each template, and of each for MAX_ITEMS items of a loop.

Limits: the walk ends after MAX_ACTIONS actions, or when their parameters hold MAX_CHARACTERS. Of `repeat`
only the first round is walked, and no retry. An action outside is assumed to succeed, and a case that handles
a failure is possible. The steps of called playbooks are not walked. In `mode: sequential`, all names that
steps save are unknown to other steps.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from noetl.executor.engine.known_values import UnknownValue, evaluate, evaluate_guard, is_known
from noetl.executor.model import json_values
from noetl.executor.model.json_values import MAX_ARGUMENT, MAX_URL, write_json
from noetl.executor.model.run import Run
from noetl.executor.model.sql import MAX_STATEMENT
from noetl.planner.catalogue import ActionDeclaration, Catalogue, Kind, Sink
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Action, Cache, Case, Loop, Plan, Step, TaskCall, Work, action_from_json
from noetl.planner.templates.evaluator import to_text
from noetl.planner.templates.template import EvaluationError

MAX_ACTIONS = 2000
"""How many actions a dry run shows."""

MAX_CHARACTERS = 64 * 1024 * 1024
"""How many characters of JSON the shown parameters have together."""

MAX_ITEMS = 3
"""How many items of a loop are walked."""

_RUN_NAMES = ("run", "now", "uuid", "step", "loop", "secrets")
"""The names of the language whose values only a run knows."""


def _write_argument(value: Any) -> str:
    return shlex.quote(json_values.to_text(value, MAX_ARGUMENT))


def _write_part_of_url(value: Any) -> str:
    text = json_values.to_text(value, MAX_URL)
    return text if isinstance(value, str) and "//" in text else quote(text)


_WRITERS: Mapping[Sink, Callable[[Any], str]] = {
    Sink.SQL: lambda value: write_json(value, MAX_STATEMENT),
    Sink.SHELL: _write_argument,
    Sink.URL: _write_part_of_url,
}
"""How a value within a text of each language is shown. No value is longer than it may be in a run."""


@frozen
class PlannedAction:
    """An action that a run would perform.

    `condition` is its `if` where the value is unknown, `item` the item of the loop around it as a value.
    `acts_outside` is false for an action that only assigns names or fails. If a cached result of at most
    `cache_seconds` takes its place, it is not performed; None without a cache.
    """

    type: str
    position: str
    line: int
    parameters: Mapping[str, Any]
    condition: str | None = None
    item: Any = None
    acts_outside: bool = True
    cache_seconds: float | None = None


@frozen
class PlannedCase:
    """A case that a step may take: its number from 1, its guard or None, and its targets."""

    number: int
    guard: str | None
    is_certain: bool
    targets: Sequence[str]


@frozen
class PlannedStep:
    """A step that a run would visit, or may visit if it is not certain.

    `problem` is why it would fail, if that is known. `more_items` has, for the position of each loop with
    more than MAX_ITEMS items, the number of the others.
    """

    name: str
    line: int
    is_certain: bool
    actions: Sequence[PlannedAction]
    cases: Sequence[PlannedCase]
    problem: str | None
    more_items: Mapping[str, int]


@frozen
class DryRun:
    """The steps of a dry run in the order of the walk. `is_cut` says that a limit was reached."""

    steps: Sequence[PlannedStep]
    is_cut: bool


class _StepFailure(Exception):
    """The failure of a step that is known before it runs."""


class _LimitReached(Exception):
    """The end of a walk with too many actions, or with too long parameters."""


def walk_plan(plan: Plan, run: Run, catalogue: Catalogue) -> DryRun:
    """Return what a run of a plan would do. `run` has its checked inputs, and is not stored."""
    walk = _Walk(plan, run, catalogue)
    try:
        steps = tuple(walk.steps())
    except _LimitReached:
        return DryRun(tuple(walk.walked), is_cut=True)
    return DryRun(steps, is_cut=False)


@dataclass(slots=True)
class _StepEntry:
    """The entry of paths into a step: the names on each of them, and whether one is certain."""

    paths: list[Mapping[str, Any]] = field(default_factory=list)
    is_certain: bool = False

    def add(self, names: Mapping[str, Any], *, is_certain: bool) -> None:
        self.paths.append(names)
        self.is_certain = self.is_certain or is_certain

    def merge(self) -> dict[str, Any]:
        """Return the names on all paths. A name is unknown if a path has another value of it, or none."""
        merged: dict[str, Any] = {}
        for name in dict.fromkeys(name for names in self.paths for name in names):
            first = next(names[name] for names in self.paths if name in names)
            agrees = all(name in names and _equals(names[name], first) for names in self.paths)
            merged[name] = first if agrees else _unknown(name)
        return merged


def _equals(value: Any, other: Any) -> bool:
    return value is other or (is_known(value) and is_known(other) and value == other)


@dataclass
class _Walk:
    """The walk over the steps of a plan."""

    plan: Plan
    run: Run
    catalogue: Catalogue
    walked: list[PlannedStep] = field(default_factory=list)
    actions: int = 0
    characters: int = 0

    def steps(self) -> Iterator[PlannedStep]:
        """Walk and yield the steps, the finally step last."""
        header = self.plan.header
        entries = {name: _StepEntry() for name in self.plan.steps}
        entries[header.start].add({}, is_certain=True)
        last = _StepEntry()
        remaining = dict.fromkeys(name for name in _in_order(self.plan) if name != header.finally_step)
        while name := next((name for name in remaining if entries[name].paths), None):
            del remaining[name]
            step, names = self._walk_step(self.plan.steps[name], entries[name])
            yield step
            last.add(names, is_certain=True)
            after_failure = {**names, **self._unknown_names([self.plan.steps[name]])}
            for case in step.cases:
                handles_failure = self.plan.steps[name].cases[case.number - 1].error_aware
                is_certain = step.is_certain and case.is_certain
                for target in case.targets:
                    entries[target].add(after_failure if handles_failure else names, is_certain=is_certain)
        if header.finally_step is not None:
            yield self._walk_step(self.plan.steps[header.finally_step], last)[0]

    def _walk_step(self, step: Step, entry: _StepEntry) -> tuple[PlannedStep, dict[str, Any]]:
        """Walk a step. Return it, and the names after it."""
        names = entry.merge()
        if self.plan.header.sequential:
            # A branch also sees what the branches before it have saved.
            names |= self._unknown_names(self.plan.steps.values())
        elif step.cyclic:
            names |= self._unknown_names(other for other in self.plan.steps.values() if other.cyclic)
        work, problem, cases = _StepWalk(self, self._builtins() | names), None, list[PlannedCase]()
        work.cache = step.cache
        try:
            work.perform(step.run, "run", step.loop)
        except _StepFailure as failure:
            problem = str(failure)
            work.forget_saved()
        finally:
            # With this, a walk that ends here shows the step, too.
            certain, actions, more = entry.is_certain, work.actions, work.more_items
            self.walked.append(PlannedStep(step.name, step.line, certain, actions, cases, problem, more))
        work.cache = None
        if step.cyclic:
            # A later round may save other values, take another case, and exceed `max_visits`.
            work.may_fail = True
            work.forget_saved()
        cases += self._cases(step, work, problem)
        planned = replace(self.walked[-1], problem=problem)
        self.walked[-1] = planned
        return planned, {**names, **work.saved}

    def _unknown_names(self, steps: Iterable[Step]) -> dict[str, Any]:
        """Return the names that steps save, as unknown."""
        return {name: _unknown(name) for step in steps for name in step.saves}

    def count_action(self) -> None:
        """Count an action.

        Raises:
            _LimitReached: there are more than MAX_ACTIONS.
        """
        self.actions += 1
        if self.actions > MAX_ACTIONS:
            raise _LimitReached

    def count_characters(self, parameters: Mapping[str, Any]) -> None:
        """Count the evaluated parameters of an action.

        Raises:
            _LimitReached: those of all actions have more than MAX_CHARACTERS.
        """
        self.characters += _count_characters(parameters)
        if self.characters > MAX_CHARACTERS:
            raise _LimitReached

    def _builtins(self) -> dict[str, Any]:
        run = self.run
        given = {**run.environment, **run.input, **run.variables}
        unknown = {name: _unknown(name) for name in (*_RUN_NAMES, "steps")}
        return {**given, "input": run.input, "environment": run.environment, **unknown}

    def _cases(self, step: Step, work: _StepWalk, problem: str | None) -> Iterator[PlannedCase]:
        """Yield the cases that a step may take after its work.

        After one that it must take, these are those that may handle a failure.
        """
        names = work.names | work.outcome(problem)
        must_fail, is_decided, is_first = problem is not None, False, True
        for number, case in enumerate(step.cases, 1):
            if (must_fail or is_decided) and not case.error_aware:
                continue
            verdict = _test_case(case, names)
            if verdict is False:
                continue
            self._walk_in_place(work, case, number)
            yield PlannedCase(number, case.guard, verdict is True and is_first, case.targets)
            is_first = False
            is_decided = is_decided or verdict is True
            if is_decided and not work.may_fail:
                return

    def _walk_in_place(self, work: _StepWalk, case: Case, number: int) -> None:
        with work.scope(), suppress(_StepFailure):
            if case.error_aware:
                work.forget_saved()
            work.perform(case.work, f"rule.{number - 1}", None)


def _test_case(case: Case, names: Mapping[str, Any]) -> bool | None:
    """Return whether a case would be taken, or None if that is unknown."""
    if case.guard is None:
        return True
    try:
        return evaluate_guard(case.guard, names)
    except EvaluationError:
        # A guard that reads an attribute of `error` is false after a success.
        return False if case.error_aware and names["error"] is None else None


class _StepWalk:
    """The walk over the work of one step: its actions so far, and the names that have a value."""

    def __init__(self, walk: _Walk, names: Mapping[str, Any]) -> None:
        self._walk = walk
        self.names = dict(names)
        self.saved: dict[str, Any] = {}
        self.actions: list[PlannedAction] = []
        self.more_items: dict[str, int] = {}
        self._data: Any = None
        self.may_fail = False
        self.cache: Cache | None = None

    def outcome(self, problem: str | None) -> dict[str, Any]:
        """Return `result` and `error` as the rule reads them."""
        error = None
        if problem is not None or self.may_fail:
            error = _unknown("error")
        success = _unknown("result.success") if self.may_fail else problem is None
        return {"result": {"success": success, "data": self._data, "error": error}, "error": error}

    def perform(self, work: Sequence[Work], position: str, loop: Loop | None) -> None:
        """Walk work, once for each of the first items of a loop around it.

        Raises:
            _StepFailure: the step would fail here.
        """
        if loop is None:
            for index, item in enumerate(work):
                self._perform_item(item, f"{position}.{index}", None, {})
            return
        for item, local in self._items(loop, position):
            with self.scope():
                for index, part in enumerate(work):
                    self._perform_item(part, f"{position}.{index}", item, local)
        self._data = _unknown("result.data")

    def _items(self, loop: Loop, position: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Yield the first items of a loop with their names, or one unknown item."""
        items = self._evaluate("loop.items", loop.items, {})
        if isinstance(items, UnknownValue) or not isinstance(items, list):
            unknown = _unknown(loop.name)
            yield unknown, {loop.name: unknown}
            return
        if len(items) > MAX_ITEMS:
            self.more_items[position] = len(items) - MAX_ITEMS
        for item in items[:MAX_ITEMS]:
            yield item, {loop.name: item}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Drop the names that the block saves, such as those of an item of a loop."""
        names, saved = dict(self.names), dict(self.saved)
        try:
            yield
        finally:
            self.names, self.saved = names, saved

    def forget_saved(self) -> None:
        """Let the names that the step has saved be unknown."""
        for name in self.saved:
            self._save(name, _unknown(name))

    def _save(self, name: str, value: Any) -> None:
        self.saved[name] = self.names[name] = value

    def _evaluate(
        self, key: str, value: Any, local: Mapping[str, Any], write: Callable[[Any], str] = to_text
    ) -> Any:
        """Return an evaluated value.

        Raises:
            _StepFailure: it has no value.
        """
        try:
            return evaluate(value, {**self.names, **local}, write)
        except EvaluationError as problem:
            raise _StepFailure(f"`{key}`: {problem.message}") from problem

    def _perform_item(self, item: Work, position: str, value: Any, local: Mapping[str, Any]) -> None:
        if item.loop is not None:
            loop = item.loop
            for inner, names in self._items(loop, position):
                with self.scope():
                    self._perform_once(item, position, inner, {**local, **names})
            self._data = _unknown(item.save_as or "result.data")
            if item.save_as is not None:
                self._save(item.save_as, self._data)
            return
        is_skipped = self._perform_once(item, position, value, local)
        if item.save_as is not None and not is_skipped:
            self._save(item.save_as, self._data)

    def _perform_once(self, item: Work, position: str, value: Any, local: Mapping[str, Any]) -> bool:
        """Walk an item of work without its loop, and return whether it is skipped."""
        condition = None
        if item.condition is not None:
            verdict = self._evaluate("if", item.condition, local)
            if isinstance(verdict, UnknownValue):
                condition = verdict.text
            elif not verdict:
                self._data = None
                return True
        before = dict(self.saved)
        try:
            if isinstance(item, TaskCall):
                self._perform_task(item, position, value, local)
            else:
                self._perform_action(item, position, condition, value, local)
        except _StepFailure:
            if condition is None and not item.forgiven:
                raise
            self.may_fail = self.may_fail or not item.forgiven
        if condition is not None:
            self._data = _unknown(item.save_as or "result")
            for name in self.saved:
                if name not in before or self.saved[name] is not before[name]:
                    self._save(name, _unknown(name))
        return False

    def _perform_task(self, call: TaskCall, position: str, value: Any, local: Mapping[str, Any]) -> None:
        outer = self.names.get("args")
        self.names["args"] = self._evaluate("with", dict(call.args), local)
        try:
            for index, item in enumerate(self._walk.plan.tasks[call.task].run):
                self._perform_item(item, f"{position}/{call.task}.{index}", value, {})
        finally:
            self.names["args"] = outer

    def _perform_action(
        self, action: Action, position: str, condition: str | None, value: Any, local: Mapping[str, Any]
    ) -> None:
        self._walk.count_action()
        declaration = self._walk.catalogue[action.type]
        parameters = self._evaluate_parameters(declaration, action, local)
        self._walk.count_characters(parameters)
        acts_outside = not (declaration.cannot_fail or declaration.never_succeeds)
        caches = [cache.ttl_seconds for cache in (self.cache, action.cache) if cache is not None]
        planned = PlannedAction(action.type, position, action.line, parameters, condition, value)
        cache_seconds = max(caches, default=None)
        self.actions.append(replace(planned, acts_outside=acts_outside, cache_seconds=cache_seconds))
        for name, nested in _nested_actions(declaration, action):
            deferred = dict.fromkeys(declaration.parameters[name].deferred_names, UnknownValue("{{ … }}"))
            self._perform_action(nested, f"{position}~", condition, value, {**local, **deferred})
        if declaration.never_succeeds:
            raise _StepFailure(_text_of(parameters.get("message", action.type)))
        if declaration.saves_given_values:
            self._data = dict(parameters[declaration.saves or ""])
        else:
            self._data = _unknown(action.save_as or "result.data")
            self.may_fail = self.may_fail or not declaration.cannot_fail
        for name in declaration.saved_names(action.parameters):
            known = declaration.saves_given_values
            self._save(name, self._data[name] if known else _unknown(name))

    def _evaluate_parameters(
        self, declaration: ActionDeclaration, action: Action, local: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the parameters of an action, without those that are actions themselves."""
        evaluated = {}
        for name, value in action.parameters.items():
            parameter = declaration.parameters[name]
            if Kind.ACTION not in parameter.kinds:
                deferred = {word: _unknown(word) for word in parameter.deferred_names}
                write = _WRITERS.get(parameter.sink, to_text)
                evaluated[name] = self._evaluate(name, value, {**local, **deferred}, write)
        return evaluated


def _nested_actions(declaration: ActionDeclaration, action: Action) -> Iterator[tuple[str, Action]]:
    """Yield the parameters of an action that are actions, with their names."""
    for name, value in action.parameters.items():
        if Kind.ACTION in declaration.parameters[name].kinds and isinstance(value, Mapping):
            yield name, action_from_json(value)


def _unknown(name: str) -> UnknownValue:
    """Return the unknown value of a name."""
    return UnknownValue("{{ " + name + " }}")


def _count_characters(value: Any) -> int:
    """Return about how many characters of JSON a value has, of which parts may be unknown."""
    count, pending = 0, [value]
    while pending:
        match pending.pop():
            case UnknownValue(text) | str(text):
                count += len(text)
            case Mapping() as members:
                count += 4 * len(members) + sum(len(name) for name in members if isinstance(name, str))
                pending += members.values()
            case list() | tuple() as items:
                count += 2 * len(items)
                pending += items
            case _:
                pass
    return count


def _text_of(value: Any) -> str:
    return value.text if isinstance(value, UnknownValue) else str(value)


def _in_order(plan: Plan) -> list[str]:
    """Return the steps that can be reached, in reverse postorder of a depth-first search."""
    order: list[str] = []
    visited = {plan.header.start}
    stack = [(plan.header.start, iter(_targets(plan, plan.header.start)))]
    while stack:
        name, targets = stack[-1]
        target = next((target for target in targets if target not in visited), None)
        if target is None:
            order.append(name)
            stack.pop()
        else:
            visited.add(target)
            stack.append((target, iter(_targets(plan, target))))
    return order[::-1]


def _targets(plan: Plan, name: str) -> list[str]:
    return [target for case in reversed(plan.steps[name].cases) for target in reversed(case.targets)]
