"""The evaluation of firings that a service performs by itself, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from noetl.api.compute import pool as pool_module
from noetl.api.compute import starvation
from noetl.api.compute.firing_evaluator import create_firing_evaluator
from noetl.api.compute.pool import ComputePool
from noetl.api.service.compiler import PlaybookCompiler
from noetl.executor.actions import catalogue
from noetl.executor.engine.evaluation import evaluate, evaluated_by
from noetl.executor.errors import ActionError, RejectedError
from tests.api.compute_jobs import RecordingJob, RefusedEvaluation, TestedEvaluation
from tests.api.test_compute_pool import wait_for_lines

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ComputePool]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the jobs of the tests
    monkeypatch.setattr(starvation, "STARVED_SECONDS", 1e6)  # Each job is performed once.
    created = ComputePool(2, PlaybookCompiler(catalogue()), os.environ)
    yield created
    await created.close()


def fire(pool: ComputePool, evaluation: TestedEvaluation) -> asyncio.Task[object]:
    """Let a thread evaluate as one that fires triggers does."""
    evaluator = create_firing_evaluator(pool, asyncio.get_running_loop())

    def work() -> object:
        with evaluated_by(evaluator):
            return evaluate(evaluation, "a")

    return asyncio.create_task(asyncio.to_thread(work))


async def test_a_firing_does_not_wait_for_requests(pool: ComputePool, tmp_path: Path) -> None:
    job = RecordingJob(path=str(tmp_path / "jobs"), pause=100.0)
    requests = [asyncio.create_task(pool.run(job, tenant)) for tenant in "abcd" for _ in range(3)]
    await wait_for_lines(tmp_path / "jobs", 2)
    assert await fire(pool, TestedEvaluation(str(tmp_path / "firings"))) != os.getpid()
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


async def test_an_expression_without_a_value_is_the_same_error(pool: ComputePool, tmp_path: Path) -> None:
    with pytest.raises(ActionError) as raised:
        await fire(pool, RefusedEvaluation(str(tmp_path / "log")))
    error = raised.value
    assert (error.type, error.message, error.details) == ("TemplateError", "`a`: no value", [1])
    assert (error.place, str(error)) == ({"key": "a"}, "`a`: no value")
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


async def test_a_process_that_was_killed_loses_no_firing(pool: ComputePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert await fire(pool, TestedEvaluation(str(log), ends_until=1)) != os.getpid()
    with pytest.raises(ActionError, match="too much memory") as refused:
        await fire(pool, TestedEvaluation(str(log), ends_until=10))
    assert (refused.value.type, len(log.read_text().splitlines())) == ("LimitExceeded", 4)


async def test_a_busy_machine_delays_a_firing(
    pool: ComputePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WALL_FACTOR", 0.01)
    with pytest.raises(RejectedError) as late:
        await fire(pool, TestedEvaluation(str(tmp_path / "log"), pause=100.0))
    monkeypatch.setattr(pool_module, "MAX_WAITING", 0)
    with pytest.raises(RejectedError) as refused:
        await fire(pool, TestedEvaluation(str(tmp_path / "log")))
    for error in (late.value, refused.value):
        assert (error.reason, error.is_temporary) == ("service_busy", True)


async def test_a_firing_that_starves_is_evaluated_again(
    pool: ComputePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(starvation, "STARVED_SECONDS", 0.1)
    monkeypatch.setattr(starvation, "has_starved", lambda *_: log.exists() and bool(log.read_text()))
    pid = await fire(pool, TestedEvaluation(str(log), pause=2.0))
    assert [int(line) for line in log.read_text().split()][1:] == [pid]


async def test_the_end_of_the_service_rejects_no_firing(pool: ComputePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    firing = fire(pool, TestedEvaluation(str(log), pause=100.0))
    await wait_for_lines(log, 1)
    await pool.close()
    with pytest.raises(RejectedError) as refused:
        await firing
    assert refused.value.is_temporary


async def test_without_processes_threads_evaluate_themselves(tmp_path: Path) -> None:
    pool = ComputePool(0, PlaybookCompiler(catalogue()), {})
    assert await fire(pool, TestedEvaluation(str(tmp_path / "log"))) == os.getpid()


async def test_a_light_evaluation_stays_on_its_thread() -> None:
    class LightEvaluation:
        is_light = True
        evaluate = staticmethod(partial(str, "here"))

    def refuse(*_: object) -> None:
        raise AssertionError("a light evaluation is sent away")

    with evaluated_by(refuse):
        assert evaluate(LightEvaluation(), "a") == "here"
