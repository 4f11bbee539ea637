"""The playbooks that a plan calls, and their pictures on the page of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from noetl.planner.catalogue import ActionDeclaration, PlaybookCall
from noetl.planner.draw.layout import Layout
from noetl.planner.plan import Action, Plan, Work
from noetl.planner.templates.parser import has_template


@dataclass(frozen=True, slots=True)
class CalledPlaybook:
    """A called playbook with its layout, or with the problem why it has none."""

    call: PlaybookCall
    layout: Layout | None = None
    problem: str = ""


def find_calls(plan: Plan, action_types: Mapping[str, ActionDeclaration]) -> tuple[PlaybookCall, ...]:
    """Return the playbooks that the actions of a plan run, each once. Names from templates are not known."""
    found: dict[PlaybookCall, None] = {}
    for work in _all_work(plan):
        declaration = action_types.get(work.type) if isinstance(work, Action) else None
        if declaration is not None and declaration.called_playbook is not None and isinstance(work, Action):
            called = declaration.called_playbook(work.parameters)
            if called is not None and not any(part is not None and has_template(part) for part in called):
                found[called] = None
    return tuple(found)


def _all_work(plan: Plan) -> Iterator[Work]:
    for step in plan.steps.values():
        yield from step.run
        for case in step.cases:
            yield from case.work
    for task in plan.tasks.values():
        yield from task.run
