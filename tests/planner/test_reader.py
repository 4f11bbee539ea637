from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostics, Span
from noetl.planner.syntax import reader
from noetl.planner.syntax.document import position
from noetl.planner.syntax.reader import Document, read_document
from noetl.planner.syntax.scalars import describe_yaml_1_1_value, resolve_scalar
from tests.property_settings import examples


def find_spans(text: str | bytes) -> list[tuple[str, int, int, int, int]]:
    diagnostics = Diagnostics()
    read_document(text, diagnostics)
    return [(d.code, d.span.line, d.span.column, d.span.end_line, d.span.end_column) for d in diagnostics]


def only_diagnostic(text: str | bytes) -> Any:
    diagnostics = Diagnostics()
    read_document(text, diagnostics)
    (diagnostic,) = diagnostics
    return diagnostic


def read_valid(text: str | bytes) -> Document:
    diagnostics = Diagnostics()
    result = read_document(text, diagnostics)
    assert result is not None and not len(diagnostics), list(diagnostics)
    return result


# -- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: null\nb: ~\nc: Null\nd: NULL\ne:", dict.fromkeys("abcde")),
        ("[true, True, TRUE, false, False, FALSE]", [True, True, True, False, False, False]),
        ("[tRUE, nULL, yess, truely]", ["tRUE", "nULL", "yess", "truely"]),
        ("[1, -2, +3, 0o17, 0x1F, 0]", [1, -2, 3, 15, 31, 0]),
        ("[1.5, -.5, 1., 1e3, 1.5E-2]", [1.5, -0.5, 1.0, 1000.0, 0.015]),
        ("['1', \"true\", 'null', '']", ["1", "true", "null", ""]),
        (
            "[1.2.3, 1-2, 5s, +, '.', ..., 0xg, 0o8, e3]",
            ["1.2.3", "1-2", "5s", "+", ".", "...", "0xg", "0o8", "e3"],
        ),
        ("a: |\n  x\n   y\n\nb: >-\n  x\n  y", {"a": "x\n y\n", "b": "x y"}),
        ("a: &x {b: 1}\nc: *x\nd: [*x]", {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}]}),
        ("&k a: 1\nb: *k", {"a": 1, "b": "a"}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("- [[], {}]\n- {a: {b: [c]}}", [[[], {}], {"a": {"b": ["c"]}}]),
        ('"<<": 1', {"<<": 1}),
        ("%YAML 1.2\n---\na: 1\n...\n", {"a": 1}),
        ("just text", "just text"),
        ("\ufeffa: é😀", {"a": "é😀"}),
        ("a: 1\r\nb: |\r\n  x\r\n  y\r\n", {"a": 1, "b": "x\ny\n"}),
        ("a: {b: \"{{ x }}\", 'c d': e}", {"a": {"b": "{{ x }}", "c d": "e"}}),
    ],
)
def test_text_has_its_data(text: str, value: object) -> None:
    assert read_valid(text).data == value
    assert read_valid(text.encode()).data == value


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_text_has_no_data(text: str) -> None:
    assert read_valid(text).data is None
    assert read_valid(text).span(("steps",)) == Span(1, 1, 1, 1) or text == "---\n"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    # U+0085, U+2028, U+2029 and control characters may stand in YAML as escapes only.
    | st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2, "\t"]))
@examples(3)
def test_json_has_the_same_data_as_with_a_json_parser(value: object, is_ascii: bool, indent: Any) -> None:
    assert read_valid(json.dumps(value, ensure_ascii=is_ascii, indent=indent)).data == value


