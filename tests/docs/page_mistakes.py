"""Pages of the repository, and mistakes on them, reported with their file, line and fix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from noetl.infra.reference import ROOT

TOP_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
DOCS = [ROOT / name for name in TOP_PAGES if (ROOT / name).exists()] + sorted((ROOT / "docs").rglob("*.md"))
"""The pages that describe NoETL as it is."""

ALL_PAGES = [
    *DOCS,
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "tests" / "style" / "README.md",
    *sorted((ROOT / "planner" / "diagnostics" / "explanations").glob("*.md")),
]
"""All pages, also those about the past."""


class PageMistake(NamedTuple):
    """A mistake on a page."""

    page: Path
    line: int
    problem: str
    fix: str

    def __str__(self) -> str:
        path = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{path}:{self.line}: {self.problem}\n    fix: {self.fix}"


def report(findings: Iterable[PageMistake]) -> None:
    """Fail the test with one entry for each finding."""
    if lines := [str(finding) for finding in findings]:
        pytest.fail("\n".join(("mistakes in the documentation:", *lines)), pytrace=False)
