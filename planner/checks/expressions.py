"""Checks of guards and secrets: guards are expressions, and secrets stay secret (NP406 and NP407)."""

from __future__ import annotations

from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import as_code, join_words
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import ActionEntry, DocumentPath, KeyedTriggerDeclaration, TaskEntry
from noetl.planner.templates.foreign_syntax import GUARD_HINTS
from noetl.planner.templates.template import TemplateProblem, parse_template


def check_expressions(program: Program) -> None:
    """Report guards that are not expressions, and secrets that are read in the wrong place."""
    if program.playbook.retry is not None:
        _check_guard(program, program.playbook.retry.if_, ("retry", "if"))
    for step in program.playbook.steps:
        for case in step.rule or ():
            _check_guard(program, case.case, (*case.path, "case"), ("default", "error"))
        if step.retry is not None:
            _check_guard(program, step.retry.if_, (*step.path, "retry", "if"))
        if step.repeat is not None:
            _check_guard(program, step.repeat.until, (*step.path, "repeat", "until"))
    for entry, _, _ in program.entries:
        if isinstance(entry, ActionEntry | TaskEntry):
            _check_guard(program, entry.if_, (*entry.path, "if"))
        if isinstance(entry, ActionEntry) and entry.retry is not None:
            _check_guard(program, entry.retry.if_, (*entry.path, "retry", "if"))
    for trigger in program.playbook.triggers:
        _check_guard(program, trigger.if_, (*trigger.path, "if"))
        if isinstance(trigger, KeyedTriggerDeclaration):
            _check_guard(program, trigger.key, (*trigger.path, "key"), subject="`key`")
    _check_secrets(program)


def _check_guard(
    program: Program,
    guard: str | bool | None,
    path: DocumentPath,
    keywords: tuple[str, ...] = (),
    subject: str = "guard",
) -> None:
    """Report a guard that is neither an expression nor one of `keywords`."""
    if guard is None or guard in keywords or (isinstance(guard, bool) and not keywords):
        return
    text = str(guard).lower() if isinstance(guard, bool) else guard
    try:
        if isinstance(guard, str) and parse_template(guard).is_expression:
            return
    except TemplateProblem:
        return
    word = text.strip()
    expression = f"{{{{ {word} }}}}"
    is_bare_expression = "{" not in text and _is_expression(expression)
    hint = (
        f'write `"{expression}"`'
        if is_bare_expression
        else f"put the whole {subject.strip('`')} into one `{{{{ }}}}`"
    )
    is_keyword_position = bool(keywords) and word not in program.defined_names
    foreign_hint = GUARD_HINTS.get(word.lower()) if is_keyword_position else None
    message = f"{subject} must be {join_words(['a single `{{ expression }}`', *as_code(keywords)])}"
    program.report("NP407", message, path, foreign_hint or did_you_mean(text, keywords) or hint)


def _is_expression(text: str) -> bool:
    try:
        return parse_template(text).is_expression
    except TemplateProblem:
        return False


def _check_secrets(program: Program) -> None:
    for use in program.uses:
        offset = next((start for path, start in use.template.reads.items() if path[0] == "secrets"), None)
        if offset is None or "secrets" in use.local_names:
            continue
        span = program.document.text_span(use.path, offset, offset + len("secrets"))
        if not use.allows_secrets:
            hint = "read it in credentials, headers, connection strings or bodies of actions"
            program.diagnostics.add("NP406", "`secrets` cannot be read here", span, hint)
        elif ("secrets",) in use.template.reads:
            program.diagnostics.add("NP406", "a secret must be read by name: `secrets.NAME`", span)
        elif "with" in use.path and not use.template.is_access:
            hint = "add the other text where the task uses the secret"
            program.diagnostics.add(
                "NP406", "a secret must be passed to a task without other text", span, hint
            )
