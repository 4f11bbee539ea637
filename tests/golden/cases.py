"""The golden cases: invalid playbooks in one folder per code, each next to the report that users see.

The explanation pages of `noetl explain` contain a failing example, its report and a passing example.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from noetl.executor.actions import catalogue
from noetl.executor.security.capabilities import ACTIONS_SETTING
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics import explanations
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.render import CheckedFile, render_concise, render_full, to_plain_text
from noetl.planner.registration.checks import check_registration
from tests.planner.registered import KnownPlaybooks

FOLDER = Path(__file__).parent
PAGES_FOLDER = Path(explanations.__file__).parent

TARGETS = {"NP601": "lambda"}
"""The compilation targets of the codes that are reported for one target only."""

ENABLED_ACTIONS = {"NP511": ("log", "set")}
"""The enabled action types for the codes that depend on them."""

_BLOCK = re.compile(r"^```(yaml|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class PageExample(NamedTuple):
    """The code blocks of an explanation page."""

    failing: str
    report: str
    passing: str


REGISTRATION_CODES = frozenset(
    {"NP816", "NP817", "NP818", "NP819", "NP820", "NP822", "NP834", "NP835", "NP851"}
)
"""The codes that are reported when a playbook is registered, among those of `registered/playbooks.yaml`."""


def cases() -> list[Path]:
    """Return the paths of the playbooks, in order."""
    return sorted(FOLDER.glob("NP*/*.yaml"))


def pages() -> list[Path]:
    """Return the paths of the explanation pages, in order."""
    return sorted(PAGES_FOLDER.glob("NP*.md"))


def compile_for_code(text: str, code: str) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of a playbook, compiled with the target and the action types of the code."""
    known = catalogue()
    if code in ENABLED_ACTIONS:
        known = known.restricted_to(ENABLED_ACTIONS[code], ACTIONS_SETTING)
    compilation = compile_playbook(text, known, TARGETS.get(code))
    if code not in REGISTRATION_CODES or compilation.plan is None:
        return compilation.diagnostics
    return check_registration(compilation.plan, _registered_playbooks(), known)


@cache
def _registered_playbooks() -> KnownPlaybooks:
    playbooks = yaml.safe_load((FOLDER / "registered" / "playbooks.yaml").read_text(encoding="utf-8"))
    return KnownPlaybooks(*map(json.dumps, playbooks), rules="s3:orders")


def render_report(case: Path) -> str:
    """Return the full report of a case."""
    text = case.read_text(encoding="utf-8")
    return to_plain_text(
        render_full([CheckedFile(case.name, text, compile_for_code(text, case.parent.name))])
    )


def render_page_report(text: str, code: str) -> str:
    """Return the concise report of a playbook, as an explanation page shows it."""
    return to_plain_text(render_concise([CheckedFile("playbook.yaml", text, compile_for_code(text, code))]))


def find_example(page: str) -> PageExample | None:
    """Return the example of a page, or None if the page has no code blocks."""
    blocks = _BLOCK.findall(page)
    if not blocks:
        return None
    assert [kind for kind, _ in blocks] == ["yaml", "text", "yaml"]
    return PageExample(*(text for _, text in blocks))


def regenerate_page(path: Path) -> str:
    """Return the page with the current report of its failing example."""
    page = path.read_text(encoding="utf-8")
    example = find_example(page)
    if example is None:
        return page
    report = render_page_report(example.failing, path.stem)
    return page.replace(f"```text\n{example.report}```", f"```text\n{report}```")