def test_surrogate_pairs_are_joined_in_double_quotes_only() -> None:
    text = (
        r"""{"\ud83d\ude00": "x \uD83D\uDE00\ud83d\ude00 \\ud83d\\ude00","""
        r""" 'b': '\uD83d\uDE00', c: \ud83d\ude00}"""
    )
    read_back = read_valid(text)
    assert read_back.data == {
        "😀": "x 😀😀 \\ud83d\\ude00",
        "b": "\\uD83d\\uDE00",
        "c": "\\ud83d\\ude00",
    }
    assert read_back.text == text
    assert read_back.text_span(("😀",), 2, 3) == Span(1, 21, 1, 33)
    assert read_valid('["\\ud83d\\ude00", "\ue03d\ue200", \'\\ue03d\\ue200\']').data == [
        "😀",
        "\ue03d\ue200",
        "\\ue03d\\ue200",
    ]


# -- YAML 1.1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "Yes",
        "YES",
        "no",
        "No",
        "NO",
        "on",
        "On",
        "ON",
        "off",
        "Off",
        "OFF",
        "0755",
        "-012",
        "08",
        "12:30",
        "12:30:45",
        "-1:30.5",
        "1_000",
        "1_0.5",
        "0x_f",
        "0b1",
        "-0b_1",
        "-0x1F",
        "2026-01-01",
        "2026-1-1T1:02:03Z",
    ],
)
def test_scalars_that_differ_in_yaml_1_1_have_a_warning(text: str) -> None:
    for source in (f"a: {text}", f"[b, {text}]", f"{text}: a", f"a: '{text}'\nb: \"{text}\"\nc: |\n  {text}"):
        diagnostics = Diagnostics()
        read_document(source, diagnostics)
        expected = [] if "|" in source else ["NP006"]
        assert [d.code for d in diagnostics if d.code == "NP006"] == expected
        assert all(d.severity is Severity.WARNING for d in diagnostics if d.code == "NP006")


def test_the_warning_contains_both_values() -> None:
    warning = only_diagnostic("mode: 0755")
    assert warning.message == "`0755` is the number 755 in YAML 1.2, but an octal number in YAML 1.1"
    assert warning.hint == 'write "0755" if it is text'
    assert warning.span == Span(1, 7, 1, 11)
    assert only_diagnostic("a: yes").hint == 'write "yes" if it is text, or `true`'


@given(st.from_regex(r"[-+.0-9a-fox_:yYnNeEtTZ ~]{1,12}", fullmatch=True))
@examples(5)
def test_scalars_without_a_warning_are_equal_in_yaml_1_1(text: str) -> None:
    if describe_yaml_1_1_value(text) is not None:
        return
    resolver = yaml.SafeLoader("")
    tag = resolver.resolve(  # type: ignore[no-untyped-call]
        yaml.ScalarNode, text, (True, False)
    ).rpartition(":")[2]
    try:
        kind = type(resolve_scalar(text)).__name__
    except ValueError:
        kind = "float"
    if tag == "str" and kind in ("int", "float"):
        return  # such as `1e3` and `0o17`, which are always meant as numbers
    assert {"null": "NoneType"}.get(tag, tag) == kind


