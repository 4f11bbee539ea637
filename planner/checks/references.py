"""NP301 to NP306: every name that a template reads is produced, or is an input, and means one thing."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from noetl.planner.checks.races import check_races
from noetl.planner.checks.undefined_names import check_production
from noetl.planner.dataflow.definitions import Saves
from noetl.planner.dataflow.liveness import SAVE_TOGETHER, TOO_MANY, are_too_many_in_turns
from noetl.planner.dataflow.narrowing import UNFAILED, implied, provides_for
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Span
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Place, Use
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.foreign_syntax import NAME_HINTS

ATTRIBUTES = {
    "steps": frozenset({"status", "visits", "result", "error"}),
    "run": frozenset({"id", "started_at", "playbook", "version"}),
    "step": frozenset({"name", "visit", "attempt", "idempotency_key"}),
    "result": frozenset({"success", "data", "error", "action", "skipped", "items"}),
    "error": frozenset({"type", "message", "action", "step", "attempt", "retryable", "status", "details"}),
    "callback": frozenset({"url", "token"}),
    "loop": frozenset({"index", "index0", "first", "last", "length"}),
}
ENDING = frozenset({"status", "error"})
"""What `run` has besides in the step that runs last."""

ALWAYS = frozenset({"input", "environment", "run", "now", "uuid", "secrets"})
EARLY = {Place.ENVIRONMENT: ("input",), Place.VARIABLES: ("input", "environment")}
"""The sections that are filled in before a run begins, and those that their templates can see."""
IN_STEPS = frozenset({"step", "steps", "error", "callback"})
MAX_LINES = 5
OTHERS = frozenset({"result", "args", "item", "loop", "variables", "none", "true", "false"})


@dataclass(frozen=True, slots=True)
class Inferred:
    """An input that nothing declares: where it is first read, and whether a run can do without."""

    line: int
    required: bool


def check_data_flow(subject: Subject) -> None:
    """Report every read of a name that has no producer, and every inferred input once."""
    unfailed = _Unfailed(subject)
    for use in subject.uses:
        for access, offset in use.template.reads.items():
            if access[0] not in use.local or access[0] == "callback":
                _check_read(subject, use, access, offset)
                if (
                    access[0] == "error"
                    and access[1:2]
                    and access[1] in ATTRIBUTES["error"]
                    and unfailed.needs(use, access)
                ):
                    _report(
                        subject,
                        use,
                        "error",
                        offset,
                        "`error` is none here: nothing has failed",
                        hint=_FAILED,
                    )
    for name, (use, offset, _) in _inferred(subject).items():
        likely = NAME_HINTS.get(name) or subject.diagnostics.suggest(name, subject.known_names)
        span = subject.document.text_span(use.path, offset, offset + len(name))
        if likely is None:
            message = f"`{name}` is an input of the run, since nothing in the playbook produces it"
            subject.diagnostics.add("NP306", message, span, "declare it under `input`")
        else:
            message = f"nothing in the playbook produces `{name}`, so a run needs it as an input"
            subject.diagnostics.add("NP306", message, span, likely, severity=Severity.WARNING)
    if subject.is_whole and _carries_too_much(subject):
        subject.report("NP701", TOO_MANY, ("steps",), SAVE_TOGETHER, key=True)
    elif subject.is_whole:
        never = check_production(subject)
        check_races(subject, Saves(subject.names, subject.task_calls), never)


_FAILED = "it is known in a `rule` and in `retry`; elsewhere read `steps.NAME.error`"


class _Unfailed:
    """Tells where no failure can have come before, so that `error` is none."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        cases = [case for step in subject.playbook.steps for case in step.rule or ()]
        self.handling = {case.path for case in cases if is_error_aware(case)}
        calls = subject.task_calls
        called = {
            task
            for case in cases
            if case.path in self.handling
            for task in find_called_tasks(case.run)
            if task in calls
        }
        self.tasks = called.union(*(nx.descendants(calls, task) for task in called))

    @cached_property
    def asking(self) -> AbstractSet[DocumentPath]:
        """The entries that are done only where there is an error, if they are."""
        guards = (use for use in self.subject.uses if use.path == (*use.owner, "if"))
        return {guard.owner for guard in guards if "error" in guard.template.names}

    def needs(self, use: Use, access: AccessPath) -> bool:
        """Whether a template needs a part of an error although there is none."""
        if use.path[-2:] == ("retry", "if") or use.path[-1] == "case" or use.place in EARLY:
            return False
        if use.owner[:-2] in self.handling or use.task in self.tasks or use.owner in self.asking:
            return False
        needs = (need for need in implied(use.template).needs if need.access == access)
        return any(need.given.outcomes & UNFAILED for need in needs)


def _carries_too_much(subject: Subject) -> bool:
    """Whether there can be no plan, since branches that take turns carry too much: where each of it is there need not be found out."""
    if subject.playbook.mode != "sequential":
        return False
    reachable, steps = subject.flow.reachable, subject.names.steps
    uses = (use for use in subject.uses if use.step in reachable)
    read = {access[0] for use in uses for access in use.template.reads if access[0] not in use.local}
    saved = {name for step in reachable for name, _ in find_saved_names(steps[step].run or ())}
    return are_too_many_in_turns(subject.flow, read & saved)


def inferred_inputs(subject: Subject) -> dict[str, Inferred]:
    """The inputs that a playbook without `input` takes, in the order they are first read."""
    return {
        name: Inferred(subject.document.text_span(use.path, offset, offset + 1).line, required)
        for name, (use, offset, required) in _inferred(subject).items()
    }


