"""Checks of `debounce`: its longest time, and its key (NP012 and NP407)."""

from __future__ import annotations

from noetl.planner.program.program import Program
from noetl.planner.templates.template import has_template


def check_debounce(program: Program) -> None:
    """Report a longest time that is shorter than the wait, and a key that is the same for all starts."""
    declared = program.playbook.debounce
    if declared is None:
        return
    if declared.longest is not None and declared.longest < declared.wait:
        message = "`max` must not be shorter than `wait`"
        hint = "write a longer time, or remove `max`, which is ten times `wait` then"
        program.report("NP012", message, ("debounce", "max"), hint)
    if declared.key is not None and not has_template(declared.key):
        word = declared.key.strip()
        hint = f'write `key: "{{{{ {word} }}}}"`' if word.isidentifier() else "read a name in `{{ }}`"
        program.report("NP407", "`key` must contain a `{{ expression }}`", ("debounce", "key"), hint)
