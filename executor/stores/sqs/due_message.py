"""A due message: the JSON text of an SQS message that says that a visit is due.

Problem: workers of a service must learn quickly which visits are due, although a queue delivers late, twice,
or not at all.

Algorithm: a message is a hint. It holds ids only, and the claim is a conditional write to the store, which
alone decides whether the visit is due. A sweep sends the message again if a visit is overdue by
GRACE_SECONDS.

Cost: one message for each visit that another invocation executes.

Limits: SQS delays a message by at most MAX_DELAY_SECONDS. A message for a later time is sent again when it
arrives.
"""

from __future__ import annotations

import json

from noetl.executor.errors import MessageError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.stores.sqs.received_text import is_name, read_due, read_members
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen

MAX_DELAY_SECONDS = 900
GRACE_SECONDS = 120.0
"""Time after which an overdue visit counts as lost: until then its message or its worker may only be slow."""

GIVE_UP_DELAY_SECONDS = 5.0
"""The delay of a message that was received too often, but whose visit has not lost too many workers."""

MAX_SPREAD = 64
_FORMAT = 1


@frozen
class DueMessage:
    """A hint that a visit is due at a time (seconds since the epoch).

    `spread` is the number of partitions of the run. `cause` is the id of the visit before this one, or
    "" for the first visit of a run. It is None if the visit has an item. `holders` are the visits whose
    outputs the step reads, so that the claim can read them at once. `tenant` is that of the run; the text of
    the message does not have it. `released` are the workers that have given up the visit because the store
    failed. A claim of theirs is not counted, and another worker need not wait for its end. `is_ready` says
    whether the visit waits for nothing; the text does not have it either.
    """

    run_id: str
    visit_id: str
    step: str
    due_at: float
    spread: int = 1
    cause: str | None = None
    holders: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    released: tuple[str, ...] = ()
    is_ready: bool = False

    def encode(self) -> str:
        """Return the text of the message.

        >>> DueMessage("r", "v", "s", 1.0).encode()
        '{"v":1,"run":"r","visit":"v","step":"s","due":1.0}'
        """
        fields = {
            "v": _FORMAT,
            "run": self.run_id,
            "visit": self.visit_id,
            "step": self.step,
            "due": self.due_at,
        }
        fields |= {"spread": self.spread} if self.spread != 1 else {}
        fields |= {"cause": self.cause} if self.cause is not None else {}
        fields |= {"reads": list(self.holders)} if self.holders else {}
        fields |= {"released": list(self.released)} if self.released else {}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> DueMessage:
        """Return the message that `encode` has written.

        Raises:
            MessageError: the text is not such a message.
        """
        members = read_members(text) or {}
        if members.get("v", _FORMAT) != _FORMAT:
            version = abbreviate(str(members["v"]))
            raise MessageError(
                f"message has format {version}, but this version of noetl knows only {_FORMAT}"
            )
        due_at = read_due(members)
        if "v" not in members or due_at is None:
            raise MessageError("message was not sent by noetl")
        try:
            message = cls(
                members["run"],
                members["visit"],
                members["step"],
                due_at,
                members.get("spread", 1),
                members.get("cause"),
                tuple(members.get("reads", ())),
                released=tuple(members.get("released", ())),
            )
        except (TypeError, KeyError) as error:
            raise MessageError("message was not sent by noetl") from error
        if not message.is_valid():
            raise MessageError("message was not sent by noetl")
        return message

    def is_valid(self) -> bool:
        """Return whether all ids are text, and the run, the visit and the spread can exist."""
        ids = (self.run_id, self.visit_id, self.step, *self.holders, *self.released)
        has_ids = all(map(is_name, ids)) and bool(self.run_id and self.visit_id)
        has_cause = self.cause is None or is_name(self.cause)
        return has_ids and has_cause and type(self.spread) is int and 1 <= self.spread <= MAX_SPREAD
