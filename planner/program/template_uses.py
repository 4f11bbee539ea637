"""Collection of the templates of a playbook: each parsed, with its place and the names that it may read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from noetl.planner.catalogue import Parameter
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import (
    ActionEntry,
    BaseLimitDeclaration,
    DocumentPath,
    Entry,
    KeyedTriggerDeclaration,
    LimitDeclaration,
    Loop,
    Playbook,
    Step,
    Task,
    TaskEntry,
)
from noetl.planner.templates.parser import code_length
from noetl.planner.templates.template import Template, TemplateProblem, has_template, parse_template

MAX_CODE = 256 * 1024
"""How many characters the expressions of all templates may have together.

Expressions that only name a value do not count.
"""


class TemplateScope(StrEnum):
    """The part of a playbook that a template belongs to. It decides which names the template may read."""

    ENVIRONMENT = "environment"
    VARIABLES = "variables"
    CONCURRENCY = "concurrency"
    """The key of a limit or rate of runs, which is evaluated before the first step."""
    PRIORITY = "priority"
    """The priority of runs at limits."""
    DEBOUNCE = "debounce"
    """The key of starts that share a run, which is evaluated before the run is stored."""
    OUTPUT = "output"
    WORK = "run"
    RULE = "rule"
    AFTER_WORK = "after"
    """A condition of `retry` or `repeat`, which is evaluated after the work of a step."""
    TRIGGER = "triggers"
    """The input, the condition or the key of a trigger, which is evaluated before there is a run."""


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """One template of a playbook.

    Attributes:
        path: the place of the text.
        template: the parsed template.
        scope: the part of the playbook.
        step: the step that contains the template, if any.
        task: the task that contains the template, if any.
        local_names: the names of loops around the template, and those to which only a handler assigns a
            value.
        allows_secrets: whether `secrets.NAME` may be read here.
        entry_path: the place of the entry of a `run` that contains the template, or ().
        item_names: the names that the items of a loop around the template save, each for itself.
    """

    path: DocumentPath
    template: Template
    scope: TemplateScope
    step: str | None = None
    task: str | None = None
    local_names: frozenset[str] = frozenset()
    allows_secrets: bool = False
    entry_path: DocumentPath = ()
    item_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of the playbook that may be a template."""

    path: DocumentPath
    text: str
    local_names: frozenset[str] = frozenset()
    allows_secrets: bool = False


@dataclass(frozen=True, slots=True)
class _Context:
    """The properties that all templates of one part of a playbook share."""

    scope: TemplateScope
    step: str | None = None
    task: str | None = None
    local_names: frozenset[str] = frozenset()
    item_names: frozenset[str] = frozenset()


def find_template_uses(
    playbook: Playbook, document: Document, diagnostics: Diagnostics
) -> tuple[TemplateUse, ...] | None:
    """Return the templates of a playbook in the order of the text, and report those that cannot be parsed.

    Those of triggers are not among them.

    Return None and report NP701 if all expressions together are larger than `MAX_CODE`.
    """
    return _collect(_TemplateCollector(document, diagnostics).in_playbook(playbook), document, diagnostics)


def find_trigger_uses(
    playbook: Playbook, document: Document, diagnostics: Diagnostics
) -> tuple[TemplateUse, ...] | None:
    """Return the templates of triggers, as `find_template_uses` returns those that runs evaluate."""
    return _collect(_TemplateCollector(document, diagnostics).in_triggers(playbook), document, diagnostics)


def _collect(
    uses: Iterator[TemplateUse], document: Document, diagnostics: Diagnostics
) -> tuple[TemplateUse, ...] | None:
    try:
        return tuple(uses)
    except _TooMuchCodeError as error:
        message = f"expressions of a playbook must not exceed {MAX_CODE:,} characters in total"
        diagnostics.add("NP701", message, document.span(error.path))
        return None


