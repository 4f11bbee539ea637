"""Plans in a SQL store. Their header, steps and tasks are read separately and cached."""

from __future__ import annotations

import json
from functools import lru_cache

from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import encode_json
from noetl.planner.plan import Header, Plan, Step, Task


class SqlPlans:
    """The plans of a SQL store. A plan never changes, so what was read of it is cached."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._header = lru_cache(maxsize=1024)(self._read_header)
        self._step = lru_cache(maxsize=4096)(self._read_step)
        self._task = lru_cache(maxsize=1024)(self._read_task)

    def save(self, plan: Plan) -> None:
        with self.database.transaction() as db:
            if db.execute("select 1 from plans where hash = ?", (plan.hash,)).fetchone():
                return
            header = encode_json(plan.header.to_json())
            insert = "insert into plans values (?, ?, ?) on conflict do nothing"
            if db.execute(insert, (plan.hash, header, plan.source)).rowcount == 0:
                return
            parts = [("step", name, encode_json(step.to_json())) for name, step in plan.steps.items()]
            parts += [("task", name, encode_json(task.to_json())) for name, task in plan.tasks.items()]
            rows = [(plan.hash, kind, index, name, body) for index, (kind, name, body) in enumerate(parts)]
            db.executemany("insert into plan_parts values (?, ?, ?, ?, ?)", rows)

    def header(self, plan_hash: str) -> Header:
        return self._header(plan_hash)

    def step(self, plan_hash: str, name: str) -> Step:
        return self._step(plan_hash, name)

    def task(self, plan_hash: str, name: str) -> Task:
        return self._task(plan_hash, name)

    def get(self, plan_hash: str) -> Plan:
        row = self.database.fetch_one("select header, source from plans where hash = ?", plan_hash)
        parts = self.database.fetch_all(
            "select kind, name, body from plan_parts where hash = ? order by position", plan_hash
        )
        steps = {
            p["name"]: Step.from_json(p["name"], json.loads(p["body"])) for p in parts if p["kind"] == "step"
        }
        tasks = {p["name"]: Task.from_json(json.loads(p["body"])) for p in parts if p["kind"] == "task"}
        return Plan(Header.from_json(json.loads(row["header"])), steps, tasks, row["source"])

    def _read_header(self, plan_hash: str) -> Header:
        return Header.from_json(
            json.loads(
                self.database.fetch_one("select header from plans where hash = ?", plan_hash)["header"]
            )
        )

    def _read_step(self, plan_hash: str, name: str) -> Step:
        row = self.database.fetch_one(
            "select body from plan_parts where hash = ? and kind = 'step' and name = ?", plan_hash, name
        )
        return Step.from_json(name, json.loads(row["body"]))

    def _read_task(self, plan_hash: str, name: str) -> Task:
        row = self.database.fetch_one(
            "select body from plan_parts where hash = ? and kind = 'task' and name = ?", plan_hash, name
        )
        return Task.from_json(json.loads(row["body"]))
