"""NP406 and NP407: guards are expressions, and secrets stand only where they stay secret."""

from __future__ import annotations

from noetl.planner.diagnostics.diagnostic import suggest
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import ActionEntry, DocumentPath, TaskEntry
from noetl.planner.templates.foreign_syntax import GUARD_HINTS
from noetl.planner.templates.template import TemplateProblem, parse_template


def check_expressions(subject: Subject) -> None:
    """Report guards that are plain text, and secrets out of place."""
    if subject.playbook.retry is not None:
        _check_guard(subject, subject.playbook.retry.if_, ("retry", "if"))
    for step in subject.playbook.steps:
        for case in step.rule or ():
            _check_guard(subject, case.case, (*case.path, "case"), ("default", "error"))
        if step.retry is not None:
            _check_guard(subject, step.retry.if_, (*step.path, "retry", "if"))
        if step.repeat is not None:
            _check_guard(subject, step.repeat.until, (*step.path, "repeat", "until"))
    for entry, _, _ in subject.entries:
        if isinstance(entry, ActionEntry | TaskEntry):
            _check_guard(subject, entry.if_, (*entry.path, "if"))
        if isinstance(entry, ActionEntry) and entry.retry is not None:
            _check_guard(subject, entry.retry.if_, (*entry.path, "retry", "if"))
    _check_secrets(subject)


def _check_guard(
    subject: Subject, guard: str | bool | None, path: DocumentPath, words: tuple[str, ...] = ()
) -> None:
    if guard is None or guard in words or (isinstance(guard, bool) and not words):
        return
    text = str(guard).lower() if isinstance(guard, bool) else guard
    try:
        if isinstance(guard, str) and parse_template(guard).is_expression:
            return
    except TemplateProblem:
        return
    word = text.strip()
    whole = f"{{{{ {word} }}}}"
    hint = (
        f'write `"{whole}"`' if "{" not in text and _is_expression(whole) else "put all of it in one `{{ }}`"
    )
    meant = GUARD_HINTS.get(word.lower()) if words and word not in subject.known_names else None
    hint = meant or suggest(text, words) or hint
    subject.report(
        "NP407", "a guard is one `{{ expression }}`" + "".join(f", or `{w}`" for w in words), path, hint
    )


def _is_expression(text: str) -> bool:
    try:
        return parse_template(text).is_expression
    except TemplateProblem:
        return False


def _check_secrets(subject: Subject) -> None:
    for use in subject.uses:
        offset = next((at for access, at in use.template.reads.items() if access[0] == "secrets"), None)
        if offset is None or "secrets" in use.local:
            continue
        end = offset + len("secrets")
        span = subject.document.text_span(use.path, offset, end)
        if not use.secrets:
            hint = "secrets may stand in credentials, headers, connection strings and bodies of actions"
            subject.diagnostics.add("NP406", "`secrets` may not be read here", span, hint)
        elif any(access == ("secrets",) for access in use.template.reads):
            subject.diagnostics.add("NP406", "a secret is read by name: `secrets.NAME`", span)
        elif "with" in use.path and not use.template.is_access:
            hint = "put text around it where the task uses it"
            subject.diagnostics.add("NP406", "a secret is passed to a task by itself", span, hint)