class _TooMuchCodeError(Exception):
    """The expressions up to the text at `path` exceed `MAX_CODE`."""

    def __init__(self, path: DocumentPath) -> None:
        super().__init__()
        self.path = path


class _TemplateCollector:
    def __init__(self, document: Document, diagnostics: Diagnostics) -> None:
        self.document = document
        self.diagnostics = diagnostics
        self.code_length = 0

    def in_playbook(self, playbook: Playbook) -> Iterator[TemplateUse]:
        environment = _Context(TemplateScope.ENVIRONMENT)
        yield from self.parse_all(_find_texts(playbook.environment, ("environment",)), environment)
        variables = _Context(TemplateScope.VARIABLES)
        yield from self.parse_all(_find_texts(playbook.variables, ("variables",)), variables)
        yield from self.in_limits(playbook.limits_and_rates, _Context(TemplateScope.CONCURRENCY))
        if playbook.debounce:
            debounce = _Context(TemplateScope.DEBOUNCE)
            yield from self.parse_all(_find_texts(playbook.debounce.key, ("debounce", "key")), debounce)
        priority = _Context(TemplateScope.PRIORITY)
        yield from self.parse_all(_find_texts(playbook.priority, ("priority",)), priority)
        if playbook.retry:
            retry = _Context(TemplateScope.AFTER_WORK)
            yield from self.parse_all(_find_texts(playbook.retry.if_, ("retry", "if")), retry)
        for task in playbook.tasks:
            yield from self.in_task(task)
        for step in playbook.steps:
            yield from self.in_step(step)
        output = _Context(TemplateScope.OUTPUT)
        yield from self.parse_all(_find_texts(playbook.output or {}, ("output",)), output)

    def in_limits(self, limits: Iterable[BaseLimitDeclaration], context: _Context) -> Iterator[TemplateUse]:
        for limit in limits:
            yield from self.parse_all(_find_texts(limit.key, (*limit.path, "key")), context)
            if isinstance(limit, LimitDeclaration):
                yield from self.parse_all(_find_texts(limit.fair, (*limit.path, "fair")), context)

    def in_triggers(self, playbook: Playbook) -> Iterator[TemplateUse]:
        context = _Context(TemplateScope.TRIGGER)
        for trigger in playbook.triggers:
            yield from self.parse_all(_find_texts(trigger.input, (*trigger.path, "input")), context)
            yield from self.parse_all(_find_texts(trigger.if_, (*trigger.path, "if")), context)
            if isinstance(trigger, KeyedTriggerDeclaration):
                yield from self.parse_all(_find_texts(trigger.key, (*trigger.path, "key")), context)

    def parse_all(
        self, texts: Iterator[_Text], context: _Context, entry_path: DocumentPath = ()
    ) -> Iterator[TemplateUse]:
        for text in texts:
            if not has_template(text.text):
                continue
            try:
                template = parse_template(text.text)
            except TemplateProblem as problem:
                self.count_code(text)
                span = self.document.text_span(text.path, problem.start, problem.end)
                self.diagnostics.add(problem.code, problem.message, span, problem.hint)
                continue
            if not template.has_only_accesses:
                self.count_code(text)
            yield TemplateUse(
                text.path,
                template,
                context.scope,
                context.step,
                context.task,
                text.local_names,
                text.allows_secrets,
                entry_path,
                context.item_names,
            )

    def count_code(self, text: _Text) -> None:
        self.code_length += code_length(text.text)
        if self.code_length > MAX_CODE:
            raise _TooMuchCodeError(text.path)

    def in_task(self, task: Task) -> Iterator[TemplateUse]:
        context = _Context(TemplateScope.WORK, task=task.name)
        for entry in task.run:
            yield from self.in_work(entry, context)

    def in_step(self, step: Step) -> Iterator[TemplateUse]:
        work = _Context(TemplateScope.WORK, step.name)
        yield from self.in_limits(step.limits_and_rates, work)
        yield from self.parse_all(_find_texts(step.priority, (*step.path, "priority")), work)
        if step.loop:
            yield from self.parse_all(_find_texts(step.loop.items, (*step.path, "loop", "items")), work)
            saved = frozenset(name for name, _ in find_saved_names(step.run or ()))
            work = _Context(
                TemplateScope.WORK, step.name, local_names=_names_bound_by(step.loop), item_names=saved
            )
        if step.cache:
            yield from self.parse_all(
                _find_texts(step.cache.key, (*step.path, "cache", "key"), work.local_names), work
            )
        for entry in step.run or ():
            yield from self.in_work(entry, work)
        after_work = _Context(TemplateScope.AFTER_WORK, step.name)
        if step.retry:
            yield from self.parse_all(_find_texts(step.retry.if_, (*step.path, "retry", "if")), after_work)
        if step.repeat:
            yield from self.parse_all(
                _find_texts(step.repeat.until, (*step.path, "repeat", "until")), after_work
            )
        rule = _Context(TemplateScope.RULE, step.name)
        for case in step.rule or ():
            yield from self.parse_all(_find_texts(case.case, (*case.path, "case")), rule)
            for entry in case.run:
                yield from self.in_work(entry, rule)

    def in_work(self, entry: Entry, context: _Context) -> Iterator[TemplateUse]:
        if isinstance(entry, ActionEntry | TaskEntry):
            yield from self.parse_all(self.texts_of_entry(entry, context.local_names), context, entry.path)

    def texts_of_entry(self, entry: ActionEntry | TaskEntry, local_names: frozenset[str]) -> Iterator[_Text]:
        if entry.loop:
            yield from _find_texts(entry.loop.items, (*entry.path, "loop", "items"), local_names)
            local_names |= _names_bound_by(entry.loop)
        yield from _find_texts(entry.if_, (*entry.path, "if"), local_names)
        if isinstance(entry, TaskEntry):
            yield from _find_texts(entry.with_, (*entry.path, "with"), local_names, allows_secrets=True)
            return
        if entry.retry:
            yield from _find_texts(entry.retry.if_, (*entry.path, "retry", "if"), local_names)
        if entry.cache:
            yield from _find_texts(entry.cache.key, (*entry.path, "cache", "key"), local_names)
        declaration = entry.declaration
        for name, value in entry.parameters.items():
            parameter = declaration.parameters.get(name) if declaration else None
            yield from _texts_of_parameter(value, parameter, (*entry.path, name), local_names)


