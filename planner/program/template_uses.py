"""Every template of a playbook, parsed, with where it stands and what may be read there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from noetl.planner.catalogue import Catalogue, Parameter
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import (
    ActionEntry,
    DocumentPath,
    Entry,
    Loop,
    Playbook,
    Step,
    Task,
    TaskEntry,
)
from noetl.planner.templates.parser import code_length
from noetl.planner.templates.template import Template, TemplateProblem, has_template, parse_template

MAX_CODE = 256 * 1024
"""How many characters the expressions of all templates may have together, but for those that only name what they read."""


class Place(StrEnum):
    """The part of a playbook that a template belongs to, which decides the names it has."""

    ENVIRONMENT = "environment"
    VARIABLES = "variables"
    OUTPUT = "output"
    WORK = "run"
    RULE = "rule"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Use:
    """One template. `step` or `task` is what it stands in, `owner` the place of the entry of a `run` that it belongs to, if it
    belongs to one; `local` are the names of loops around it and those that only a handler gives a value to.

    `own` are the names that the items of a loop around it save, each for itself; `secrets` says whether `secrets.NAME`
    may stand here.
    """

    path: DocumentPath
    template: Template
    place: Place
    step: str | None = None
    task: str | None = None
    local: frozenset[str] = frozenset()
    secrets: bool = False
    owner: DocumentPath = ()
    own: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Text:
    path: DocumentPath
    text: str
    local: frozenset[str] = frozenset()
    secrets: bool = False


def find_uses(
    playbook: Playbook, catalogue: Catalogue, document: Document, diagnostics: Diagnostics
) -> tuple[Use, ...] | None:
    """The templates of the playbook in the order of the text; those that cannot be parsed are reported instead. None where they
    are too large together to be looked into, which is reported.
    """
    try:
        return tuple(_Finder(catalogue, document, diagnostics).playbook(playbook))
    except _TooLargeError as error:
        message = f"the expressions of a playbook have at most {MAX_CODE:,} characters together"
        diagnostics.add("NP701", message, document.span(error.path))
        return None


class _TooLargeError(Exception):
    """The text at `path` is the first that is too much."""

    def __init__(self, path: DocumentPath) -> None:
        super().__init__()
        self.path = path


class _Finder:
    def __init__(self, catalogue: Catalogue, document: Document, diagnostics: Diagnostics) -> None:
        self.catalogue = catalogue
        self.document = document
        self.diagnostics = diagnostics
        self.code = 0

    def playbook(self, playbook: Playbook) -> Iterator[Use]:
        yield from self.uses(_texts(playbook.environment, ("environment",)), Place.ENVIRONMENT)
        yield from self.uses(_texts(playbook.variables, ("variables",)), Place.VARIABLES)
        if playbook.retry:
            yield from self.uses(_texts(playbook.retry.if_, ("retry", "if")), Place.AFTER)
        for task in playbook.tasks:
            yield from self.task(task)
        for step in playbook.steps:
            yield from self.step(step)
        yield from self.uses(_texts(playbook.output or {}, ("output",)), Place.OUTPUT)

    def uses(
        self,
        texts: Iterator[_Text],
        place: Place,
        step: str | None = None,
        task: str | None = None,
        owner: DocumentPath = (),
        own: frozenset[str] = frozenset(),
    ) -> Iterator[Use]:
        for found in texts:
            if has_template(found.text):
                try:
                    template = parse_template(found.text)
                except TemplateProblem as problem:
                    self.count(found)
                    span = self.document.text_span(found.path, problem.start, problem.end)
                    self.diagnostics.add(problem.code, problem.message, span, problem.hint)
                else:
                    if not template.has_only_accesses:
                        self.count(found)
                    yield Use(found.path, template, place, step, task, found.local, found.secrets, owner, own)

    def count(self, found: _Text) -> None:
        self.code += code_length(found.text)
        if self.code > MAX_CODE:
            raise _TooLargeError(found.path)

    def task(self, task: Task) -> Iterator[Use]:
        for entry in task.run:
            yield from self.work(entry, Place.WORK, task=task.name)

    def step(self, step: Step) -> Iterator[Use]:
        local = _bound_by(step.loop) if step.loop else frozenset()
        own = frozenset(name for name, _ in find_saved_names(step.run or ())) if step.loop else frozenset()
        name = step.name
        if step.loop:
            yield from self.uses(_texts(step.loop.items, (*step.path, "loop", "items")), Place.WORK, name)
        for entry in step.run or ():
            yield from self.work(entry, Place.WORK, name, local=local, own=own)
        if step.retry:
            yield from self.uses(_texts(step.retry.if_, (*step.path, "retry", "if")), Place.AFTER, name)
        if step.repeat:
            yield from self.uses(
                _texts(step.repeat.until, (*step.path, "repeat", "until")), Place.AFTER, name
            )
        for case in step.rule or ():
            yield from self.uses(_texts(case.case, (*case.path, "case")), Place.RULE, name)
            for entry in case.run:
                yield from self.work(entry, Place.RULE, name)

    def work(
        self,
        entry: Entry,
        place: Place,
        step: str | None = None,
        task: str | None = None,
        local: frozenset[str] = frozenset(),
        own: frozenset[str] = frozenset(),
    ) -> Iterator[Use]:
        if isinstance(entry, ActionEntry | TaskEntry):
            yield from self.uses(self.entry(entry, local), place, step, task, entry.path, own)

    def entry(self, entry: ActionEntry | TaskEntry, local: frozenset[str]) -> Iterator[_Text]:
        if entry.loop:
            yield from _texts(entry.loop.items, (*entry.path, "loop", "items"), local)
            local |= _bound_by(entry.loop)
        yield from _texts(entry.if_, (*entry.path, "if"), local)
        if isinstance(entry, TaskEntry):
            yield from _texts(entry.with_, (*entry.path, "with"), local, secrets=True)
            return
        if entry.retry:
            yield from _texts(entry.retry.if_, (*entry.path, "retry", "if"), local)
        declaration = self.catalogue.get(entry.action)
        for name, value in entry.parameters.items():
            parameter = declaration.parameters.get(name) if declaration else None
            yield from _parameter_texts(value, parameter, (*entry.path, name), local)


def _parameter_texts(
    value: Any, parameter: Parameter | None, path: DocumentPath, local: frozenset[str]
) -> Iterator[_Text]:
    if parameter is not None and parameter.fields and isinstance(value, Mapping):
        # What stands under a misspelt key is not looked at: the names it may read are not known.
        for key in filter(parameter.fields.__contains__, value):
            yield from _parameter_texts(value[key], parameter.fields[key], (*path, key), local)
        return
    late = frozenset(parameter.late) if parameter else frozenset()
    yield from _texts(value, path, local | late, secrets=parameter is None or parameter.secrets)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value."""
    return (found.text for found in _texts(value, ()))


def _bound_by(loop: Loop) -> frozenset[str]:
    return frozenset({loop.as_, "loop"})


def _texts(
    value: Any, path: DocumentPath, local: frozenset[str] = frozenset(), *, secrets: bool = False
) -> Iterator[_Text]:
    if isinstance(value, str):
        yield _Text(path, value, local, secrets)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key), local, secrets=secrets)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index), local, secrets=secrets)
