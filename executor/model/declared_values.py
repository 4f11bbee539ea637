"""Checks of values against declared fields: the inputs of a run, and answers to callbacks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from noetl.planner.catalogue import Kind
from noetl.planner.frozen import frozen
from noetl.planner.kinds import describe_kind_of, is_of_kind
from noetl.planner.plan import Input

MAX_PROBLEMS = 100
"""How many problems of values are listed."""

MAX_LISTED_WORDS = 20
"""How many names or choices one message lists."""

MAX_COMPARED_WORDS = 20_000
"""With how many names the unknown names of one object are compared, to find those that were meant."""


def value_problem(name: str, message: str, line: int | None = None) -> dict[str, Any]:
    """Return a problem of one value, as problem documents list it."""
    return {"name": name, "message": message, "line": line}


def expand_declarations(declared: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return declarations of fields as a playbook writes them, without the short form.

    >>> expand_declarations({"approved": "boolean", "note": {"default": ""}})
    {'approved': {'type': 'boolean'}, 'note': {'type': 'any', 'default': ''}}
    """
    mappings = {
        name: {"type": entry} if isinstance(entry, str) else entry for name, entry in declared.items()
    }
    return {name: {"type": "any", **entry} for name, entry in mappings.items()}


@frozen
class DeclaredFields:
    """The fields that a mapping of values may have.

    `noun` is the word for a field in messages, `owner` that for what takes the fields.
    """

    fields: Mapping[str, Input]
    noun: str
    owner: str

    @classmethod
    def of_answer(cls, declared: Mapping[str, Mapping[str, Any]]) -> DeclaredFields:
        """Return the fields of an answer, from what `expand_declarations` returned."""
        fields = {
            name: Input(
                entry["type"],
                "default" not in entry,
                entry.get("default"),
                tuple(entry["enum"]) if entry.get("enum") else None,
                entry.get("description"),
            )
            for name, entry in declared.items()
        }
        return cls(fields, "field", "the answer")

    def find_problems(
        self, given: Mapping[str, Any], *, accepts_others: bool = False
    ) -> list[dict[str, Any]]:
        """Return a problem for each value that is missing, unknown or invalid.

        After `MAX_PROBLEMS`, the last one says that there are more.
        """
        found = chain(self._find_wrong(given), () if accepts_others else self._find_unknown(given))
        problems = list(islice(found, MAX_PROBLEMS))
        if (unlisted := next(found, None)) is not None:
            problems.append(value_problem(unlisted["name"], f"more {self.noun}s are wrong; fix these first"))
        return problems

    def _find_wrong(self, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a problem for each value that is missing or invalid."""
        for name, field in self.fields.items():
            if name in given:
                mismatch = self._find_mismatch(name, field, given[name])
                if mismatch is not None:
                    yield value_problem(name, mismatch, field.line or None)
            elif field.required:
                message = f"missing {self.noun} `{name}`: {_describe_missing(field)}"
                yield value_problem(name, message, field.line or None)

    def _find_unknown(self, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a problem for each value that is not declared, with the beginning of a long name."""
        from noetl.planner.diagnostics.wording import MAX_NAME, shorten

        compared = 0
        for name in given:
            if name not in self.fields:
                compared += len(self.fields)
                known = self.fields if compared <= MAX_COMPARED_WORDS else ()
                shown = shorten(name, MAX_NAME)
                message = f"unknown {self.noun} `{shown}`: {self._describe_fields(name, known)}"
                yield value_problem(shown, message)

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values in the order of the fields, with defaults for those that are not given."""
        values = {}
        for name, field in self.fields.items():
            if name in given:
                values[name] = given[name]
            elif not field.required and not field.inferred:
                values[name] = field.default
        return {**values, **given}

    def _find_mismatch(self, name: str, field: Input, value: Any) -> str | None:
        """Return the problem of a value. A value that may be a secret is not repeated."""
        is_wrong_kind = not is_of_kind(value, Kind(field.type))
        if not is_wrong_kind and (field.enum is None or value in field.enum):
            return None
        from noetl.planner.diagnostics.wording import show_value
        from noetl.planner.literal_secrets import find_literal_secret

        is_secret = isinstance(value, str) and find_literal_secret(name, value) is not None
        shown = describe_kind_of(value) if is_secret else show_value(value)
        if is_wrong_kind:
            shown = f"the text {shown}" if shown.startswith("`") else shown
            return f"{self.noun} `{name}` must be of type {field.type}, not {shown}"
        return f"{self.noun} `{name}` must be {_join_choices(field.enum or ())}, not {shown}"

    def _describe_fields(self, unknown: str, known: Collection[str]) -> str:
        """Return the field of `known` that was probably meant, or the first fields."""
        from noetl.planner.diagnostics.diagnostic import did_you_mean

        if not self.fields:
            return f"{self.owner} takes none"
        names = ", ".join(f"`{name}`" for name in islice(self.fields, MAX_LISTED_WORDS))
        more = _describe_others(len(self.fields))
        return did_you_mean(unknown, known) or f"{self.owner} takes {names}{more}"


def _describe_missing(field: Input) -> str:
    """Return where a field without a value is declared, or what its value must be."""
    if field.line:
        return f"it is {'read' if field.inferred else 'declared'} on line {field.line}"
    return f"it must be {_join_choices(field.enum)}" if field.enum else f"its type is {field.type}"


def _join_choices(choices: Sequence[Any]) -> str:
    """Return the first choices as a list in a sentence."""
    from noetl.planner.diagnostics.wording import join_words, show_value

    shown = [show_value(choice) for choice in choices[:MAX_LISTED_WORDS]]
    more = _describe_others(len(choices))
    return f"{', '.join(shown)}{more}" if more else join_words(shown)


def _describe_others(number: int) -> str:
    return f" and {number - MAX_LISTED_WORDS:,} more" if number > MAX_LISTED_WORDS else ""
