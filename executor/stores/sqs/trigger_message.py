"""A trigger message: the JSON text of an SQS message that says that a trigger is due.

Problem: nothing runs in AWS between two sweeps, which are a minute apart, and a schedule may be due each
second.

Algorithm: each sweep sends a message about each trigger that is due within the next minute, with the exact
delay. The invocation that performs a firing sends the next message, if that is due so soon. A message names
the time for which it was sent. If the trigger is due later by now, another message has been the first one,
and this one is dropped. So messages do not multiply, although the sweep does not know which it has sent.

Cost: one message for each firing, and one for each trigger and sweep if it is due more often.

Limits: SQS delays by seconds, so a firing is up to a second late. If a message is lost, the next sweep sends
it again.
"""

from __future__ import annotations

import json
from typing import Any

from noetl.executor.errors import MessageError
from noetl.planner.frozen import frozen

LOOKAHEAD_SECONDS = 60.0
"""Messages are sent about triggers that are due so soon. Sweeps are a minute apart."""

_FORMAT = 1


@frozen
class TriggerMessage:
    """A hint that a trigger is due at a time (seconds since the epoch)."""

    tenant: str
    playbook: str
    name: str
    due_at: float

    def encode(self) -> str:
        """Return the text of the message.

        >>> TriggerMessage("default", "etl", "nightly", 1.0).encode()
        '{"v":1,"trigger":"nightly","playbook":"etl","tenant":"default","due":1.0}'
        """
        fields = {
            "v": _FORMAT,
            "trigger": self.name,
            "playbook": self.playbook,
            "tenant": self.tenant,
            "due": self.due_at,
        }
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> TriggerMessage | None:
        """Return the message that `encode` has written, or None if the text is another message.

        Raises:
            MessageError: the text is a trigger message of another version.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or "trigger" not in fields:
            return None
        names: list[Any] = [fields.get(key) for key in ("tenant", "playbook", "trigger")]
        due_at: Any = fields.get("due")
        are_names = all(isinstance(name, str) for name in names)
        is_number = isinstance(due_at, int | float) and not isinstance(due_at, bool)
        if fields.get("v") != _FORMAT or not are_names or not is_number:
            raise MessageError("message about a trigger was not sent by this version of noetl")
        return cls(names[0], names[1], names[2], float(due_at))
