"""The context that all parts of a DynamoDB store share: its table, blobs, plans, caches and messages.

A part is an object that is given the context, and the parts that it calls, in its constructor. A part that
makes visits due returns them, and its caller announces or claims them. So calls go in one direction only:
no part below needs one above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from noetl.executor.model.run import END, Visit
from noetl.executor.model.special_visits import finally_visit_id, is_branch_visit, is_pseudo_step
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.dynamo.announcer import Announcer
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs
from noetl.executor.stores.dynamo.caches import ClaimCache, RunHeads, VisitIds
from noetl.executor.stores.dynamo.plan_uses import DynamoPlanUses
from noetl.executor.stores.dynamo.plans import DynamoPlans
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import StepOf
from noetl.executor.stores.sqs.messages import MessageQueue

MAX_THREADS = 16

T = TypeVar("T")
U = TypeVar("U")


class DynamoContext:
    """The table of a store with its bucket and its queue, and what this process remembers of runs."""

    def __init__(
        self,
        table: DynamoTable,
        message_queue: MessageQueue | None = None,
        bucket: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.table = table
        self.blobs = Blobs(bucket)
        self.plan_uses = DynamoPlanUses(table, retention_seconds)
        self.plans = DynamoPlans(table, self.plan_uses)
        self.heads = RunHeads(table, remembers_service=message_queue is None)
        self.claims = ClaimCache()
        self.visit_ids = VisitIds()
        self.announcer = Announcer(self.plans, message_queue)
        self.changes = ChangeSignal()

    def step_of(self, head: Item) -> StepOf:
        """Return a function from the name of a step to the step, in the plan of a run."""
        return lambda name: self.plans.step(head["plan"], name)

    def is_sequential(self, head: Item) -> bool:
        """Return whether the plan of a run is in sequential mode."""
        return self.plans.header(head["plan"]).sequential

    def finally_step(self, head: Item) -> str | None:
        """Return the name of the finally step of a run, or None."""
        return self.plans.header(head["plan"]).finally_step

    def is_branch_visit(self, visit: Visit, head: Item) -> bool:
        """Return whether a branch of a run has made the visit: no end, no deadline, no finally step."""
        if head.get("era"):  # the plan of the visit may have had another finally step
            return not (is_pseudo_step(visit.step) or self._is_finally_visit(visit, head))
        return is_branch_visit(visit, self.finally_step(head))

    def is_final_visit(self, visit: Visit, head: Item) -> bool:
        """Return whether a visit is the end of a run, or that of its finally step."""
        if head.get("era"):
            return visit.step == END or self._is_finally_visit(visit, head)
        return visit.step in (END, self.finally_step(head))

    def _is_finally_visit(self, visit: Visit, head: Item) -> bool:
        """Return whether a visit is that of the finally step before any resume of its run."""
        return visit.id in map(finally_visit_id, range(head.get("resumes", 0) + 1))

    def in_parallel(self, function: Callable[[T], U], values: Sequence[T]) -> list[U]:
        """Return function(value) for each value, computed in parallel if there are several."""
        if len(values) <= 1:
            return [function(value) for value in values]
        with ThreadPoolExecutor(min(len(values), MAX_THREADS), "noetl-dynamodb") as pool:
            # The threads have the patience of their caller.
            contexts = [copy_context() for _ in values]
            return list(pool.map(lambda context, value: context.run(function, value), contexts, values))
