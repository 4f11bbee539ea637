"""The text of a received message, which anyone who may send to the queue has written.

Problem: a message that cannot be read must end alone in the dead-letter queue. No store accepts an infinite
time or an id of thousands of characters. The first would fail the whole batch. The second would fail as if
the store were away, so that another message replaces it for ever.

Algorithm: a text is read as strict JSON, and each value is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.model.json_values import read_json

MAX_NAME_BYTES = 1024
"""The most bytes of an id or a name, as of a sort key of DynamoDB."""


def read_members(text: str) -> Mapping[str, Any] | None:
    """Return the members of the object that a text is, or None if it is no object.

    >>> read_members('{"v": 1}'), read_members('{"due": NaN}'), read_members("[]")
    ({'v': 1}, None, None)
    """
    try:
        text.encode()
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_due(members: Mapping[str, Any]) -> float | None:
    """Return the time of a message, or None if it has no time that can exist.

    >>> read_due({"due": 1}), read_due({"due": True}), read_due({"due": 10**400})
    (1.0, None, None)
    """
    due = members.get("due")
    if isinstance(due, int | float) and not isinstance(due, bool):
        try:
            return float(due)
        except OverflowError:
            pass  # An integer may have more digits than a time.
    return None


def is_name(value: object) -> bool:
    """Return whether a value may be an id or a name.

    >>> is_name("run"), is_name(1), is_name("x" * 2000)
    (True, False, False)
    """
    return isinstance(value, str) and len(value.encode()) <= MAX_NAME_BYTES
