"""Plans in the table: compressed, in as many blocks as they need, and read once by each process."""

from __future__ import annotations

import json
from typing import Any, cast

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.blobs import to_bytes, unpack
from noetl.executor.stores.dynamo.expressions import Put
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION, MAX_PARTITIONS
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.plan_parts import CACHE_BYTES, PartKey, decode_part, weigh_part
from noetl.planner.plan import Header, Plan, Step, Task
from noetl.planner.weighted_cache import WeightedCache

BLOCK_BYTES = 350 * 1024


class DynamoPlans:
    """The plans of a table. A plan never changes, so what was read of it is cached."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table
        self._documents: WeightedCache[str, dict[str, Any]] = WeightedCache(CACHE_BYTES)
        self._parts: WeightedCache[PartKey, Header | Step | Task] = WeightedCache(CACHE_BYTES)

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

    def header(self, plan_hash: str) -> Header:
        return cast("Header", self._parts.get((plan_hash, "header", ""), self._read_part))

    def step(self, plan_hash: str, name: str) -> Step:
        return cast("Step", self._parts.get((plan_hash, "step", name), self._read_part))

    def task(self, plan_hash: str, name: str) -> Task:
        return cast("Task", self._parts.get((plan_hash, "task", name), self._read_part))

    def spread(self, plan_hash: str) -> int:
        """Return the number of partitions of each run of a plan."""
        return int(self._document(plan_hash)["spread"])

    def _document(self, plan_hash: str) -> dict[str, Any]:
        return self._documents.get(plan_hash, self._read)

    def _read(self, plan_hash: str) -> tuple[dict[str, Any], int]:
        """Return the document of a plan, with an estimate of its bytes."""
        first = self._table.get(keys.plan(plan_hash))
        if first is None:
            raise StoreError(f"The store in DynamoDB has no plan {plan_hash}.")
        rest = [keys.plan(plan_hash, number) for number in range(1, first["blocks"])]
        items = self._table.get_many(rest)
        text = unpack(b"".join([first["body"], *(items[key]["body"] for key in rest)]))
        document: dict[str, Any] = json.loads(text)
        named = {kind: dict(document[kind]) for kind in ("steps", "tasks")}
        return {**document, **named, "spread": first["spread"]}, weigh_part(len(text))

    def _read_part(self, key: PartKey) -> tuple[Header | Step | Task, int]:
        plan_hash, kind, name = key
        document = self._document(plan_hash)
        body = document["header"] if kind == "header" else document[f"{kind}s"][name]
        return decode_part(kind, name, body), weigh_part(len(json.dumps(body)))


def spread_of(plan: Plan) -> int:
    """Return the number of partitions of each run of a plan, which its widest fork determines.

    In sequential mode one branch is performed at a time, so one partition suffices.
    """
    if plan.header.sequential:
        return 1
    widest = max((len(case.targets) for step in plan.steps.values() for case in step.cases), default=1)
    return max(1, min(MAX_PARTITIONS, -(-widest // BRANCHES_PER_PARTITION)))
