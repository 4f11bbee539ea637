"""Switches of runs to other plans in DynamoDB: they are refused.

Visits that have not been claimed follow from the finished ones and from the plan of the run. They have no
items of their own. A switch would have to write them first, and all items of a run can be more than a
transaction may hold.
"""

from __future__ import annotations

from typing import NoReturn

from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_switch import SwitchedRun


class DynamoSwitches:
    """The switches of a store in DynamoDB, which refuses all of them."""

    def read(self, run_id: str, now: float) -> RunRecords:
        refuse(run_id)

    def write(
        self, judged: RunRecords, switched: SwitchedRun, idempotency: tuple[str, str] | None = None
    ) -> Run | None:
        refuse(judged.run.id)


def refuse(run_id: str) -> NoReturn:
    """Refuse to switch a run to another plan.

    Raises:
        RejectedError: `not_supported`.
    """
    message = (
        f"run {run_id} is in DynamoDB, where a run keeps its plan; resume it without `playbook`,"
        " or start a new run of the corrected playbook"
    )
    raise RejectedError("not_supported", message)
