"""The steps to which the possible answers to a question lead, as far as the plan says it.

Problem: a person should see what follows from "yes" and from "no", before a run has evaluated anything.

Algorithm: partial evaluation of the rule (Jones, Gomard and Sestoft, 1993). Each value of a field with few
values is tried. The guards are evaluated in order, with this field as the only known name. A guard that reads
another name ends the trial without a choice.

Cost: one evaluation of each guard for each value; at most MAX_EVALUATIONS. A guard is evaluated only if it
has nothing but names, constants, comparisons and Boolean operators. So its time is bounded by its length.

Limits: only a question that ends the work of its step has choices. After it, another action may fail, or save
the same name again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import nodes

from noetl.api.service.inbox_views import AnswerChoice
from noetl.executor.model.declared_values import DeclaredFields
from noetl.planner.frozen import frozen
from noetl.planner.plan import Action, Case, Step
from noetl.planner.templates.template import EvaluationError, Template, is_true, parse_template

MAX_EVALUATIONS = 200
MAX_GUARD_LENGTH = 500

_SIMPLE_NODES = (
    nodes.And,
    nodes.Compare,
    nodes.Const,
    nodes.Getattr,
    nodes.List,
    nodes.Name,
    nodes.Not,
    nodes.Operand,
    nodes.Or,
    nodes.Tuple,
)


@frozen
class _Trial:
    """A possible answer: the value of a field, or of the answer as a whole if `field` is None.

    `name` is the name under which the step saves its answer, if it does.
    """

    name: str | None
    field: str | None
    value: Any

    @property
    def answer(self) -> Any:
        return self.value if self.field is None else {self.field: self.value}

    def knows(self, path: tuple[str, ...]) -> bool:
        """Return whether the value at an access path follows from the answer."""
        suffix = () if self.field is None else (self.field,)
        if path[0] == "error" or path[:2] in (("result", "success"), ("result", "error")):
            return True
        roots = [("result", "data"), *([(self.name,)] if self.name is not None else [])]
        return any(path[: len(root) + len(suffix)] == (*root, *suffix) for root in roots)

    def lookup(self, name: str) -> Any:
        if name == "error":
            return None
        if name == "result":
            return {"success": True, "data": self.answer, "error": None}
        if name == self.name:
            return self.answer
        raise KeyError(name)


def answer_choices(
    step: Step, position: str, declared: Mapping[str, Mapping[str, Any]] | None
) -> list[AnswerChoice]:
    """Return the case that follows from each value of each field with few values, where the plan says it.

    `position` is the place of the action that asks, and `declared` are the fields of the answer.
    """
    if not step.cases or not _ends_work(step, position):
        return []
    (*_, action) = step.run
    trials = list(_trials(action.save_as, declared))
    if len(trials) * len(step.cases) > MAX_EVALUATIONS:
        return []
    choices = []
    for trial in trials:
        found = _find_case(step, trial)
        if found is not None:
            index, case = found
            choices.append(
                AnswerChoice(field=trial.field, value=trial.value, case=index, targets=list(case.targets))
            )
    return choices


def _ends_work(step: Step, position: str) -> bool:
    """Return whether the action at a position is the last one of the work: its answer is then the result."""
    last = len(step.run) - 1
    if position != f"run.{last}" or step.loop is not None or step.repeat is not None:
        return False
    action = step.run[last]
    return isinstance(action, Action) and action.loop is None and not (step.parallel and last > 0)


def _trials(name: str | None, declared: Mapping[str, Mapping[str, Any]] | None) -> Iterator[_Trial]:
    if declared is None:
        yield from (_Trial(name, None, value) for value in (True, False))
        return
    for field_name, field in DeclaredFields.of_answer(declared).fields.items():
        values = field.enum or ((True, False) if field.type == "boolean" else ())
        yield from (_Trial(name, field_name, value) for value in values)


def _find_case(step: Step, trial: _Trial) -> tuple[int, Case] | None:
    """Return the case that follows from an answer, with its index. Return None if more decides it."""
    for index, case in enumerate(step.cases):
        if case.guard is None:
            return index, case
        value = _evaluate(case.guard, trial)
        if value is None:
            return None
        if value:
            return index, case
    return None


def _evaluate(guard: str, trial: _Trial) -> bool | None:
    """Return the value of a guard, or None if it needs more than the answer."""
    if len(guard) > MAX_GUARD_LENGTH:
        return None
    template = parse_template(guard)
    if not template.is_expression or not all(trial.knows(path) for path in template.reads):
        return None
    if not template.is_access and not template.inspect_nodes(_is_simple):
        return None
    try:
        return is_true(template.evaluate(trial.lookup))
    except EvaluationError:
        # After an answer there is no error, so a guard that reads one is not true.
        return False if _reads_error(template) else None


def _reads_error(template: Template) -> bool:
    return all(path[0] == "error" or path[:2] == ("result", "error") for path in template.reads)


def _is_simple(body: list[nodes.Node]) -> bool:
    outputs = [child for node in body for child in getattr(node, "nodes", ())]
    expressions = [child for child in outputs if not isinstance(child, nodes.TemplateData)]
    return all(
        isinstance(node, _SIMPLE_NODES) for root in expressions for node in (root, *root.find_all(nodes.Node))
    )
