"""Parse text with templates into syntax trees and parts, and refuse what the sandbox does not allow.

Problem: every text value of a playbook may be a template. Authors need errors at the exact word, hostile
templates must not exhaust the parser, and most texts are trivial: no template, or `{{ name.attribute }}`
only.

Algorithm: three stages. `split_simple_parts` reads trivial texts with one regular expression. For all others,
the parser of Jinja2 builds the syntax tree, with offsets in place of line numbers (see
`sandbox.OffsetLexer`). Then a breadth-first walk checks each node against the allow-lists. Source: Jinja2
documentation, "API".

Cost: O(length of the text). The simple stage is about twenty times faster than the parser of Jinja2.

Limits: MAX_SOURCE characters, MAX_BRACKETS nested brackets (checked before parsing, because the parser is
recursive) and MAX_NODES nodes. The tree may have MAX_DEPTH levels, MAX_LOOPS nested loops and MAX_BLOCKS
nested blocks. Past a limit, NP405 is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser

from noetl.planner.frozen import frozen
from noetl.planner.templates.access_paths import child_nodes
from noetl.planner.templates.budget import MAX_INTEGER_BITS
from noetl.planner.templates.sandbox import ALLOWED_NODES, CALLABLE_ATTRIBUTES, FUNCTIONS, SANDBOX

MAX_SOURCE = 64 * 1024
MAX_NODES = 4_000
MAX_DEPTH = 100
MAX_BRACKETS = 30
MAX_LOOPS = 20
"""How many `for` loops may be nested. Jinja2 compiles them to nested loops, and Python allows 20."""

MAX_BLOCKS = 50
"""How many blocks of all kinds may be nested. Python allows 100 levels of indentation."""

_OPENING = re.compile(r"\{[{%#]")
_BRACKET = re.compile(r"[(\[{)\]}]")
_CODE = re.compile(r"\{[{%]")


class TemplateProblem(Exception):
    """An invalid template.

    `code` is the code of the diagnostic; `start` and `end` are offsets in the text.
    """

    def __init__(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint

    def without_traceback(self) -> TemplateProblem:
        """Return a copy without traceback, so that a cached problem keeps no frames alive."""
        return TemplateProblem(self.code, self.message, self.start, self.end, self.hint)


@frozen
class Expression:
    """One `{{ }}` of a template. `source` is the text between the braces.

    `start` and `end` include the braces. `filter` is the name of the last filter, if it has no arguments.
    """

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
    """Return whether the text contains an expression, a block or a comment of the template language.

    >>> has_template("{{ x }}"), has_template("{x}")
    (True, False)
    """
    return "{" in text and _OPENING.search(text) is not None


def code_length(text: str) -> int:
    """Return the length of all expressions and blocks of a text, in characters.

    The opening braces count. An expression may contain braces, so it extends to the last closing braces
    before the next opening.

    >>> code_length("a {{ b }} c")
    5
    """
    parts = _CODE.split(text)[1:]
    ends = (max(part.rfind("}}"), part.rfind("%}")) for part in parts)
    return sum(2 + (len(part) if end < 0 else end) for part, end in zip(parts, ends, strict=True))


def parse_nodes(source: str) -> list[nodes.Node]:
    """Return the nodes of a text with templates.

    Raises:
        TemplateProblem: the text is not a template, or uses something that the sandbox does not allow.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateProblem(
            "NP405", f"the template is longer than {MAX_SOURCE:,} characters", 0, len(source)
        )
    _check_brackets(source)
    try:
        # `compile_nodes` sets the environment of the nodes.
        body = Parser(SANDBOX, source).subparse()
    except TemplateSyntaxError as error:
        raise _to_problem(source, error) from None
    except RecursionError:
        raise TemplateProblem("NP405", "the expression is nested too deeply", 0, len(source)) from None
    except ValueError:
        # Python cannot read a decimal integer of more than 4,300 digits.
        raise TemplateProblem("NP405", "a number is too large", 0, len(source)) from None
    _check_nodes(source, body)
    if "{%" in source:
        _check_blocks(source, body)
    return body


def _check_brackets(source: str) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(source):
        offset, character = bracket.start(), bracket[0]
        if character in "([{":
            depth += 1
            if depth > MAX_BRACKETS:
                message = f"brackets are nested more than {MAX_BRACKETS} levels deep"
                raise TemplateProblem("NP405", message, offset, offset + 1)
        else:
            depth = max(depth - 1, 0)


