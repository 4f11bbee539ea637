"""Plans in the table: compressed, in as many blocks as they need, and read once by each process."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.blobs import from_bytes, to_bytes
from noetl.executor.stores.dynamo.expressions import Put
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION, MAX_PARTITIONS
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.planner.plan import Header, Plan, Step, Task

BLOCK_BYTES = 350 * 1024


class DynamoPlans:
    """The plans of a table. A plan never changes, so what was read of it is cached."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table
        self._document = lru_cache(maxsize=64)(self._read)
        self.header = lru_cache(maxsize=1024)(self._header)
        self.step = lru_cache(maxsize=4096)(self._step)
        self.task = lru_cache(maxsize=1024)(self._task)

    def save(self, plan: Plan) -> None:
        """Save a plan under its hash; a plan that is already saved stays as it is."""
        if self._table.get(keys.plan(plan.hash)) is not None:
            return
        document = {
            "header": plan.header.to_json(),
            "steps": [[name, step.to_json()] for name, step in plan.steps.items()],
            "tasks": [[name, task.to_json()] for name, task in plan.tasks.items()],
            "source": json.dumps(plan.source),
        }
        packed = to_bytes(document)
        blocks = [packed[start : start + BLOCK_BYTES] for start in range(0, len(packed), BLOCK_BYTES)]
        # The first block holds the number of blocks. It is written last, so the plan exists when it is
        # complete.
        for number, block in reversed(list(enumerate(blocks))):
            description = {"blocks": len(blocks), "spread": spread_of(plan)} if number == 0 else {}
            try:
                self._table.write([Put(keys.plan(plan.hash, number), {"body": block, **description})])
            except ConditionFailed:
                continue

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        """Return the names of the steps of a plan, in their order."""
        return tuple(self._document(plan_hash)["steps"])

    def get(self, plan_hash: str) -> Plan:
        """Return a complete plan."""
        document = self._document(plan_hash)
        steps = {name: Step.from_json(name, body) for name, body in document["steps"].items()}
        tasks = {name: Task.from_json(body) for name, body in document["tasks"].items()}
        return Plan(Header.from_json(document["header"]), steps, tasks, json.loads(document["source"]))

    def spread(self, plan_hash: str) -> int:
        """Return the number of partitions of each run of a plan."""
        return int(self._document(plan_hash)["spread"])

    def _read(self, plan_hash: str) -> dict[str, Any]:
        first = self._table.get(keys.plan(plan_hash))
        if first is None:
            raise StoreError(f"The store in DynamoDB has no plan {plan_hash}.")
        rest = [keys.plan(plan_hash, number) for number in range(1, first["blocks"])]
        items = self._table.get_many(rest)
        document: dict[str, Any] = from_bytes(
            b"".join([first["body"], *(items[key]["body"] for key in rest)])
        )
        named = {kind: dict(document[kind]) for kind in ("steps", "tasks")}
        return {**document, **named, "spread": first["spread"]}

    def _header(self, plan_hash: str) -> Header:
        return Header.from_json(self._document(plan_hash)["header"])

    def _step(self, plan_hash: str, name: str) -> Step:
        return Step.from_json(name, self._document(plan_hash)["steps"][name])

    def _task(self, plan_hash: str, name: str) -> Task:
        return Task.from_json(self._document(plan_hash)["tasks"][name])


def spread_of(plan: Plan) -> int:
    """Return the number of partitions of each run of a plan, which its widest fork determines.

    In sequential mode one branch is performed at a time, so one partition suffices.
    """
    if plan.header.sequential:
        return 1
    widest = max((len(case.targets) for step in plan.steps.values() for case in step.cases), default=1)
    return max(1, min(MAX_PARTITIONS, -(-widest // BRANCHES_PER_PARTITION)))
