"""Checks of keys that are new each time (NP836): a limit with such a key limits nothing.

Problem: each value of a key counts apart. With `uuid()`, the time or the id of the run in it, each run has a
value of its own. So every run finds its limit free, and no start joins another one.

Algorithm: structural recursion over the expression (Aho et al., "Compilers", 2nd ed., section 5.1). A key
is new each time if a part of its text is. Parts of values, comparisons and choices are not followed:
`now().date()` and `uuid()[:1]` have few values, and `input.id or uuid()` may be `input.id`.

Cost: linear in the keys and in the entries of `environment` that they read.

Limits: values that steps save are not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2 import nodes

from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath, Step
from noetl.planner.templates.access_paths import AccessPath, find_access_path
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template

_CALLS = frozenset({"now", "uuid"})
"""The functions whose values are new each time."""

_RANDOM = "random"
_TEXT_FILTERS = frozenset(
    {"capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "title", "trim", "upper"}
)
_METHODS = frozenset({"isoformat", "lower", "strip", "timestamp", "title", "upper"})
"""The filters and the methods whose result is new if their subject is."""

_OF_RUN = frozenset({("run", "id"), ("run", "started_at")})
_OF_VISIT = frozenset({("step", "idempotency_key")})
"""What is new in each run, and in each attempt at a step."""

_UNDEFINED_IN_DEBOUNCE = frozenset({"now()", "uuid()", "run.id", "run.started_at"})
"""What NP301 reports in the key of `debounce`."""


def check_unbounded_keys(program: Program) -> None:
    """Report keys of limits, rates and `debounce` that are new each time."""
    for path, text, step in _find_keys(program):
        reason = _KeyReader(program, _OF_RUN if step is None else _OF_VISIT).find_new(text)
        is_debounce = path[0] == "debounce"
        if reason is None or (is_debounce and reason in _UNDEFINED_IN_DEBOUNCE):
            continue
        subject = "start" if is_debounce else "run" if step is None else "visit"
        if reason == _RANDOM:
            message = f"`random` gives each {subject} a `key` by chance"
        else:
            effect = "joins" if is_debounce else "waits for"
            message = f"`{reason}` gives each {subject} a `key` of its own, so none {effect} another"
        program.report("NP836", message, path, f"read what the {subject}s share, or remove `key`")


def _find_keys(program: Program) -> Iterator[tuple[DocumentPath, str, Step | None]]:
    """Yield the place and the text of each key, and the step that has it."""
    playbook = program.playbook
    for step in (None, *playbook.steps):
        place = playbook if step is None else step
        for limit in (*place.limits, *place.rates):
            if limit.key is not None:
                yield (*limit.path, "key"), limit.key, step
    if playbook.debounce is not None and playbook.debounce.key is not None:
        yield ("debounce", "key"), playbook.debounce.key, None


class _KeyReader:
    """A search for a part of a key that is new each time. `changing` are the names that are."""

    def __init__(self, program: Program, changing: frozenset[AccessPath]) -> None:
        self._environment = program.playbook.environment or {}
        self._changing = changing
        self._reasons: dict[str, str | None] = {}

    def find_new(self, text: object) -> str | None:
        """Return the first part of a text that is new each time, as it is written, or None."""
        if not isinstance(text, str) or not has_template(text):
            return None
        try:
            template = parse_template(text)
        except TemplateProblem:
            return None
        return None if template.has_blocks else template.inspect_nodes(self._find_in_body)

    def _find_in_body(self, body: Iterable[nodes.Node]) -> str | None:
        outputs = (child for node in body if isinstance(node, nodes.Output) for child in node.nodes)
        return self._first(outputs)

    def _first(self, found: Iterable[nodes.Node]) -> str | None:
        return next((reason for node in found if (reason := self._find(node)) is not None), None)

    def _find(self, node: nodes.Node) -> str | None:
        match node:
            case nodes.Call(node=nodes.Name(name=name)) if name in _CALLS:
                return f"{name}()"
            case nodes.Call(node=nodes.Getattr(node=subject, attr=attribute)) if attribute in _METHODS:
                return self._find(subject)
            case nodes.Filter(name=name) if name == _RANDOM:
                return _RANDOM
            case nodes.Filter(name=name, node=nodes.Node() as subject) if name in _TEXT_FILTERS:
                return self._find(subject)
            case nodes.Concat():
                return self._first(node.nodes)
            case nodes.Add():
                return self._first((node.left, node.right))
            case nodes.CondExpr(expr2=nodes.Node() as other):
                return self._find(node.expr1) and self._find(other)
        path = find_access_path(node)
        return None if path is None else self._find_in_name(path)

    def _find_in_name(self, path: AccessPath) -> str | None:
        """Return a name that is new each time, also by its entry in `environment`."""
        if path in self._changing:
            return ".".join(path)
        if path[0] != "environment" or len(path) != 2:
            return None
        name = path[1]
        if name not in self._reasons:
            self._reasons[name] = None  # An entry that reads itself has no value.
            self._reasons[name] = self.find_new(self._environment.get(name))
        return self._reasons[name] and ".".join(path)
