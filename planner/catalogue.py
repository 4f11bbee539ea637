"""The catalogue of action types: what each type takes and returns, but not how it works.

Standard library only: the executor imports this module at start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from noetl.planner.frozen import frozen


class Sink(StrEnum):
    """The language of the text of a parameter. It decides how templates in the text are quoted."""

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


@frozen
class Parameter:
    """One parameter of an action type.

    Attributes:
        kinds: the kinds that a value may have.
        description: one sentence for the documentation and for hints.
        required: whether the parameter must be given.
        sink: the language of the text.
        secrets: whether `secrets.NAME` may be read in the value.
        is_connection_string: whether the text may be `key=value` words, as libpq takes them.
        choices: the only strings allowed, if not empty. They are compared without regard to case, and the
            value is the declared string.
        requires: parameters that must be given if this one is.
        fields: the fields of an object with fixed keys, each a parameter of its own.
        suggested_keys: keys of an object that an editor offers, each with the keys below it. Others are
            valid.
        deferred_names: names to which only the handler assigns a value. The handler receives a template that
            reads one of them as a function of these names.
        deferred_attributes: the attributes of a deferred name that is a word of the language.
        must_be_literal: whether the planner must see the keys of the object, so that a template cannot
            replace it.
        declares_fields: whether the object declares fields as `input` of a playbook does, without templates.
        rejection_reason: a function that returns why a value of a correct kind is invalid and what is valid,
            or None. Values without templates are checked before a run starts.
    """

    kinds: tuple[Kind, ...]
    description: str
    required: bool = False
    sink: Sink = Sink.PLAIN
    secrets: bool = False
    choices: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    fields: Mapping[str, Parameter] = field(default_factory=dict)
    suggested_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deferred_names: tuple[str, ...] = ()
    must_be_literal: bool = False
    rejection_reason: Callable[[Any], str | None] | None = None
    deferred_attributes: tuple[str, ...] = ()
    is_connection_string: bool = False
    declares_fields: bool = False


@frozen
class Destination:
    """The servers to which an action sends the secrets in its parameters.

    Attributes:
        parameter: the parameter that names the server. It is rendered first.
        hosts: a function from its rendered value to all hosts that the action may send parameters to.
    """

    parameter: str
    hosts: Callable[[Any], Iterable[str]]


class OpenWait(NamedTuple):
    """A wait of a suspended action that an answer ends: its id, its start and its end.

    Times are seconds since the epoch. Without an end, `expires_at` is None.
    """

    id: str
    opened_at: float
    expires_at: float | None


LIVE = "live"
"""The alias that every playbook has. It names the newest version until a version is promoted to it."""


class PlaybookCall(NamedTuple):
    """The playbook that an action runs: its name, and a version or an alias. With neither, the live version.

    >>> str(PlaybookCall("report")), str(PlaybookCall("report", "3")), str(PlaybookCall("report", None, "eu"))
    ('report', 'report@3', 'report@eu')
    """

    name: str
    version: str | None = None
    alias: str | None = None

    @property
    def label(self) -> str | None:
        """The version or the alias, or None."""
        return self.version or self.alias

    @property
    def followed_alias(self) -> str | None:
        """The alias whose version runs, or None if a version is named."""
        return None if self.version is not None else self.alias or LIVE

    def __str__(self) -> str:
        return self.name if self.label is None else f"{self.name}@{self.label}"


@frozen
class ActionDeclaration:
    """The interface of an action type.

    Attributes:
        type: the name of the type.
        description: one sentence for the documentation.
        parameters: the parameters by name.
        one_of: parameters of which exactly one must be given.
        at_most_one: parameters of which at most one may be given.
        result: the keys of the data of a result with their kinds, if the data is an object with fixed keys,
            else None.
        result_for: a function from the parameters as written to `result`, if the keys depend on them.
        destination: where the action sends the secrets in its parameters. None: to no host. In a service, the
            operator must then allow the destination `action:` and the type for each secret.
        suspends: whether the action waits for an external event without holding a worker.
        idempotent: whether the action has the same effect if it is executed twice.
        idempotent_when: a function from the parameters as written to `idempotent`, if it depends on them.
        is_atomic: whether an action that has failed has changed nothing.
        reads_only: whether the action has no effect but its result.
        reads_only_when: a function from the parameters as written to `reads_only`, if it depends on them.
        extra: the extra of this installation that the action needs, and a package of it.
        summary: a function from the parameters as written to the text that drawings show after the type.
        saves: the parameter whose keys are names. The result has these keys, and each value is saved under
            its name.
        saves_given_values: whether these values are those of the parameter.
        cannot_fail: whether the action succeeds whenever its parameters have valid values.
        never_succeeds: whether the action always ends in a failure.
        error_type: the parameter that gives the type of this failure, if any.
        awaits: what a suspended action waits for, in words, apart from a time. The default is its type.
        called_playbook: a function from the parameters as written to the playbook that the action runs. Its
            parts may have templates.
        child_run: a function from the state of a suspended action to the id of the run that it waits for.
        question: a function from this state to what the action asks a person, or None. A question has some
            of the keys `title`, `details` and `answer` (declared fields).
        open_wait: a function from this state to the wait that an answer ends.
    """

    type: str
    description: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    at_most_one: tuple[str, ...] = ()
    result: Mapping[str, Kind] | None = None
    result_for: Callable[[Mapping[str, Any]], Mapping[str, Kind] | None] | None = None
    destination: Destination | None = None
    suspends: bool = False
    idempotent: bool = True
    idempotent_when: Callable[[Mapping[str, Any]], bool] | None = None
    is_atomic: bool = False
    reads_only: bool = False
    reads_only_when: Callable[[Mapping[str, Any]], bool] | None = None
    extra: tuple[str, str] | None = None
    summary: Callable[[Mapping[str, Any]], str] | None = None
    saves: str | None = None
    saves_given_values: bool = False
    cannot_fail: bool = False
    never_succeeds: bool = False
    error_type: str | None = None
    awaits: str | None = None
    called_playbook: Callable[[Mapping[str, Any]], PlaybookCall | None] | None = None
    child_run: Callable[[Any], str] | None = None
    question: Callable[[Any], Mapping[str, Any] | None] | None = None
    open_wait: Callable[[Any], OpenWait] | None = None

    def result_keys(self, parameters: Mapping[str, Any]) -> Mapping[str, Kind] | None:
        """Return the keys of the data of a result for these parameters, or None if they are not known."""
        return self.result if self.result_for is None else self.result_for(parameters)

    def is_idempotent(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether an action with these parameters has the same effect if it is executed twice."""
        return self.idempotent if self.idempotent_when is None else self.idempotent_when(parameters)

    def is_reader(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether an action with these parameters has no effect but its result."""
        return self.reads_only if self.reads_only_when is None else self.reads_only_when(parameters)

    def summarise(self, parameters: Mapping[str, Any]) -> str:
        """Return the text that drawings show after the type, or an empty string."""
        return "" if self.summary is None else self.summary(parameters)

    def saved_names(self, parameters: Mapping[str, Any]) -> Iterable[str]:
        """Return the names that an action with these parameters as written saves itself, without its `as`."""
        values = None if self.saves is None else parameters.get(self.saves)
        return values if isinstance(values, dict) else ()


class DeferredName(NamedTuple):
    """A deferred name with attributes, and the first parameter in which templates may read it."""

    attributes: tuple[str, ...]
    parameter: str
    action_type: str


class Catalogue(Mapping[str, ActionDeclaration]):
    """The action types by name.

    Playbooks may use those in `allowed`; the setting named `setting` can allow the others.
    """

    def __init__(
        self,
        declarations: Iterable[ActionDeclaration],
        allowed: Iterable[str] | None = None,
        setting: str = "",
    ) -> None:
        self._declarations = MappingProxyType({declaration.type: declaration for declaration in declarations})
        self.allowed = frozenset(self._declarations if allowed is None else allowed)
        self.setting = setting

    @cached_property
    def saving_parameters(self) -> AbstractSet[str]:
        """The parameters whose keys are names that an action saves."""
        return frozenset(filter(None, (declaration.saves for declaration in self.values())))

    @cached_property
    def connection_strings(self) -> AbstractSet[str]:
        """The parameters that may be connection strings."""
        parameters = (item for declaration in self.values() for item in declaration.parameters.items())
        return frozenset(name for name, parameter in parameters if parameter.is_connection_string)

    @cached_property
    def deferred_names(self) -> Mapping[str, DeferredName]:
        """The deferred names whose attributes are declared."""
        names: dict[str, DeferredName] = {}
        for declaration in self.values():
            for key, parameter in declaration.parameters.items():
                for name in parameter.deferred_names if parameter.deferred_attributes else ():
                    attributes = parameter.deferred_attributes
                    names.setdefault(name, DeferredName(attributes, key, declaration.type))
        return names

    def restricted_to(self, allowed: Iterable[str], setting: str) -> Catalogue:
        """Return a catalogue of the same types in which a setting allows only these."""
        return Catalogue(self._declarations.values(), allowed, setting)

    def __getitem__(self, action_type: str) -> ActionDeclaration:
        return self._declarations[action_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declarations)

    def __len__(self) -> int:
        return len(self._declarations)
