"""Checks of the sources that a service reads by itself: folders (NP813)."""

from __future__ import annotations

from pathlib import PurePosixPath

from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath, FolderDeclaration
from noetl.planner.templates.template import has_template

MAX_SOURCE_LENGTH = 1000
"""How many characters a folder or a pattern may have."""


def check_sources(program: Program) -> None:
    """Report triggers whose source cannot exist."""
    for trigger in program.playbook.triggers:
        if isinstance(trigger, FolderDeclaration):
            _check_relative(program, trigger.folder, (*trigger.path, "folder"), "`orders`")
            _check_relative(program, trigger.glob, (*trigger.path, "glob"), "`*.csv`")


def _check_relative(program: Program, text: str, path: DocumentPath, example: str) -> None:
    """Report a folder or a pattern that leads outside of the folder that it belongs to."""
    parts = PurePosixPath(text)
    is_legal = text and not parts.is_absolute() and ".." not in parts.parts and "\0" not in text
    if not is_legal or len(text) > MAX_SOURCE_LENGTH or has_template(text):
        message = (
            f"`{path[-1]}` must be a relative path of at most {MAX_SOURCE_LENGTH:,} characters, "
            "without `..` and without a template"
        )
        program.report("NP813", message, path, f"write a path such as {example}")
