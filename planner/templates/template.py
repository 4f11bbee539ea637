"""Templates: parse a text with `{{ }}`, find the names that it reads, and evaluate it.

Problem: the planner only parses templates and needs the names that they read. The executor evaluates them,
often many times, and must not pay for parsing or compiling that it does not need.

Algorithm: lazy compilation with memoisation (Michie 1968). `parse_template` caches by text. A template that
is only an access path is evaluated by attribute lookups. Any other template is instrumented (see
`evaluator`), and compiled at its first evaluation. The result is one function that returns the values of all
expressions.

Cost: see `parser` for parsing. A compiled evaluation costs about as much as the same code in Python, plus
charges.

Limits: the cache holds MAX_CACHED_BYTES. A compilation keeps its templates only as long as it takes, and that
of a draft keeps them for the next one, in another cache. The limits of one evaluation are in `budget`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from jinja2 import nodes
from jinja2.exceptions import UndefinedError
from jinja2.runtime import Undefined

from noetl.planner.templates.access_paths import AccessPath, find_access_path, find_accesses, find_local_names
from noetl.planner.templates.budget import (
    MAX_TEXT,
    EvaluationStopped,
    LimitExceeded,
    shared_budget,
    start_budget,
    stop_when,
)
from noetl.planner.templates.evaluator import (
    EvaluationError,
    compile_nodes,
    describe_error,
    instrument,
    is_json_type,
    to_json_value,
    to_text,
)
from noetl.planner.templates.filters import Identifier, Raw
from noetl.planner.templates.functions import Function
from noetl.planner.templates.parser import (
    Expression,
    TemplateProblem,
    has_template,
    parse_nodes,
    split_parts,
    split_simple_parts,
)
from noetl.planner.templates.sandbox import FUNCTIONS, SANDBOX
from noetl.planner.templates.watchdog import run_watched
from noetl.planner.weighted_cache import WeightedCache

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
    "read_access",
    "shared_budget",
    "stop_when",
]

Lookup = Callable[[str], Any]
"""Returns the value of a top-level name. Raises KeyError if the name is undefined."""

T = TypeVar("T")

MAX_CACHED_BYTES = 32 * 1024 * 1024
"""How many bytes the cached templates may use together, by the estimate of the two numbers below."""
ENTRY_BYTES = 1024
BYTES_PER_CHARACTER = 128

MAX_ANALYSED_TEXT = 200
"""Longest template that keeps the results of analyses after its compilation."""

_RESULT = "noetl__result"
"""The name to which a compiled template assigns the list of its values."""


class Template:
    """A parsed text with templates.

    `reads` maps each access path to the offset of its first occurrence, without local names. `names` are the
    names at the roots of these paths. `is_expression` is true if the text is one expression, `has_blocks` if
    it contains `{% %}`. `access_path` is the path if the text is only one access path, else None.
    `has_only_accesses` is true if every expression is an access path. The names that must have a value are
    the result of `dataflow.narrowing`.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        simple_parts = split_simple_parts(source)
        if simple_parts is not None:
            self._read_simple_parts(simple_parts)
            return
        self.has_only_accesses = False
        body = parse_nodes(source)
        self.has_blocks = any(not isinstance(node, nodes.Output) for node in body)
        outputs = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
        expressions = [child for child in outputs if not isinstance(child, nodes.TemplateData)]
        is_blank = all(not c.data.strip() for c in outputs if isinstance(c, nodes.TemplateData))
        self.is_expression = not self.has_blocks and len(expressions) == 1 and is_blank
        self.reads = _find_reads(body)
        self.names = frozenset(path[0] for path in self.reads)
        self.access_path = find_access_path(expressions[0]) if self.is_expression else None
        if self.access_path is None:
            self._body = body

    def _read_simple_parts(self, parts: list[str | Expression]) -> None:
        """Set the attributes from parts whose expressions are access paths."""
        self.has_only_accesses = True
        self.has_blocks = False
        self.parts = tuple(parts)
        self.reads = {}
        for part in parts:
            if isinstance(part, Expression):
                path = tuple(part.source.split("."))
                self.reads.setdefault(path, self.source.index(part.source, part.start))
        self.names = frozenset(path[0] for path in self.reads)
        texts = [part for part in parts if isinstance(part, str)]
        self.is_expression = len(parts) == len(texts) + 1 and not any(map(str.strip, texts))
        self.access_path = next(iter(self.reads)) if self.is_expression else None

    @property
    def is_access(self) -> bool:
        """True if the text is one expression that only reads a value."""
        return self.access_path is not None

    @property
    def expression(self) -> nodes.Node:
        """The node of the only expression. Valid only if `is_expression` is true."""
        outputs = (child for node in self._nodes() if isinstance(node, nodes.Output) for child in node.nodes)
        return next(child for child in outputs if not isinstance(child, nodes.TemplateData))

    def _nodes(self) -> list[nodes.Node]:
        body: list[nodes.Node] | None = self.__dict__.get("_body")
        return body or parse_nodes(self.source)

    def inspect_nodes(self, inspect: Callable[[list[nodes.Node]], T]) -> T:
        """Return `inspect(nodes)`. The function must not modify the nodes."""
        # Compilation on another thread modifies the nodes. `pop` is atomic, so one thread owns them.
        body: list[nodes.Node] = self.__dict__.pop("_body", None) or parse_nodes(self.source)
        result = inspect(body)
        self._body = body
        return result

    def result_of(self, analyse: Callable[[Template], T]) -> T:
        """Return analyse(self). The template keeps the result, so it is computed once."""
        if analyse not in self._results:
            self._results[analyse] = analyse(self)
        result: T = self._results[analyse]
        return result

    def forget_results(self) -> None:
        """Drop the results of analyses. They may take more bytes than the square of the length."""
        self._results.clear()

    @cached_property
    def _results(self) -> dict[Callable[[Template], Any], Any]:
        return {}

    @cached_property
    def parts(self) -> tuple[str | Expression, ...] | None:
        """Literal text and expressions in order, or None if the text has `{% %}` blocks."""
        return None if self.has_blocks else tuple(split_parts(self.source))

    def _take_nodes(self) -> list[nodes.Node]:
        """Return nodes for compilation, which modifies them.

        A second call, on any thread, parses the text again.
        """
        body: list[nodes.Node] | None = self.__dict__.pop("_body", None)
        return body or parse_nodes(self.source)

    @cached_property
    def _compute_values(self) -> Callable[[dict[str, Any]], Any]:
        """A function that returns the values of all expressions for the values of names."""
        outputs = (child for node in self._take_nodes() for child in getattr(node, "nodes", ()))
        expressions = [instrument(node) for node in outputs if not isinstance(node, nodes.TemplateData)]
        target = nodes.Name(_RESULT, "store", lineno=1)
        assign = nodes.Assign(target, nodes.List(expressions, lineno=1), lineno=1)
        return compile_nodes(nodes.Template([assign], lineno=1), lambda context, _text: context.vars[_RESULT])

    @cached_property
    def _compute_text(self) -> Callable[[dict[str, Any]], Any]:
        """A function that returns the rendered text for the values of names."""
        body = [instrument(node) for node in self._take_nodes()]
        return compile_nodes(nodes.Template(body, lineno=1), lambda _context, text: text)

    def evaluate(self, lookup: Lookup) -> Any:
        """Return the JSON value of the expression if the text is one, else the rendered text.

        >>> parse_template("{{ n + 1 }}").evaluate({"n": 1}.__getitem__)
        2
        >>> parse_template("n is {{ n }}").evaluate({"n": 1}.__getitem__)
        'n is 1'

        Raises:
            EvaluationError: a name is undefined, an operation fails, or a limit is exceeded.
            Exception: what the condition of an enclosing `stop_when` returns.
        """
        if self.access_path is not None:
            return self._evaluate_access(lookup)
        if self.has_blocks:
            return self._run(self._compute_text, lookup, lambda text: text)
        return self._run(self._compute_values, lookup, self._combine)

    def _combine(self, values: list[Any]) -> Any:
        """Return the value of the only expression, or the text with all values."""
        if self.is_expression:
            return to_json_value(values[0])
        remaining = iter(values)
        texts = [part if isinstance(part, str) else to_text(next(remaining)) for part in self.parts or ()]
        if sum(map(len, texts)) > MAX_TEXT:
            raise EvaluationError("LimitExceeded", f"the text is longer than {MAX_TEXT:,} characters")
        return "".join(texts)

    def values(self, lookup: Lookup) -> list[Any]:
        """Return the JSON value of each expression, in order. `Raw` and `Identifier` values keep their type.

        Raises:
            EvaluationError: as `evaluate`.
        """
        if self.access_path is not None:
            return [self._evaluate_access(lookup)]

        def convert(values: list[Any]) -> list[Any]:
            return [to_json_value(value) for value in values]

        values: list[Any] = self._run(self._compute_values, lookup, convert)
        return values

    def _evaluate_access(self, lookup: Lookup) -> Any:
        assert self.access_path is not None
        value = read_access(self.access_path, lookup)
        if is_json_type(value):
            return value
        start_budget()
        return to_json_value(value)

    def _run(
        self, function: Callable[[dict[str, Any]], Any], lookup: Lookup, convert: Callable[[Any], Any]
    ) -> Any:
        """Return `convert(function(names))` for the values of the names that the template reads."""
        names: dict[str, Any] = {}
        for name in self.names:
            try:
                value = lookup(name)
            except KeyError:
                continue
            names[name] = Function(value) if name in FUNCTIONS and callable(value) else value
        start_budget()
        try:
            return run_watched(lambda: convert(function(names)))
        except EvaluationStopped as stopped:
            raise stopped.reason from None
        except EvaluationError:
            raise
        except UndefinedError as error:
            raise EvaluationError("UndefinedName", describe_error(error)) from None
        except (LimitExceeded, RecursionError, MemoryError) as error:
            message = describe_error(error) or "the expression needs too much memory"
            raise EvaluationError("LimitExceeded", message) from None
        except Exception as error:  # noqa: BLE001 - any error of a filter is a failure of the expression
            raise EvaluationError("TemplateError", describe_error(error) or type(error).__name__) from None


