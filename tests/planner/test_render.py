"""Diagnostics as text, JSON, SARIF and annotations."""

from __future__ import annotations

import json

import pytest

from noetl.planner.diagnostics import render as render_module
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import MAX_FINDINGS, Diagnostic, Diagnostics, Label, Span
from noetl.planner.diagnostics.render import (
    CheckedFile,
    render_concise,
    render_full,
    render_github,
    render_json,
    render_sarif,
    summarise,
    to_plain_text,
)
from noetl.planner.diagnostics.terminal_text import to_printable

TEXT = "steps:\n- name: a\n  run: notfy\n"
UNKNOWN = Diagnostic(
    "NP101",
    "there is no step `notfy`",
    Span(3, 8, 3, 13),
    "did you mean `notify`?",
    labels=(Label(Span(1, 1, 1, 6), "one of these"),),
)


def render(text: str, span: Span, *, width: int = 100, message: str = "wrong") -> list[str]:
    found = CheckedFile("playbook.yaml", text, (Diagnostic("NP001", message, span),))
    return to_plain_text(render_full([found], width)).splitlines()


def caret_cells(line: str) -> tuple[int, int]:
    return line.index("^"), line.rindex("^") + 1


def test_full_output_shows_line_caret_labels_and_hint() -> None:
    assert to_plain_text(render_full([CheckedFile("a.yaml", TEXT, (UNKNOWN,))])) == (
        "error[NP101]: there is no step `notfy`\n"
        " --> a.yaml:3:8\n"
        "  |\n"
        "1 | steps:\n"
        "  | ----- one of these\n"
        "...\n"
        "3 |   run: notfy\n"
        "  |        ^^^^^\n"
        "  |\n"
        "  = help: did you mean `notify`?\n"
        "\n"
    )


def test_a_hint_after_the_end_of_the_text_follows_its_position() -> None:
    finding = Diagnostic("NP001", "wrong", Span(9, 1, 9, 1), "write a playbook")
    report = to_plain_text(render_full([CheckedFile("playbook.yaml", "a: 1", (finding,))]))
    assert report.splitlines()[1:3] == [" --> playbook.yaml:9:1", "  = help: write a playbook"]


def test_a_label_on_the_same_line_stands_under_the_caret() -> None:
    found = Diagnostic("NP002", "twice", Span(1, 4, 1, 5), labels=(Label(Span(1, 1, 1, 2), "first here"),))
    lines = to_plain_text(render_full([CheckedFile("a.yaml", "a, a\n", (found,))])).splitlines()
    assert lines[3:6] == ["1 | a, a", "  |    ^", "  | - first here"]


def test_carets_account_for_the_width_of_tabs() -> None:
    lines = render("\ta\tb: c\n", Span(1, 4, 1, 5))
    assert lines[3].index("b") == lines[4].index("^")


def test_wide_and_combining_characters_do_not_shift_the_caret() -> None:
    lines = render("日本: e\u0301 x\n", Span(1, 8, 1, 9))
    # Two wide characters take two cells more than they have characters, and the accent takes none.
    assert lines[4].index("^") == len("1 | ") + len("日本: e x") - 1 + 2
    assert caret_cells(render("日本: x\n", Span(1, 1, 1, 3))[4]) == (4, 8)


def test_long_lines_are_clipped_around_the_caret() -> None:
    lines = render("x" * 500 + " target " + "y" * 500, Span(1, 502, 1, 508), width=80)
    begin, end = caret_cells(lines[4])
    assert lines[3][begin:end] == "target"
    assert lines[3].startswith("1 | …") and lines[3].endswith("…")
    assert max(map(len, lines)) <= 80