# -- limits and invalid text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # NP001
        (b"a: \xff", ("NP001", 1, 4, 1, 5)),
        ("é: 1\nb: ".encode() + b"\xc3", ("NP001", 2, 4, 2, 5)),
        (b"\xff\xfea\x00", ("NP001", 1, 1, 1, 2)),
        ("é😀: x\x00", ("NP001", 1, 6, 1, 7)),
        ("a: 1\nb: \x1b[0m", ("NP001", 2, 4, 2, 5)),
        ('a: "\u2028"', ("NP001", 1, 5, 1, 6)),
        ("a: \ud800", ("NP001", 1, 4, 1, 5)),
        ('{"a": "\\ud83d"}', ("NP001", 1, 10, 1, 11)),
        ('{"a": "\\ude00\\ud83d"}', ("NP001", 1, 10, 1, 11)),
        ("a:\n\tb: 1", ("NP001", 2, 1, 2, 2)),
        ("a:\n  b: 1\n\tc: 2", ("NP001", 3, 1, 3, 2)),
        ("a: b: c", ("NP001", 1, 5, 1, 6)),
        ("a: 1\n b: 2", ("NP001", 2, 3, 2, 4)),
        ("a: [1, 2\n\n", ("NP001", 1, 4, 1, 5)),
        ("a: @b", ("NP001", 1, 4, 1, 5)),
        ("a: 'x\nb: 2\n", ("NP001", 1, 4, 1, 5)),
        ('a: "\\q"', ("NP001", 1, 5, 1, 6)),
        ("- a\nb: 1", ("NP001", 2, 1, 2, 2)),
        ("a: *b", ("NP001", 1, 4, 1, 6)),
        ("a: {{ b[0] }}", ("NP001", 1, 4, 1, 5)),
        ("a: 1\nb: {{ c }} d", ("NP012", 2, 4, 2, 11)),
        # NP002
        ("a: 1\nb: 2\na: 3", ("NP002", 3, 1, 3, 2)),
        ("x: {a: 1, 'a': 2}", ("NP002", 1, 11, 1, 14)),
        # NP003
        ("a: !!str x", ("NP003", 1, 4, 1, 9)),
        ("a: &b !<x:y> [c]", ("NP003", 1, 7, 1, 13)),
        ("a: !!python/object/apply:os.system [x]", ("NP003", 1, 4, 1, 35)),
        ("a: !x {b: 1}", ("NP003", 1, 4, 1, 6)),
        ("a: !foo!bar x", ("NP003", 1, 4, 1, 5)),
        ("a: &a {b: 1}\nc:\n  <<: *a", ("NP003", 3, 3, 3, 5)),
        ("a: 1\n---\nb: 2", ("NP003", 2, 1, 2, 4)),
        # NP004
        ("a" * (reader.MAX_BYTES + 1), ("NP004", 1, 1, 1, 1)),
        ("é" * (reader.MAX_BYTES // 2 + 1), ("NP004", 1, 1, 1, 1)),
        (b"[" * 10_000_000, ("NP004", 1, 1, 1, 1)),
        ("[" * 65 + "]" * 65, ("NP004", 1, 65, 1, 66)),
        ('{"a":' * 100_000, ("NP004", 1, 321, 1, 322)),
        ("- " * 100_000, ("NP004", 1, 129, 1, 129)),
        ("a: &a " + "[" * 60 + "]" * 60 + "\nb: [[[[*a]]]]", ("NP004", 2, 8, 2, 10)),
        # NP005
        ("a: &a [x, *a]", ("NP005", 1, 11, 1, 13)),
        # NP012
        ("1: a", ("NP012", 1, 1, 1, 2)),
        ("a: {true: b}", ("NP012", 1, 5, 1, 9)),
        ("? [a]\n: b", ("NP012", 1, 3, 1, 6)),
        ("a: 1\n? {b: c}\n: d", ("NP012", 2, 3, 2, 9)),
        ("a: .inf", ("NP012", 1, 4, 1, 8)),
        ("a: -.INF", ("NP012", 1, 4, 1, 8 + 1)),
        ("a: .nan", ("NP012", 1, 4, 1, 8)),
        ("a: 1e999", ("NP012", 1, 4, 1, 9)),
        ("a: " + "9" * 401, ("NP012", 1, 4, 1, 405)),
        ("a: {{ b }}", ("NP012", 1, 4, 1, 11)),
        ("a: [x, {{ b | c }}]", ("NP012", 1, 8, 1, 19)),
    ],
)
def test_invalid_text_has_one_diagnostic(text: str | bytes, expected: tuple[str, int, int, int, int]) -> None:
    assert find_spans(text) == [expected]


def test_100_000_nested_lists_exceed_the_depth_limit() -> None:
    assert [code for code, *_ in find_spans("[" * 100_000)] == ["NP004"]


def test_text_within_the_limits_is_read() -> None:
    assert read_valid("[" * 64 + "]" * 64).data is not None
    assert read_valid("a: " + "9" * 400).data == {"a": int("9" * 400)}
    assert read_valid("#" * reader.MAX_BYTES).data is None


