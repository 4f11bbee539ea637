"""Operations of the contract tests: start a run, claim its visits, let them succeed, fail or wait."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record
from noetl.executor.model.run import (
    END,
    NEVER,
    Claim,
    Commit,
    Lease,
    Progress,
    Run,
    RunEnding,
    RunStatus,
    Visit,
    WaitKey,
)
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import apply_deadline, build_commit, suspend
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.stores.finding import Finding
from noetl.executor.stores.interface import QueuedStore, Store
from noetl.testing.run_harness import compile_text

CHAIN = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {m: "{{ n }}"}}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: "{{ n }}"}]}
"""
DIAMOND = """
    steps:
    - {name: a, rule: [{case: default, run: [b1, b2, b3, b4]}]}
    - {name: b1, rule: [{case: default, run: [c]}]}
    - {name: b2, rule: [{case: default, run: [c]}]}
    - {name: b3, rule: [{case: default, run: [c]}]}
    - {name: b4, rule: [{case: default, run: [c]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: done}]}
"""
LATE_END = """
    steps:
    - {name: a, rule: [{case: default, run: [short, long]}]}
    - {name: short, rule: [{case: default, run: [meet]}]}
    - {name: long, rule: [{case: default, run: [last]}]}
    - {name: last, rule: [{case: "{{ run.id }}", run: [meet]}]}
    - {name: meet, run: [{action: log, message: done}]}
"""
CYCLE = """
    steps:
    - {name: a, max_visits: 3, rule: [{case: "{{ run.id }}", run: [b]}]}
    - {name: b, rule: [{case: "{{ run.id }}", run: [a]}]}
"""
LEASE = Lease("one", 30.0)


def start_run(
    store: Store, text: str = CHAIN, *, now: float = 0.0, key: tuple[str, str] | None = None, **options: Any
) -> Run:
    """Create a run and return it. It is local and has its own queue, unless `options` differ."""
    plan = compile_text(text)
    store.plans.save(plan)
    run, first = new_run(
        plan.header,
        plan.hash,
        StartRequest(options.pop("input", {}), **{"origin": "local", **options}),
        now=now,
    )
    return store.runs.create(run, first, key)


def claim_visit(store: Store, run: Run, now: float = 0.0, lease: Lease = LEASE) -> Claim:
    claim = store.queue.claim(run.id, lease, now)
    assert claim is not None
    return claim


def lose_workers(store: QueuedStore, body: str) -> None:
    """Claim the visit of a message as often as a visit may lose its worker, with leases that end at once."""
    for _ in range(MAX_CLAIMS):
        claim = store.queue.claim_message(body, Lease("lost", 0.0), time.time())
        assert isinstance(claim, Claim)


def succeed(
    store: Store,
    claim: Claim,
    *,
    case: int | None = 0,
    saved: Mapping[str, Any] | None = None,
    data: Any = None,
) -> Commit:
    """Return the commit of a visit that succeeded."""
    plan_hash, visit = claim.run.plan_hash, claim.visit
    step = store.plans.step(plan_hash, visit.step)
    outcome = Outcome(data=data, saved=saved or {})
    choice = Choice(outcome, failed=False, case=case if step.cases else None)
    commit = build_commit(lambda name: store.plans.step(plan_hash, name), visit, choice, outcome, now=1.0)
    return apply_deadline(commit, None, 1.0)


def with_failed_items(commit: Commit, failures: Sequence[Mapping[str, Any]]) -> Commit:
    """Return a commit whose visit ends with these failed items of a loop."""
    return replace(commit, visit=replace(commit.visit, failures=tuple(failures)))


def fail(store: Store, claim: Claim, *, retry_at: float | None = None, now: float = 1.0) -> Commit:
    """Return the commit of a visit that failed, to be retried or to end the run."""
    plan_hash, visit = claim.run.plan_hash, claim.visit
    outcome = Outcome(False, None, error_record(visit, "Failed", "no"))
    choice = Choice(outcome, failed=True, retry_at=retry_at)
    return build_commit(lambda name: store.plans.step(plan_hash, name), visit, choice, outcome, now)


def end_run(store: Store, run: Run, status: RunStatus, now: float = 1.0) -> Run:
    """Claim and finish the visit that ends a run, and return the run."""
    claim = claim_visit(store, run, now)
    assert claim.visit.step == END
    store.queue.finish(claim, RunEnding(status, None, []), now)
    return current_run(store, run)


