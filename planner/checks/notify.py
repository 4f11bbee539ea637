"""Checks of `notify`: the names of channels, and the channels of late runs (NP011 and NP012).

Whether a channel exists is checked when the playbook is registered (NP851), because an operator adds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.notify import MAX_CHANNEL_NAME, is_channel_name
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath


def check_notify(program: Program) -> None:
    """Report names that no channel can have, and late runs that no channel receives."""
    declared = program.playbook.notify
    if declared is None:
        return
    for event in ("failed", "succeeded", "cancelled"):
        _check_names(program, getattr(declared, event) or (), ("notify", event))
    if declared.late is None:
        return
    _check_names(program, declared.late.receivers or (), ("notify", "late", "to"))
    written = program.document.written_keys(("notify",))
    is_mapping = isinstance(program.document.value_at(("notify", "late")), dict)
    has_receivers = is_mapping and "to" in program.document.written_keys(("notify", "late"))
    if "failed" not in written and not has_receivers:
        message = "`late` has no channels"
        hint = "write `late: {after: 30m, to: CHANNEL}`, or name the channels of `failed`"
        program.report("NP011", message, ("notify", "late"), hint, key=True)


def _check_names(program: Program, names: Sequence[str], path: DocumentPath) -> None:
    for number, name in enumerate(names):
        if is_channel_name(name):
            continue
        message = (
            f"name of a channel must be 1 to {MAX_CHANNEL_NAME} letters, digits, `_`, `-` or `.`,"
            f" and start with a letter or digit, not `{abbreviate(name)}`"
        )
        program.report("NP012", message, (*path, number))
