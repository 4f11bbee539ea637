"""The playbooks that are known to be valid: those of examples, documentation, explanations and tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 8_000
"""The maximum length of a playbook of the tests, in characters. Longer ones are left out."""
CHANCE = "{{ run.id }}"
"""A guard that is opaque to the compiler. In a run it is always true, so one side is dead."""
_BLOCK = re.compile(r"^(?<!-->\n)```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PASSES = re.compile(r"^## Passes\n+```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class CorpusPlaybook:
    """A playbook with its source and its name there."""

    source: str
    name: str
    text: str


def written_playbooks() -> list[CorpusPlaybook]:
    """Return the valid playbooks of this repository, each text once."""
    playbooks: dict[str, CorpusPlaybook] = {}
    for playbook in (*_examples(), *_documents(), *_explanations(), *_tests()):
        playbooks.setdefault(playbook.text.strip(), playbook)
    return list(playbooks.values())


def _examples() -> Iterator[CorpusPlaybook]:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield CorpusPlaybook("examples", path.stem, path.read_text("utf-8"))


def _documents() -> Iterator[CorpusPlaybook]:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number, block in enumerate(_BLOCK.findall(path.read_text("utf-8"))):
            if re.search(r"^name:", block, re.MULTILINE) and re.search(r"^steps:", block, re.MULTILINE):
                yield CorpusPlaybook(path.name, f"{path.stem} {number}", block)


def _explanations() -> Iterator[CorpusPlaybook]:
    for path in sorted((ROOT / "planner" / "diagnostics" / "explanations").glob("*.md")):
        for block in _PASSES.findall(path.read_text("utf-8")):
            yield CorpusPlaybook("explanations", path.stem, block)


def _tests() -> Iterator[CorpusPlaybook]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "steps:" in node.value:
                text = dedent(node.value)
                if not re.search("^name:", text, re.MULTILINE):
                    text = f"name: play\n{text}"
                if len(text) <= LONGEST and CHANCE not in text and _compiles(text):
                    yield CorpusPlaybook("tests", f"{path.stem} {node.lineno}", text)


def _compiles(text: str) -> bool:
    return compile_playbook(text, catalogue()).plan is not None