def start_ended_run(store: Store) -> Run:
    """Start a run, cancel it and end it at 1.0, and return it."""
    run = start_run(store)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    return end_run(store, run, RunStatus.CANCELLED)


def current_run(store: Store, run: Run | RunSummary) -> Run:
    """Return a run as it is stored now."""
    stored = store.runs.get(run.tenant, run.id)
    assert stored is not None
    return stored


def visit_states(store: Store, run: Run) -> list[tuple[str, str]]:
    """Return the step and the status of each visit."""
    return [(visit.step, visit.status.value) for visit in store.runs.visits(run.id)]


def run_contents(store: Store, run: Run) -> tuple[Any, ...]:
    """Return all that a store holds of a run."""
    return (
        current_run(store, run),
        store.runs.visits(run.id),
        store.runs.events(run.id),
        store.runs.visits_with_outputs(run.id),
    )


def action_events(claim: Claim, *numbers: int) -> list[Event]:
    """Return events that the work of a claim may have."""
    visit = claim.visit
    return [
        Event("action.x", n + 0.5, visit.step, visit.number, 1, n / 4, {"number": n, "é": [None]})
        for n in numbers
    ]


def without_id(event: Event) -> Event:
    """Return an event without the id that the store has given it."""
    return replace(event, id="")


def peak_bytes(operation: Callable[[], object]) -> int:
    """Return the greatest number of bytes that an operation holds at once, without those from before."""
    tracemalloc.start()
    try:
        operation()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def run_concurrently(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return work(index) for each of `count` threads that start together."""
    gate = threading.Barrier(count)

    def begin(index: int) -> Any:
        gate.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def wait_key(claim: Claim, wait: str = "w") -> WaitKey:
    return WaitKey(claim.run.id, claim.visit.id, wait)


def open_wait(
    store: Store,
    claim: Claim,
    token: str = "t",
    wait: str = "w",
    declared: AnswerDeclaration | None = None,
) -> WaitKey:
    store.waits.open_wait(claim, wait, token, declared)
    return wait_key(claim, wait)


def suspend_claim(claim: Claim, *awaits: str, due_at: float = NEVER, memory: str = "") -> Commit:
    """Return the commit of a visit that is suspended until one of these waits is answered.

    Its journal has the text `memory`.
    """
    journal = {"run": {"at": 0} | ({"memory": memory} if memory else {})}
    return suspend(claim.visit, Suspension(Progress(journal=journal), due_at, awaits=awaits), 1.0)


def start_waiting_run(
    store: Store, token: str = "t", declared: AnswerDeclaration | None = None
) -> tuple[Run, WaitKey]:
    """Start a run whose only visit waits for an answer to the token, and return it and the wait."""
    run = start_run(store)
    claim = claim_visit(store, run)
    key = open_wait(store, claim, token, declared=declared)
    store.queue.commit(suspend_claim(claim, key.id), 1.0)
    return run, key


def start_child(
    store: Store, parent: Run, key: WaitKey | None, id: str, now: float = 1.0, **options: Any
) -> Run:
    """Start a child run, which answers a wait of its parent when it ends, if `key` is not None."""
    plan = compile_text(CHAIN)
    store.plans.save(plan)
    max_child_runs = options.pop("max_child_runs", None)
    run, first = new_run(
        plan.header,
        plan.hash,
        StartRequest(run_id=id, parent=key, depth=1, origin="local", **{"queue": parent.queue, **options}),
        now=now,
    )
    return store.runs.create(run, first, max_child_runs=max_child_runs)


def comparable_values(visit: Visit) -> tuple[Any, ...]:
    """Return the values of a finished visit, without its claim."""
    times = (visit.clock, visit.number, visit.attempt, visit.started_at, visit.finished_at)
    results = (visit.saved, visit.result, visit.failures, visit.case, visit.error, visit.failure)
    return visit.id, visit.run_id, visit.step, visit.status, visit.names, times, results


def refusal_of_answer(store: Store, body: Any = None, token: str = "t", now: float = 9.0) -> str:
    with pytest.raises(RejectedError) as rejected:
        store.waits.answer(token, body, now)
    return rejected.value.reason


def refusal_of_heartbeat(store: Store, token: str = "t") -> str:
    with pytest.raises(RejectedError) as rejected:
        store.waits.record_heartbeat(token, 9.0)
    return rejected.value.reason


def findings_of(store: Store) -> list[Finding]:
    """Return the findings of a consistency check."""
    return store.maintenance.check_consistency()


def failed_checks(store: Store) -> list[str]:
    return [finding.check for finding in store.maintenance.check_consistency()]
