"""Write requests for one item, with the conditions that they require, as expressions of DynamoDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item, encode_value, size_of
from noetl.executor.stores.dynamo.keys import ItemKey
from noetl.planner.frozen import frozen

Condition = tuple[str, str, Any]
"""An attribute name, an operator and a value.

Operators: `=`, `<>`, `<`, `<=`, `>`, `in`, `absent`, `present`, `absent or =`, `absent or <`.
"""

ABSENT: Condition = ("pk", "absent", None)
"""The item does not exist."""

PRESENT: Condition = ("pk", "present", None)
"""The item exists."""

WRITE_TOKEN = "wrote"
"""Attribute with the token of the last conditional write. After a lost response it shows which call wrote."""


class _Placeholders:
    """Placeholders for the names and values of an expression."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def name(self, name: str) -> str:
        for placeholder, known in self.names.items():
            if known == name:
                return placeholder
        placeholder = f"#{len(self.names)}"
        self.names[placeholder] = name
        return placeholder

    def value(self, value: Any) -> str:
        placeholder = f":{len(self.values)}"
        self.values[placeholder] = encode_value(value)
        return placeholder

    def condition(self, when: Sequence[Condition]) -> str:
        return " AND ".join(self._comparison(*condition) for condition in when)

    def _comparison(self, name: str, operator: str, value: Any) -> str:
        placeholder = self.name(name)
        match operator:
            case "absent":
                return f"attribute_not_exists({placeholder})"
            case "present":
                return f"attribute_exists({placeholder})"
            case "in":
                return f"{placeholder} IN ({', '.join(self.value(member) for member in value)})"
            case "absent or =" | "absent or <":
                comparison = f"{placeholder} {operator[-1]} {self.value(value)}"
                return f"(attribute_not_exists({placeholder}) OR {comparison})"
        return f"{placeholder} {operator} {self.value(value)}"

    def parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {"ExpressionAttributeNames": self.names} if self.names else {}
        return parameters | ({"ExpressionAttributeValues": self.values} if self.values else {})


@frozen
class Update:
    """A change of an item, which creates the item if it is absent.

    A value None in `set` removes the attribute. `add` adds to numbers and to sets of numbers. `keep` sets
    attributes that are absent. `append` adds to lists.
    """

    key: ItemKey
    set: Mapping[str, Any] = field(default_factory=dict)
    add: Mapping[str, float | frozenset[int]] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)
    append: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    when: tuple[Condition, ...] = ()

    kind = "Update"

    @property
    def size(self) -> int:
        """Number of bytes of the attributes that are set."""
        return size_of(self.set) + size_of(self.keep)

    def applied_to(self, item: Item) -> Item:
        """Return an item as it is after the change, which neither adds to numbers nor keeps attributes."""
        appended = {name: [*item.get(name, ()), *values] for name, values in self.append.items()}
        return decode_item(encode_item({**item, **self.set, **appended}))

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        """Return the parameters of the call; `token` is written with the change if it is not None."""
        placeholders = _Placeholders()
        sets = {name: value for name, value in self.set.items() if value is not None}
        if token is not None:
            sets[WRITE_TOKEN] = token
        removed = [placeholders.name(name) for name, value in self.set.items() if value is None]
        parts = [f"{placeholders.name(name)} = {placeholders.value(value)}" for name, value in sets.items()]
        for name, value in self.keep.items():
            placeholder = placeholders.name(name)
            parts.append(f"{placeholder} = if_not_exists({placeholder}, {placeholders.value(value)})")
        for name, values in self.append.items():
            placeholder = placeholders.name(name)
            empty = placeholders.value([])
            appended = placeholders.value(list(values))
            parts.append(f"{placeholder} = list_append(if_not_exists({placeholder}, {empty}), {appended})")
        clauses = [f"SET {', '.join(parts)}"] if parts else []
        clauses += [f"REMOVE {', '.join(removed)}"] if removed else []
        if self.add:
            added = [
                f"{placeholders.name(name)} {placeholders.value(value)}" for name, value in self.add.items()
            ]
            clauses.append(f"ADD {', '.join(added)}")
        call = {
            "TableName": table,
            "Key": encode_item(self.key._asdict()),
            "UpdateExpression": " ".join(clauses),
        }
        return call | _conditional(placeholders, self.when)


@frozen
class Put:
    """A write of a complete item. By default the item must be absent."""

    key: ItemKey
    item: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Condition, ...] = (ABSENT,)

    kind = "Put"

    @property
    def size(self) -> int:
        """Number of bytes of the item."""
        return size_of(self.item)

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        """Return the parameters of the call; `token` is written with the item if it is not None."""
        item = {**self.key._asdict(), **self.item} | ({} if token is None else {WRITE_TOKEN: token})
        return {"TableName": table, "Item": encode_item(item)} | _conditional(_Placeholders(), self.when)


@frozen
class Delete:
    """A deletion of an item."""

    key: ItemKey
    when: tuple[Condition, ...] = ()

    kind = "Delete"
    size = 0

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        """Return the parameters of the call; `token` is not used."""
        call = {"TableName": table, "Key": encode_item(self.key._asdict())}
        return call | _conditional(_Placeholders(), self.when)


@frozen
class ConditionCheck:
    """A condition on an item that other writes of the same transaction depend on."""

    key: ItemKey
    when: tuple[Condition, ...]

    kind = "ConditionCheck"
    size = 0

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        """Return the parameters of the call; `token` is not used."""
        call = {"TableName": table, "Key": encode_item(self.key._asdict())}
        return call | _conditional(_Placeholders(), self.when)


Write = Update | Put | Delete | ConditionCheck


def _conditional(placeholders: _Placeholders, when: Sequence[Condition]) -> dict[str, Any]:
    condition = placeholders.condition(when)
    return ({"ConditionExpression": condition} if condition else {}) | placeholders.parameters()
