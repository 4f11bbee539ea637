"""A finding of a consistency check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_FINDINGS = 100
"""Number of findings of one check that are reported."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency of a store: the check that found it, a sentence, and the run that it concerns."""

    check: str
    message: str
    run_id: str | None = None


def limit_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the first MAX_FINDINGS of each check, and a last finding that says if there are more."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    return [
        finding
        for check, of_check in by_check.items()
        for finding in limit_findings_of_check(check, of_check)
    ]


def limit_findings_of_check(check: str, findings: list[Finding]) -> list[Finding]:
    """Return the first MAX_FINDINGS, and a last finding that says if there are more."""
    if len(findings) <= MAX_FINDINGS:
        return findings
    return [*findings[:MAX_FINDINGS], Finding(check, f"more than {MAX_FINDINGS} such findings")]
