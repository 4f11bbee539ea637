"""The execution of one run by several workers in a random order, in one thread and without sleeping."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Claim
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.interface import Store
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.plan import Plan
from noetl.testing.run_harness import FakeClock, RunHarness

MAX_SEGMENTS = 3000
"""The most invocation segments of one run. Random playbooks need fewer than a tenth."""

WORKERS = (1, 2, 3, 8, 20)
"""How many workers a run may have."""

TIMING_CODES = frozenset({"NP303", "NP307"})
"""The diagnostics which say that an outcome depends on timing."""

Playbook = Mapping[str, Any]


class StuckRunError(AssertionError):
    """A run that has not ended and has nothing due."""


@dataclass(frozen=True)
class CompiledData:
    """The plan of a playbook, or None if it has errors, and the codes of its diagnostics."""

    plan: Plan | None
    codes: frozenset[str]


@dataclass(frozen=True)
class ObservedOutcome:
    """The outcome of an executed run, as the interpreter writes it.

    `errors` are types and steps, where `output` stands for the step of an entry of `output`. `order` are the
    steps and visit numbers in the order in which visits began.
    """

    status: str
    result: Any
    errors: tuple[tuple[str, str], ...]
    visits: Mapping[str, int]
    order: tuple[tuple[str, int], ...]


def compile_data(playbook: Playbook) -> CompiledData:
    """Compile a playbook that is given as data."""
    found = compile_playbook(json.dumps(playbook), catalogue())
    has_errors = any(item.severity is Severity.ERROR for item in found.diagnostics)
    return CompiledData(
        None if has_errors else found.plan, frozenset(item.code for item in found.diagnostics)
    )


def accepts_inputs(plan: Plan, inputs: Mapping[str, Any]) -> bool:
    """Return whether a run of the plan can start with these inputs."""
    try:
        new_run(plan.header, plan.hash, StartRequest(inputs, origin="local"), now=0.0)
    except RejectedError:
        return False
    return True


def register(store: Store, playbook: Playbook) -> None:
    """Register a playbook that others start. It must compile."""
    plan = compile_data(playbook).plan
    assert plan is not None, playbook
    store.plans.save(plan)
    store.registry.register(RegisteredPlaybook("default", plan.header.name, None, plan.hash, 0.0))


def execute(
    store: Store, plan: Plan, inputs: Mapping[str, Any], seed: int, workers: int | None = None
) -> ObservedOutcome:
    """Execute a run to its end, and return what it has done.

    The seed decides which worker claims, and which claimed visit is performed next. Without `workers`, it
    decides their number as well.
    """
    random = Random(seed)
    harness = RunHarness(store, plan, inputs, clock=FakeClock())
    execution = _Execution(harness, random, workers or random.choice(WORKERS))
    execution.finish()
    run, visits = harness.run, harness.visits
    started = [visit for visit in visits if visit.started_at is not None]
    return ObservedOutcome(
        status=run.status.value,
        result=run.result,
        errors=tuple(sorted((error["type"], error["step"] or "output") for error in run.errors)),
        visits=dict(Counter(visit.step for visit in started)),
        order=tuple(execution.order),
    )


def execute_observed(harness: RunHarness, seed: int, observe: Callable[[], None]) -> None:
    """Execute a run to its end as `execute` does. Call `observe` before each segment, and at the end."""
    random = Random(seed)
    _Execution(harness, random, random.choice(WORKERS), observe).finish()


class _Execution:
    """Workers that hold claims. The clock stands still while one of them holds a claim."""

    def __init__(
        self, harness: RunHarness, random: Random, workers: int, observe: Callable[[], None] = lambda: None
    ) -> None:
        self._harness = harness
        self._observe = observe
        self._random = random
        self._workers = workers
        self._held: list[tuple[str, Claim]] = []
        self._seen: set[tuple[str, str]] = set()
        self.order: list[tuple[str, int]] = []

    def finish(self) -> None:
        for _ in range(MAX_SEGMENTS):
            self._claim()
            self._observe()
            if self._held:
                self._perform()
            elif self._harness.run.status.is_final:
                return
            else:
                self._advance()
        raise StuckRunError("the run does not end")

    def _claim(self) -> None:
        """Let idle workers claim what is due: all of it, or only a part."""
        while len(self._held) < self._workers:
            if self._held and self._random.random() < 0.15:
                return
            worker = f"worker {self._random.randrange(10**6)}"
            claim = self._harness.claim(worker)
            if claim is None:
                return
            self._held.append((worker, claim))

    def _perform(self) -> None:
        worker, claim = self._held.pop(self._random.randrange(len(self._held)))
        self._record(claim)
        continues = self._random.random() < 0.5
        executor = replace(self._harness.executor(worker), continues=lambda: continues)
        following = executor.execute(claim)
        if following is not None:
            self._held.append((worker, following))

    def _record(self, claim: Claim) -> None:
        visit = claim.visit
        is_own = visit.run_id == self._harness.id and not is_pseudo_step(visit.step)
        if is_own and (visit.run_id, visit.id) not in self._seen:
            self._seen.add((visit.run_id, visit.id))
            self.order.append((visit.step, visit.number))

    def _advance(self) -> None:
        harness = self._harness
        due = harness.store.queue.next_due(harness.queue)
        if due is None or due >= NEVER:
            raise StuckRunError(f"the run is stuck: {harness.run.status}")
        harness.clock.now = max(harness.clock.now, due)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Let the runs of a block log nothing."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
