"""An outbox message: the JSON text of an SQS message that says that an entry of the outbox is due.

Problem: sweeps in AWS are a minute apart, and what follows from the end of a run should not wait for one.

Algorithm: as that of trigger messages (see `noetl.executor.stores.sqs.trigger_message`). The commit that ends
a run sends a message about each entry that it has written. A message names the time for which it was sent. If
the entry is due later by now, this message is dropped.

Cost: one message for each entry, and one for each time at which it is tried again.

Limits: SQS delays by seconds. If a message is lost, the next sweep sends it again.
"""

from __future__ import annotations

import json
from typing import Any

from noetl.executor.errors import MessageError
from noetl.planner.frozen import frozen

_FORMAT = 1


@frozen
class OutboxMessage:
    """A hint that an entry of the outbox is due at a time (seconds since the epoch)."""

    tenant: str
    id: str
    due_at: float

    def encode(self) -> str:
        """Return the text of the message.

        >>> OutboxMessage("default", "0a1b", 1.0).encode()
        '{"v":1,"outbox":"0a1b","tenant":"default","due":1.0}'
        """
        fields = {"v": _FORMAT, "outbox": self.id, "tenant": self.tenant, "due": self.due_at}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> OutboxMessage | None:
        """Return the message that `encode` has written, or None if the text is another message.

        Raises:
            MessageError: the text is an outbox message of another version.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or "outbox" not in fields:
            return None
        names: list[Any] = [fields.get(key) for key in ("tenant", "outbox")]
        due_at: Any = fields.get("due")
        are_names = all(isinstance(name, str) for name in names)
        is_number = isinstance(due_at, int | float) and not isinstance(due_at, bool)
        if fields.get("v") != _FORMAT or not are_names or not is_number:
            raise MessageError("message about the outbox was not sent by this version of noetl")
        return cls(names[0], names[1], float(due_at))