def _inferred(subject: Subject) -> dict[str, tuple[Use, int, bool]]:
    if subject.playbook.input is not None:
        return {}
    found: dict[str, tuple[Use, int, bool]] = {}
    known = subject.known_names
    for use in subject.uses:
        for access, offset in use.template.reads.items():
            name, at = access[0], offset
            if name in use.local or name in use.own or name in known or _is_given(name):
                if access[0] != "input" or len(access) == 1:
                    continue
                name = access[1]
                at = use.template.source.find(name, offset)
            first, at, needed = found.get(name, (use, at, False))
            needed = needed or not provides_for(use.template, *access[: 2 if access[0] == "input" else 1])
            found[name] = (first, at, needed)
    return found


def _is_given(name: str) -> bool:
    return name in ALWAYS or name in IN_STEPS or name in OTHERS


def _check_read(subject: Subject, use: Use, access: AccessPath, offset: int) -> None:
    name, attribute = access[0], access[1] if len(access) > 1 else None
    if name == "input":
        declared = subject.playbook.input
        if (
            declared is not None
            and attribute is not None
            and attribute not in declared
            and not provides_for(use.template, name, attribute)
        ):
            _report(subject, use, attribute, offset, f"there is no input `{attribute}`", declared)
    elif name == "environment" and use.place is Place.ENVIRONMENT:
        _report(subject, use, name, offset, "the entries of `environment` do not see each other")
    elif name == "environment":
        entries = subject.playbook.environment
        if (
            attribute is not None
            and attribute not in entries
            and not provides_for(use.template, name, attribute)
        ):
            _report(subject, use, attribute, offset, f"`environment` has no `{attribute}`", entries)
    elif name == "args":
        _check_argument(subject, use, attribute, offset)
    elif name in ("item", "loop"):
        _report(subject, use, name, offset, f"`{name}` is known inside a loop only")
    elif name == "callback" and name not in use.local:
        _report(subject, use, name, offset, "`callback` is known in the `notify` of a `callback` only")
    elif name == "result" and use.place in (Place.WORK, Place.ENVIRONMENT, Place.VARIABLES, Place.OUTPUT):
        hint = "save what an action gives with `as`, or read `steps.NAME.result`"
        _report(subject, use, name, offset, "`result` is known in a `rule` only", hint=hint)
    elif name in IN_STEPS and use.place in (Place.ENVIRONMENT, Place.VARIABLES):
        _report(subject, use, name, offset, f"`{name}` is not known before the run has started")
    elif name == "steps":
        _check_step(subject, use, access, offset)
    elif name == "run" and attribute in ENDING and use.step == subject.playbook.finally_:
        return
    elif name in ATTRIBUTES and attribute is not None:
        if attribute not in ATTRIBUTES[name] and not provides_for(use.template, name, attribute):
            _report(subject, use, attribute, offset, f"`{name}` has no `{attribute}`", ATTRIBUTES[name])
    elif name == "variables":
        _report(
            subject,
            use,
            name,
            offset,
            "a variable is read by its own name",
            hint=f"write `{{{{ {attribute or 'NAME'} }}}}`",
        )
    elif use.place in EARLY and name not in ALWAYS and name in subject.known_names:
        earlier = [getattr(subject.playbook, section) or () for section in EARLY[use.place]]
        if not any(name in section for section in earlier):
            _report(subject, use, name, offset, f"`{name}` has no value yet when `{use.place}` is filled in")
    elif subject.playbook.input is not None and not (
        _is_given(name) or name in subject.known_names or name in use.own
    ):
        if not provides_for(use.template, name):
            message = f"nothing in the playbook produces `{name}`"
            known = () if name in NAME_HINTS else subject.known_names
            _report(subject, use, name, offset, message, known, hint=NAME_HINTS.get(name))


def _check_argument(subject: Subject, use: Use, argument: str | None, offset: int) -> None:
    if use.task is None:
        _report(subject, use, "args", offset, "`args` is known inside a task only")
        return
    if argument is None or provides_for(use.template, "args", argument):
        return
    calls = subject.calls.get(use.task, [])
    lacking = [entry for entry in calls if argument not in entry.with_]
    if lacking or not calls:
        given = {name for entry in calls for name in entry.with_}
        lines = ", ".join(
            str(subject.document.span(entry.path).line) for entry in lacking[:MAX_LINES] if entry.path
        )
        if len(lacking) > MAX_LINES:
            lines += f" and {len(lacking) - MAX_LINES:,} more"
        message = f"`args.{argument}` is not given to task `{use.task}`" + (
            f" on line {lines}" if lines else ""
        )
        _report(subject, use, argument, offset, message, given, hint=f"add it to `with: {{{argument}: …}}`")


def _check_step(subject: Subject, use: Use, access: AccessPath, offset: int) -> None:
    if len(access) == 1:
        _report(subject, use, "steps", offset, 'a step is read by its name: `steps.NAME` or `steps["NAME"]`')
    elif access[1] not in subject.names.steps and access[1] not in subject.broken_steps:
        message = f"step `{access[1]}` does not exist"
        hint = subject.diagnostics.suggest(access[1], subject.names.steps)
        subject.diagnostics.add("NP101", message, _word(subject, use, access[1], offset), hint)
    elif len(access) > 2 and access[2] not in ATTRIBUTES["steps"]:
        _report(subject, use, access[2], offset, f"a step has no `{access[2]}`", ATTRIBUTES["steps"])


def _word(subject: Subject, use: Use, word: str, offset: int) -> Span:
    at = max(use.template.source.find(word, offset), 0)
    return subject.document.text_span(use.path, at, at + len(word))


def _report(
    subject: Subject,
    use: Use,
    word: str,
    offset: int,
    message: str,
    known: Collection[str] = (),
    hint: str | None = None,
) -> None:
    subject.diagnostics.add(
        "NP301", message, _word(subject, use, word, offset), subject.diagnostics.suggest(word, known) or hint
    )
