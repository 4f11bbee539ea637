"""The evaluator of the threads that fire triggers by themselves: schedules, folders, queues, ends of runs.

Problem: these threads are in the process that answers requests. They must not wait behind the requests of a
tenant, and must not lose a firing because a process was killed.

Algorithm: one more compute process evaluates their expressions, one firing after the other. An evaluation
that ends its process is tried once more, and then fails its firing. While the machine is too busy, the firing
is tried again later.

Cost: as that of a job of the pool.

Limits: those of the pool. Without compute processes, the threads evaluate themselves.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

from noetl.api.compute.jobs import EvaluationJob
from noetl.api.compute.pool import ComputePool
from noetl.api.service.errors import ServiceBusyError, TenantBusyError, WorkLimitError
from noetl.executor.engine.evaluation import Evaluation, Evaluator
from noetl.executor.errors import ActionError, RejectedError

MAX_TRIES = 2
"""How often an evaluation is tried whose process ends: it may have been killed for another reason."""


def create_firing_evaluator(pool: ComputePool, loop: asyncio.AbstractEventLoop) -> Evaluator | None:
    """Return the evaluator for threads next to an event loop, or None if the pool has no processes."""

    def evaluate(evaluation: Evaluation, tenant: str) -> Any:
        job = EvaluationJob(pickle.dumps(evaluation, pickle.HIGHEST_PROTOCOL))
        for number in range(MAX_TRIES):
            try:
                return asyncio.run_coroutine_threadsafe(pool.run_firing(job, tenant), loop).result()
            except (ServiceBusyError, TenantBusyError) as problem:
                raise RejectedError("service_busy", str(problem)) from problem
            except WorkLimitError as problem:
                if problem.is_late:
                    raise RejectedError("service_busy", str(problem)) from problem
                if number == MAX_TRIES - 1:
                    raise ActionError("LimitExceeded", str(problem), retryable=False) from problem
        raise AssertionError("the last try returns or raises")

    return evaluate if pool.has_processes else None