def _texts_of_parameter(
    value: Any, parameter: Parameter | None, path: DocumentPath, local_names: frozenset[str]
) -> Iterator[_Text]:
    if parameter is not None and parameter.fields and isinstance(value, Mapping):
        # Values of unknown keys are skipped: the names that they may read are not known.
        for key in filter(parameter.fields.__contains__, value):
            yield from _texts_of_parameter(value[key], parameter.fields[key], (*path, key), local_names)
        return
    deferred = frozenset(parameter.deferred_names) if parameter else frozenset()
    allows_secrets = parameter is None or parameter.secrets
    yield from _find_texts(value, path, local_names | deferred, allows_secrets=allows_secrets)


def find_texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value.

    >>> list(find_texts({"a": ["x", 1], "b": "y"}))
    ['x', 'y']
    """
    return (text.text for text in _find_texts(value, ()))


def _names_bound_by(loop: Loop) -> frozenset[str]:
    return frozenset({loop.as_, "loop"})


def _find_texts(
    value: Any, path: DocumentPath, local_names: frozenset[str] = frozenset(), *, allows_secrets: bool = False
) -> Iterator[_Text]:
    if isinstance(value, str):
        yield _Text(path, value, local_names, allows_secrets)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _find_texts(item, (*path, key), local_names, allows_secrets=allows_secrets)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_texts(item, (*path, index), local_names, allows_secrets=allows_secrets)