def test_aliases_may_expand_to_at_most_100_000_nodes() -> None:
    def aliased(count: int) -> str:
        return "a: &a [" + "x, " * 998 + "x]\nb: [" + ", ".join(["*a"] * count) + "]"

    assert len(read_valid(aliased(100)).data["b"]) == 100
    assert only_diagnostic(aliased(101)).code == "NP005"


def test_aliases_may_repeat_1_mi_characters() -> None:
    """A plan has the text of each alias. Its hash and its copy in a store would take gigabytes."""

    def aliased(count: int) -> str:
        return f"a: &a {'x' * 1021}\nb: [{', '.join(['*a'] * count)}]"

    assert len(read_valid(aliased(1024)).data["b"]) == 1024
    finding = only_diagnostic(aliased(1025))
    assert (finding.code, finding.message) == ("NP005", "aliases expand to more than 1,048,576 characters")


def test_characters_of_aliases_within_aliases_are_counted() -> None:
    text = (
        f"a: &a {'x' * 1000}\nb: &b [{', '.join(['*a'] * 100)}]\nc: [*b, *b, *b, *b, *b]\nd: &d {{k: *b}}\n"
    )
    assert read_valid(text + "e: [*d, *d]").data is not None
    assert only_diagnostic(text + "e: [*d, *d, *d, *d]").code == "NP005"


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
def test_100_lines_may_begin_as_directives_do(line_break: str) -> None:
    """libyaml compares each directive with all before it, and blocks the interpreter meanwhile."""
    lines = [f"%TAG !a{number}! x{line_break}" for number in range(20_000)]
    assert read_valid("".join(lines[:100]) + "---\na: 1\n").data == {"a": 1}
    assert find_spans("".join(lines) + "---\na: 1\n") == [("NP003", 101, 1, 101, 2)]
    assert find_spans("a: 1\n...\n" + "".join(lines)) == [("NP003", 103, 1, 103, 2)]


def test_exponential_aliases_use_little_memory() -> None:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 12)]
    tracemalloc.start()
    try:
        assert only_diagnostic("\n".join(lines)).code == "NP005"
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_duplicate_key_labels_the_first_one_and_keeps_its_value() -> None:
    diagnostics = Diagnostics()
    result = read_document("a: 1\nb: 2\na: 3", diagnostics)
    assert result is not None and result.data == {"a": 1, "b": 2}
    (duplicate,) = diagnostics
    assert [label.span for label in duplicate.labels] == [Span(1, 1, 1, 2)]


def test_an_unquoted_template_is_reported_and_read_as_text() -> None:
    diagnostics = Diagnostics()
    result = read_document("a: {{ error }}\nb: [{{ x }}]", diagnostics)
    assert result is not None and result.data == {"a": "{{ error }}", "b": ["{{ x }}"]}
    assert [d.hint for d in diagnostics] == ['write "{{ error }}"', 'write "{{ x }}"']
    assert result.span(("b", 0)) == Span(2, 5, 2, 12)


def test_all_errors_are_reported_at_once() -> None:
    assert [code for code, *_ in find_spans("1: a\nb: !x c\nd: yes\nb: 2\n<<: 3\ne: .nan\n---\n")] == [
        "NP012",
        "NP003",
        "NP006",
        "NP002",
        "NP003",
        "NP012",
        "NP003",
    ]


def test_messages_of_common_errors() -> None:
    assert only_diagnostic("a:\n\tb: 1").message == "a tab is used for indentation"
    assert only_diagnostic("a: `b`").message == "unquoted text cannot begin with a backtick"
    assert only_diagnostic("a: [1").message == "expected `,` or `]`"
    assert only_diagnostic(b"\xff").message == "the byte 0xff is not UTF-8"
    assert only_diagnostic("name: x".encode("utf-16")).message == "the byte 0xff is not UTF-8"
    assert only_diagnostic(b"\x7fELF\0\0").message == "the file is binary, not text"
    assert only_diagnostic(b"\0" * 2_000_000).message == "the file is binary, not text"
    assert "1 MiB" in only_diagnostic(b"x" * 2**21).message


