"""Playbooks as the checks see them."""

from __future__ import annotations

from executor.actions import catalogue
from planner.checks.subject import Subject
from planner.diagnostics import Diagnostics
from planner.parse import parse
from planner.read import read
from planner.uses import find_uses


def subject_of(text: str) -> Subject:
    """The subject of a playbook that can be read."""
    diagnostics = Diagnostics()
    document = read(text, diagnostics)
    assert document is not None
    parsed = parse(document, diagnostics)
    assert parsed is not None
    uses = find_uses(parsed.playbook, catalogue(), document, diagnostics)
    assert uses is not None
    return Subject(parsed.playbook, document, catalogue(), diagnostics, uses)
