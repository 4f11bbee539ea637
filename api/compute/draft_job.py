"""The job of an editor: the findings, the names in scope and the drawing of a text."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
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
from noetl.planner.catalogue import Catalogue
from noetl.planner.editing.draft import Draft, read_draft
from noetl.planner.editing.next_firings import DraftSchedule
from noetl.planner.editing.scope import NameScope
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.api.pictures import PendingLayout
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

        with closing(_PendingDrawing(compiler.catalogue)) as pending:
            begin = pending.begin if self.draws else None
            draft = read_draft(self.text, compiler.catalogue, self.line, begin)
            members = self._describe(draft, compiler)
            drawing, problem = (None, None) if draft.compilation.plan is None else pending.finish()
        view = PlaybookDraft(**members, drawing=drawing, drawing_problem=problem)
        return bytes(JsonResponse(view).body)

    def _describe(self, draft: Draft, compiler: PlaybookCompiler) -> dict[str, Any]:
        """Return the members of the draft without its drawing."""
        plan, diagnostics = draft.compilation.plan, draft.compilation.diagnostics
        if plan is not None and self.registry is not None:
            diagnostics = self.registry.extend(plan, diagnostics, compiler.catalogue)
        return {
            "is_parsed": draft.is_parsed,
            "name": draft.name,
            "version": draft.version,
            "hash": None if plan is None else plan.hash,
            "diagnostics": [DiagnosticEntry(**finding.to_json()) for finding in diagnostics],
            "steps": [DraftPartEntry(name=step.name, line=step.line) for step in draft.steps],
            "tasks": [DraftPartEntry(name=task.name, line=task.line) for task in draft.tasks],
            "schedules": [_describe_schedule(schedule) for schedule in draft.schedules],
            "scope": None if draft.scope is None else _describe_scope(draft.scope),
        }


def _describe_schedule(schedule: DraftSchedule) -> DraftScheduleEntry:
    firings = [NextFiring(**firing.to_json()) for firing in schedule.firings]
    return DraftScheduleEntry(
        trigger=schedule.trigger, line=schedule.line, timezone=schedule.timezone, firings=firings
    )


def _describe_scope(scope: NameScope) -> DraftScope:
    names = [ScopeNameEntry(**name.to_json()) for name in scope.names]
    return DraftScope(step=scope.step, task=scope.task, names=names)


class _PendingDrawing:
    """The drawing of a draft. dot works on its layout while the last checks run. The caller must close it."""

    def __init__(self, action_types: Catalogue) -> None:
        self._action_types = action_types
        self._layout: PendingLayout | None = None
        self._problem = TOO_SLOW

    def begin(self, plan: Plan) -> None:
        """Begin the layout of a plan."""
        from noetl.api.compute.jobs import LAYOUT_SECONDS
        from noetl.api.graphviz import GraphvizError
        from noetl.api.pictures import LayoutRequest, PendingLayout, PictureError

        request = LayoutRequest(is_repeated=True, seconds=LAYOUT_SECONDS)
        try:
            self._layout = PendingLayout(plan, self._action_types, request)
        except (PictureError, GraphvizError) as error:
            self._problem = _as_sentence(error)

    def finish(self) -> tuple[RunGraph | None, str | None]:
        """Return the drawing, or the problem if there is none."""
        from noetl.api.graphviz import GraphvizError
        from noetl.api.pictures import PictureError
        from noetl.planner.draw.run_graph import describe_plan_graph

        if self._layout is None:
            return None, self._problem
        try:
            graph: dict[str, Any] = describe_plan_graph(self._layout.finish())
        except (PictureError, GraphvizError) as error:
            return None, _as_sentence(error)
        return RunGraph(**graph), None

    def close(self) -> None:
        """Stop dot if it runs."""
        if self._layout is not None:
            self._layout.close()


def _as_sentence(error: Exception) -> str:
    message = str(error)
    return f"{message[:1].upper()}{message[1:]}."
