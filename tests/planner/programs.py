"""Programs for tests of single analyses."""

from __future__ import annotations

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_template_uses
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document


def build_program(text: str) -> Program:
    """Return the program of a playbook without errors of form."""
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    assert document is not None
    parsed = parse_playbook(document, catalogue(), diagnostics)
    assert parsed is not None
    uses = find_template_uses(parsed.playbook, document, diagnostics)
    assert uses is not None
    return Program(parsed.playbook, document, catalogue(), diagnostics, uses)
