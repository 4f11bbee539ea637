"""Plans in a SQL store. Their header, steps and tasks are read separately and cached."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.rows import encode_json
from noetl.planner.plan import Header, Plan, Step, Task


class SqlPlans:
    """The plans of a SQL store. A plan never changes, so what was read of it is cached."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context
        self._header = lru_cache(maxsize=1024)(self._read_header)
        self._step = lru_cache(maxsize=4096)(self._read_step)
        self._task = lru_cache(maxsize=1024)(self._read_task)

    def save(self, plan: Plan) -> None:
        with self._context.database.transaction() as db:
            if db.execute("plans.exists", hash=plan.hash).fetchone():
                return
            header = encode_json(plan.header.to_json())
            added = db.execute("plans.add", hash=plan.hash, header=header, source=plan.source)
            if added.rowcount == 0:
                return
            parts = [("step", name, encode_json(step.to_json())) for name, step in plan.steps.items()]
            parts += [("task", name, encode_json(task.to_json())) for name, task in plan.tasks.items()]
            rows = [
                {"hash": plan.hash, "kind": kind, "position": index, "name": name, "body": body}
                for index, (kind, name, body) in enumerate(parts)
            ]
            db.executemany("plans.add_part", rows)

    def header(self, plan_hash: str) -> Header:
        return self._header(plan_hash)

    def step(self, plan_hash: str, name: str) -> Step:
        return self._step(plan_hash, name)

    def task(self, plan_hash: str, name: str) -> Task:
        return self._task(plan_hash, name)

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        rows = self._context.database.fetch_all("plans.step_names", hash=plan_hash)
        return tuple(row["name"] for row in rows)

    def get(self, plan_hash: str) -> Plan:
        row = self._context.database.fetch_one("plans.get", hash=plan_hash)
        parts = [
            (part["kind"], part["name"], json.loads(part["body"]))
            for part in self._context.database.fetch_all("plans.parts", hash=plan_hash)
        ]
        steps = {name: Step.from_json(name, body) for kind, name, body in parts if kind == "step"}
        tasks = {name: Task.from_json(body) for kind, name, body in parts if kind == "task"}
        return Plan(Header.from_json(json.loads(row["header"])), steps, tasks, row["source"])

    def _read_header(self, plan_hash: str) -> Header:
        row = self._context.database.fetch_one("plans.header", hash=plan_hash)
        return Header.from_json(json.loads(row["header"]))

    def _read_step(self, plan_hash: str, name: str) -> Step:
        return Step.from_json(name, self._read_part(plan_hash, "step", name))

    def _read_task(self, plan_hash: str, name: str) -> Task:
        return Task.from_json(self._read_part(plan_hash, "task", name))

    def _read_part(self, plan_hash: str, kind: str, name: str) -> Any:
        row = self._context.database.fetch_one("plans.part", hash=plan_hash, kind=kind, name=name)
        return json.loads(row["body"])
