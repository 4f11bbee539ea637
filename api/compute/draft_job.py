"""The job of an editor: the findings, the names in scope and the drawing of a text."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.draft_views import (
    DraftPartEntry,
    DraftScheduleEntry,
    DraftScope,
    NextFiring,
    PlaybookDraft,
    ScopeNameEntry,
)
from noetl.api.service.graph_views import RunGraph
from noetl.api.service.views import DiagnosticEntry
from noetl.planner.editing.draft import read_draft
from noetl.planner.editing.next_firings import DraftSchedule
from noetl.planner.editing.scope import NameScope
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.api.service.registry_excerpt import RegistryExcerpt

TOO_SLOW = "The drawing takes too long, or too much memory."


@frozen
class DraftJob:
    """The draft of a text as JSON, with the names in scope at a line. Without `draws`, it has no drawing.

    `registry` is what a text without errors is compared with.
    """

    text: str | bytes
    line: int | None = None
    draws: bool = True
    registry: RegistryExcerpt | None = None
    subject = "The check of the draft"
    seconds = 10.0
    is_light = False

    @property
    def key(self) -> str:
        text = self.text.encode("utf-8", "surrogatepass") if isinstance(self.text, str) else self.text
        # The next firings of schedules change with the time.
        minute = int(time.time() // 60) if b"triggers" in text else 0
        registry = "" if self.registry is None else self.registry.key
        return f"draft:{self.line}:{self.draws}:{minute}:{registry}:{hashlib.sha256(text).hexdigest()}"

    def perform(self, compiler: PlaybookCompiler) -> bytes:
        from noetl.api.http.responses import JsonResponse

        draft = read_draft(self.text, compiler.catalogue, self.line)
        plan, diagnostics = draft.compilation.plan, draft.compilation.diagnostics
        if plan is not None and self.registry is not None:
            diagnostics = self.registry.extend(plan, diagnostics, compiler.catalogue)
        drawing, problem = None, None if plan is None else TOO_SLOW
        if plan is not None and self.draws:
            drawing, problem = _draw(plan, compiler)
        view = PlaybookDraft(
            is_parsed=draft.is_parsed,
            name=draft.name,
            version=draft.version,
            hash=None if plan is None else plan.hash,
            diagnostics=[DiagnosticEntry(**finding.to_json()) for finding in diagnostics],
            steps=[DraftPartEntry(name=step.name, line=step.line) for step in draft.steps],
            tasks=[DraftPartEntry(name=task.name, line=task.line) for task in draft.tasks],
            schedules=[_describe_schedule(schedule) for schedule in draft.schedules],
            scope=None if draft.scope is None else _describe_scope(draft.scope),
            drawing=drawing,
            drawing_problem=problem,
        )
        return bytes(JsonResponse(view).body)


def _describe_schedule(schedule: DraftSchedule) -> DraftScheduleEntry:
    firings = [NextFiring(**firing.to_json()) for firing in schedule.firings]
    return DraftScheduleEntry(
        trigger=schedule.trigger, line=schedule.line, timezone=schedule.timezone, firings=firings
    )


def _describe_scope(scope: NameScope) -> DraftScope:
    names = [ScopeNameEntry(**name.to_json()) for name in scope.names]
    return DraftScope(step=scope.step, task=scope.task, names=names)


def _draw(plan: Plan, compiler: PlaybookCompiler) -> tuple[RunGraph | None, str | None]:
    """Return the drawing of a plan, or the problem if it has none."""
    from noetl.api.graphviz import GraphvizError
    from noetl.api.pictures import LayoutRequest, PictureError, lay_out
    from noetl.planner.draw.run_graph import describe_plan_graph

    try:
        layout = lay_out(plan, compiler.catalogue, LayoutRequest(is_repeated=True))
    except (PictureError, GraphvizError) as error:
        message = str(error)
        return None, f"{message[:1].upper()}{message[1:]}."
    graph: dict[str, Any] = describe_plan_graph(layout)
    return RunGraph(**graph), None
