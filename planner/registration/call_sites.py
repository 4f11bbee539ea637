"""The actions of a plan that run other playbooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from noetl.planner.catalogue import ActionDeclaration, PlaybookCall
from noetl.planner.plan import Action, Plan, Step
from noetl.planner.registration.plan_texts import find_all_work
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.templates.parser import has_template

Catalogued = Mapping[str, ActionDeclaration]


class CallSite(NamedTuple):
    """An action that runs a playbook whose name is known.

    Attributes:
        path: the path of the action in the document.
        action: the action itself.
        call: the playbook, and its version or alias.
        step: the step that contains the action; None in a task.
    """

    path: DocumentPath
    action: Action
    call: PlaybookCall
    step: Step | None

    @property
    def given_inputs(self) -> Mapping[str, Any] | None:
        """The inputs as written, or None if one template gives them all."""
        given = self.action.parameters.get("input", {})
        return given if isinstance(given, Mapping) else None

    @property
    def returns_result(self) -> bool:
        """True if the result of the action is that of the run."""
        return not self.action.parameters.get("detach", False)


def find_call_sites(plan: Plan, action_types: Catalogued) -> Iterator[CallSite]:
    """Yield the actions that run playbooks, in the order of the text. Names from templates are not known."""
    for path, work, step in find_all_work(plan):
        if not isinstance(work, Action):
            continue
        called = called_playbook(work, action_types)
        if called is not None:
            yield CallSite(path, work, called, step)


def called_playbook(action: Action, action_types: Catalogued) -> PlaybookCall | None:
    """Return the playbook that an action runs, or None if it is not known before the run."""
    declaration = action_types.get(action.type)
    if declaration is None or declaration.called_playbook is None:
        return None
    called = declaration.called_playbook(action.parameters)
    if called is None or any(part is not None and has_template(part) for part in called):
        return None
    return called


def may_call(statistics: Mapping[str, Any], action_types: Catalogued) -> bool:
    """Return whether a plan with these statistics has actions that run playbooks."""
    types = statistics.get("actions", {})
    return any(name in action_types and action_types[name].called_playbook is not None for name in types)
