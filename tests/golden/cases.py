"""The folders of `tests/golden`: wrong playbooks by the code that is told of them, and beside each all that is told, as people see it."""

from __future__ import annotations

from pathlib import Path

from noetl.executor.actions import catalogue
from noetl.executor.security.capabilities import ACTIONS_SETTING
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.render import Checked, full, plain

FOLDER = Path(__file__).parent
TARGETS = {"NP601": "lambda"}
"""The codes that are told for one target."""

ALLOWED = {"NP511": ("log", "set")}
"""The codes that are told by a service in which only these types of actions may be used."""


def cases() -> list[Path]:
    """The playbooks, in order."""
    return sorted(FOLDER.glob("NP*/*.yaml"))


def found_in(text: str, code: str) -> tuple[Diagnostic, ...]:
    """What is found in a playbook where the code is told."""
    known = catalogue().only(ALLOWED[code], ACTIONS_SETTING) if code in ALLOWED else catalogue()
    return compile_playbook(text, known, TARGETS.get(code)).diagnostics


def told(case: Path) -> str:
    """What people are told of a playbook."""
    text = case.read_text(encoding="utf-8")
    return plain(full([Checked(case.name, text, found_in(text, case.parent.name))]))
