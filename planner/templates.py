"""Templates: what text with `{{ }}` in it means, which names it reads, and what it evaluates to.

The planner parses and asks what is read; the executor evaluates, compiling an expression when it is first used. Both
go through `parse`, which caches by text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError, UndefinedError
from jinja2.parser import Parser
from jinja2.runtime import Undefined

from planner.accesses import Access, access_of, accesses, bound_inside, children_of
from planner.budget import (
    LIST,
    LIST_ITEM,
    MAPPING,
    MAX_INTEGER_BITS,
    MAX_TEXT,
    LimitExceeded,
    bounded,
    charge,
    one_budget,
    start_budget,
)
from planner.filters import BUILT, CONCATENATE, COPIED, LOOP_ITEMS, SEARCHED, WEIGHED, Identifier, Raw, describe
from planner.record import record
from planner.sandbox import ALLOWED_NODES, FUNCTIONS, Sandbox

__all__ = [
    "EvaluationError",
    "Expression",
    "Identifier",
    "Lookup",
    "Raw",
    "Template",
    "TemplateProblem",
    "has_template",
    "is_true",
    "one_budget",
    "parse",
]

MAX_SOURCE = 64 * 1024
MAX_NODES = 4_000
MAX_DEPTH = 100
MAX_BRACKETS = 30
MAX_MESSAGE = 1_000
TIME_UNITS = 32

Lookup = Callable[[str], Any]
"""Gives the value of a top-level name; raises KeyError when it has none."""

T = TypeVar("T")

_sandbox = Sandbox()
_OPENING = re.compile(r"\{[{%#]")
_BRACKET = re.compile(r"[(\[{)\]}]")
_RESULT = "noetl__result"


class TemplateProblem(Exception):
    """A template that cannot be used. `start` and `end` are offsets in its text; `code` is the diagnostic's."""

    def __init__(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint

    def anew(self) -> TemplateProblem:
        """The same problem, as nobody has raised it."""
        return TemplateProblem(self.code, self.message, self.start, self.end, self.hint)


class EvaluationError(Exception):
    """A template has no value here. `type` is the error type of the language: UndefinedName, TemplateError, LimitExceeded."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


@record
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


class Template:
    """A text with templates in it, parsed.

    `reads` maps each access to the offset where it first stands. Names bound inside are not read. What of it must have a value
    is in `planner.implied`. `path` is the access when the text is nothing but one, else None. `is_plain` says that its
    expressions are names with attributes and nothing else.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        plain = _plain_parts(source)
        if plain is not None:
            self._read(plain)
            return
        self.is_plain = False
        body = syntax_of(source)
        self.has_blocks = any(not isinstance(node, nodes.Output) for node in body)
        outputs = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
        expressions = [child for child in outputs if not isinstance(child, nodes.TemplateData)]
        blank = all(not c.data.strip() for c in outputs if isinstance(c, nodes.TemplateData))
        self.is_expression = not self.has_blocks and len(expressions) == 1 and blank
        self.reads = _accesses(body)
        self.names = frozenset(access[0] for access in self.reads)
        self.path = access_of(expressions[0]) if self.is_expression else None
        if self.path is None:
            self._body = body

    def _read(self, parts: list[str | Expression]) -> None:
        """Take what the parts say, whose expressions are names with attributes."""
        self.is_plain = True
        self.has_blocks = False
        self.parts = tuple(parts)
        self.reads = {}
        for part in parts:
            if isinstance(part, Expression):
                access = tuple(part.source.split("."))
                self.reads.setdefault(access, self.source.index(part.source, part.start))
        self.names = frozenset(access[0] for access in self.reads)
        texts = [part for part in parts if isinstance(part, str)]
        self.is_expression = len(parts) == len(texts) + 1 and not any(map(str.strip, texts))
        self.path = next(iter(self.reads)) if self.is_expression else None

    @property
    def is_access(self) -> bool:
        """Whether the text is one expression that only reads a value and does nothing to it."""
        return self.path is not None

    @property
    def expression(self) -> nodes.Node:
        """The syntax of the one expression that the text is."""
        outputs = (child for node in self._syntax() if isinstance(node, nodes.Output) for child in node.nodes)
        return next(child for child in outputs if not isinstance(child, nodes.TemplateData))

    def _syntax(self) -> list[nodes.Node]:
        body: list[nodes.Node] | None = self.__dict__.get("_body")
        return body or syntax_of(self.source)

    def shown_to(self, look: Callable[[list[nodes.Node]], T]) -> T:
        """What a function makes of the nodes, which it must not change."""
        # Compiling them does, on any thread: whoever has taken them has them alone.
        body: list[nodes.Node] = self.__dict__.pop("_body", None) or syntax_of(self.source)
        found = look(body)
        self._body = body
        return found

    @cached_property
    def parts(self) -> tuple[str | Expression, ...] | None:
        """Literal text and expressions in the order they stand, or None when the text has `{% %}` blocks."""
        return None if self.has_blocks else tuple(_parts(self.source))

    def _charged_body(self) -> list[nodes.Node]:
        """The nodes to compile, which changes them: whoever comes second, on any thread, parses the text again."""
        body: list[nodes.Node] | None = self.__dict__.pop("_body", None)
        return [_charged(node) for node in body or syntax_of(self.source)]

    @cached_property
    def _values(self) -> Callable[[dict[str, Any]], Any]:
        body = self._charged_body()
        expressions = [c for node in body for c in getattr(node, "nodes", ()) if not isinstance(c, nodes.TemplateData)]
        target = nodes.Name(_RESULT, "store", lineno=1)
        assign = nodes.Assign(target, nodes.List(expressions, lineno=1), lineno=1)
        return _compiled(nodes.Template([assign], lineno=1), lambda context, _chunks: context.vars[_RESULT])

    @cached_property
    def _text(self) -> Callable[[dict[str, Any]], Any]:
        body = self._charged_body()
        return _compiled(nodes.Template(body, lineno=1), lambda _context, chunks: chunks)

    def evaluate(self, lookup: Lookup) -> Any:
        """The value of the expression when the text is one, as plain data; else the text with its templates filled in.

        Raises:
            EvaluationError: a name has no value, an operation fails, or a limit is reached.
        """
        if self.path is not None:
            return self._follow(lookup)
        if self.has_blocks:
            return self._run(self._text, lookup)
        values = self._run(self._values, lookup)
        if self.is_expression:
            return _plain_or_error(values[0])
        remaining = iter(values)
        texts = [part if isinstance(part, str) else _to_text(next(remaining)) for part in self.parts or ()]
        if sum(map(len, texts)) > MAX_TEXT:
            raise EvaluationError("LimitExceeded", f"the text is longer than {MAX_TEXT:,} characters")
        return "".join(texts)

    def values(self, lookup: Lookup) -> list[Any]:
        """The value of each expression, in order, as plain data (`Raw` and `Identifier` stay what they are).

        Raises:
            EvaluationError: as `evaluate`.
        """
        if self.path is not None:
            return [self._follow(lookup)]
        return [_plain_or_error(value) for value in self._run(self._values, lookup)]

    def _follow(self, lookup: Lookup) -> Any:
        assert self.path is not None
        name, *attributes = self.path
        try:
            value = lookup(name)
        except KeyError:
            raise EvaluationError("UndefinedName", f"`{name}` has no value here") from None
        try:
            for attribute in attributes:
                value = _sandbox.getattr(value, attribute)
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
        except UndefinedError as error:
            raise EvaluationError("UndefinedName", _message(error)) from None
        if not _is_foreign(value):
            return value
        start_budget()
        return _plain_or_error(value)

    def _run(self, function: Callable[[dict[str, Any]], Any], lookup: Lookup) -> Any:
        names: dict[str, Any] = {}
        for name in self.names:
            try:
                names[name] = lookup(name)
            except KeyError:
                continue
        start_budget()
        try:
            return function(names)
        except UndefinedError as error:
            raise EvaluationError("UndefinedName", _message(error)) from None
        except (LimitExceeded, RecursionError, MemoryError) as error:
            raise EvaluationError("LimitExceeded", _message(error) or "the expression needs too much memory") from None
        except Exception as error:  # noqa: BLE001 - whatever a filter raises, it is the expression's failure
            raise EvaluationError("TemplateError", _message(error) or type(error).__name__) from None


def has_template(text: str) -> bool:
    """Whether the text has anything for the template engine in it."""
    return "{" in text and _OPENING.search(text) is not None


def parse(source: str) -> Template:
    """The template that the text is.

    Raises:
        TemplateProblem: it is not one, or uses what the sandbox does not have.
    """
    found = parsed(source)
    if isinstance(found, TemplateProblem):
        raise found.anew()
    return found


@lru_cache(maxsize=65_536)
def parsed(source: str) -> Template | TemplateProblem:
    """What `parse` gives or raises, worked out once for each text."""
    try:
        return Template(source)
    except TemplateProblem as problem:
        # What was raised holds on to everything that was at work.
        return problem.anew()


def is_true(value: object) -> bool:
    """Whether a guard with this value is true: as in Python, so that the text `False` is true."""
    return bool(value)


def _message(error: BaseException) -> str:
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    # Some quote all of a value.
    return str(error)[:MAX_MESSAGE]


def syntax_of(source: str) -> list[nodes.Node]:
    """The nodes of a text with templates in it.

    Raises:
        TemplateProblem: as `parse`.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateProblem("NP405", f"a template is at most {MAX_SOURCE:,} characters long", 0, len(source))
    _check_brackets(source)
    try:
        # What compiles the nodes gives them their environment.
        body = Parser(_sandbox, source).subparse()
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


def _syntax_problem(source: str, error: TemplateSyntaxError) -> TemplateProblem:
    start = min(max(error.lineno, 0), max(len(source) - 1, 0))
    word = re.compile(r"\w+|\S").match(source, start)
    message = (error.message or "not an expression").rstrip(".")
    if message.startswith("Encountered unknown tag"):
        return TemplateProblem("NP403", message[0].lower() + message[1:], start, word.end() if word else start + 1)
    message = message.replace("end of print statement", "}}").replace("end of statement block", "%}")
    return TemplateProblem("NP401", message[0].lower() + message[1:], start, word.end() if word else start + 1)


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
        level = [child for node in level for child in children_of(node)]


_LOOKED_INTO = frozenset({nodes.Getattr, nodes.Getitem, nodes.Const, nodes.Filter, nodes.Test, nodes.Call})


def _check_node(source: str, node: nodes.Node) -> None:
    if type(node) not in ALLOWED_NODES:
        word = type(node).__name__.lower()
        raise _at(source, "NP403", f"`{word}` is not allowed in playbooks", node.lineno, word)
    if type(node) not in _LOOKED_INTO:
        return
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        raise _at(source, "NP403", f"`{node.attr}` is not allowed: it starts with `_`", node.lineno, node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and str(node.arg.value).startswith("__"):
        raise _at(source, "NP403", f"`{node.arg.value}` is not allowed", node.lineno, str(node.arg.value))
    if isinstance(node, nodes.Const) and _is_huge(node.value):
        end = re.compile(r"[\w.+-]+").match(source, node.lineno)
        raise TemplateProblem("NP405", "the number is too large", node.lineno, end.end() if end else node.lineno + 1)
    if isinstance(node, nodes.Filter) and node.name not in _sandbox.filters:
        hint = _suggest(node.name, _sandbox.filters)
        raise _at(source, "NP402", f"there is no filter `{node.name}`", node.lineno, node.name, hint)
    if isinstance(node, nodes.Test) and node.name not in _sandbox.tests:
        hint = _suggest(node.name, _sandbox.tests)
        raise _at(source, "NP402", f"there is no test `{node.name}`", node.lineno, node.name, hint)
    if isinstance(node, nodes.Call):
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _at(source, "NP403", "`*` and `**` in calls are not allowed", node.lineno, "(")
        if isinstance(node.node, nodes.Name) and node.node.name not in FUNCTIONS:
            name = node.node.name
            hint = _suggest(name, FUNCTIONS) or (
                f"`{name}` is a filter: write `value | {name}`" if name in _sandbox.filters else None
            )
            raise _at(source, "NP402", f"there is no function `{name}`", node.node.lineno, name, hint)


def _suggest(word: str, known: Iterable[str]) -> str | None:
    # The executor parses templates too, and has no use for diagnostics until one is wrong.
    from planner.diagnostics import suggest

    return suggest(word, known)


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


def _accesses(body: Sequence[nodes.Node]) -> dict[Access, int]:
    """The accesses in the order they stand, each where it stands first."""
    reads: dict[Access, int] = {}
    for access, offset in accesses(body, bound_inside(body)):
        if access[0] not in _sandbox.globals:
            reads[access] = min(offset, reads.get(access, offset))
    return dict(sorted(reads.items(), key=lambda item: item[1]))


_PLAIN = re.compile(r"\{\{[ \t\n]*(?P<access>[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*){0,20})[ \t\n]*\}\}")
_WORDS = frozenset(
    ["and", "dict", "else", "False", "false", "if", "in", "is", "None", "none", "not", "or", "range", "True", "true"]
)
_MAX_PLAIN = 100


def _plain_parts(source: str) -> list[str | Expression] | None:
    """What `_parts` gives, of a text whose expressions are names with attributes; None for any other. Most texts are such,
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


def _parts(source: str) -> Iterator[str | Expression]:
    text: list[str] = []
    start = 0
    inside: list[tuple[str, str]] = []
    for offset, token, value in _sandbox.lexer.tokeniter(source, None):
        if token == "variable_begin":
            if text:
                yield "".join(text)
                text = []
            start, inside = offset, []
        elif token == "variable_end":
            end = offset + len(value)
            words = [item for item in inside if item[0] != "whitespace"]
            piped = len(words) > 1 and words[-2][1] == "|"
            yield Expression("".join(v for _, v in inside).strip(), start, end, words[-1][1] if piped else None)
            inside = []
        elif token == "data":
            text.append(value)
        elif not token.startswith(("raw", "comment")):
            inside.append((token, value))
    if text:
        yield "".join(text)


def _charged(node: nodes.Node) -> nodes.Node:
    """The node with the budget's filters where Jinja2 has no hook: around what is looped over, compared or cut out, and
    for `~`.
    """
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            setattr(node, field, _charged(value))
        elif isinstance(value, list):
            setattr(node, field, [_charged(item) if isinstance(item, nodes.Node) else item for item in value])
    if isinstance(node, nodes.For):
        node.iter = nodes.Filter(node.iter, LOOP_ITEMS, [], [], None, None, lineno=node.lineno)
    if isinstance(node, nodes.Compare):
        node.expr = _through(WEIGHED, node.expr)
        for operand in node.ops:
            operand.expr = _through(SEARCHED if operand.op in ("in", "notin") else WEIGHED, operand.expr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _through(COPIED, node)
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _through(BUILT, node)
    if isinstance(node, nodes.Concat):
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, CONCATENATE, [], [], None, None, lineno=node.lineno)
    return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _compiled(tree: nodes.Template, pick: Callable[[Any, Any], Any]) -> Callable[[dict[str, Any]], Any]:
    try:
        tree.set_environment(_sandbox)
        template = _sandbox.from_string(tree)
    except RecursionError:
        raise EvaluationError("LimitExceeded", "the expression is nested too deeply") from None

    def run(names: dict[str, Any]) -> Any:
        context = template.new_context(names)
        chunks: list[str] = []
        size = 0
        for chunk in template.root_render_func(context):
            size += len(chunk)
            if size > MAX_TEXT:
                raise LimitExceeded(f"the text is longer than {MAX_TEXT:,} characters")
            chunks.append(chunk)
        return pick(context, "".join(chunks))

    return run


def _is_foreign(value: object) -> bool:
    return not isinstance(value, str | int | float | bool | list | dict | None)


def _plain_or_error(value: Any) -> Any:
    try:
        return _plain(value)
    except UndefinedError as error:
        raise EvaluationError("UndefinedName", _message(error)) from None
    except (LimitExceeded, RecursionError) as error:
        raise EvaluationError("LimitExceeded", _message(error)) from None
    except (TypeError, ValueError) as error:
        raise EvaluationError("TemplateError", _message(error)) from None


def _plain(value: Any) -> Any:
    """The value as JSON knows it: lists for what can be walked, text for times. `Raw`, `Identifier` and secrets stay.

    Lists and objects are copied, as often as they stand in others, and charged for.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        charge(len(value))
        return str(value) if type(value).__name__ == "Markup" else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the value is not a finite number")
        return value
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, dict):
        charge(MAPPING + 2 * LIST_ITEM * len(value))
        return {key if isinstance(key, str) else _to_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime | date):
        charge(TIME_UNITS)
        return value.isoformat()
    if isinstance(value, Mapping):
        return value
    if callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, list | tuple):
        charge(LIST + LIST_ITEM * len(value))
        return [_plain(item) for item in value]
    if isinstance(value, Iterable):
        return [_plain(item) for item in bounded(value)]
    raise TypeError(f"the value is {describe(value)}, which is not data")


def _to_text(value: Any) -> str:
    value = _plain_or_error(value)
    return value if type(value) is str else str(value)
