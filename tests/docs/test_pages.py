"""Playbooks of the documentation compile and have the results shown below them.

A comment before a block describes it: `<!-- bad: CODE -->` is its diagnostic, `<!-- in: run -->` marks the
`run` of a step, and `<!-- input: {...} -->` is the input of the run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.stores.interface import Store
from noetl.infra.reference import ROOT
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.reader import read_document
from noetl.testing.run_harness import RunHarness
from tests.recipes.recipe import recipe_pages

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>bad|in|input): (?P<argument>[^\n]*) -->\n)?"
    r"^```yaml(?: title=[^\n]+)?\n(?P<text>.*?)^```\n"
    r"(?:\n```json\n(?P<result>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
FRAME = """\
name: fragment
tasks: {greet: [{action: log, message: "{{ args.who | default('all') }}"}]}
steps:
  - name: before
    run: [greet]
    rule: [{case: default, run: [only]}]
  - name: only
"""


class YamlBlock(NamedTuple):
    page: Path
    line: int
    mark: str | None
    argument: str | None
    text: str
    result: str | None

    @property
    def playbook(self) -> str | None:
        """Text of the playbook that contains the block, or None if the block is other YAML."""
        if self.mark == "in":
            indented = "".join(f"      {line}\n" for line in self.text.splitlines())
            return f"{FRAME}    {self.argument}:\n{indented}"
        document = read_document(self.text, Diagnostics())
        is_playbook = document is not None and isinstance(document.data, dict) and "steps" in document.data
        return self.text if is_playbook else None


def blocks(page: Path) -> list[YamlBlock]:
    text = page.read_text("utf-8")
    return [
        YamlBlock(
            page, text.count("\n", 0, found.start("text")), *found.group("mark", "argument", "text", "result")
        )
        for found in BLOCK.finditer(text)
    ]


def block_id(block: YamlBlock) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


RECIPE_PAGES = recipe_pages(ROOT)  # their playbooks use what the recipe adds, and its commands compile them
BLOCKS = [
    block
    for page in PAGES
    if page not in RECIPE_PAGES
    for block in blocks(page)
    if block.playbook is not None
]
RUN = [block for block in BLOCKS if block.result is not None]


def test_the_pages_have_playbooks() -> None:
    assert len(RUN) > 10
    assert {block.mark for block in BLOCKS} == {None, "bad", "in", "input"}


@pytest.mark.parametrize("block", BLOCKS, ids=block_id)
def test_a_playbook_compiles_unless_it_is_marked(block: YamlBlock) -> None:
    found = compile_playbook(block.playbook or "", catalogue()).diagnostics
    if block.mark == "bad":
        assert block.argument in {d.code for d in found if d.severity is not Severity.NOTE}
    else:
        assert [d for d in found if d.severity is not Severity.NOTE] == []


@pytest.mark.parametrize("block", RUN, ids=block_id)
def test_a_playbook_has_the_result_shown_below_it(block: YamlBlock, store: Store, tmp_path: Path) -> None:
    input: dict[str, Any] = json.loads(block.argument or "{}") if block.mark == "input" else {}
    play = RunHarness(store, block.playbook or "", input, folder=tmp_path).finish()
    assert play.error_types == []
    assert play.result == json.loads(block.result or "")
