"""A due message: which visit is due, and when."""

from __future__ import annotations

import json
from typing import Any

from noetl.executor.errors import MessageError
from noetl.planner.frozen import record

LONGEST_DELAY_SECONDS = 900
GRACE_SECONDS = 120.0
"""How long something may be overdue before it counts as lost: messages and workers have their time."""

_FORMAT = 1


@record
class DueMessage:
    """That a visit is due at a time. `cause` is the visit it follows when it may have no item yet ("" for the beginning of the
    run), else None; `spread` how the run is spread; `holders` the visits whose values its step reads.
    """

    run_id: str
    visit_id: str
    step: str
    due_at: float
    spread: int = 1
    cause: str | None = None
    holders: tuple[str, ...] = ()

    def encode(self) -> str:
        found = {
            "v": _FORMAT,
            "run": self.run_id,
            "visit": self.visit_id,
            "step": self.step,
            "due": self.due_at,
        }
        found |= {"spread": self.spread} if self.spread != 1 else {}
        found |= {"cause": self.cause} if self.cause is not None else {}
        found |= {"reads": list(self.holders)} if self.holders else {}
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> DueMessage:
        """What `encode` wrote.

        Raises:
            MessageError: it is something else.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            if found["v"] != _FORMAT:
                raise MessageError(
                    f"a message of format {found['v']!r}, and this version of noetl knows {_FORMAT}"
                )
            note = cls(
                found["run"],
                found["visit"],
                found["step"],
                float(found["due"]),
                int(found.get("spread", 1)),
                found.get("cause"),
                tuple(found.get("reads", ())),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MessageError("a message that is none of noetl's") from error
        ids = (note.run_id, note.visit_id, note.step, note.cause or "", *note.holders)
        if not all(isinstance(id, str) for id in ids) or not (
            note.run_id and note.visit_id and 1 <= note.spread <= 64
        ):
            raise MessageError("a message that is none of noetl's")
        return note
