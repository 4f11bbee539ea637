"""The report of a migration: how many runs continue in another version, and why the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noetl.api.service.views import BulkReport

_MAX_IDS = 3


def format_migration(report: BulkReport, *, is_dry_run: bool, is_undone: bool = False) -> list[str]:
    """Return lines about a migration. Runs with the same reason are on one line."""
    word = "return" if is_undone else "continue"
    verb = f"could {word}" if is_dry_run else f"{word}s" if report.accepted == 1 else word
    lines = [
        f"{_count(report.accepted)} {verb} {'to the version before' if is_undone else 'in this version'}"
    ]
    groups: dict[str, list[str]] = {}
    for entry in report.skipped:
        reason = entry.detail.replace(f"run {entry.workflow_id} ", "")
        groups.setdefault(reason, []).append(entry.workflow_id)
    for reason, ids in sorted(groups.items(), key=lambda group: -len(group[1])):
        shown = ", ".join(ids[:_MAX_IDS]) + (" and others" if len(ids) > _MAX_IDS else "")
        lines.append(f"{_count(len(ids))} {reason}: {shown}")
    return lines


def _count(number: int) -> str:
    """Return a number of runs in words.

    >>> _count(1), _count(1200)
    ('1 run', '1,200 runs')
    """
    return f"{number:,} run" + ("" if number == 1 else "s")
