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
from noetl.executor.stores.sqs.received_text import is_name, read_due, read_members
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
            MessageError: it has impossible values, or is an outbox message of another version.
        """
        members = read_members(text)
        if members is None or "outbox" not in members:
            return None
        names: list[Any] = [members.get(key) for key in ("tenant", "outbox")]
        due_at = read_due(members)
        if members.get("v") != _FORMAT or due_at is None or not all(map(is_name, names)):
            raise MessageError("message about the outbox was not sent by this version of noetl")
        return cls(names[0], names[1], due_at)
