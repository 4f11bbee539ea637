"""The draft of a playbook: all that an editor shows of a text, which may have errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from noetl.planner.catalogue import Catalogue
from noetl.planner.compile import Compilation, compile_program
from noetl.planner.editing.next_firings import DraftSchedule, find_next_firings
from noetl.planner.editing.scope import NameScope, find_scope
from noetl.planner.gc_control import gc_paused
from noetl.planner.plan import Plan
from noetl.planner.templates.template import TemplateCache, temporary_templates
from noetl.planner.weighted_cache import WeightedCache

KEPT_TEMPLATE_BYTES = 16 * 1024 * 1024
"""How many bytes the templates of earlier drafts may use. Most of them are the same in the next draft.

The results of their analyses may use as many again.
"""

_templates: TemplateCache = WeightedCache(KEPT_TEMPLATE_BYTES)


@dataclass(frozen=True, slots=True)
class DraftPart:
    """A step or a task of a draft, and the line on which it begins."""

    name: str
    line: int


@dataclass(frozen=True)
class Draft:
    """The compilation of a text, its steps, tasks and schedules, and the names in scope at a line.

    `is_parsed` is false for a text that could not be parsed: nothing but its findings is known.
    """

    compilation: Compilation
    is_parsed: bool
    name: str | None = None
    version: str | None = None
    steps: tuple[DraftPart, ...] = ()
    tasks: tuple[DraftPart, ...] = ()
    scope: NameScope | None = None
    schedules: tuple[DraftSchedule, ...] = ()


def read_draft(
    text: str | bytes,
    catalogue: Catalogue,
    line: int | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Draft:
    """Compile a text, and find the names in scope at a line. Invalid text of any kind is a draft, too.

    `on_plan` gets the plan before the last checks run, which may find errors.
    """
    with gc_paused(), temporary_templates(_templates):
        compilation, program = compile_program(text, catalogue, on_plan=on_plan, for_editor=True)
        if program is None:
            return Draft(compilation, is_parsed=False)
        playbook = program.playbook
        steps, tasks = (
            tuple(DraftPart(part.name, program.document.line(part.path)) for part in parts)
            for parts in (playbook.steps, playbook.tasks)
        )
        scope = None if line is None else find_scope(program, line)
        schedules = find_next_firings(program, datetime.now(UTC).timestamp())
        return Draft(compilation, True, playbook.name, playbook.version, steps, tasks, scope, schedules)