def read_access(path: AccessPath, lookup: Lookup) -> Any:
    """Return the value at an access path. It may be of a type that JSON does not have.

    Raises:
        EvaluationError: `UndefinedName`, if the name or an attribute is undefined.
    """
    name, *attributes = path
    try:
        value = lookup(name)
    except KeyError:
        raise EvaluationError("UndefinedName", f"`{name}` is undefined") from None
    try:
        for attribute in attributes:
            value = SANDBOX.getattr(value, attribute)
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
    except UndefinedError as error:
        raise EvaluationError("UndefinedName", describe_error(error)) from None
    return value


TemplateCache: TypeAlias = WeightedCache[str, Template | TemplateProblem]


def parse_template(source: str) -> Template:
    """Return the template of a text.

    Raises:
        TemplateProblem: the text is not a template, or uses something that the sandbox does not allow.
    """
    templates = _scope.templates
    if templates is None:
        result = TEMPLATES.get(source, _load)
    elif (known := templates.get(source)) is not None:
        result = known
    else:
        kept = _scope.kept
        result = templates[source] = _parse(source) if kept is None else kept.get(source, _load)
    if isinstance(result, TemplateProblem):
        raise result.without_traceback()
    return result


@contextmanager
def temporary_templates(kept: TemplateCache | None = None) -> Iterator[None]:
    """Keep the templates that this thread parses in the block no longer than that. Nested blocks share them.

    A compilation parses texts of any length, which need not be evaluated ever. `kept` has templates of
    earlier blocks, and gets those of this one, with the results of analyses of short ones.
    """
    if _scope.templates is not None:
        yield
        return
    _scope.templates, _scope.kept = {}, kept
    try:
        yield
    finally:
        for template in _scope.templates.values() if kept is not None else ():
            if isinstance(template, Template) and len(template.source) > MAX_ANALYSED_TEXT:
                template.forget_results()
        _scope.templates = _scope.kept = None