_TAGS = ("for", "if", "set", "with")
_UNKNOWN_TAG = re.compile(r"^Encountered unknown tag '(\w+)'")
_UNCLOSED_BLOCK = re.compile(r"innermost block that needs to be closed is '(\w+)'")


def _to_problem(source: str, error: TemplateSyntaxError) -> TemplateProblem:
    start = min(max(error.lineno, 0), max(len(source) - 1, 0))
    word = re.compile(r"\w+|\S").match(source, start)
    message = (error.message or "not an expression").rstrip(".")
    end = word.end() if word else start + 1
    if (unknown := _UNKNOWN_TAG.search(message)) is not None:
        from noetl.planner.diagnostics.diagnostic import did_you_mean

        tag = unknown[1]
        if tag.startswith(("end", "el")):
            return TemplateProblem("NP401", f"unexpected `{{% {tag} %}}`: no block is open", start, end)
        hint = (
            did_you_mean(tag, _TAGS)
            or f"write `{{{{ {tag} }}}}` for a value; the tags are `for`, `if`, `set` and `with`"
        )
        return TemplateProblem("NP403", f"unknown tag `{tag}`", start, end, hint)
    if (unclosed := _UNCLOSED_BLOCK.search(message)) is not None:
        return _unclosed_block(source, unclosed[1])
    # The executor also parses templates, but needs these words only after an error.
    from noetl.planner.templates.syntax_errors import explain_syntax_error

    problem = explain_syntax_error(source, start, message[0].lower() + message[1:])
    return TemplateProblem("NP401", problem.message, problem.start, problem.end, problem.hint)


def _unclosed_block(source: str, tag: str) -> TemplateProblem:
    open_blocks: list[re.Match[str]] = []
    for block in re.finditer(rf"\{{%[-+]?\s*(end)?({tag})\b", source):
        if not block[1]:
            open_blocks.append(block)
        elif open_blocks:
            open_blocks.pop()
    start, end = (open_blocks[-1].start(2), open_blocks[-1].end()) if open_blocks else (0, len(source))
    closing = source.find("%}", end)
    end = end if closing < 0 else closing + 2
    hint = f"add `{{% end{tag} %}}` at the end of the block"
    return TemplateProblem("NP401", f"`{{% {tag} %}}` is not closed", start, end, hint)


def _check_nodes(source: str, body: Sequence[nodes.Node]) -> None:
    """Raise TemplateProblem for a node that is not allowed.

    Iterative, because the tree may be deeper than the stack.
    """
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


@frozen
class _Place:
    """A node, the number of loops and of all blocks around it, and whether it is the owner of an attribute.

    A loop counts for its body only.
    """

    node: nodes.Node
    loops: int = 0
    blocks: int = 0
    is_owner: bool = False


def _check_blocks(source: str, body: Sequence[nodes.Node]) -> None:
    """Raise TemplateProblem if too many blocks are nested, or `loop` is more than the owner of an attribute.

    A loop that calls itself through `loop` would run outside of all budgets.
    """
    stack = [_Place(node) for node in body]
    while stack:
        place = stack.pop()
        node, loops, blocks = place.node, place.loops, place.blocks
        if isinstance(node, nodes.Name) and node.name == "loop" and loops and not place.is_owner:
            message = "`loop` is not a value: only its attributes can be read"
            span = _word_span(source, node.lineno, "loop")
            raise TemplateProblem("NP403", message, *span, "write an attribute, such as `loop.index`")
        if isinstance(node, nodes.For | nodes.If | nodes.With):
            blocks += 1
            _check_depth(source, node, loops + isinstance(node, nodes.For), blocks)
        in_body = {id(child) for child in node.body} if isinstance(node, nodes.For) else ()
        is_owner = isinstance(node, nodes.Getattr)
        stack += (
            _Place(child, loops + (id(child) in in_body), blocks, is_owner) for child in child_nodes(node)
        )


def _check_depth(source: str, node: nodes.Node, loops: int, blocks: int) -> None:
    if loops > MAX_LOOPS:
        message = f"`for` loops are nested more than {MAX_LOOPS} levels deep"
        raise TemplateProblem("NP405", message, *_word_span(source, node.lineno, "for"))
    if blocks > MAX_BLOCKS:
        word = type(node).__name__.lower()
        message = f"blocks are nested more than {MAX_BLOCKS} levels deep"
        raise TemplateProblem("NP405", message, *_word_span(source, node.lineno, word))


