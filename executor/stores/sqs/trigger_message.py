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
from noetl.executor.stores.sqs.received_text import is_name, read_due, read_members
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
            MessageError: it has impossible values, or is a trigger message of another version.
        """
        members = read_members(text)
        if members is None or "trigger" not in members:
            return None
        names: list[Any] = [members.get(key) for key in ("tenant", "playbook", "trigger")]
        due_at = read_due(members)
        if members.get("v") != _FORMAT or due_at is None or not all(map(is_name, names)):
            raise MessageError("message about a trigger was not sent by this version of noetl")
        return cls(names[0], names[1], names[2], due_at)
