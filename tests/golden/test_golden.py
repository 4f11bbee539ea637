"""Reports of invalid playbooks: the golden cases of each code, and the examples of `noetl explain`."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics import codes
from noetl.planner.diagnostics.codes import CODES
from noetl.planner.diagnostics.explanations import explanation
from tests.golden.cases import (
    FOLDER,
    PageExample,
    cases,
    compile_for_code,
    find_example,
    pages,
    render_page_report,
    render_report,
)

WITHOUT_EXAMPLES = {
    "NP900": "a bug cannot be shown",
    "NP701": "the example would be too long; a test below generates it",
    "NP902": "the example would be too long; a test below generates it",
}


def example_of(code: str) -> PageExample:
    example = find_example(explanation(code))
    assert example is not None, code
    return example


def test_every_code_has_a_folder() -> None:
    assert {case.parent.name for case in cases()} == set(CODES) - {"NP900", "NP902"}


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.relative_to(FOLDER)))
def test_the_report_of_a_case_is_unchanged(case: Path) -> None:
    """`python -m tests.golden` regenerates the reports."""
    assert render_report(case) == case.with_suffix(".txt").read_text(encoding="utf-8")
    diagnostics = compile_for_code(case.read_text(encoding="utf-8"), case.parent.name)
    assert case.parent.name in {diagnostic.code for diagnostic in diagnostics}


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert {page.stem for page in pages()} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_page_has_all_sections(code: str) -> None:
    page = explanation(code)
    assert page.startswith(f"# {code}: {CODES[code].title}\n")
    for part in (f"**Severity:** {CODES[code].severity}.", "**Why it matters.**", "**How to fix it.**"):
        assert part in page


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT_EXAMPLES])
def test_the_failing_example_has_the_report_of_the_page(code: str) -> None:
    example = example_of(code)
    assert render_page_report(example.failing, code) == example.report
    assert f" {code} " in example.report


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT_EXAMPLES])
def test_the_passing_example_has_no_diagnostics(code: str) -> None:
    assert render_page_report(example_of(code).passing, code) == ""


@pytest.mark.parametrize(
    "steps",
    [
        "".join(f"  - {{name: s{n}, rule: [{{case: default, run: [s{n + 1}]}}]}}\n" for n in range(10_000))
        + "  - {name: s10000, run: [{action: log, message: x}]}\n",
        "  - name: a\n    rule:\n" + '      - {case: "{{ step.visit == 7 }}", run: []}\n' * 101,
    ],
    ids=["steps", "cases"],
)
def test_a_playbook_beyond_a_limit_has_np701(steps: str) -> None:
    codes = {d.code for d in compile_playbook(f"name: large\nsteps:\n{steps}", catalogue()).diagnostics}
    assert "NP701" in codes


def test_more_than_2_000_diagnostics_have_np902() -> None:
    steps = "".join(f"  - {{name: s{n}, rule: [{{case: default, run: [t{n}]}}]}}\n" for n in range(2_500))
    diagnostics = compile_playbook(f"name: many\nsteps:\n{steps}", catalogue()).diagnostics
    assert [(d.code, d.message) for d in diagnostics[-2:]] == [
        ("NP101", "unknown step `t1999`"),
        ("NP902", "500 more findings are not shown"),
    ]


@pytest.mark.parametrize(
    "page", ["", "# NP999: another code\n\n**Severity:** error.", "# NP101: no severity"]
)
def test_a_page_that_does_not_declare_its_code_is_refused(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "explanation", lambda _: page)
    with pytest.raises(ValueError, match="must begin with `# NP101: TITLE`"):
        codes.DiagnosticCodes()["NP101"]
    with pytest.raises(KeyError):
        codes.DiagnosticCodes()["NP998"]


def test_every_page_declares_a_code() -> None:
    assert len(CODES) == len(pages()) == len({code.title for code in CODES.values()})