# -- positions -----------------------------------------------------------------------------------------------

POSITIONS = """\
name: é😀x   # comment
steps:
- name: one
  run:
    - {action: set,
       set: {a: "{{ b }}"}}
  text: |
    first {{ a }}

    second
  empty:
  list: []
  run2:
  - - deep
-
"""


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((), Span(1, 1, 1, 10), Span(1, 1, 1, 10)),
        (("name",), Span(1, 7, 1, 10), Span(1, 1, 1, 5)),
        (("steps",), Span(3, 1, 3, 12), Span(2, 1, 2, 6)),
        (("steps", 0), Span(3, 3, 3, 12), Span(3, 3, 3, 12)),
        (("steps", 0, "run"), Span(5, 5, 5, 20), Span(4, 3, 4, 6)),
        (("steps", 0, "run", 0), Span(5, 7, 5, 20), Span(5, 7, 5, 20)),
        (("steps", 0, "run", 0, "set"), Span(6, 13, 6, 27), Span(6, 8, 6, 11)),
        (("steps", 0, "run", 0, "set", "a"), Span(6, 17, 6, 26), Span(6, 14, 6, 15)),
        (("steps", 0, "text"), Span(7, 9, 7, 10), Span(7, 3, 7, 7)),
        (("steps", 0, "empty"), Span(11, 3, 11, 8), Span(11, 3, 11, 8)),
        (("steps", 0, "list"), Span(12, 9, 12, 11), Span(12, 3, 12, 7)),
        (("steps", 0, "run2"), Span(14, 3, 14, 11), Span(13, 3, 13, 7)),
        (("steps", 1), Span(15, 1, 15, 2), Span(15, 1, 15, 2)),
        (("steps", 0, "absent", 3, "x"), Span(3, 3, 3, 12), Span(3, 3, 3, 12)),
        (("steps", 9), Span(3, 1, 3, 12), Span(2, 1, 2, 6)),
        (("name", "x"), Span(1, 7, 1, 10), Span(1, 1, 1, 5)),
        (("absent",), Span(1, 1, 1, 10), Span(1, 1, 1, 10)),
    ],
)
def test_spans_of_values_and_keys(path: tuple[str | int, ...], value: Span, key: Span) -> None:
    assert read_valid(POSITIONS).span(path) == value
    assert read_valid(POSITIONS).line(path) == value.line
    assert read_valid(POSITIONS).key_span(path) == key
    assert read_valid(POSITIONS.replace("\n", "\r\n")).span(path) == value


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a: é😀 {{ x }}", "{{ x }}", Span(1, 7, 1, 14)),
        ("a: 'it''s {{ x }}'", "{{ x }}", Span(1, 11, 1, 18)),
        ('a: "\\u00e9\\n\\x41 {{ x }}"', "{{ x }}", Span(1, 18, 1, 25)),
        ('a: "\\ud83d\\ude00 {{ x }}"', "{{ x }}", Span(1, 18, 1, 25)),
        ("a: &anchor 'b {{ x }}'", "{{ x }}", Span(1, 15, 1, 22)),
        ("a: |\n  one\n    two {{ x }}\n", "{{ x }}", Span(3, 9, 3, 16)),
        ("a: |-  # why\n\n\n   one\n\n     {{ x }}", "{{ x }}", Span(6, 6, 6, 13)),
        ("a: |2\n    one {{ x }}\n", "{{ x }}", Span(2, 9, 2, 16)),
        ("a: |\r\n  one\r\n  two {{ x }}\r\n", "{{ x }}", Span(3, 7, 3, 14)),
        ("a: >\n  one\n  two\n\n  three {{ x }}\n", "{{ x }}", Span(5, 9, 5, 16)),
        ("a: one\n   two\n\n   {{ x }}", "{{ x }}", Span(4, 4, 4, 11)),
        ('a: "one\n   two \\\n   {{ x }}"', "{{ x }}", Span(3, 4, 3, 11)),
        ("a: 'one  \n   two {{\n   x }}'", "{{ x }}", Span(2, 8, 3, 8)),
        ("a: |\n  select {{ x\n    }}\n", "{{ x\n  }}", Span(2, 10, 3, 7)),
    ],
)
def test_span_of_a_word_in_a_value(text: str, word: str, expected: Span) -> None:
    result = read_valid(text)
    start = result.data["a"].index(word)
    assert result.text_span(("a",), start, start + len(word)) == expected


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
def test_a_line_break_belongs_to_the_line_that_it_ends(line_break: str) -> None:
    text = f"ab{line_break}cd"
    places = [position(text, index) for index in range(len(text))]
    assert places == [(1, 1), (1, 2), *[(1, 3)] * len(line_break), (2, 1), (2, 2)]


