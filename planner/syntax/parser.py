"""Parse a document into the models of the language, with error recovery.

Problem: one report must list every wrong construct of a playbook, and the valid rest must still be checked by
the later passes.

Algorithm: error recovery by deletion and re-validation (Aho, Sethi and Ullman 1986, section 4.1). One round
validates the data and reports each error. It renames misspelt keys to the keys that they resemble, and
removes the other invalid parts. Rounds repeat until no error remains. Each round renames or removes a part,
or adds the missing `name` of the playbook, so the loop terminates.

Cost: one validation of the data per round. One or two rounds are usual, because a validation finds all errors
that do not hide each other.

Limits: more than MAX_SCHEMA_VIOLATIONS wrong constructs, or a playbook without a valid step, end the parse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.diagnostics.wording import abbreviate, describe_value
from noetl.planner.gc_control import gc_paused
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.limits import check_limits
from noetl.planner.syntax.models import (
    ActionEntry,
    Case,
    DocumentPath,
    Model,
    NotifyDeclaration,
    Playbook,
    Step,
    Task,
    TaskEntry,
    WebhookDeclaration,
)
from noetl.planner.syntax.recovery import RecoveredData
from noetl.planner.syntax.schema_errors import (
    ENTRY_KEYS,
    MINIMAL_PLAYBOOK_HINT,
    SchemaViolation,
    describe_invalid_entry,
    describe_missing_key,
    describe_unknown_key,
    describe_wrong_value,
    find_intended_entry_key,
    find_intended_key,
    model_at,
)

MAX_SCHEMA_VIOLATIONS = 1_000
"""How many wrong constructs are reported. If there are more, the later checks do not run."""

# The keys of each model whose values are constructs with a path.
_CONSTRUCT_KEYS: dict[type[Model], tuple[str, ...]] = {
    Playbook: ("input", "triggers", "notify", "concurrency", "rate", "debounce", "retry", "tasks", "steps"),
    Step: ("run", "rule", "loop", "repeat", "retry", "cache", "concurrency", "rate"),
    Task: ("run",),
    Case: ("run",),
    ActionEntry: ("retry", "loop", "cache"),
    TaskEntry: ("loop",),
    WebhookDeclaration: ("auth",),
    NotifyDeclaration: ("late",),
}

_ErrorGroup = tuple[tuple[DocumentPath, str | None], list[Any]]
"""A path, the key that is missing there (if any), and the pydantic errors of both."""


@dataclass(frozen=True)
class ParsedPlaybook:
    """A playbook without its invalid parts.

    `broken_steps` and `broken_tasks` are the names of steps and tasks that are missing from the playbook or
    lost a part. `lost_names` are the names that removed parts would have defined. In a `run`, an empty name
    replaces a removed entry where later entries must keep their indexes.
    """

    playbook: Playbook
    broken_steps: frozenset[str] = frozenset()
    broken_tasks: frozenset[str] = frozenset()
    lost_names: frozenset[str] = frozenset()


def parse_playbook(
    document: Document, catalogue: Catalogue, diagnostics: Diagnostics
) -> ParsedPlaybook | None:
    """Return the playbook of a document, or None if it has no valid step.

    Each construct has its `path`, and each action the `declaration` of its type.

    Adds NP010, NP011, NP012 and NP701.
    """
    data = document.data
    if not isinstance(data, dict):
        message = (
            "the playbook is empty"
            if data is None
            else f"a playbook must be a mapping, not {describe_value(data)}"
        )
        diagnostics.add("NP012", message, document.span(()), MINIMAL_PLAYBOOK_HINT)
        return None
    with gc_paused():
        recovered = RecoveredData(data, catalogue.saving_parameters)
        if not check_limits(document, diagnostics):
            return None
        _check_task_keys(document, diagnostics)
        while True:
            try:
                playbook = Playbook.model_validate(recovered.data, by_alias=True, by_name=False)
                break
            except ValidationError as error:
                if not _Recovery(recovered, document, diagnostics).recover_from(error):
                    return None
        _complete(playbook, (), recovered, catalogue)
    return ParsedPlaybook(
        playbook,
        frozenset(recovered.broken["steps"]),
        frozenset(recovered.broken["tasks"]),
        frozenset(recovered.lost_names),
    )


class _Recovery:
    """One round of error recovery: it reports the errors of a validation and removes their causes."""

    def __init__(self, recovered: RecoveredData, document: Document, diagnostics: Diagnostics) -> None:
        self.recovered = recovered
        self.document = document
        self.diagnostics = diagnostics
        self.renamed: dict[DocumentPath, DocumentPath] = {}
        self.wrong: set[DocumentPath] = set()
        self.is_hopeless = False

    def recover_from(self, error: ValidationError) -> bool:
        """Report the errors and change the data; return whether the data is worth another validation."""
        groups = self._group_errors(error)
        if len(groups) > MAX_SCHEMA_VIOLATIONS:
            self.is_hopeless = True
            self._count_unreported(groups)
        for (path, missing_key), errors in groups[:MAX_SCHEMA_VIOLATIONS]:
            if errors[0]["type"] == "extra_forbidden":
                self._handle_unknown_key(path)
            elif errors[0]["type"] == "union_tag_invalid":
                self._handle_invalid_entry(path)
            elif missing_key is not None and (*path, missing_key) not in self.renamed:
                self._handle_missing_key(path, missing_key)
            elif missing_key is None:
                self._handle_wrong_value(path, errors)
        if self.is_hopeless:
            return False
        for wanted, written in self.renamed.items():
            self.recovered.rename_key(written, str(wanted[-1]))
        # The last and innermost paths first, because a removal changes the indexes after it.
        for path in sorted(
            self.wrong, key=lambda path: [(isinstance(part, int), part) for part in path], reverse=True
        ):
            self.recovered.remove(path)
        return True

    def _group_errors(self, error: ValidationError) -> list[_ErrorGroup]:
        """Return the errors by path; each missing key has a group of its own."""
        groups: dict[tuple[DocumentPath, str | None], list[Any]] = {}
        for item in error.errors(include_url=False, include_input=False):
            missing_key = str(item["loc"][-1]) if item["type"] == "missing" else None
            groups.setdefault((self.recovered.resolve_location(item["loc"]), missing_key), []).append(item)
        # Missing keys last: a key is not missing if a misspelt key resembles it.
        return sorted(groups.items(), key=lambda group: group[0][1] is not None)

    def _count_unreported(self, groups: list[_ErrorGroup]) -> None:
        nodes = [
            (id(self.document.node_at(self.recovered.document_path(path))), missing_key)
            for (path, missing_key), _ in groups
        ]
        self.diagnostics.count_unreported(len(set(nodes)) - len(set(nodes[:MAX_SCHEMA_VIOLATIONS])))

    def _handle_unknown_key(self, path: DocumentPath) -> None:
        owner, key = path[:-1], str(path[-1])
        model = model_at(owner, self.recovered.value_at(owner))
        self._report(describe_unknown_key(key, model), path)
        self._rename_or_remove(owner, key, find_intended_key(key, model))

    def _handle_invalid_entry(self, path: DocumentPath) -> None:
        value = self.recovered.value_at(path)
        if misspelt := find_intended_entry_key(value):
            self._report(describe_invalid_entry(value), (*path, misspelt[0]))
            self._rename_or_remove(path, *misspelt)
            return
        if not any(self.recovered.is_removed((*path, key)) for key in ENTRY_KEYS):
            self._report(describe_invalid_entry(value), path)
        self.wrong.add(path)

    def _handle_missing_key(self, path: DocumentPath, key: str) -> None:
        if not self.recovered.is_removed((*path, key)):
            self._report(describe_missing_key(key, model_at(path, self.recovered.value_at(path))), path)
        if path:
            self.wrong.add(path)
        elif key == "name":
            self.recovered.data["name"] = "playbook"
        else:
            self.is_hopeless = True

    def _handle_wrong_value(self, path: DocumentPath, errors: list[Any]) -> None:
        if not self.recovered.is_removed(path):
            self._report(describe_wrong_value(path, self.recovered.value_at(path), errors), path)
        self.is_hopeless |= path == ("steps",)
        self.wrong.add(path)

    def _rename_or_remove(self, owner: DocumentPath, key: str, intended: str | None) -> None:
        wanted = (*owner, intended or "")
        if intended is None or intended in self.recovered.value_at(owner) or wanted in self.renamed:
            self.wrong.add((*owner, key))
        else:
            self.renamed[wanted] = (*owner, key)

    def _report(self, violation: SchemaViolation, path: DocumentPath) -> None:
        document_path = self.recovered.document_path(path)
        span = (
            self.document.key_span(document_path) if violation.at_key else self.document.span(document_path)
        )
        self.diagnostics.add(violation.code, violation.message, span, violation.hint)


def _check_task_keys(document: Document, diagnostics: Diagnostics) -> None:
    tasks = document.data.get("tasks")
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        if isinstance(task, dict) and "name" in task:
            span = document.key_span(("tasks", name, "name"))
            diagnostics.add(
                "NP010",
                f"`name` is not allowed: the key names task `{abbreviate(name)}`",
                span,
                "remove `name`",
            )


def _complete(model: Model, path: DocumentPath, recovered: RecoveredData, catalogue: Catalogue) -> None:
    """Set the paths and declarations, which validation does not know and all other code only reads."""
    private = model.__pydantic_private__
    assert private is not None  # pydantic creates it for every model with private attributes
    # Assigning `model._path` would use the `__setattr__` of pydantic, which is ten times slower.
    private["_path"] = document_path = recovered.document_path(path)
    if isinstance(model, ActionEntry):
        declaration = private["_declaration"] = catalogue.get(model.action)
        if declaration is not None and declaration.saves is not None:
            names = declaration.saved_names(model.parameters)
            private["_saved_names"] = tuple(
                (name, (*document_path, declaration.saves, name)) for name in names
            )
    if isinstance(model, Task):
        private["_run_path"] = recovered.document_path((*path, "run"))
    for key in _CONSTRUCT_KEYS.get(type(model), ()):
        value = getattr(model, key)
        if value is None:
            continue
        items: Iterable[tuple[DocumentPath, Any]] = (((*path, key), value),)
        if isinstance(value, list):
            items = (((*path, key, index), item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            items = (((*path, key, name), item) for name, item in value.items())
        for item_path, item in items:
            if isinstance(item, Model):
                _complete(item, item_path, recovered, catalogue)
