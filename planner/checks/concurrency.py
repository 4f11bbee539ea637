"""Checks of `concurrency` and `rate` (NP010 to NP012, NP407, NP831, NP833 and NP838).

They are about the form of limits, runs that wait for themselves, and loops under a rate.

Whether an operator's limit exists, and what it bounds, is checked when the playbook is registered (NP834 and
NP835). So are circles of several playbooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.limits import MAX_LIMIT_NAME, MAX_PRIORITY, is_limit_name
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import (
    ActionEntry,
    BaseLimitDeclaration,
    LimitDeclaration,
    Playbook,
    RateDeclaration,
    Step,
)
from noetl.planner.templates.template import has_template

OWN_RUNS_WAIT = "a run that waits for another run of its own playbook may wait for its own slot"
"""Why a playbook with a limit must not run itself and wait."""

AVOID_WAITING = "remove the limit of runs, limit a step instead, or write `detach: true`"
"""How to correct runs that wait for each other."""


def check_concurrency(program: Program) -> None:
    """Report limits that are not possible."""
    playbook = program.playbook
    places: tuple[Playbook | Step, ...] = (playbook, *playbook.steps)
    for place in places:
        _check_limits(program, place.limits)
        _check_limits(program, place.rates)
        _check_priority(program, place)
    for step in playbook.steps:
        _check_loop(program, step)
    for limit in playbook.limits:
        if limit.when_full == "cancel_oldest" and limit.use is not None:
            message = "`when_full: cancel_oldest` with `use` would cancel runs of other playbooks"
            hint = "write `limit` in place of `use`, or remove `when_full`"
            program.report("NP831", message, (*limit.path, "when_full"), hint)
    for step in playbook.steps:
        for limit in step.limits:
            _check_limit_of_step(program, limit)
    if any(limit.key is None and limit.when_full != "skip" for limit in playbook.limits):
        _check_own_runs(program)


def _check_limits(program: Program, limits: Sequence[BaseLimitDeclaration]) -> None:
    """Check the limits or the rates of the playbook or of a step."""
    used: set[str] = set()
    for limit in limits:
        written = _written(program, limit)
        if limit.use is not None or "use" in written:
            _check_use(program, limit, written)
        elif isinstance(limit, RateDeclaration):
            for key in ("limit", "per"):
                if key not in written:
                    hint = "write it as `{limit: 100, per: 1m}`, or `use` and the name of an operator's rate"
                    program.report("NP011", f"`rate` has neither `{key}` nor `use`", limit.path, hint)
                    break
        elif limit.limit is None and "limit" not in written:
            message = "`concurrency` has neither `limit` nor `use`"
            hint = "write `limit` and a number, or `use` and the name of an operator's limit"
            program.report("NP011", message, limit.path, hint)
        if limit.use is not None and limit.use in used:
            message = f"duplicate limit `{abbreviate(limit.use)}`"
            program.report("NP012", message, (*limit.path, "use"), "remove one of them")
        used.add(limit.use or "")
        _check_templates(program, limit)
        if limit.when_full == "skip" and "max_wait" in written:
            message = "a limit with `when_full: skip` has no `max_wait`: nothing waits for it"
            program.report("NP010", message, (*limit.path, "max_wait"), "remove it", key=True)
        if isinstance(limit, RateDeclaration):
            continue
        if limit.when_full != "queue" and "max_queued" in written:
            message = f"a limit with `when_full: {limit.when_full}` has no `max_queued`"
            program.report("NP010", message, (*limit.path, "max_queued"), "remove one of them", key=True)


def _check_limit_of_step(program: Program, limit: LimitDeclaration) -> None:
    """Check that the limit of a step has nothing that is for runs only."""
    if limit.when_full == "cancel_oldest":
        message = "`when_full: cancel_oldest` is possible for runs only"
        hint = "remove it, or limit the playbook"
        program.report("NP831", message, (*limit.path, "when_full"), hint)
    if "max_queued" in _written(program, limit):
        message = "`max_queued` is possible for runs only"
        hint = "remove it, or limit the playbook"
        program.report("NP010", message, (*limit.path, "max_queued"), hint, key=True)


def _check_templates(program: Program, limit: BaseLimitDeclaration) -> None:
    """Check that `key` and `fair` have a template."""
    fair = limit.fair if isinstance(limit, LimitDeclaration) else None
    for key, text in (("key", limit.key), ("fair", fair)):
        if text is not None and not has_template(text):
            word = text.strip()
            hint = f'write `{key}: "{{{{ {word} }}}}"`' if word.isidentifier() else "read a name in `{{ }}`"
            program.report(
                "NP407", f"`{key}` must contain a `{{{{ expression }}}}`", (*limit.path, key), hint
            )


def _check_priority(program: Program, place: Playbook | Step) -> None:
    """Check that a priority that is text has a template."""
    priority = place.priority
    if isinstance(priority, str) and not has_template(priority):
        message = (
            f"`priority` must be a number from -{MAX_PRIORITY} to {MAX_PRIORITY}, or an"
            f" `{{{{ expression }}}}`, not `{abbreviate(priority)}`"
        )
        program.report("NP012", message, (*place.path, "priority"))


def _written(program: Program, limit: BaseLimitDeclaration) -> frozenset[str]:
    """Return the keys of a limit in the text, also those whose values are wrong."""
    is_mapping = isinstance(program.document.value_at(limit.path), dict)
    return program.document.written_keys(limit.path) if is_mapping else frozenset({"limit"})


def _check_use(program: Program, limit: BaseLimitDeclaration, written: frozenset[str]) -> None:
    """Check the name of an operator's limit, and that nothing contradicts the operator."""
    if limit.use is not None and not is_limit_name(limit.use):
        message = (
            f"name of a limit must be 1 to {MAX_LIMIT_NAME} letters, digits, `_`, `-` or `.`,"
            f" and start with a letter or digit, not `{abbreviate(limit.use)}`"
        )
        program.report("NP012", message, (*limit.path, "use"))
    for key in ("limit", "per", "key"):
        if key in written:
            message = f"a limit with `use` has no `{key}`: the operator sets it"
            program.report("NP010", message, (*limit.path, key), "remove it", key=True)


def _check_loop(program: Program, step: Step) -> None:
    """Report a loop under a rate whose items are not counted, or exceed it at once."""
    if step.loop is None:
        return
    batch = step.loop.batch
    if step.rates and batch is None:
        message = "a loop under `rate` must have `batch`: each item takes one unit"
        hint = "write `batch` and how many items begin at once"
        program.report("NP838", message, step.loop.path, hint)
    for rate in step.rates:
        if batch is not None and rate.limit is not None and batch > rate.limit:
            message = f"a batch of {batch:,} items exceeds the rate of {rate.limit:,}"
            hint = f"write `batch: {rate.limit}` or less"
            program.report("NP838", message, (*step.loop.path, "batch"), hint)
            return


def _check_own_runs(program: Program) -> None:
    """Report the first action that starts a run of its own playbook and waits for it."""
    for entry in _find_actions(program):
        declaration = entry.declaration
        if declaration is None or declaration.called_playbook is None or entry.parameters.get("detach"):
            continue
        called = declaration.called_playbook(entry.parameters)
        if called is not None and called[0] == program.playbook.name:
            program.report("NP833", OWN_RUNS_WAIT, (*entry.path, "playbook"), AVOID_WAITING)
            return


def _find_actions(program: Program) -> Iterator[ActionEntry]:
    """Yield all actions of work."""
    return (entry for entry, _, _ in program.entries if isinstance(entry, ActionEntry))
