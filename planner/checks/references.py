"""NP301 and NP306: every name and attribute that a template reads is known where it is read."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import networkx as nx

from noetl.planner.catalogue import DeferredName
from noetl.planner.dataflow.narrowing import NOT_FAILED, handles_undefined, narrow
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Span
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.entries import find_called_tasks
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.foreign_syntax import NAME_HINTS, SHELL_VARIABLE_HINT

ATTRIBUTES = {
    "steps": frozenset({"status", "visits", "result", "error", "failures"}),
    "run": frozenset({"id", "started_at", "playbook", "version", "trigger"}),
    "step": frozenset({"name", "visit", "attempt", "idempotency_key"}),
    "result": frozenset({"success", "data", "error", "action", "skipped", "items", "failures"}),
    "error": frozenset({"type", "message", "action", "step", "attempt", "retryable", "status", "details"}),
    "loop": frozenset({"index", "index0", "first", "last", "length"}),
}
"""The attributes of each name of the language; for `steps`, those of a step."""
FINALLY_ATTRIBUTES = frozenset({"status", "error"})
"""Further attributes of `run` in the `finally` step."""
RUN_TRIGGER_ATTRIBUTES = frozenset({"name", "type", "scheduled_at", "workflow_id", "backfill"})
"""The attributes of `run.trigger`: what a run knows of the firing that has started it."""

ALWAYS_KNOWN = frozenset({"input", "environment", "run", "now", "uuid", "secrets"})
KNOWN_BEFORE_START = {
    TemplateScope.ENVIRONMENT: ("input",),
    TemplateScope.VARIABLES: ("input", "environment"),
    TemplateScope.CONCURRENCY: ("input", "environment"),
    TemplateScope.DEBOUNCE: ("input", "environment"),
    TemplateScope.PRIORITY: ("input", "environment"),
}
"""The sections evaluated before a run starts, each with the sections that its templates can read."""
KNOWN_IN_STEPS = frozenset({"step", "steps", "error"})
KNOWN_IN_SOME_PLACES = frozenset({"result", "args", "item", "loop", "variables", "none", "true", "false"})
MAX_SHOWN_LINES = 5
"""How many lines a message names."""


@dataclass(frozen=True, slots=True)
class InferredInput:
    """An undeclared input: the line where it is first read, and whether a run requires it."""

    line: int
    required: bool


def check_references(program: Program) -> None:
    """Report unknown names and attributes, and each undeclared input once."""
    error_reads = _ErrorReads(program)
    for use in program.uses:
        for access, offset in use.template.reads.items():
            if access[0] in use.local_names and not _has_known_attributes(program, access[0]):
                continue
            read = _Read(program, use, access, offset)
            _check_read(read)
            is_error_part = access[0] == "error" and len(access) > 1 and access[1] in ATTRIBUTES["error"]
            if is_error_part and error_reads.is_always_none(use, access):
                message = "`error` is none here, because nothing has failed"
                read.report("error", message, hint=_ERROR_HINT)
    for name, (use, offset, _) in _find_inferred_inputs(program).items():
        reads_shell = name == "env" and any(path[0] == "env" and path[1:] for path in use.template.reads)
        hint = SHELL_VARIABLE_HINT if reads_shell else NAME_HINTS.get(name)
        hint = hint or program.diagnostics.did_you_mean(name, program.defined_names)
        span = program.document.text_span(use.path, offset, offset + len(name))
        message = f"undeclared input `{name}`: nothing in the playbook assigns it"
        if hint is None:
            program.diagnostics.add("NP306", message, span, "declare it under `input`")
        else:
            program.diagnostics.add("NP306", message, span, hint, severity=Severity.WARNING)


_ERROR_HINT = "read `error` in a `rule` or in `retry`; elsewhere read `steps.NAME.error`"


class _ErrorReads:
    """The search for templates that read a part of `error` where no failure can have come before."""

    def __init__(self, program: Program) -> None:
        self.program = program
        cases = [case for step in program.playbook.steps for case in step.rule or ()]
        self.error_aware_cases = {case.path for case in cases if is_error_aware(case)}
        call_graph = program.call_graph
        called = {
            task
            for case in cases
            if case.path in self.error_aware_cases
            for task in find_called_tasks(case.run)
            if task in call_graph
        }
        self.tasks_after_failures = called.union(*(nx.descendants(call_graph, task) for task in called))

    @cached_property
    def _entries_with_error_guard(self) -> AbstractSet[DocumentPath]:
        """The paths of entries whose `if` reads `error`."""
        guards = (use for use in self.program.uses if use.path == (*use.entry_path, "if"))
        return {guard.entry_path for guard in guards if "error" in guard.template.names}

    def is_always_none(self, use: TemplateUse, access: AccessPath) -> bool:
        """Return whether a template requires a part of an error where there is no error."""
        is_evaluated_after_failure = use.path[-2:] == ("retry", "if") or use.path[-1] == "case"
        if is_evaluated_after_failure or use.scope in KNOWN_BEFORE_START:
            return False
        if use.entry_path[:-2] in self.error_aware_cases or use.task in self.tasks_after_failures:
            return False
        if use.entry_path in self._entries_with_error_guard:
            return False
        required = (item for item in narrow(use.template).required if item.access == access)
        return any(item.given.results & NOT_FAILED for item in required)


def infer_inputs(program: Program) -> dict[str, InferredInput]:
    """Return the inputs of a playbook without `input`, in the order in which templates first read them."""
    return {
        name: InferredInput(program.document.text_span(use.path, offset, offset + 1).line, required)
        for name, (use, offset, required) in _find_inferred_inputs(program).items()
    }


def _find_inferred_inputs(program: Program) -> dict[str, tuple[TemplateUse, int, bool]]:
    """Return the first use of each undeclared input, the offset in it, and whether a run requires it."""
    if program.playbook.input is not None:
        return {}
    inputs: dict[str, tuple[TemplateUse, int, bool]] = {}
    defined = program.defined_names
    for use in program.uses:
        for access, offset in use.template.reads.items():
            name, start = access[0], offset
            is_local = name in use.local_names or name in use.item_names
            if is_local or name in defined or _is_language_name(program, name):
                if access[0] != "input" or len(access) == 1:
                    continue
                name = access[1]
                start = use.template.source.find(name, offset)
            first_use, start, is_required = inputs.get(name, (use, start, False))
            input_access = access[: 2 if access[0] == "input" else 1]
            is_required = is_required or not handles_undefined(use.template, *input_access)
            inputs[name] = (first_use, start, is_required)
    return inputs


def _is_language_name(program: Program, name: str) -> bool:
    is_known = name in ALWAYS_KNOWN or name in KNOWN_IN_STEPS or name in KNOWN_IN_SOME_PLACES
    return is_known or _find_deferred_name(program, name) is not None


def _find_deferred_name(program: Program, name: str) -> DeferredName | None:
    """Return the deferred name with these letters if it is a word of the language."""
    return program.catalogue.deferred_names.get(name) if name in RESERVED_NAMES else None


class _Read(NamedTuple):
    """One access of a template, with its offset in the text of the template."""

    program: Program
    use: TemplateUse
    access: AccessPath
    offset: int

    @property
    def attribute(self) -> str | None:
        """The second part of the access, if it has one."""
        return self.access[1] if len(self.access) > 1 else None

    def report(self, word: str, message: str, known: Collection[str] = (), hint: str | None = None) -> None:
        """Report NP301 at a word of the template. The hint is the closest known word, else `hint`."""
        diagnostics = self.program.diagnostics
        diagnostics.add("NP301", message, self.find_span(word), diagnostics.did_you_mean(word, known) or hint)

    def find_span(self, word: str) -> Span:
        """Return the span of the first occurrence of a word from the offset on."""
        start = max(self.use.template.source.find(word, self.offset), 0)
        return self.program.document.text_span(self.use.path, start, start + len(word))


def _check_read(read: _Read) -> None:
    """Report an access that is unknown, or not known in the scope of its template."""
    program, use, name, attribute = read.program, read.use, read.access[0], read.attribute
    if name == "input":
        _check_attribute(read, program.playbook.input, "unknown input `{}`")
    elif name == "environment" and use.scope is TemplateScope.ENVIRONMENT:
        read.report(name, "an entry of `environment` cannot read another one")
    elif name == "environment":
        advice = "declare it under `environment`"
        if attribute is not None and attribute.isupper():
            advice = f"{advice}; {SHELL_VARIABLE_HINT}"
        _check_attribute(read, program.playbook.environment, "unknown `environment` entry `{}`", advice)
    elif name == "args":
        _check_argument(read)
    elif (problem := _find_scope_problem(program, use, name)) is not None:
        message, hint = problem
        read.report(name, message, hint=hint)
    elif name == "steps":
        _check_step(read)
    elif name == "run" and attribute in FINALLY_ATTRIBUTES and use.step == program.playbook.finally_:
        return
    elif read.access[:2] == ("run", "trigger"):
        _check_run_trigger(read)
    elif (attributes := _find_attributes(program, name)) is not None and attribute is not None:
        _check_attribute(read, attributes, f"`{name}` has no attribute `{{}}`")
    elif name == "variables":
        message = "cannot read `variables`: read each variable by its own name"
        read.report(name, message, hint=f"write `{{{{ {attribute or 'NAME'} }}}}`")
    else:
        _check_plain_name(read)


def _has_known_attributes(program: Program, name: str) -> bool:
    """Return whether the attributes of a local name are known: those of a loop, and of a deferred name."""
    return name == "loop" or _find_deferred_name(program, name) is not None


def _find_attributes(program: Program, name: str) -> Collection[str] | None:
    """Return the attributes of a name of the language, or None if the language does not say them."""
    deferred = _find_deferred_name(program, name)
    return ATTRIBUTES.get(name) if deferred is None else deferred.attributes


def _check_attribute(
    read: _Read, known: Collection[str] | None, message: str, hint: str | None = None
) -> None:
    """Report the second part of an access if it is unknown. Without `known`, every part is accepted.

    The hint is the closest known part, else `hint`.
    """
    attribute = read.attribute
    if known is None or attribute is None or attribute in known:
        return
    if not handles_undefined(read.use.template, read.access[0], attribute):
        read.report(attribute, message.format(attribute), known, hint)


def _find_scope_problem(program: Program, use: TemplateUse, name: str) -> tuple[str, str | None] | None:
    """Return a message and a hint if a name of the language is not known in the scope of a template."""
    if name in ("item", "loop") and name not in use.local_names:
        return f"`{name}` is only defined inside a loop", None
    if name not in use.local_names and (deferred := _find_deferred_name(program, name)) is not None:
        place = f"the `{deferred.parameter}` of a `{deferred.action_type}` action"
        return f"`{name}` is only defined in {place}", None
    if name == "result" and use.scope in _SCOPES_WITHOUT_RESULT:
        hint = "save the result of an action with `as`, or read `steps.NAME.result`"
        return "`result` is only defined in a `rule`", hint
    if name in _UNKNOWN_IN_DEBOUNCE and use.scope is TemplateScope.DEBOUNCE:
        return f"`{name}` is undefined in `debounce`", "read `input` or `environment`"
    if name in KNOWN_IN_STEPS and use.scope in KNOWN_BEFORE_START:
        return f"`{name}` is undefined before the run starts", None
    if name == "step" and use.scope is TemplateScope.OUTPUT:
        return "`step` is undefined in `output`, which no step evaluates", "read `steps.NAME`"
    return None


_SCOPES_WITHOUT_RESULT = (
    TemplateScope.WORK,
    TemplateScope.ENVIRONMENT,
    TemplateScope.VARIABLES,
    TemplateScope.CONCURRENCY,
    TemplateScope.DEBOUNCE,
    TemplateScope.PRIORITY,
    TemplateScope.OUTPUT,
)

_UNKNOWN_IN_DEBOUNCE = frozenset({"run", "now", "uuid"})
"""Names that other templates of a playbook read. They differ between starts that share a run."""


def _check_plain_name(read: _Read) -> None:
    """Report a name that is unknown, or that is assigned only after the template is evaluated."""
    program, use, name = read.program, read.use, read.access[0]
    is_defined = name in program.defined_names
    if use.scope in KNOWN_BEFORE_START and name not in ALWAYS_KNOWN and is_defined:
        sections = [getattr(program.playbook, section) or () for section in KNOWN_BEFORE_START[use.scope]]
        if not any(name in section for section in sections):
            read.report(name, f"`{name}` is undefined where `{use.scope}` is evaluated")
        return
    is_known = is_defined or _is_language_name(program, name) or name in use.item_names
    if program.playbook.input is None or is_known or handles_undefined(use.template, name):
        return
    message = f"unknown name `{name}`: nothing in the playbook assigns it"
    hint = SHELL_VARIABLE_HINT if name == "env" and read.attribute else NAME_HINTS.get(name)
    read.report(name, message, () if hint else program.defined_names, hint)


def _check_argument(read: _Read) -> None:
    program, task, argument = read.program, read.use.task, read.attribute
    if task is None:
        read.report("args", "`args` is only defined inside a task")
        return
    if argument is None or handles_undefined(read.use.template, "args", argument):
        return
    calls = program.call_sites.get(task, [])
    calls_without = [entry for entry in calls if argument not in entry.with_]
    if calls and not calls_without:
        return
    shown = [entry.path for entry in calls_without[:MAX_SHOWN_LINES] if entry.path]
    lines = ", ".join(str(program.document.span(path).line) for path in shown)
    if len(calls_without) > MAX_SHOWN_LINES:
        lines += f" and {len(calls_without) - MAX_SHOWN_LINES:,} more"
    message = f"missing argument `{argument}` for task `{task}`" + (f" on line {lines}" if lines else "")
    known = {name for entry in calls for name in entry.with_}
    read.report(argument, message, known, hint=f"add it to `with: {{{argument}: …}}`")


def _check_run_trigger(read: _Read) -> None:
    """Report an attribute that `run.trigger` does not have, unless it is a method of objects."""
    for attribute in read.access[2:3]:
        is_known = attribute in RUN_TRIGGER_ATTRIBUTES or attribute in _OBJECT_METHODS
        if not is_known and not handles_undefined(read.use.template, *read.access[:3]):
            message = f"`run.trigger` has no attribute `{attribute}`"
            read.report(attribute, message, RUN_TRIGGER_ATTRIBUTES, _RUN_TRIGGER_HINT)


_OBJECT_METHODS = frozenset({"get", "items", "keys", "values"})
_RUN_TRIGGER_HINT = "`run.trigger` has no data of the firing: pass it on with the `input` of the trigger"


def _check_step(read: _Read) -> None:
    program, access = read.program, read.access
    if len(access) == 1:
        read.report("steps", 'missing step name: write `steps.NAME` or `steps["NAME"]`')
    elif access[1] not in program.symbols.steps and access[1] not in program.broken_steps:
        message = f"unknown step `{access[1]}`"
        hint = program.diagnostics.did_you_mean(access[1], program.symbols.steps)
        program.diagnostics.add("NP101", message, read.find_span(access[1]), hint)
    elif len(access) > 2 and access[2] not in ATTRIBUTES["steps"]:
        read.report(access[2], f"a step has no attribute `{access[2]}`", ATTRIBUTES["steps"])