def _check_node(source: str, node: nodes.Node) -> None:
    if type(node) not in ALLOWED_NODES:
        word = type(node).__name__.lower()
        raise TemplateProblem(
            "NP403",
            f"`{word}` is not allowed in playbooks",
            *_word_span(source, node.lineno, word),
            "use `for`, `if`, `set` or `with`" if isinstance(node, nodes.Stmt) else None,
        )
    if (check := _NODE_CHECKS.get(type(node))) is not None:
        check(source, node)


def _check_attribute(source: str, node: nodes.Getattr) -> None:
    if node.attr.startswith("_"):
        message = f"`{node.attr}` is not allowed: it starts with `_`"
        raise TemplateProblem("NP403", message, *_word_span(source, node.lineno, node.attr))


def _check_subscript(source: str, node: nodes.Getitem) -> None:
    if isinstance(node.arg, nodes.Const) and str(node.arg.value).startswith("__"):
        word = str(node.arg.value)
        raise TemplateProblem("NP403", f"`{word}` is not allowed", *_word_span(source, node.lineno, word))


def _check_constant(source: str, node: nodes.Const) -> None:
    if _is_huge(node.value):
        end = re.compile(r"[\w.+-]+").match(source, node.lineno)
        raise TemplateProblem(
            "NP405", "the number is too large", node.lineno, end.end() if end else node.lineno + 1
        )


def _check_filter(source: str, node: nodes.Filter) -> None:
    _check_arguments(source, node)
    if node.name not in SANDBOX.filters:
        hint = _find_hint(node.name, SANDBOX.filters, "FILTER_HINTS")
        raise TemplateProblem(
            "NP402", f"unknown filter `{node.name}`", *_word_span(source, node.lineno, node.name), hint
        )
    if node.name in _NAME_ARGUMENTS:
        _check_name_argument(source, node, *_NAME_ARGUMENTS[node.name])


_NAME_ARGUMENTS = {
    "map": (0, "filter"),
    "reject": (0, "test"),
    "rejectattr": (1, "test"),
    "select": (0, "test"),
    "selectattr": (1, "test"),
}
"""The filters that take the name of a filter or of a test: its position, and what it names."""


def _check_name_argument(source: str, node: nodes.Filter, position: int, noun: str) -> None:
    """Raise TemplateProblem for the name of an unknown filter or test that a filter would apply."""
    argument = node.args[position] if position < len(node.args) else None
    if not isinstance(argument, nodes.Const) or not isinstance(argument.value, str):
        return
    known: Mapping[str, Any] = SANDBOX.filters if noun == "filter" else SANDBOX.tests
    # The names of internal filters contain a blank.
    if argument.value not in known or " " in argument.value:
        word = argument.value
        hint = _find_hint(word, known, f"{noun.upper()}_HINTS")
        span = _word_span(source, argument.lineno, word)
        raise TemplateProblem("NP402", f"unknown {noun} `{word}`", *span, hint)


def _check_test(source: str, node: nodes.Test) -> None:
    _check_arguments(source, node)
    if node.name not in SANDBOX.tests:
        hint = _find_hint(node.name, SANDBOX.tests, "TEST_HINTS")
        raise TemplateProblem(
            "NP402", f"unknown test `{node.name}`", *_word_span(source, node.lineno, node.name), hint
        )


def _check_call(source: str, node: nodes.Call) -> None:
    _check_arguments(source, node)
    called = node.node
    if isinstance(called, nodes.Getattr):
        _check_method(source, called)
        return
    if not isinstance(called, nodes.Name):
        message = "only functions and methods can be called by their names"
        span = _word_span(source, called.lineno, "(")
        raise TemplateProblem("NP403", message, *span, "write a name or a method before `(`")
    if called.name not in FUNCTIONS:
        name = called.name
        hint = _find_hint(name, FUNCTIONS, "FUNCTION_HINTS")
        if hint is None and name in SANDBOX.filters:
            hint = f"`{name}` is a filter: write `value | {name}`"
        raise TemplateProblem(
            "NP402", f"unknown function `{name}`", *_word_span(source, called.lineno, name), hint
        )


def _check_arguments(source: str, node: nodes.Call | nodes.Filter | nodes.Test) -> None:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TemplateProblem(
            "NP403", "`*` and `**` are not allowed in calls", *_word_span(source, node.lineno, "(")
        )


