"""Known vulnerabilities of the packages in requirements files, found by pip-audit.

    python infra/audit.py [--complete] REQUIREMENTS ...

The exit status is 1 if a package has a known vulnerability. A package of which the vulnerability service says
nothing is counted, because pip-audit alone would print "No known vulnerabilities found". With `--complete` it
is an error too. This script needs only pip-audit and the standard library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = ("pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")


class AuditReport(NamedTuple):
    """Findings in a requirements file, a line each, and the numbers of packages with and without answer."""

    findings: tuple[str, ...]
    checked: int
    unchecked: int

    def describe(self, requirements: str) -> str:
        """Return the report as text."""
        lines = [f"{requirements}: {self.checked} packages checked, {len(self.findings)} vulnerabilities"]
        lines += [f"  {finding}" for finding in self.findings]
        if self.unchecked:
            lines.append(f"  {self.unchecked} packages not checked: the vulnerability service did not answer")
        return "\n".join(lines)


def read_report(report: Mapping[str, Any]) -> AuditReport:
    """Return what a JSON report of pip-audit says.

    >>> vulnerability = {"id": "PYSEC-1", "fix_versions": ["1.1"]}
    >>> package = {"name": "a", "version": "1.0", "vulns": [vulnerability]}
    >>> read_report({"dependencies": [package, {"name": "b", "skip_reason": "unknown"}]})
    AuditReport(findings=('a 1.0: PYSEC-1, fixed in 1.1',), checked=1, unchecked=1)
    """
    checked = [package for package in report["dependencies"] if "skip_reason" not in package]
    findings = tuple(
        f"{package['name']} {package['version']}: {vulnerability['id']}, {_describe_fix(vulnerability)}"
        for package in checked
        for vulnerability in package["vulns"]
    )
    return AuditReport(findings, len(checked), len(report["dependencies"]) - len(checked))


def _describe_fix(vulnerability: Mapping[str, Any]) -> str:
    versions = vulnerability["fix_versions"]
    return f"fixed in {', '.join(versions)}" if versions else "not fixed in any version"


def count_packages(requirements: str) -> int:
    """Return the number of packages in the text of a requirements file of `uv pip compile`."""
    return sum("==" in line and not line.startswith((" ", "#")) for line in requirements.splitlines())


def audit(requirements: str) -> AuditReport:
    """Return the report on a requirements file. Without an answer of the service, no package is checked."""
    done = subprocess.run(
        [*COMMAND, "--requirement", requirements], capture_output=True, text=True, check=False
    )
    try:
        return read_report(json.loads(done.stdout))
    except json.JSONDecodeError:
        reason = done.stderr.strip().rpartition("\n")[2]
        print(f"pip-audit ended with status {done.returncode}: {reason}", file=sys.stderr)
    return AuditReport((), 0, count_packages(Path(requirements).read_text("utf-8")))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Find known vulnerabilities of locked packages.")
    parser.add_argument("requirements", nargs="+", metavar="REQUIREMENTS")
    parser.add_argument("--complete", action="store_true", help="fail if a package could not be checked")
    options = parser.parse_args(arguments)
    reports = {path: audit(path) for path in options.requirements}
    for path, report in reports.items():
        print(report.describe(path))
    is_bad = any(report.findings or (options.complete and report.unchecked) for report in reports.values())
    return 1 if is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