def test_a_long_line_with_many_findings_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A playbook of 1 MB as JSON has one line. To convert it for each finding would take minutes."""
    converted: list[str] = []

    def convert(character: str) -> str:
        converted.append(character)
        return character

    monkeypatch.setattr(render_module, "printable_character", convert)
    text = "a, " * 5_000
    findings = tuple(Diagnostic("NP002", "twice", Span(1, 3 * n + 1, 1, 3 * n + 2)) for n in range(2_000))
    report = to_plain_text(render_full([CheckedFile("a.yaml", text, findings)]))
    assert report.count("^") == 2_000
    assert len(converted) == len(text)


def test_control_characters_never_reach_the_terminal() -> None:
    text = "a: \x1b[31m\x9b1m\u202e\x00\x7f b\n"
    everything = render(text, Span(1, 16, 1, 17), message="what \x1b]0;title\x07\nis\r this \u2066")
    assert all(character.isprintable() for line in everything for character in line)
    assert everything[3].index("b") == everything[4].index("^")
    assert to_printable("a\nb\tc\u3000d\x1b") == "a b c d␛"


def test_spans_after_the_end_of_the_text_are_rendered() -> None:
    beyond_the_line = render("short\n", Span(1, 90, 1, 99))
    assert beyond_the_line[4] == "  |      ^"
    beyond_the_text = render("short", Span(40, 1, 40, 2))
    assert beyond_the_text == ["error[NP001]: wrong", "  --> playbook.yaml:40:1", ""]
    over_lines = render("first\nsecond\n", Span(1, 3, 2, 2))
    assert over_lines[3:5] == ["1 | first", "  |   ^^^"]


def test_lines_end_where_yaml_ends_them() -> None:
    lines = render("a\r\nb\rc\n", Span(3, 1, 3, 2))
    assert lines[3] == "3 | c"


def test_concise_output_has_one_line_for_each_finding() -> None:
    warning = Diagnostic("NP109", "unused\ntask", Span(1, 1, 1, 2), severity=Severity.WARNING)
    assert to_plain_text(render_concise([CheckedFile("a.yaml", TEXT, (UNKNOWN, warning))])) == (
        "a.yaml:3:8: error: NP101 there is no step `notfy` (did you mean `notify`?)\n"
        "a.yaml:1:1: warning: NP109 unused task\n"
    )


def test_json_contains_counts_and_files() -> None:
    note = Diagnostic("NP306", "an input", Span(1, 1, 1, 2), severity=Severity.NOTE)
    report = json.loads(
        render_json([CheckedFile("-", TEXT, (UNKNOWN, note)), CheckedFile("b.yaml", TEXT, ())])
    )
    assert (report["errors"], report["warnings"]) == (1, 0)
    assert report["diagnostics"][0] == {
        "file": "-",
        "code": "NP101",
        "severity": "error",
        "message": "there is no step `notfy`",
        "line": 3,
        "column": 8,
        "end_line": 3,
        "end_column": 13,
        "hint": "did you mean `notify`?",
    }


def test_sarif_contains_the_same_span() -> None:
    log = json.loads(
        render_sarif(
            [CheckedFile("a folder/ü.yaml", TEXT, (UNKNOWN,)), CheckedFile("-", TEXT, (UNKNOWN,))], "1.2"
        )
    )
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert run["tool"]["driver"]["version"] == "1.2"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["NP101"]
    first, second = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "a%20folder/%C3%BC.yaml"
    assert place["region"] == {"startLine": 3, "startColumn": 8, "endLine": 3, "endColumn": 13}
    assert first["relatedLocations"][0]["message"]["text"] == "one of these"
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "stdin"


def test_github_annotations_are_escaped() -> None:
    found = Diagnostic("NP109", "50% of\r\n::error::lines", Span(1, 1, 1, 2), severity=Severity.NOTE)
    assert render_github([CheckedFile("a,b:c.yaml", TEXT, (found,))]) == (
        "::notice title=noetl (NP109),file=a%2Cb%3Ac.yaml,line=1,col=1,endLine=1,endColumn=2"
        "::a,b:c.yaml:1:1: NP109 50%25 of%0D%0A::error::lines\n"
    )


def test_a_finding_that_is_kept_is_not_counted_again_past_the_limit() -> None:
    diagnostics = Diagnostics()
    for _ in range(2):
        for line in range(1, MAX_FINDINGS + 2):
            diagnostics.add("NP304", "unused", Span(line, 1, line, 2))
    assert [*diagnostics][-1].message == "1 more finding is not shown"


def test_summary_counts_findings() -> None:
    warning = Diagnostic("NP109", "unused", Span(1, 1, 1, 2), severity=Severity.WARNING)
    clean = CheckedFile("a.yaml", TEXT, ())
    assert summarise([clean]) == "no findings in a.yaml"
    assert (
        summarise([CheckedFile("a.yaml", TEXT, (UNKNOWN, UNKNOWN, warning)), clean])
        == "2 errors and 1 warning in 2 files"
    )