def _check_method(source: str, node: nodes.Getattr) -> None:
    if node.attr not in CALLABLE_ATTRIBUTES:
        hint = _find_hint(node.attr, CALLABLE_ATTRIBUTES, "METHOD_HINTS")
        span = _word_span(source, node.lineno, node.attr)
        raise TemplateProblem("NP402", f"unknown method `{node.attr}`", *span, hint)


def _check_loop(source: str, node: nodes.For) -> None:
    if node.recursive:
        message = "`recursive` is not allowed in `for`"
        raise TemplateProblem("NP403", message, *_word_span(source, node.lineno, "recursive"))
    if any(
        target.name == "loop"
        for target in (node.target, *node.target.find_all(nodes.Name))
        if isinstance(target, nodes.Name)
    ):
        message = "`loop` is not allowed as the name of an item"
        raise TemplateProblem("NP403", message, *_word_span(source, node.lineno, "loop"), "rename it")


def _check_name(source: str, node: nodes.Name) -> None:
    if node.name == "self" or node.name.startswith("_"):
        message = f"`{node.name}` is not allowed in an expression"
        raise TemplateProblem("NP403", message, *_word_span(source, node.lineno, node.name))


_NODE_CHECKS: Mapping[type[nodes.Node], Callable[[str, Any], None]] = {
    nodes.Getattr: _check_attribute,
    nodes.Getitem: _check_subscript,
    nodes.Const: _check_constant,
    nodes.Filter: _check_filter,
    nodes.Test: _check_test,
    nodes.Call: _check_call,
    nodes.For: _check_loop,
    nodes.Name: _check_name,
}


def _find_hint(word: str, known: Iterable[str], table: str) -> str | None:
    from noetl.planner.diagnostics.diagnostic import did_you_mean
    from noetl.planner.templates import foreign_syntax

    hints: Mapping[str, str] = getattr(foreign_syntax, table)
    return hints.get(word) or did_you_mean(word, known)


def _is_huge(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS


def _word_span(source: str, offset: int | None, word: str) -> tuple[int, int]:
    """Return the offsets of the first occurrence of `word` from `offset` on."""
    offset = offset or 0  # some nodes of Jinja2 have no position
    start = source.find(word, offset)
    start = start if start >= 0 else min(offset, len(source))
    return start, start + len(word)


_SIMPLE_EXPRESSION = re.compile(
    r"\{\{[ \t\n]*(?P<access>[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*){0,20})[ \t\n]*\}\}"
)
_KEYWORDS = frozenset(
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
_MAX_SIMPLE_EXPRESSIONS = 100


def split_simple_parts(source: str) -> list[str | Expression] | None:
    """Return the parts of a text if its expressions are only access paths such as `{{ a.b }}`, else None.

    The result equals that of `split_parts`, without the cost of the parser.
    """
    if "\r" in source or len(source) > MAX_SOURCE or source.count("[") + source.count("(") > MAX_BRACKETS - 2:
        return None
    parts: list[str | Expression] = []
    end = count = 0
    while (opening := _OPENING.search(source, end)) is not None:
        expression = _SIMPLE_EXPRESSION.match(source, opening.start())
        count += 1
        if expression is None or count > _MAX_SIMPLE_EXPRESSIONS:
            return None
        if expression["access"].partition(".")[0] in _KEYWORDS:
            return None
        if expression.start() > end:
            parts.append(source[end : expression.start()])
        parts.append(Expression(expression["access"], expression.start(), expression.end()))
        end = expression.end()
    if end < len(source):
        parts.append(source[end:])
    return None if any("{" in part for part in parts if isinstance(part, str)) else parts


def split_parts(source: str) -> Iterator[str | Expression]:
    """Yield literal text and expressions, in order, of a text without `{% %}` blocks."""
    text: list[str] = []
    start = 0
    tokens: list[tuple[str, str]] = []
    for offset, token, value in SANDBOX.lexer.tokeniter(source, None):
        if token == "variable_begin":
            if text:
                yield "".join(text)
                text = []
            start, tokens = offset, []
        elif token == "variable_end":
            end = offset + len(value)
            words = [item for item in tokens if item[0] != "whitespace"]
            ends_with_filter = len(words) > 1 and words[-2][1] == "|"
            filter_name = words[-1][1] if ends_with_filter else None
            yield Expression("".join(v for _, v in tokens).strip(), start, end, filter_name)
            tokens = []
        elif token == "data":
            text.append(value)
        elif not token.startswith(("raw", "comment")):
            tokens.append((token, value))
    if text:
        yield "".join(text)
