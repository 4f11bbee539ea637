"""What the planner knows about action types: their declarations, and nothing of how they work.

Standard library only: the executor imports this at start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from noetl.planner.frozen import record


class Sink(StrEnum):
    """Where a parameter's text ends up, which decides how templates in it are filled in."""

    PLAIN = "plain"
    SQL = "sql"
    SHELL = "shell"
    URL = "url"


class Kind(StrEnum):
    """The type of a parameter's value after rendering."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    OBJECT = "object"
    ARRAY = "array"
    DURATION = "duration"
    ACTION = "action"
    ANY = "any"


@record
class Parameter:
    """One parameter of an action type.

    `kinds` are alternatives. `choices`, when given, are the only strings allowed; they are compared without regard to
    case and come out as declared. `requires` names parameters that must be given when this one is. `fields` are the parts
    of an object of a known shape, each a parameter of its own. `late` are names that only the handler can give a value
    to: it gets a template that reads one as a function of them. `written_out` is true of an object whose keys the planner
    must see, so that a template cannot stand for the whole. `refuses` says of a value of one of the kinds why it can never
    work and what would, or None; values without templates are asked about before anything runs.
    """

    kinds: tuple[Kind, ...]
    description: str
    required: bool = False
    sink: Sink = Sink.PLAIN
    secrets: bool = False
    choices: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    fields: Mapping[str, Parameter] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    written_out: bool = False
    refuses: Callable[[Any], str | None] | None = None


@record
class ActionDeclaration:
    """What an action type takes and gives.

    `one_of` names parameters of which exactly one must be given. `result` maps the keys of the result's data to a
    kind, when the result is an object of a known shape, and is None otherwise; `result_of`, when given, says it of parameters as
    they are written. `suspends` is true of actions that
    wait for something outside with nothing held. `idempotent` is false where a second execution may act twice;
    `acts_twice`, when given, says of parameters as they are written whether theirs may. `is_atomic` is true where an action
    that has failed has changed nothing.
    """

    type: str
    description: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    result: Mapping[str, Kind] | None = None
    result_of: Callable[[Mapping[str, Any]], Mapping[str, Kind] | None] | None = None
    suspends: bool = False
    idempotent: bool = True
    acts_twice: Callable[[Mapping[str, Any]], bool] | None = None
    is_atomic: bool = False

    def shape(self, parameters: Mapping[str, Any]) -> Mapping[str, Kind] | None:
        """The keys of the result's data with these parameters, or None when they are not known."""
        return self.result if self.result_of is None else self.result_of(parameters)

    def may_act_twice(self, parameters: Mapping[str, Any]) -> bool:
        """Whether an action with these parameters, done again, may act twice."""
        return not self.idempotent if self.acts_twice is None else self.acts_twice(parameters)


class Catalogue(Mapping[str, ActionDeclaration]):
    """The action types that there are, by name. A playbook may use those that are `allowed`; of the others `setting` says who
    could allow them.
    """

    def __init__(
        self,
        declarations: Iterable[ActionDeclaration],
        allowed: Iterable[str] | None = None,
        setting: str = "",
    ) -> None:
        self._declarations = MappingProxyType({d.type: d for d in declarations})
        self.allowed = frozenset(self._declarations if allowed is None else allowed)
        self.setting = setting

    def only(self, allowed: Iterable[str], setting: str) -> Catalogue:
        """The same types, of which only these may be used, as a setting says."""
        return Catalogue(self._declarations.values(), allowed, setting)

    def __getitem__(self, action_type: str) -> ActionDeclaration:
        return self._declarations[action_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declarations)

    def __len__(self) -> int:
        return len(self._declarations)
