"""Fixes: each suggestion of a word is an edit of the text, and the edited text has the word."""

from __future__ import annotations

import json

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic, Span, TextEdit
from noetl.planner.diagnostics.explanations import explained_codes, explanation
from noetl.planner.diagnostics.fixes import apply_edits

WORK = "name: a\nsteps:\n  - name: load\n    run:\n      - "


def find_fixable(text: str) -> list[Diagnostic]:
    return [
        finding
        for finding in compile_playbook(text, catalogue()).diagnostics
        if finding.hint is not None and finding.hint.startswith("did you mean")
    ]


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        (f"{WORK}{{action: logg, message: hello}}\n", "{action: log, message: hello}"),
        (f"{WORK}{{actoin: log, message: hello}}\n", "{action: log, message: hello}"),
        (f"{WORK}{{action: log, mesage: hello}}\n", "{action: log, message: hello}"),
        (f"{WORK}{{action: log, message: hello, level: Infoo}}\n", "level: info}"),
        (f"{WORK}{{action: log, message: hello}}\n    jion: all\n", "join: all"),
        (f"{WORK}{{action: log, message: hello}}\n    join: al\n", "join: all"),
        (f'{WORK}{{action: log, message: "{{{{ [1] | lenght }}}}"}}\n', '"{{ [1] | length }}"'),
        (f"{WORK}{{action: log, message: '{{{{ [1] | lenght }}}}'}}\n", "'{{ [1] | length }}'"),
        (f'{WORK}{{action: log, message: "{{{{ steps.laod.status }}}}"}}\n', "steps.load.status"),
        (f"{WORK}{{action: log, message: hello}}\n    rule: [{{case: defualt, run: []}}]\n", "case: default"),
        (f"{WORK}{{action: log, message: x}}\n    rule: [{{case: default, run: [laod]}}]\n", "run: [load]"),
        (
            f'{WORK}{{action: log, message: x}}\n    rule: [{{case: default, run: ["laod"]}}]\n',
            'run: ["load"]',
        ),
    ],
)
def test_a_suggestion_is_an_edit(text: str, fixed: str) -> None:
    [finding] = find_fixable(text)
    assert finding.fix is not None
    edited = apply_edits(text, [finding.fix])
    assert fixed in edited
    assert find_fixable(edited) == []


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a/b ü <b>", "it's", 'say "x"', "a: b", "yes", "x\u202ey", "#1 of 2"])
def test_a_name_is_written_as_yaml_reads_it(name: str, line_break: str) -> None:
    """Each name is meant by a longer one, in each way of quoting."""
    other = f"{name}!"
    for written in (json.dumps(other), "'{}'".format(other.replace("'", "''"))):
        text = (
            f"name: a\nsteps:\n  - name: begin\n    rule: [{{case: default, run: [{written}]}}]\n"
            f"  - name: {json.dumps(name)}\n    run: [{{action: log, message: hello}}]\n"
        ).replace("\n", line_break)
        compilation = compile_playbook(text, catalogue())
        fixes = [finding.fix for finding in compilation.diagnostics if finding.code == "NP101"]
        for fix in fixes:
            if fix is not None:
                edited = compile_playbook(apply_edits(text, [fix]), catalogue())
                assert [finding.code for finding in edited.diagnostics if finding.code == "NP101"] == []


@pytest.mark.parametrize("code", explained_codes())
def test_fixes_of_the_explained_mistakes_lead_to_texts_without_them(code: str) -> None:
    for block in explanation(code).split("```yaml\n")[1:]:
        text = block.partition("```")[0]
        for finding in find_fixable(text):
            assert finding.fix is not None, finding
            assert finding not in find_fixable(apply_edits(text, [finding.fix]))


def test_a_finding_without_a_suggestion_has_no_fix() -> None:
    findings = compile_playbook(
        f"{WORK}{{action: log, message: x}}\n    rule: [{{case: default, run: [q]}}]\n", catalogue()
    )
    assert [finding.fix for finding in findings.diagnostics] == [None]
    assert "fix" not in findings.diagnostics[0].to_json()


def test_edits_that_overlap_are_applied_once() -> None:
    edits = [
        TextEdit(Span(1, 1, 1, 4), "x"),
        TextEdit(Span(1, 2, 1, 5), "y"),
        TextEdit(Span(1, 5, 1, 6), "z"),
    ]
    assert apply_edits("abcde", edits) == "xdz"
    assert apply_edits("abcde", [edits[0], edits[0]]) == "xde"
