"""Views of the draft of a playbook, and of the words of the language that an editor completes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from noetl.api.service.graph_views import RunGraph
from noetl.api.service.views import DiagnosticEntry, View


class DraftPartEntry(View, schema_name="DraftPart"):
    """Step or task of a draft, with the line on which it begins."""

    name: str
    line: int


class ScopeNameEntry(View, schema_name="ScopeName"):
    """Name that a template may read at a line. A saved name has the step and the line that save it.

    With `may_lack` there is a path on which the name has no value.
    """

    name: str
    kind: Literal["input", "environment", "variable", "saved", "item", "args"]
    step: str | None
    line: int | None
    may_lack: bool


class DraftScope(View, schema_name="DraftScope"):
    """Place of a line: its step or task, and the names in scope there."""

    step: str | None
    task: str | None
    names: Sequence[ScopeNameEntry]


class NextFiring(View, schema_name="NextFiring"):
    """Firing to come, in UTC and in the zone of its schedule. `note` is about a change of the offset."""

    scheduled_at: str
    local: str
    note: str | None


class DraftScheduleEntry(View, schema_name="DraftSchedule"):
    """Schedule of a draft: the line of its `cron` or `every`, its zone, and its next firings."""

    trigger: str
    line: int
    timezone: str
    firings: Sequence[NextFiring]


class PlaybookDraft(View, schema_name="PlaybookDraft"):
    """Draft of a playbook, which may have errors: its findings, its steps and tasks, and its drawing.

    A text that cannot be parsed has findings only. `hash` and `drawing` are null if it has errors
    by itself. Channels, limits and registered playbooks that it names may be wrong, too.
    `schedules` are those without errors. `drawing_problem` says why a plan without errors has no drawing.
    `scope` is null without a line.
    """

    is_parsed: bool
    name: str | None
    version: str | None
    hash: str | None
    diagnostics: Sequence[DiagnosticEntry]
    steps: Sequence[DraftPartEntry]
    tasks: Sequence[DraftPartEntry]
    schedules: Sequence[DraftScheduleEntry]
    scope: DraftScope | None
    drawing: RunGraph | None
    drawing_problem: str | None


class LanguageWords(View, schema_name="LanguageWords"):
    """Words of the language, from the declarations that the checks use.

    `playbook_schema` is the JSON Schema of playbooks, with the action types that are allowed here.
    `attributes` has the names of the language with their attributes, and `trigger_attributes` those of
    `trigger` by the type of the trigger. `trigger_names` are all names that templates of triggers read.
    """

    playbook_schema: Mapping[str, Any]
    attributes: Mapping[str, Sequence[str]]
    trigger_attributes: Mapping[str, Sequence[str]]
    trigger_names: Sequence[str]
    filters: Sequence[str]
    tests: Sequence[str]
    functions: Sequence[str]


class CodeExplanation(View, schema_name="CodeExplanation"):
    """Code of a finding, with its explanation as Markdown."""

    code: str
    title: str
    severity: Literal["error", "warning", "note"]
    text: str