def test_span_at_the_edges_of_a_value() -> None:
    result = read_valid("a: abc\nb: [x]\nc: ''")
    assert result.text_span(("a",), 3, 3) == Span(1, 7, 1, 7)
    assert result.text_span(("a",), -5, 99) == Span(1, 4, 1, 7)
    assert result.text_span(("a",), 2, 1) == Span(1, 6, 1, 6)
    assert result.text_span(("b",), 0, 1) == Span(2, 4, 2, 7)
    assert result.text_span(("c",), 0, 1) == Span(3, 4, 3, 6)
    assert result.text_span(("d", 1), 0, 1) == result.span(("d", 1))


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff")
    )
)
@examples(3)
def test_each_character_of_a_dumped_text_has_its_span(value: str) -> None:
    for style in (None, "'", '"', "|", ">"):
        text = yaml.dump(
            {"a": value}, Dumper=yaml.SafeDumper, default_style=style, allow_unicode=True, width=20
        )
        diagnostics = Diagnostics()
        result = read_document(text, diagnostics)
        if result is None or result.data.get("a") != value:
            continue  # tags such as `!!int`, and characters that need an escape
        lines = text.split("\n")
        for index, character in enumerate(value):
            span = result.text_span(("a",), index, index + 1)
            written = lines[span.line - 1][span.column - 1 : span.column]
            assert written in (character, "\\", "") or character == " "


# -- never raises --------------------------------------------------------------------------------------------

SNIPPETS = st.sampled_from(
    [
        *(
            ": ",
            "- ",
            "\n",
            "  ",
            "&x ",
            "*x",
            "!!str ",
            "<<",
            "---",
            "...",
            "{{",
            "}}",
            "\\ud83d",
            "\\ude00",
            "yes",
        ),
        *"a:\t{}[],\"'|>!?%@#é😀\x001~\r\ufeff",
    ]
)


@given(st.one_of(st.text(), st.binary(), st.lists(SNIPPETS, max_size=40).map("".join)))
@example("&a : *a\n*a : b")
@example("{{*a}}")
@example("? ? ?")
@example("&a [&a [*a]]")
@example("!<x> &y 'a'")
@examples(10, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_raises_an_exception(text: str | bytes) -> None:
    diagnostics = Diagnostics()
    result = read_document(text, diagnostics)
    assert result is not None or diagnostics.error_count
    assert all((d.span.line, d.span.column) <= (d.span.end_line, d.span.end_column) for d in diagnostics)
    if result is not None:
        paths: list[tuple[tuple[str | int, ...], Any]] = [((), result.data)]
        while paths:
            path, value = paths.pop()
            result.span(path), result.key_span(path), result.text_span(path, 0, 3)
            assert result.line(path) == result.span(path).line
            inner = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, list)
                else ()
            )
            paths += [((*path, part), item) for part, item in inner][:20]


def test_the_state_of_the_garbage_collector_is_restored() -> None:
    assert gc.isenabled()
    read_document("a: [", Diagnostics())
    assert gc.isenabled()
    gc.disable()
    try:
        read_document("a: 1", Diagnostics())
        assert not gc.isenabled()
    finally:
        gc.enable()