def _parse(source: str) -> Template | TemplateProblem:
    """Return the template of a text, or the problem that `parse_template` raises."""
    try:
        return Template(source)
    except TemplateProblem as problem:
        # The traceback of the raised exception would keep all its frames alive.
        return problem.without_traceback()


def _load(source: str) -> tuple[Template | TemplateProblem, int]:
    """Return the template of a text or its problem, with an estimate of its bytes."""
    return _parse(source), ENTRY_BYTES + BYTES_PER_CHARACTER * len(source)


class _Scope(threading.local):
    """The templates of the compilation on this thread, or None outside of one."""

    templates: dict[str, Template | TemplateProblem] | None = None
    kept: TemplateCache | None = None


_scope = _Scope()

TEMPLATES: TemplateCache = WeightedCache(MAX_CACHED_BYTES)
"""The templates that were parsed last, outside of a compilation."""


def is_true(value: object) -> bool:
    """Return whether a guard with this value is true. As in Python, every text but the empty one is true.

    >>> is_true("False"), is_true([])
    (True, False)
    """
    return bool(value)


def _find_reads(body: Sequence[nodes.Node]) -> dict[AccessPath, int]:
    """Return each access path with the offset of its first occurrence, in the order of these offsets."""
    reads: dict[AccessPath, int] = {}
    for path, offset in find_accesses(body, find_local_names(body)):
        if path[0] not in SANDBOX.globals:
            reads[path] = min(offset, reads.get(path, offset))
    return dict(sorted(reads.items(), key=lambda item: item[1]))
