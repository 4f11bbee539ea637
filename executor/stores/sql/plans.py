"""Plans in a SQL store. Their header, steps and tasks are read separately and cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from noetl.executor.model.stored_json import encode_json
from noetl.executor.precedence import wait_for_slice
from noetl.executor.stores.damage import UNREADABLE, missing_plan, unreadable_plan
from noetl.executor.stores.plan_parts import CACHE_BYTES, PartKey, decode_part, weigh_part
from noetl.executor.stores.plan_uses import TOUCH_SECONDS, PlanUses, deleted_plan
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.planner.plan import Header, Plan, Step, Task
from noetl.planner.weighted_cache import WeightedCache


class SqlPlans:
    """The plans of a SQL store. A plan never changes, so what was read of it is cached."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context
        self.uses = PlanUses()
        self.parts: WeightedCache[PartKey, Header | Step | Task] = WeightedCache(CACHE_BYTES)

    def save(self, plan: Plan) -> None:
        now = self._context.database.clock()
        if not self.uses.is_recent(plan.hash, now):
            self.uses.record(plan.hash, self._save(plan, now))

    def _save(self, plan: Plan, now: float) -> float:
        """Save a plan, and return the time of its last use."""
        database = self._context.database
        use = database.fetch_all("plans.find_use", hash=plan.hash)
        if use and now < use[0]["used_at"] + TOUCH_SECONDS:
            return float(use[0]["used_at"])
        # Other writers wait for a transaction, so the texts of a large plan are made before it begins.
        header, batches = encode_json(plan.header.to_json()), _encode_parts(plan, database.max_plan_parts)
        if len(batches) > 1 and not use:
            for batch in batches:
                with database.transaction() as db:
                    db.execute("plans.add_parts", hash=plan.hash, parts=batch)
        with database.transaction() as db:
            if use and db.execute("plans.touch", hash=plan.hash, now=now).rowcount:
                return now
            added = db.execute("plans.add", hash=plan.hash, header=header, source=plan.source, now=now)
            if added.rowcount:
                _complete_parts(db, plan, batches)
        return now

    def delete_unused(self, plan_hash: str, before: float, now: float) -> None:
        """Delete a plan without a use since a time that nothing names. If it is named, `now` is its last use.

        The first transaction deletes its row, so no run can start with the parts that are left.
        """
        database = self._context.database
        examined = {"ids": database.encode_list([plan_hash]), "before": before}
        with database.transaction() as db:
            if db.execute("plans.delete_unused", **examined).fetchone() is None:
                db.execute("plans.mark_examined", now=now, **examined)
                return
            has_more = self._delete_parts(db, plan_hash)
        if has_more:
            self.delete_parts(plan_hash)

    def delete_parts(self, plan_hash: str) -> None:
        """Delete the parts of a plan that was deleted, in transactions of `max_plan_parts`.

        If the process ends meanwhile, a sweep deletes the rest. On Postgres, one transaction deletes all.
        """
        has_more = True
        while has_more:
            with self._context.database.transaction() as db:
                has_more = self._delete_parts(db, plan_hash)

    def _delete_parts(self, db: Writer, plan_hash: str) -> bool:
        """Delete some parts of a plan that was deleted, and return whether more may be left."""
        limit = self._context.database.max_plan_parts
        return db.execute("plans.delete_parts", hash=plan_hash, limit=limit).rowcount == limit

    def exists(self, plan_hash: str) -> bool:
        """Return whether the store has a plan."""
        return bool(self._context.database.fetch_all("plans.find_use", hash=plan_hash))

    def touch(self, db: Writer, plan_hash: str, now: float) -> None:
        """Record in a transaction that a plan is used. Call `uses.record` after its commit.

        Raises:
            StoreError: the plan was deleted.
        """
        if db.execute("plans.touch", hash=plan_hash, now=now).rowcount == 0:
            raise deleted_plan(plan_hash)

    def header(self, plan_hash: str) -> Header:
        return cast("Header", self.parts.get((plan_hash, "header", ""), self._read))

    def step(self, plan_hash: str, name: str) -> Step:
        return cast("Step", self.parts.get((plan_hash, "step", name), self._read))

    def task(self, plan_hash: str, name: str) -> Task:
        return cast("Task", self.parts.get((plan_hash, "task", name), self._read))

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        rows = self._context.database.fetch_all("plans.step_names", hash=plan_hash)
        return tuple(row["name"] for row in rows)

    def get(self, plan_hash: str) -> Plan:
        rows = self._context.database.fetch_all("plans.get", hash=plan_hash)
        if not rows:
            raise missing_plan(plan_hash)
        (row,) = rows
        steps: dict[str, Step] = {}
        tasks: dict[str, Task] = {}
        for part in self._context.database.fetch_all("plans.parts", hash=plan_hash):
            wait_for_slice()
            name, body = part["name"], json.loads(part["body"])
            if part["kind"] == "step":
                steps[name] = Step.from_json(name, body)
            elif part["kind"] == "task":
                tasks[name] = Task.from_json(body)
        return Plan(Header.from_json(json.loads(row["header"])), steps, tasks, row["source"])

    def _read(self, key: PartKey) -> tuple[Header | Step | Task, int]:
        """Return a part of a plan, with an estimate of its bytes."""
        plan_hash, kind, name = key
        if kind == "header":
            rows = self._context.database.fetch_all("plans.header", hash=plan_hash)
        else:
            rows = self._context.database.fetch_all("plans.part", hash=plan_hash, kind=kind, name=name)
        if not rows:
            raise missing_plan(plan_hash)
        text = rows[0]["body"]
        try:
            return decode_part(kind, name, json.loads(text)), weigh_part(len(text))
        except UNREADABLE as error:
            raise unreadable_plan(plan_hash, error) from error


def _complete_parts(db: Writer, plan: Plan, batches: Sequence[str]) -> None:
    """Add the parts of a plan that the store does not have.

    Those that were added before may be gone: a plan without uses is deleted, and so are parts without a plan.
    """
    wanted = len(plan.steps) + len(plan.tasks)
    if len(batches) > 1 and db.execute("plans.count_parts", hash=plan.hash).fetchone()["parts"] == wanted:
        return
    for batch in batches:
        db.execute("plans.add_parts", hash=plan.hash, parts=batch)


def _encode_parts(plan: Plan, length: int) -> list[str]:
    """Return the steps and tasks of a plan, as JSON arrays of kind, position, name and JSON of each.

    An array has `length` of them at most.
    """
    parts = [("step", name, _encode_part(step)) for name, step in plan.steps.items()]
    parts += [("task", name, _encode_part(task)) for name, task in plan.tasks.items()]
    rows = [(kind, position, name, body) for position, (kind, name, body) in enumerate(parts)]
    return [encode_json(rows[start : start + length]) for start in range(0, len(rows), length)]


def _encode_part(part: Step | Task) -> str:
    wait_for_slice()
    return encode_json(part.to_json())
