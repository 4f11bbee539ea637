"""One write of one item: what it changes, and what must hold for it to be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.stores.dynamo.attributes import encode_item, encode_value, size_of
from noetl.executor.stores.dynamo.keys import ItemKey
from noetl.planner.frozen import record

Condition = tuple[str, str, Any]
"""A name, how it is compared (`=`, `<>`, `<`, `<=`, `>`, `in`, `absent`, `present`, `absent or =`), and with what."""

ABSENT: Condition = ("pk", "absent", None)
PRESENT: Condition = ("pk", "present", None)


class _Names:
    """The placeholders of an expression."""

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
        return " AND ".join(self._one(*one) for one in when)

    def _one(self, name: str, how: str, value: Any) -> str:
        placed = self.name(name)
        match how:
            case "absent":
                return f"attribute_not_exists({placed})"
            case "present":
                return f"attribute_exists({placed})"
            case "in":
                return f"{placed} IN ({', '.join(self.value(one) for one in value)})"
            case "absent or =":
                return f"(attribute_not_exists({placed}) OR {placed} = {self.value(value)})"
        return f"{placed} {how} {self.value(value)}"

    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {"ExpressionAttributeNames": self.names} if self.names else {}
        return found | ({"ExpressionAttributeValues": self.values} if self.values else {})


@record
class Update:
    """An update, which makes the item where it is absent. None among the values of `set` removes the attribute; `keep` is
    set where there is none yet; `append` adds to the end of lists.
    """

    key: ItemKey
    set: Mapping[str, Any] = field(default_factory=dict)
    add: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)
    append: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    when: tuple[Condition, ...] = ()

    kind = "Update"

    @property
    def size(self) -> int:
        return size_of(self.set) + size_of(self.keep)

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        names = _Names()
        sets = {name: value for name, value in self.set.items() if value is not None}
        if token is not None:
            sets["wrote"] = token
        removed = [names.name(name) for name, value in self.set.items() if value is None]
        parts = [f"{names.name(name)} = {names.value(value)}" for name, value in sets.items()]
        for name, value in self.keep.items():
            parts.append(f"{names.name(name)} = if_not_exists({names.name(name)}, {names.value(value)})")
        for name, values in self.append.items():
            placed = names.name(name)
            empty = names.value([])
            parts.append(
                f"{placed} = list_append(if_not_exists({placed}, {empty}), {names.value(list(values))})"
            )
        clauses = [f"SET {', '.join(parts)}"] if parts else []
        clauses += [f"REMOVE {', '.join(removed)}"] if removed else []
        if self.add:
            added = [f"{names.name(name)} {names.value(value)}" for name, value in self.add.items()]
            clauses.append(f"ADD {', '.join(added)}")
        condition = names.condition(self.when)
        found = {
            "TableName": table,
            "Key": encode_item(self.key._asdict()),
            "UpdateExpression": " ".join(clauses),
        }
        return found | ({"ConditionExpression": condition} if condition else {}) | names.parameters()


@record
class Put:
    """A whole item."""

    key: ItemKey
    item: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Condition, ...] = (ABSENT,)

    kind = "Put"

    @property
    def size(self) -> int:
        return size_of(self.item)

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        names = _Names()
        condition = names.condition(self.when)
        item = {**self.key._asdict(), **self.item} | ({} if token is None else {"wrote": token})
        found = {"TableName": table, "Item": encode_item(item)}
        return found | ({"ConditionExpression": condition} if condition else {}) | names.parameters()


@record
class Delete:
    """The end of an item."""

    key: ItemKey
    when: tuple[Condition, ...] = ()

    kind = "Delete"
    size = 0

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        names = _Names()
        condition = names.condition(self.when)
        found = {"TableName": table, "Key": encode_item(self.key._asdict())}
        return found | ({"ConditionExpression": condition} if condition else {}) | names.parameters()


@record
class ConditionCheck:
    """Something that must hold for the writes beside it to be made."""

    key: ItemKey
    when: tuple[Condition, ...]

    kind = "ConditionCheck"
    size = 0

    def parameters(self, table: str, token: str | None) -> dict[str, Any]:
        names = _Names()
        found = {"TableName": table, "Key": encode_item(self.key._asdict())}
        return found | {"ConditionExpression": names.condition(self.when)} | names.parameters()


Write = Update | Put | Delete | ConditionCheck
