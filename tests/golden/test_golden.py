"""What is told of wrong playbooks: of those in the folder of each code, and of those on the pages of `noetl explain`, which fail as
they say, and pass where they say so.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import CODES
from noetl.planner.diagnostics.explanations import explanation
from noetl.planner.diagnostics.render import Checked, concise, plain

from tests.golden.cases import FOLDER, cases, found_in, told

BLOCK = re.compile(r"^```(yaml|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

WITHOUT_EXAMPLES = {
    "NP900": "a bug cannot be shown",
    "NP701": "an example would be too long; below it is made",
    "NP902": "an example would be too long; below it is made",
}


class Example(NamedTuple):
    failing: str
    report: str
    passing: str


def example(code: str) -> Example:
    blocks = BLOCK.findall(explanation(code))
    assert [kind for kind, _ in blocks] == ["yaml", "text", "yaml"], code
    return Example(*(text for _, text in blocks))


def report(text: str, code: str) -> str:
    found = found_in(text, code)
    return plain(concise([Checked("playbook.yaml", text, found)]))


def test_every_code_has_a_folder() -> None:
    assert {case.parent.name for case in cases()} == set(CODES) - {"NP900", "NP902"}


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.relative_to(FOLDER)))
def test_what_is_told(case: Path) -> None:
    """Written anew by `python -m tests.golden`."""
    assert told(case) == case.with_suffix(".txt").read_text(encoding="utf-8")
    assert case.parent.name in {
        found.code for found in found_in(case.read_text(encoding="utf-8"), case.parent.name)
    }


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    pages = {
        page.name.removesuffix(".md")
        for page in files("noetl.planner.diagnostics.explanations").iterdir()
        if ".md" in page.name
    }
    assert pages == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_page_says_what_it_must(code: str) -> None:
    page = explanation(code)
    assert page.startswith(f"# {code}: {CODES[code].title}\n")
    for part in (f"**Severity:** {CODES[code].severity}.", "**Why it matters.**", "**How to mend it.**"):
        assert part in page


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT_EXAMPLES])
def test_the_failing_example_fails_as_the_page_says(code: str) -> None:
    failing, expected, _ = example(code)
    assert report(failing, code) == expected
    assert f" {code} " in expected


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT_EXAMPLES])
def test_the_passing_example_has_no_findings(code: str) -> None:
    assert report(example(code).passing, code) == ""


@pytest.mark.parametrize(
    "steps",
    [
        "".join(f"  - {{name: s{n}, rule: [{{case: default, run: [s{n + 1}]}}]}}\n" for n in range(10_000))
        + "  - {name: s10000, run: [{action: log, message: x}]}\n",
        "  - name: a\n    rule:\n" + '      - {case: "{{ step.visit == 7 }}", run: []}\n' * 101,
    ],
    ids=["steps", "cases"],
)
def test_np701(steps: str) -> None:
    codes = {d.code for d in compile_playbook(f"name: large\nsteps:\n{steps}", catalogue()).diagnostics}
    assert "NP701" in codes


def test_np902() -> None:
    steps = "".join(f"  - {{name: s{n}, rule: [{{case: default, run: [t{n}]}}]}}\n" for n in range(2_500))
    found = compile_playbook(f"name: many\nsteps:\n{steps}", catalogue()).diagnostics
    assert [(d.code, d.message) for d in found[-2:]] == [
        ("NP101", "step `t1999` does not exist"),
        ("NP902", "500 more findings are not shown"),
    ]
