"""How long steps take on SQLite, as a multiple of the time of one committed row at the same durability."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.playbooks import fan_out, set_chain
from executor.actions import catalogue
from executor.capabilities import for_local_run
from executor.records import Run, RunStatus
from executor.start import new_run
from executor.stores import open_store
from executor.stores.store import Store
from executor.worker import Worker
from planner import templates
from planner.compile import compile_playbook
from planner.plan import Plan

LENGTHS = {10: 15, 100: 7, 1_000: 5}
"""Steps of a chain, and how often each is measured."""
BRANCHES = 1_000
ROWS = 300
FOLDER = Path(__file__).parent
"""Where the databases of a measurement are made: a file system in memory would hide what a commit costs."""


def measure() -> list[dict[str, Any]]:
    """A row for every chain, walked anew and again, and one for the fan-out; one thread walks."""
    rows = [row for steps, repetitions in LENGTHS.items() for row in _chain(steps, repetitions)]
    return [*rows, *_walks(f"fan-out of {BRANCHES:,}", fan_out(BRANCHES), BRANCHES + 2, 3)]


def _chain(steps: int, repetitions: int) -> list[dict[str, Any]]:
    return _walks(f"chain of {steps:,}", set_chain(steps), steps, repetitions)


def _walks(name: str, text: str, steps: int, repetitions: int) -> list[dict[str, Any]]:
    """What a playbook's first run in a process takes, which compiles every expression, and what a later one takes."""
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    found: dict[str, list[dict[str, float]]] = {"first": [], "later": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            templates.parsed.cache_clear()
            row = _committed_row(folder)
            store = open_store(f"sqlite:///{folder}/noetl.db")
            store.save_plan(plan)
            for walks in found.values():
                walks.append({"row": row, **_walk(store, plan, steps)})
            store.close()
    return [_summary(name, run, steps, walks) for run, walks in found.items()]


def _walk(store: Store, plan: Plan, steps: int) -> dict[str, float]:
    started = time.perf_counter()
    run, first = new_run(plan.header, plan.hash, {}, now=time.time(), origin="local")
    run = store.create_run(run, first)
    created = time.perf_counter()
    worker = Worker(store, capabilities=for_local_run(FOLDER), threads=1, queue=run.queue)
    worker.start()
    ended = worker.wait_until_finished(run.tenant, run.id)
    worker.stop()
    assert ended.status is RunStatus.SUCCEEDED
    finished = ends(store, run)
    assert len(finished) == steps
    tenth = max(steps // 10, 2)
    return {
        "start": created - started,
        "step": (finished[-1] - finished[0]) / (steps - 1),
        "head": (finished[tenth] - finished[0]) / tenth,
        "tail": (finished[-1] - finished[-1 - tenth]) / tenth,
    }


def ends(store: Store, run: Run) -> list[float]:
    """When each step was completed, in order."""
    ends: list[float] = []
    after = None
    while events := store.events(run.id, after, 10_000):
        ends += [event.at for event in events if event.type == "step.completed"]
        after = events[-1].id
    return ends


def _committed_row(folder: str) -> float:
    """The median time of a transaction that inserts one row into a table of its own, as the store commits."""
    db = sqlite3.connect(f"{folder}/plain.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table rows (id integer primary key, body text)")
    times = []
    for _ in range(ROWS):
        started = time.perf_counter()
        db.execute("begin immediate")
        db.execute("insert into rows (body) values (?)", ("x" * 100,))
        db.execute("commit")
        times.append(time.perf_counter() - started)
    db.close()
    return median(times)


def _summary(name: str, run: str, steps: int, walks: list[dict[str, float]]) -> dict[str, Any]:
    def middle(of: Callable[[dict[str, float]], float]) -> float:
        return median(map(of, walks))

    return {
        "playbook": name,
        "run": run,
        "steps": steps,
        "row_microseconds": middle(lambda walk: walk["row"]) * 1e6,
        "step_microseconds": middle(lambda walk: walk["step"]) * 1e6,
        "rows_per_step": middle(lambda walk: walk["step"] / walk["row"]),
        "rows_per_step_first_tenth": middle(lambda walk: walk["head"] / walk["row"]),
        "rows_per_step_last_tenth": middle(lambda walk: walk["tail"] / walk["row"]),
        "start_microseconds": middle(lambda walk: walk["start"]) * 1e6,
    }
