"""Plans in the table: compressed, in as many blocks as they need, and read once by each process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.stores.damage import UNREADABLE, missing_plan, unreadable_plan
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import to_bytes, unpack
from noetl.executor.stores.dynamo.expressions import PRESENT, ConditionCheck, Put
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION, MAX_PARTITIONS
from noetl.executor.stores.dynamo.plan_uses import DynamoPlanUses
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS, DynamoTable
from noetl.executor.stores.plan_parts import CACHE_BYTES, PartKey, decode_part, weigh_part
from noetl.planner.plan import Header, Plan, Step, Task
from noetl.planner.weighted_cache import WeightedCache

BLOCK_BYTES = 350 * 1024
TEXT_BYTES = 200
"""What Python needs for a name and a text, besides their characters."""


@dataclass(frozen=True, slots=True)
class PlanTexts:
    """A plan as it was read: the JSON of its header, of its source, and of each of its steps and tasks.

    `ordered_steps` are the names of the steps whose visits have ordered ids. Texts take a tenth of the memory
    of what they describe. So also the largest plan fits into the cache.
    """

    header: str
    source: str
    steps: Mapping[str, str]
    tasks: Mapping[str, str]
    spread: int
    ordered_steps: tuple[str, ...] = ()

    def part(self, kind: str, name: str) -> str:
        """Return the JSON of a part. `kind` is `header`, `step` or `task`."""
        if kind == "header":
            return self.header
        return self.steps[name] if kind == "step" else self.tasks[name]

    @property
    def weight(self) -> int:
        """An estimate of its bytes in memory."""
        parts = (*self.steps.items(), *self.tasks.items())
        texts = len(self.header) + len(self.source) + sum(len(name) + len(text) for name, text in parts)
        return texts + TEXT_BYTES * (1 + len(parts))


class DynamoPlans:
    """The plans of a table. A plan never changes, so what was read of it is cached."""

    def __init__(self, table: DynamoTable, uses: DynamoPlanUses) -> None:
        self._table = table
        self.uses = uses
        # A plan that is not kept is read again for each of its steps.
        self._stored: WeightedCache[str, PlanTexts] = WeightedCache(CACHE_BYTES, CACHE_BYTES)
        self._parts: WeightedCache[PartKey, Header | Step | Task] = WeightedCache(CACHE_BYTES)

    def save(self, plan: Plan) -> None:
        """Save a plan under its hash; a plan that is already saved stays as it is."""
        if self.uses.is_required(plan.hash):
            return
        for _ in range(MAX_CONFLICTS):
            use = self._table.get(keys.plan_use(plan.hash))
            if use is not None or self._table.get(keys.plan(plan.hash), ("blocks",)) is not None:
                self.uses.remember(plan.hash, use)
                if self.uses.require(plan.hash):
                    return
            elif self._add(plan):
                return
        raise StoreError(f"Plan {plan.hash} could not be saved: too many concurrent writers.")

    def _add(self, plan: Plan) -> bool:
        """Add a plan with its use. Return False if another process has changed one of its items."""
        document = {
            "header": plan.header.to_json(),
            "steps": [[name, step.to_json()] for name, step in plan.steps.items()],
            "tasks": [[name, task.to_json()] for name, task in plan.tasks.items()],
            "source": json.dumps(plan.source),
        }
        packed = to_bytes(document)
        blocks = [packed[start : start + BLOCK_BYTES] for start in range(0, len(packed), BLOCK_BYTES)]
        for number, block in list(enumerate(blocks))[1:]:
            with suppress(ConditionFailed):
                self._table.write([Put(keys.plan(plan.hash, number), {"body": block})])
        # The first block holds the number of blocks. It is written last, so the plan exists when it is
        # complete.
        first = {"body": blocks[0], "blocks": len(blocks), "spread": spread_of(plan)}
        use = self.uses.encode(plan.hash, len(blocks))
        rest = [ConditionCheck(keys.plan(plan.hash, number), (PRESENT,)) for number in range(1, len(blocks))]
        try:
            self._table.write([Put(keys.plan(plan.hash), first), Put(keys.plan_use(plan.hash), use), *rest])
        except ConditionFailed:
            return False
        self.uses.remember(plan.hash, use)
        return True

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        """Return the names of the steps of a plan, in their order."""
        return tuple(self._plan(plan_hash).steps)

    def ordered_steps(self, plan_hash: str) -> tuple[str, ...]:
        """Return the names of the steps on cycles whose visits have ordered ids."""
        return self._plan(plan_hash).ordered_steps

    def get(self, plan_hash: str) -> Plan:
        """Return a complete plan."""
        stored = self._plan(plan_hash)
        steps = {name: Step.from_json(name, json.loads(text)) for name, text in stored.steps.items()}
        tasks = {name: Task.from_json(json.loads(text)) for name, text in stored.tasks.items()}
        header = Header.from_json(json.loads(stored.header))
        return Plan(header, steps, tasks, json.loads(stored.source))

    def header(self, plan_hash: str) -> Header:
        return cast("Header", self._parts.get((plan_hash, "header", ""), self._read_part))

    def step(self, plan_hash: str, name: str) -> Step:
        return cast("Step", self._parts.get((plan_hash, "step", name), self._read_part))

    def task(self, plan_hash: str, name: str) -> Task:
        return cast("Task", self._parts.get((plan_hash, "task", name), self._read_part))

    def spread(self, plan_hash: str) -> int:
        """Return the number of partitions of each run of a plan."""
        return self._plan(plan_hash).spread

    def _plan(self, plan_hash: str) -> PlanTexts:
        return self._stored.get(plan_hash, self._read)

    def _read(self, plan_hash: str) -> tuple[PlanTexts, int]:
        """Return a plan with an estimate of its bytes."""
        first_key, use_key = keys.plan(plan_hash), keys.plan_use(plan_hash)
        found = self._table.get_many([first_key, use_key])
        first = found.get(first_key)
        if first is None:
            raise missing_plan(plan_hash)
        self.uses.remember(plan_hash, found.get(use_key))
        try:
            return self._decode(plan_hash, first)
        except KeyError as error:
            raise missing_plan(plan_hash) from error
        except UNREADABLE as error:
            raise unreadable_plan(plan_hash, error) from error

    def _decode(self, plan_hash: str, first: Item) -> tuple[PlanTexts, int]:
        """Return the plan of its first block, and read the other blocks."""
        rest = [keys.plan(plan_hash, number) for number in range(1, first["blocks"])]
        items = self._table.get_many(rest)
        packed = b"".join([first["body"], *(items[key]["body"] for key in rest)])
        document: dict[str, Any] = json.loads(unpack(packed))
        stored = PlanTexts(
            header=json.dumps(document["header"]),
            source=document["source"],
            steps={name: json.dumps(body) for name, body in document["steps"]},
            tasks={name: json.dumps(body) for name, body in document["tasks"]},
            spread=int(first["spread"]),
            ordered_steps=tuple(
                name
                for name, body in document["steps"]
                if body["cyclic"] and Step.from_json(name, body).has_ordered_visits
            ),
        )
        return stored, stored.weight

    def _read_part(self, key: PartKey) -> tuple[Header | Step | Task, int]:
        plan_hash, kind, name = key
        text = self._plan(plan_hash).part(kind, name)
        return decode_part(kind, name, json.loads(text)), weigh_part(len(text))


def spread_of(plan: Plan) -> int:
    """Return the number of partitions of each run of a plan, which its widest fork determines.

    In sequential mode one branch is performed at a time, so one partition suffices.
    """
    if plan.header.sequential:
        return 1
    widest = max((len(case.targets) for step in plan.steps.values() for case in step.cases), default=1)
    return max(1, min(MAX_PARTITIONS, -(-widest // BRANCHES_PER_PARTITION)))
