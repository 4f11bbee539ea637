"""Playbooks as the checks see them."""

from __future__ import annotations

from executor.actions import catalogue
from planner.diagnostics.diagnostic import Diagnostics
from planner.program.program import Subject
from planner.program.template_uses import find_uses
from planner.syntax.parser import parse
from planner.syntax.reader import read


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
