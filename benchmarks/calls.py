"""Python calls of a step and of a compilation: `python -m benchmarks.calls`.

The profiler of Python counts the calls. Unlike times, they do not depend on what else the machine does, so
two commits can be compared on a busy machine. Calls of all libraries count.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.playbooks import set_chain
from noetl.executor.actions import catalogue
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Lease
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.infra import dynamodb, migrations
from noetl.planner.compile import compile_playbook
from tests.aws import empty_account, running_emulator
from tests.postgres import empty_database, running_server

STEPS = 200
COMPILED_STEPS = (100, 1_000)
COLUMNS: Sequence[report.Column] = (
    ("what", lambda row: row["what"]),
    ("calls", lambda row: f"{row['calls']:,.0f}"),
)


def count_calls(function: Callable[[], object]) -> int:
    """Return the number of Python calls that a function makes."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return sum(counts[1] for counts in pstats.Stats(profile).stats.values())  # type: ignore[attr-defined]


def count_step(store: Store, steps: int = STEPS) -> float:
    """Return the calls of one step of a chain, from its claim to its commit. Another run fills the caches."""
    _execute_chain(store, 10)
    return _execute_chain(store, steps) / steps


def _execute_chain(store: Store, steps: int) -> int:
    """Execute a chain, and return the calls of all its steps."""
    plan = compile_playbook(set_chain(steps), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
    executor = VisitExecutor(store, Lease("benchmark", 3600.0), local_run_capabilities(Path.cwd()))

    def execute() -> None:
        claim = store.queue.claim(run.queue, executor.lease, time.time())
        while claim is not None:
            claim = executor.execute(claim) or store.queue.claim(run.queue, executor.lease, time.time())

    return count_calls(execute)


def count_compilation(steps: int) -> int:
    """Return the calls of the compilation of a chain. Another compilation has filled the caches."""
    compile_playbook(set_chain(10), catalogue())
    return count_calls(lambda: compile_playbook(set_chain(steps), catalogue()))


def measure() -> list[report.Row]:
    """Return a row for a step in each store, and for each compilation."""
    steps: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, closing(open_store(f"sqlite:///{folder}/n.db")) as store:
        steps["SQLite"] = count_step(store)
    with running_server() as server, empty_database(server.dsn) as dsn:
        migrations.upgrade(dsn)
        with closing(open_store(dsn)) as store:
            steps["Postgres"] = count_step(store)
    with ExitStack() as stack:
        url = stack.enter_context(running_emulator())
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(empty_account(url, environment))
        dynamodb.upgrade("noetl")
        steps["DynamoDB"] = count_step(stack.enter_context(closing(open_store("dynamodb://noetl"))))
    rows = [{"what": f"a step on {name}", "calls": calls} for name, calls in steps.items()]
    return rows + [
        {"what": f"compiling a chain of {number:,} steps", "calls": count_compilation(number)}
        for number in COMPILED_STEPS
    ]


def main() -> None:
    print(report.table("Python calls", COLUMNS, measure()))


if __name__ == "__main__":
    main()
