"""A document to the models of the language, and what does not fit them to diagnostics.

What is wrong is reported and left out, and the rest is tried again, so that everything else can still be checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    Playbook,
    Step,
    Task,
    TaskEntry,
)
from noetl.planner.syntax.recovery import Draft
from noetl.planner.syntax.schema_errors import (
    ENTRY_KEYS,
    MINIMAL,
    SchemaViolation,
    describe_wrong_value,
    meant,
    meant_entry,
    missing_key,
    model_at,
    not_an_entry,
    unknown_key,
)
from pydantic import ValidationError

MAX_SCHEMA_VIOLATIONS = 1_000
"""How many wrong constructs are reported; where there are more, nothing else is checked."""

# Keys that hold constructs, which are told where they stand.
_HOLDERS: dict[type[Model], tuple[str, ...]] = {
    Playbook: ("input", "retry", "tasks", "steps"),
    Step: ("run", "rule", "loop", "repeat", "retry"),
    Task: ("run",),
    Case: ("run",),
    ActionEntry: ("retry", "loop"),
    TaskEntry: ("loop",),
}


@dataclass(frozen=True)
class ParsedPlaybook:
    """A playbook without what was wrong in it.

    `broken_steps` and `broken_tasks` are the names of those that are not in the playbook, or not whole.
    `lost_names` are the names that what was left out would have bound. In a `run`, an empty name stands for an entry
    that was left out, where it is needed to keep later ones in their places.
    """

    playbook: Playbook
    broken_steps: frozenset[str] = frozenset()
    broken_tasks: frozenset[str] = frozenset()
    lost_names: frozenset[str] = frozenset()


def parse_playbook(document: Document, diagnostics: Diagnostics) -> ParsedPlaybook | None:
    """The playbook in a document, each of its constructs with its `path`; None when no step of it can be checked.

    Adds NP010, NP011, NP012 and NP701.
    """
    data = document.data
    if not isinstance(data, dict):
        message = (
            "the playbook is empty"
            if data is None
            else f"a playbook is a mapping, not {describe_value(data)}"
        )
        diagnostics.add("NP012", message, document.span(()), MINIMAL)
        return None
    with gc_paused():
        draft = Draft(data)
        if check_limits(document, diagnostics):
            return None
        _check_task_keys(document, diagnostics)
        while True:
            try:
                playbook = Playbook.model_validate(draft.data, by_alias=True, by_name=False)
                break
            except ValidationError as error:
                if not _mend(draft, error, document, diagnostics):
                    return None
        _set_paths(playbook, (), draft)
    return ParsedPlaybook(
        playbook, frozenset(draft.broken["steps"]), frozenset(draft.broken["tasks"]), frozenset(draft.lost)
    )


def _mend(draft: Draft, error: ValidationError, document: Document, diagnostics: Diagnostics) -> bool:
    """Report the errors and take what is wrong out of the draft; false when nothing remains to be tried."""

    def report(mistake: SchemaViolation, path: DocumentPath) -> None:
        place = draft.place(path)
        span = document.key_span(place) if mistake.at_key else document.span(place)
        diagnostics.add(mistake.code, mistake.message, span, mistake.hint)

    found = _by_path(draft, error)
    is_hopeless = len(found) > MAX_SCHEMA_VIOLATIONS
    if is_hopeless:
        places = [(id(document.node_at(draft.place(path))), missing) for (path, missing), _ in found]
        diagnostics.count_unreported(len(set(places)) - len(set(places[:MAX_SCHEMA_VIOLATIONS])))
    renamed: dict[DocumentPath, DocumentPath] = {}
    wrong: set[DocumentPath] = set()

    def misspelt(owner: DocumentPath, key: str, slip: str | None) -> None:
        if slip is None or slip in draft.at(owner) or (*owner, slip) in renamed:
            wrong.add((*owner, key))
        else:
            renamed[*owner, slip] = (*owner, key)

    for (path, missing), errors in found[:MAX_SCHEMA_VIOLATIONS]:
        kind, value = errors[0]["type"], draft.at(path)
        if kind == "extra_forbidden":
            owner, key = path[:-1], str(path[-1])
            model = model_at(owner, draft.at(owner))
            report(unknown_key(key, model), path)
            misspelt(owner, key, meant(key, model))
        elif kind == "union_tag_invalid" and (slip := meant_entry(value)):
            report(not_an_entry(value), (*path, slip[0]))
            misspelt(path, *slip)
        elif kind == "union_tag_invalid":
            if not any(draft.is_left_out((*path, key)) for key in ENTRY_KEYS):
                report(not_an_entry(value), path)
            wrong.add(path)
        elif missing is not None and (*path, missing) not in renamed:
            if not draft.is_left_out((*path, missing)):
                report(missing_key(missing, model_at(path, value)), path)
            if path:
                wrong.add(path)
            elif missing == "name":
                draft.data["name"] = "playbook"
            else:
                is_hopeless = True
        elif missing is None:
            if not draft.is_left_out(path):
                report(describe_wrong_value(path, value, errors), path)
            is_hopeless |= path == ("steps",)
            wrong.add(path)

    if is_hopeless:
        return False
    for wanted, written in renamed.items():
        draft.rename(written, str(wanted[-1]))
    # The last and the innermost first, so that the other paths stay true.
    for path in sorted(
        wrong, key=lambda path: [(isinstance(part, int), part) for part in path], reverse=True
    ):
        draft.leave_out(path)
    return True


def _by_path(draft: Draft, error: ValidationError) -> list[tuple[tuple[DocumentPath, str | None], list[Any]]]:
    """The errors of each path and, by itself, of each key that is missing there."""
    found: dict[tuple[DocumentPath, str | None], list[Any]] = {}
    for item in error.errors(include_url=False, include_input=False):
        missing = str(item["loc"][-1]) if item["type"] == "missing" else None
        found.setdefault((draft.locate(item["loc"]), missing), []).append(item)
    # Missing keys come last: what another key is a slip of is not missing.
    return sorted(found.items(), key=lambda pair: pair[0][1] is not None)


def _check_task_keys(document: Document, diagnostics: Diagnostics) -> None:
    tasks = document.data.get("tasks")
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        if isinstance(task, dict) and "name" in task:
            place = document.key_span(("tasks", name, "name"))
            diagnostics.add("NP010", f"the name of the task is its key, `{abbreviate(name)}`", place)


def _set_paths(model: Model, path: DocumentPath, draft: Draft) -> None:
    # Validation cannot know the place, and to everyone else it is there to be read only.
    model._path = draft.place(path)  # noqa: SLF001
    if isinstance(model, Task):
        model._run_path = draft.place((*path, "run"))  # noqa: SLF001
    for name in _HOLDERS.get(type(model), ()):
        held = getattr(model, name)
        if held is None:
            continue
        items: Iterable[tuple[DocumentPath, Any]] = (((*path, name), held),)
        if isinstance(held, list):
            items = (((*path, name, index), item) for index, item in enumerate(held))
        elif isinstance(held, dict):
            items = (((*path, name, key), item) for key, item in held.items())
        for where, item in items:
            if isinstance(item, Model):
                _set_paths(item, where, draft)
