"""What a text with templates in it is made of: the nodes of its expressions, none of which the sandbox lacks, and its parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser
from noetl.planner.frozen import frozen
from noetl.planner.templates.access_paths import child_nodes
from noetl.planner.templates.budget import MAX_INTEGER_BITS
from noetl.planner.templates.sandbox import ALLOWED_NODES, FUNCTIONS, SANDBOX

MAX_SOURCE = 64 * 1024
MAX_NODES = 4_000
MAX_DEPTH = 100
MAX_BRACKETS = 30

_OPENING = re.compile(r"\{[{%#]")
_BRACKET = re.compile(r"[(\[{)\]}]")
_CODE = re.compile(r"\{[{%]")


class TemplateProblem(Exception):
    """A template that cannot be used. `start` and `end` are offsets in its text; `code` is the diagnostic's."""

    def __init__(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint

    def without_traceback(self) -> TemplateProblem:
        """The same problem, as nobody has raised it."""
        return TemplateProblem(self.code, self.message, self.start, self.end, self.hint)


@frozen
class Expression:
    """One `{{ }}` of a template: the text between the braces, and where the braces stand."""

    source: str
    start: int
    end: int
    filter: str | None = None

    @property
    def is_raw(self) -> bool:
        return self.filter == "raw"

    @property
    def is_identifier(self) -> bool:
        return self.filter == "identifier"


def has_template(text: str) -> bool:
    """Whether the text has anything for the template engine in it."""
    return "{" in text and _OPENING.search(text) is not None


def code_length(text: str) -> int:
    """How many characters of the text are between braces, of which an expression may have some of its own."""
    parts = _CODE.split(text)[1:]
    ends = (max(part.rfind("}}"), part.rfind("%}")) for part in parts)
    return sum(2 + (len(part) if end < 0 else end) for part, end in zip(parts, ends, strict=True))


def parse_nodes(source: str) -> list[nodes.Node]:
    """The nodes of a text with templates in it.

    Raises:
        TemplateProblem: as `parse`.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateProblem(
            "NP405", f"a template is at most {MAX_SOURCE:,} characters long", 0, len(source)
        )
    _check_brackets(source)
    try:
        # What compiles the nodes gives them their environment.
        body = Parser(SANDBOX, source).subparse()
    except TemplateSyntaxError as error:
        raise _syntax_problem(source, error) from None
    except RecursionError:
        raise TemplateProblem("NP405", "the expression is nested too deeply", 0, len(source)) from None
    except ValueError:
        # Python reads no decimal integer of more than 4,300 digits.
        raise TemplateProblem("NP405", "a number is too large", 0, len(source)) from None
    _check_nodes(source, body)
    return body


def _check_brackets(source: str) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(source):
        offset, character = bracket.start(), bracket[0]
        if character in "([{":
            depth += 1
            if depth > MAX_BRACKETS:
                message = f"brackets are nested more than {MAX_BRACKETS} deep"
                raise TemplateProblem("NP405", message, offset, offset + 1)
        elif character in ")]}":
            depth = max(depth - 1, 0)


_ENDS = "it ends as it began: `{{ … }}` or `{% … %}`"
_UNKNOWN = re.compile(r"^Encountered unknown tag '(\w+)'")
_UNCLOSED = re.compile(r"innermost block that needs to be closed is '(\w+)'")


def _syntax_problem(source: str, error: TemplateSyntaxError) -> TemplateProblem:
    start = min(max(error.lineno, 0), max(len(source) - 1, 0))
    word = re.compile(r"\w+|\S").match(source, start)
    message = (error.message or "not an expression").rstrip(".")
    end = word.end() if word else start + 1
    if (unknown := _UNKNOWN.search(message)) is not None:
        tag = unknown[1]
        if tag.startswith(("end", "el")):
            return TemplateProblem("NP401", f"`{{% {tag} %}}` belongs to no block before it", start, end)
        return TemplateProblem("NP403", f"unknown tag `{tag}`", start, end)
    if (unclosed := _UNCLOSED.search(message)) is not None:
        return _unclosed(source, unclosed[1])
    message = message.replace("end of print statement", "}}").replace("end of statement block", "%}")
    if source.startswith("}", start) and not source.startswith("}}", start):
        return TemplateProblem("NP401", message[0].lower() + message[1:], start, end, _ENDS)
    # The executor parses templates too, and has no use for what would be right until one is wrong.
    from noetl.planner.templates.foreign_syntax import find_operator_hint

    return TemplateProblem(
        "NP401", message[0].lower() + message[1:], start, end, find_operator_hint(source, start)
    )


def _unclosed(source: str, tag: str) -> TemplateProblem:
    opened: list[re.Match[str]] = []
    for found in re.finditer(rf"\{{%[-+]?\s*(end)?({tag})\b.*?%\}}", source, re.DOTALL):
        if not found[1]:
            opened.append(found)
        elif opened:
            opened.pop()
    start, end = (opened[-1].start(2), opened[-1].end()) if opened else (0, len(source))
    hint = f"write `{{% end{tag} %}}` behind what belongs to it"
    return TemplateProblem("NP401", f"`{{% {tag} %}}` is not closed", start, end, hint)


def _check_nodes(source: str, body: Sequence[nodes.Node]) -> None:
    """Raises TemplateProblem for whatever the sandbox does not have. Iterative: trees may be deeper than the stack."""
    level = list(body)
    depth = count = 1
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise TemplateProblem("NP405", "the expression is too complex", 0, len(source))
        for node in level:
            _check_node(source, node)
        level = [child for node in level for child in child_nodes(node)]


_LOOKED_INTO = frozenset({nodes.Getattr, nodes.Getitem, nodes.Const, nodes.Filter, nodes.Test, nodes.Call})


def _check_node(source: str, node: nodes.Node) -> None:
    if type(node) not in ALLOWED_NODES:
        word = type(node).__name__.lower()
        raise _at(source, "NP403", f"`{word}` is not allowed in playbooks", node.lineno, word)
    if type(node) not in _LOOKED_INTO:
        return
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        raise _at(
            source, "NP403", f"`{node.attr}` is not allowed: it starts with `_`", node.lineno, node.attr
        )
    if (
        isinstance(node, nodes.Getitem)
        and isinstance(node.arg, nodes.Const)
        and str(node.arg.value).startswith("__")
    ):
        raise _at(source, "NP403", f"`{node.arg.value}` is not allowed", node.lineno, str(node.arg.value))
    if isinstance(node, nodes.Const) and _is_huge(node.value):
        end = re.compile(r"[\w.+-]+").match(source, node.lineno)
        raise TemplateProblem(
            "NP405", "the number is too large", node.lineno, end.end() if end else node.lineno + 1
        )
    if isinstance(node, nodes.Filter) and node.name not in SANDBOX.filters:
        hint = _suggest(node.name, SANDBOX.filters, "FILTER_HINTS")
        raise _at(source, "NP402", f"there is no filter `{node.name}`", node.lineno, node.name, hint)
    if isinstance(node, nodes.Test) and node.name not in SANDBOX.tests:
        hint = _suggest(node.name, SANDBOX.tests, "TEST_HINTS")
        raise _at(source, "NP402", f"there is no test `{node.name}`", node.lineno, node.name, hint)
    if isinstance(node, nodes.Call):
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _at(source, "NP403", "`*` and `**` in calls are not allowed", node.lineno, "(")
        if isinstance(node.node, nodes.Name) and node.node.name not in FUNCTIONS:
            name = node.node.name
            hint = _suggest(name, FUNCTIONS, "FUNCTION_HINTS") or (
                f"`{name}` is a filter: write `value | {name}`" if name in SANDBOX.filters else None
            )
            raise _at(source, "NP402", f"there is no function `{name}`", node.node.lineno, name, hint)


def _suggest(word: str, known: Iterable[str], kind: str) -> str | None:
    from noetl.planner.diagnostics.diagnostic import did_you_mean
    from noetl.planner.templates import foreign_syntax

    words: Mapping[str, str] = getattr(foreign_syntax, kind)
    return words.get(word) or did_you_mean(word, known)


def _is_huge(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS


def _at(
    source: str, code: str, message: str, offset: int | None, word: str, hint: str | None = None
) -> TemplateProblem:
    offset = offset or 0  # some nodes do not know where they stand
    start = source.find(word, offset)
    start = start if start >= 0 else min(offset, len(source))
    return TemplateProblem(code, message, start, start + len(word), hint)


_PLAIN = re.compile(
    r"\{\{[ \t\n]*(?P<access>[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*){0,20})[ \t\n]*\}\}"
)
_WORDS = frozenset(
    [
        "and",
        "dict",
        "else",
        "False",
        "false",
        "if",
        "in",
        "is",
        "None",
        "none",
        "not",
        "or",
        "range",
        "True",
        "true",
    ]
)
_MAX_PLAIN = 100


def split_simple_parts(source: str) -> list[str | Expression] | None:
    """What `parts_of` gives, of a text whose expressions are names with attributes; None for any other. Most texts are such,
    and the parser takes twenty times as long to say so.
    """
    if "\r" in source or len(source) > MAX_SOURCE or source.count("[") + source.count("(") > MAX_BRACKETS - 2:
        return None
    parts: list[str | Expression] = []
    end = count = 0
    while (opening := _OPENING.search(source, end)) is not None:
        found = _PLAIN.match(source, opening.start())
        count += 1
        if found is None or found["access"].partition(".")[0] in _WORDS or count > _MAX_PLAIN:
            return None
        if found.start() > end:
            parts.append(source[end : found.start()])
        parts.append(Expression(found["access"], found.start(), found.end()))
        end = found.end()
    if end < len(source):
        parts.append(source[end:])
    return None if any("{" in part for part in parts if isinstance(part, str)) else parts


def split_parts(source: str) -> Iterator[str | Expression]:
    """Literal text and expressions in the order they stand, of a text without `{% %}` blocks."""
    text: list[str] = []
    start = 0
    inside: list[tuple[str, str]] = []
    for offset, token, value in SANDBOX.lexer.tokeniter(source, None):
        if token == "variable_begin":
            if text:
                yield "".join(text)
                text = []
            start, inside = offset, []
        elif token == "variable_end":
            end = offset + len(value)
            words = [item for item in inside if item[0] != "whitespace"]
            piped = len(words) > 1 and words[-2][1] == "|"
            yield Expression(
                "".join(v for _, v in inside).strip(), start, end, words[-1][1] if piped else None
            )
            inside = []
        elif token == "data":
            text.append(value)
        elif not token.startswith(("raw", "comment")):
            inside.append((token, value))
    if text:
        yield "".join(text)
