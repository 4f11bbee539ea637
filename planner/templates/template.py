"""Templates: what text with `{{ }}` in it means, which names it reads, and what it evaluates to.

The planner parses and asks what is read; the executor evaluates, compiling an expression when it is first used. Both
go through `parse`, which caches by text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from jinja2 import nodes
from jinja2.exceptions import UndefinedError
from jinja2.runtime import Undefined
from noetl.planner.templates.access_paths import AccessPath, find_access_path, find_accesses, find_local_names
from noetl.planner.templates.budget import MAX_TEXT, LimitExceeded, shared_budget, start_budget
from noetl.planner.templates.evaluator import (
    EvaluationError,
    charged,
    compiled,
    is_foreign,
    message_of,
    plain_or_error,
    to_text,
)
from noetl.planner.templates.filters import Identifier, Raw
from noetl.planner.templates.parser import (
    Expression,
    TemplateProblem,
    has_template,
    parse_nodes,
    split_parts,
    split_simple_parts,
)
from noetl.planner.templates.sandbox import SANDBOX

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
    "parse_template",
    "shared_budget",
]

Lookup = Callable[[str], Any]
"""Gives the value of a top-level name; raises KeyError when it has none."""

T = TypeVar("T")

_RESULT = "noetl__result"


class Template:
    """A text with templates in it, parsed.

    `reads` maps each access to the offset where it first stands. Names bound inside are not read. What of it must have a value
    is in `noetl.planner.dataflow.narrowing`. `access_path` is the access when the text is nothing but one, else None. `has_only_accesses` says that its
    expressions are names with attributes and nothing else.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        plain = split_simple_parts(source)
        if plain is not None:
            self._read(plain)
            return
        self.has_only_accesses = False
        body = parse_nodes(source)
        self.has_blocks = any(not isinstance(node, nodes.Output) for node in body)
        outputs = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
        expressions = [child for child in outputs if not isinstance(child, nodes.TemplateData)]
        blank = all(not c.data.strip() for c in outputs if isinstance(c, nodes.TemplateData))
        self.is_expression = not self.has_blocks and len(expressions) == 1 and blank
        self.reads = _accesses(body)
        self.names = frozenset(access[0] for access in self.reads)
        self.access_path = find_access_path(expressions[0]) if self.is_expression else None
        if self.access_path is None:
            self._body = body

    def _read(self, parts: list[str | Expression]) -> None:
        """Take what the parts say, whose expressions are names with attributes."""
        self.has_only_accesses = True
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
        self.access_path = next(iter(self.reads)) if self.is_expression else None

    @property
    def is_access(self) -> bool:
        """Whether the text is one expression that only reads a value and does nothing to it."""
        return self.access_path is not None

    @property
    def expression(self) -> nodes.Node:
        """The syntax of the one expression that the text is."""
        outputs = (child for node in self._syntax() if isinstance(node, nodes.Output) for child in node.nodes)
        return next(child for child in outputs if not isinstance(child, nodes.TemplateData))

    def _syntax(self) -> list[nodes.Node]:
        body: list[nodes.Node] | None = self.__dict__.get("_body")
        return body or parse_nodes(self.source)

    def inspect_nodes(self, look: Callable[[list[nodes.Node]], T]) -> T:
        """What a function makes of the nodes, which it must not change."""
        # Compiling them does, on any thread: whoever has taken them has them alone.
        body: list[nodes.Node] = self.__dict__.pop("_body", None) or parse_nodes(self.source)
        found = look(body)
        self._body = body
        return found

    @cached_property
    def parts(self) -> tuple[str | Expression, ...] | None:
        """Literal text and expressions in the order they stand, or None when the text has `{% %}` blocks."""
        return None if self.has_blocks else tuple(split_parts(self.source))

    def _charged_body(self) -> list[nodes.Node]:
        """The nodes to compile, which changes them: whoever comes second, on any thread, parses the text again."""
        body: list[nodes.Node] | None = self.__dict__.pop("_body", None)
        return [charged(node) for node in body or parse_nodes(self.source)]

    @cached_property
    def _values(self) -> Callable[[dict[str, Any]], Any]:
        body = self._charged_body()
        expressions = [
            c for node in body for c in getattr(node, "nodes", ()) if not isinstance(c, nodes.TemplateData)
        ]
        target = nodes.Name(_RESULT, "store", lineno=1)
        assign = nodes.Assign(target, nodes.List(expressions, lineno=1), lineno=1)
        return compiled(nodes.Template([assign], lineno=1), lambda context, _chunks: context.vars[_RESULT])

    @cached_property
    def _text(self) -> Callable[[dict[str, Any]], Any]:
        body = self._charged_body()
        return compiled(nodes.Template(body, lineno=1), lambda _context, chunks: chunks)

    def evaluate(self, lookup: Lookup) -> Any:
        """The value of the expression when the text is one, as plain data; else the text with its templates filled in.

        Raises:
            EvaluationError: a name has no value, an operation fails, or a limit is reached.
        """
        if self.access_path is not None:
            return self._follow(lookup)
        if self.has_blocks:
            return self._run(self._text, lookup)
        values = self._run(self._values, lookup)
        if self.is_expression:
            return plain_or_error(values[0])
        remaining = iter(values)
        texts = [part if isinstance(part, str) else to_text(next(remaining)) for part in self.parts or ()]
        if sum(map(len, texts)) > MAX_TEXT:
            raise EvaluationError("LimitExceeded", f"the text is longer than {MAX_TEXT:,} characters")
        return "".join(texts)

    def values(self, lookup: Lookup) -> list[Any]:
        """The value of each expression, in order, as plain data (`Raw` and `Identifier` stay what they are).

        Raises:
            EvaluationError: as `evaluate`.
        """
        if self.access_path is not None:
            return [self._follow(lookup)]
        return [plain_or_error(value) for value in self._run(self._values, lookup)]

    def _follow(self, lookup: Lookup) -> Any:
        assert self.access_path is not None
        name, *attributes = self.access_path
        try:
            value = lookup(name)
        except KeyError:
            raise EvaluationError("UndefinedName", f"`{name}` has no value here") from None
        try:
            for attribute in attributes:
                value = SANDBOX.getattr(value, attribute)
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
        except UndefinedError as error:
            raise EvaluationError("UndefinedName", message_of(error)) from None
        if not is_foreign(value):
            return value
        start_budget()
        return plain_or_error(value)

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
            raise EvaluationError("UndefinedName", message_of(error)) from None
        except (LimitExceeded, RecursionError, MemoryError) as error:
            raise EvaluationError(
                "LimitExceeded", message_of(error) or "the expression needs too much memory"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever a filter raises, it is the expression's failure
            raise EvaluationError("TemplateError", message_of(error) or type(error).__name__) from None


def parse_template(source: str) -> Template:
    """The template that the text is.

    Raises:
        TemplateProblem: it is not one, or uses what the sandbox does not have.
    """
    found = cached_parse(source)
    if isinstance(found, TemplateProblem):
        raise found.without_traceback()
    return found


@lru_cache(maxsize=65_536)
def cached_parse(source: str) -> Template | TemplateProblem:
    """What `parse` gives or raises, worked out once for each text."""
    try:
        return Template(source)
    except TemplateProblem as problem:
        # What was raised holds on to everything that was at work.
        return problem.without_traceback()


def is_true(value: object) -> bool:
    """Whether a guard with this value is true: as in Python, so that the text `False` is true."""
    return bool(value)


def _accesses(body: Sequence[nodes.Node]) -> dict[AccessPath, int]:
    """The accesses in the order they stand, each where it stands first."""
    reads: dict[AccessPath, int] = {}
    for access, offset in find_accesses(body, find_local_names(body)):
        if access[0] not in SANDBOX.globals:
            reads[access] = min(offset, reads.get(access, offset))
    return dict(sorted(reads.items(), key=lambda item: item[1]))
