"""The contract of stores for plans, runs, claims and commits.

A store is tested by a subclass with two fixtures.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.engine.event_buffer import MAX_BATCH_CHARACTERS, MAX_BATCH_EVENTS, EventBuffer
from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, PayloadTooLargeError, RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record
from noetl.executor.model.run import (
    END,
    Claim,
    Commit,
    Lease,
    Progress,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
    WaitKey,
)
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import apply_deadline, build_commit, suspend
from noetl.executor.stores.interface import Store
from tests.run_harness import compile_text

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
    store.queue.finish(claim, status, None, [], now)
    return current_run(store, run)


def current_run(store: Store, run: Run) -> Run:
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


def claim_key(claim: Claim) -> tuple[str, str, int]:
    """Return the run id, visit id and fence of a claim."""
    return claim.run.id, claim.visit.id, claim.visit.fence


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


def run_concurrently(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return work(index) for each of `count` threads that start together."""
    gate = threading.Barrier(count)

    def begin(index: int) -> Any:
        gate.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


class StoreContract:
    """Tests of a store. `store` is empty, and `second` is another connection to the same store.

    `payload_limit` is the size of the outputs of a visit, in bytes of JSON.
    """

    payload_limit: int

    # Plans

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND, CYCLE])
    def test_a_plan_is_read_as_it_was_saved(self, store: Store, text: str) -> None:
        plan = compile_text(text)
        store.plans.save(plan)
        store.plans.save(plan)
        stored = store.plans.get(plan.hash)
        assert stored.to_json() == plan.to_json()
        assert stored.hash == plan.hash
        assert stored.source == plan.source
        assert list(stored.steps) == list(plan.steps)
        assert store.plans.header(plan.hash) == plan.header
        assert all(store.plans.step(plan.hash, name) == step for name, step in plan.steps.items())

    def test_every_part_of_a_plan_is_stored(self, store: Store) -> None:
        plan = compile_text("""
            name: "Ünïcode \U0001f600"
            version: "3"
            input: {a: {type: integer, default: 1, enum: [1, 2]}, b: string}
            environment: {url: "x/{{ input.b }}"}
            variables: {v: [1, 2.5, null, {x: true}]}
            timeout: 1h
            retry: {attempts: 3, delay: 1s, if: "{{ error.status == 500 }}"}
            tasks:
            - name: t
              parallel: true
              run: [{action: log, message: "{{ args.x }}"}, {action: set, set: {y: 1}}]
            steps:
            - name: Run Import
              run:
              - {task: t, with: {x: 1}, if: "{{ v }}", as: z, on_error: continue}
              - {action: fail, message: no, timeout: 2s}
              rule:
              - {case: error, run: [{action: log, message: "{{ steps['Run Import'].visits }}"}]}
              - {case: "{{ y }}", run: []}
              timeout: 3s
              on_error: continue
            output: {y: "{{ y | default(0) }}"}
        """)
        store.plans.save(plan)
        assert store.plans.get(plan.hash).to_json() == plan.to_json()
        assert store.plans.get(plan.hash).hash == plan.hash
        assert store.plans.task(plan.hash, "t") == plan.tasks["t"]

    def test_an_unknown_plan_is_reported(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.plans.header("0" * 64)

    # Start of a run

    def test_a_run_is_read_as_it_was_created(self, store: Store) -> None:
        options = {"tags": ["x", "é"], "folder": "/a b", "variables": {}}
        run = start_run(
            store,
            "variables: {v: {x: [1, null]}}\ninput: {i: any}" + dedent(CHAIN),
            input={"i": "\ud83d"},
            **options,
        )
        assert current_run(store, run) == run
        assert run.status is RunStatus.QUEUED
        (visit,) = store.runs.visits(run.id)
        assert (visit.step, visit.status, visit.number, visit.attempt, visit.due_at) == (
            "a",
            "ready",
            1,
            1,
            0.0,
        )
        assert [event.type for event in store.runs.events(run.id)] == ["workflow.started"]

    def test_one_idempotency_key_starts_one_run(self, store: Store) -> None:
        first = start_run(store, key=("k", "body"))
        assert start_run(store, now=5.0, key=("k", "body")) == first
        assert start_run(store, key=("other", "body")).id != first.id
        assert start_run(store, key=("k", "body"), tenant="another").id != first.id
        with pytest.raises(RejectedError) as rejected:
            start_run(store, key=("k", "another body"))
        assert rejected.value.reason == "idempotency_key_reused"
        assert len(store.runs.find(RunFilter())[0]) == 2

    def test_concurrent_starts_with_one_idempotency_key_start_one_run(self, store: Store) -> None:
        runs = run_concurrently(6, lambda _: start_run(store, key=("k", "body")).id)
        assert len(set(runs)) == 1
        assert [run.id for run in store.runs.find(RunFilter())[0]] == runs[:1]

    # Claims

    def test_the_visit_that_is_due_longest_is_claimed_first(self, store: Store) -> None:
        runs = [start_run(store, now=now, origin="service") for now in (3.0, 1.0, 2.0)]
        assert store.queue.claim("service", LEASE, 0.5) is None
        assert store.queue.next_due("service") == 1.0
        order = [store.queue.claim("service", LEASE, 9.0) for _ in runs]
        assert [claim and claim.run.id for claim in order] == [runs[1].id, runs[2].id, runs[0].id]
        assert store.queue.claim("service", LEASE, 9.0) is None

    def test_branches_are_claimed_in_the_order_written(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        assert [claim_visit(store, run, 2.0).visit.step for _ in range(4)] == ["b1", "b2", "b3", "b4"]

    def test_a_claim_returns_the_running_visit(self, store: Store) -> None:
        run = start_run(store, now=2.0)
        claim = claim_visit(store, run, now=5.0)
        assert claim.run.status is RunStatus.RUNNING
        assert (claim.run.created_at, claim.run.started_at) == (2.0, 5.0)
        visit = claim.visit
        assert (visit.status, visit.claims, visit.fence, visit.worker) == ("running", 1, 1, "one")
        assert (visit.due_at, visit.started_at) == (35.0, 5.0)
        assert [event.type for event in store.runs.events(run.id)] == ["workflow.started", "step.started"]

    def test_each_local_run_has_its_own_queue(self, store: Store) -> None:
        local, served = start_run(store), start_run(store, origin="service")
        claim = store.queue.claim("service", LEASE, 1.0)
        assert claim is not None
        assert claim.run.id == served.id
        assert store.queue.claim("service", LEASE, 1.0) is None
        assert claim_visit(store, local).run.id == local.id

    def test_concurrent_claims_claim_a_visit_once(self, store: Store) -> None:
        run = start_run(store)
        claims = run_concurrently(6, lambda index: store.queue.claim(run.id, Lease(str(index), 30.0), 1.0))
        assert len([claim for claim in claims if claim is not None]) == 1

    def test_a_claim_holds_until_its_lease_expires(self, store: Store) -> None:
        run = start_run(store)
        first = claim_visit(store, run, now=0.0)
        assert store.queue.claim(run.id, Lease("two", 30.0), 29.9) is None
        assert store.queue.next_due(run.id) == 30.0
        second = claim_visit(store, run, now=30.0, lease=Lease("two", 30.0))
        assert second.visit.id == first.visit.id
        assert (second.visit.claims, second.visit.fence, second.visit.worker) == (2, 2, "two")
        assert second.visit.started_at == first.visit.started_at
        assert [event.type for event in store.runs.events(run.id)].count("step.started") == 1

    def test_a_claim_is_renewed(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        assert store.queue.renew(run.id, claim.visit.id, claim.visit.fence, 60.0)
        assert store.queue.claim(run.id, LEASE, 45.0) is None
        assert claim_visit(store, run, 60.0).visit.fence == 2

    def test_a_lost_claim_is_not_renewed(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, now=30.0)
        assert not store.queue.renew(run.id, lost.visit.id, lost.visit.fence, 1000.0)
        store.queue.commit(succeed(store, held), 31.0)
        assert not store.queue.renew(run.id, held.visit.id, held.visit.fence, 1000.0)
        assert claim_visit(store, run, 31.0).visit.step == "b"

    # Events of renewals

    def test_a_renewal_writes_events(self, store: Store, second: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        before = store.runs.events(run.id)
        for written, numbers in enumerate(([0], [1])):
            assert store.queue.renew(*claim_key(claim), 60.0, action_events(claim, *numbers), written)
        assert store.queue.renew(*claim_key(claim), 60.0, (), 2)
        complete = second.runs.events(run.id)
        assert complete[: len(before)] == before
        assert [without_id(event) for event in complete[len(before) :]] == action_events(claim, 0, 1)
        assert store.queue.claim(run.id, LEASE, 45.0) is None
        commit = succeed(store, claim)
        store.queue.commit(replace(commit, events=(*action_events(claim, 2), *commit.events)), 46.0)
        after = store.runs.events(run.id)
        assert after[: len(complete)] == complete
        assert [event.type for event in after[len(complete) :]] == [
            "action.x",
            "step.transition",
            "step.completed",
        ]
        assert len({event.id for event in after}) == len(after)

    def test_events_of_a_lost_claim_are_not_written(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        store.queue.renew(*claim_key(lost), 20.0, action_events(lost, 0))
        took_over = claim_visit(store, run, now=30.0)
        before = run_contents(store, run)
        assert not store.queue.renew(*claim_key(lost), 1000.0, action_events(lost, 1), 1)
        assert run_contents(store, run) == before
        assert store.queue.renew(*claim_key(took_over), 60.0, action_events(took_over, 0))
        assert [without_id(event) for event in store.runs.events(run.id)][-2:] == [
            *action_events(lost, 0),
            *action_events(took_over, 0),
        ]
        store.queue.commit(succeed(store, took_over), 31.0)
        before = run_contents(store, run)
        assert not store.queue.renew(*claim_key(took_over), 1000.0, action_events(took_over, 1), 1)
        assert run_contents(store, run) == before

    def test_events_of_renewals_and_suspensions_are_in_order(self, store: Store, second: Store) -> None:
        """A reader that reads after each write gets the same events as a reader at the end."""
        run = start_run(store)
        seen: list[Event] = []

        def read_events() -> None:
            seen.extend(second.runs.events(run.id, seen[-1].id if seen else None))

        for segment in range(3):
            claim = claim_visit(store, run, 100.0 * segment)
            read_events()
            for written in range(2):
                store.queue.renew(
                    *claim_key(claim),
                    100.0 * segment + 60,
                    action_events(claim, 10 * segment + written),
                    written,
                )
                read_events()
            later = suspend(
                claim.visit, Suspension(Progress(journal={"run": {"at": 0}}), 100.0 * segment + 90), 1.0
            )
            later = replace(later, events=(*action_events(claim, 10 * segment + 2), *later.events))
            store.queue.commit(later, 100.0 * segment + 1)
            read_events()
        claim = claim_visit(store, run, 900.0)
        store.queue.renew(*claim_key(claim), 960.0, action_events(claim, 30))
        read_events()
        store.queue.commit(succeed(store, claim), 901.0)
        read_events()
        assert seen == store.runs.events(run.id)
        numbers = [event.payload["number"] for event in seen if event.type == "action.x"]
        assert numbers == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30]

    def test_events_of_renewals_before_a_retry_and_a_resume(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.queue.renew(*claim_key(claim), 60.0, action_events(claim, 0))
        store.queue.commit(fail(store, claim, retry_at=50.0), 1.0)
        claim = claim_visit(store, run, 50.0)
        store.queue.renew(*claim_key(claim), 110.0, action_events(claim, 1))
        store.queue.commit(fail(store, claim), 51.0)
        end_run(store, run, RunStatus.FAILED, 52.0)
        seen = store.runs.events(run.id)
        store.runs.resume(run.id, 60.0, deadline_at=None, values={})
        claim = claim_visit(store, run, 61.0)
        store.queue.renew(*claim_key(claim), 130.0, action_events(claim, 2))
        complete = store.runs.events(run.id)
        assert complete[: len(seen)] == seen
        written = [
            (event.type.partition(".")[2], event.payload.get("number")) for event in complete if event.step
        ]
        assert written == [
            ("started", None), ("x", 0), ("retrying", None),
            ("started", None), ("x", 1), ("failed", None),
            ("started", None), ("x", 2),
        ]  # fmt: skip

    def test_branches_write_events_concurrently(self, store: Store, second: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]

        def renew_and_commit(index: int) -> None:
            used = second if index % 2 else store
            for written in range(3):
                events = action_events(claims[index], written)
                assert used.renew(*claim_key(claims[index]), 60.0, events, written)
            used.commit(succeed(used, claims[index]), 2.0)

        run_concurrently(4, renew_and_commit)
        for claim in claims:
            types = [
                event.type.partition(".")[2]
                for event in store.runs.events(run.id)
                if event.step == claim.visit.step
            ]
            assert types == ["started", "x", "x", "x", "transition", "completed"]

    def test_the_largest_batch_of_events_is_written(self, store: Store) -> None:
        """The text compresses badly, and JSON in ASCII is twelve times as long."""
        run = start_run(store)
        claim = claim_visit(store, run)
        chance = random.Random(7)
        buffer = EventBuffer()
        text = "".join(
            chr(chance.randrange(0x10000, 0x110000))
            for _ in range(MAX_BATCH_CHARACTERS - MAX_BATCH_EVENTS * 64)
        )
        long, *short = action_events(claim, *range(MAX_BATCH_EVENTS))
        for event in (replace(long, payload={"number": 0, "text": text}), *short):
            buffer.append(event)
        buffer.flush_batch(
            lambda events, written: store.queue.renew(*claim_key(claim), 60.0, events, written)
        )
        numbers = [event.payload["number"] for event in store.runs.events(run.id) if event.type == "action.x"]
        assert numbers == list(range(MAX_BATCH_EVENTS))

    def test_events_of_a_renewal_signal_a_change(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        seen = store.changes.count
        waiter = threading.Thread(target=store.changes.wait, args=(seen, 60.0))
        waiter.start()
        store.queue.renew(*claim_key(claim), 60.0, action_events(claim, 0))
        waiter.join()
        assert store.changes.count > seen

    # Commits

    def test_a_commit_creates_the_next_visit(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        assert store.queue.commit(succeed(store, claim, saved={"n": 1}, data=[2]), 7.0) is None
        first, second = store.runs.visits(run.id)
        assert (first.status, first.case, first.finished_at) == ("succeeded", 0, 1.0)
        assert (second.step, second.status, second.due_at, second.clock) == ("b", "ready", 7.0, 2)
        assert second.names == {"n": (1, first.id)}
        (saved,) = (visit for visit in store.runs.visits_with_outputs(run.id) if visit.saved)
        assert (saved.id, saved.saved, saved.result) == (first.id, {"n": 1}, [2])
        assert store.runs.visits_with_outputs(run.id, [second.id])[0].saved == {}
        types = ["workflow.started", "step.started", "step.transition", "step.completed"]
        assert [event.type for event in store.runs.events(run.id)] == types

    def test_a_commit_may_claim_the_next_visit(self, store: Store) -> None:
        run = start_run(store)
        visit = store.queue.commit(succeed(store, claim_visit(store, run)), 7.0, Lease("one", 30.0))
        assert visit is not None
        assert (visit.step, visit.status, visit.claims, visit.fence) == ("b", "running", 1, 1)
        assert (visit.worker, visit.started_at, visit.due_at) == ("one", 7.0, 37.0)
        assert visit == store.runs.visits(run.id)[1]
        assert store.queue.claim(run.id, LEASE, 36.0) is None
        assert [event.type for event in store.runs.events(run.id)][-1] == "step.started"
        assert claim_visit(store, run, 37.0).visit.fence == 2

    def test_a_commit_claims_only_the_first_branch_of_a_fork(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        visit = store.queue.commit(succeed(store, claim_visit(store, run)), 1.0, LEASE)
        assert visit is not None
        assert visit.step == "b1"
        assert [claim_visit(store, run, 1.0).visit.step for _ in range(3)] == ["b2", "b3", "b4"]
        assert store.queue.claim(run.id, LEASE, 1.0) is None

    def test_the_commit_of_a_lost_claim_writes_nothing(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, now=30.0)
        before = run_contents(store, run)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, lost, saved={"n": "lost"}), 31.0)
        assert run_contents(store, run) == before
        store.queue.commit(succeed(store, held, saved={"n": "held"}), 32.0)
        assert store.runs.visits_with_outputs(run.id)[0].saved == {"n": "held"}

    def test_a_second_commit_writes_nothing(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.queue.commit(succeed(store, claim), 1.0)
        before = run_contents(store, run)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, claim), 2.0)
        with pytest.raises(FencedError):
            store.queue.commit(fail(store, claim), 2.0)
        assert run_contents(store, run) == before

    def test_one_of_concurrent_commits_is_accepted(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)

        def commit(index: int) -> bool:
            try:
                store.queue.commit(succeed(store, claim, saved={"n": index}), 1.0)
            except FencedError:
                return False
            return True

        assert sum(run_concurrently(6, commit)) == 1
        assert [visit.step for visit in store.runs.visits(run.id)] == ["a", "b"]

    @pytest.mark.parametrize("extra", [-1, 0])
    def test_outputs_up_to_the_limit_are_stored(self, store: Store, extra: int) -> None:
        run = start_run(store)
        text = "x" * (self.payload_limit - len('{"n":""}') + extra)
        store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": text}), 1.0)
        assert store.runs.visits_with_outputs(run.id)[0].saved == {"n": text}

    @pytest.mark.parametrize("part", ["saved", "data"])
    def test_outputs_beyond_the_limit_write_nothing(self, store: Store, part: str) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        before = run_contents(store, run)
        value = {"n": "x" * (self.payload_limit - len('{"n":""}') + 1)}
        with pytest.raises(PayloadTooLargeError):
            store.queue.commit(succeed(store, claim, **{part: value}), 1.0)
        assert run_contents(store, run) == before
        store.queue.commit(succeed(store, claim), 2.0)
        assert store.runs.visits(run.id)[0].status is VisitStatus.SUCCEEDED

    @pytest.mark.parametrize(
        "value", [None, False, 0, "", [], {}, {"a": None}, 1.5, 2**70, "\ud800", "é\x00", [[{}]]]
    )
    def test_outputs_are_read_as_they_were(self, store: Store, value: Any) -> None:
        run = start_run(store)
        store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": value}), 1.0)
        assert store.runs.visits_with_outputs(run.id)[0].saved == {"n": value}

    # Joins and counters

    def test_a_join_fires_once_after_all_branches(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        for index in range(4):
            assert [visit.step for visit in store.runs.visits(run.id)].count("c") == 0
            assert current_run(store, run).live == 4
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 2.0 + index)
        visits = store.runs.visits(run.id)
        assert [visit.step for visit in visits] == ["a", "b1", "b2", "b3", "b4", "c"]
        assert (visits[-1].clock, visits[-1].due_at) == (3, 5.0)
        assert current_run(store, run).live == 1

    def test_a_join_does_not_wait_for_a_branch_that_has_ended(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]
        for claim in claims[:3]:
            store.queue.commit(succeed(store, claim), 2.0)
        store.queue.commit(succeed(store, claims[3], case=None), 3.0)
        assert [visit.step for visit in store.runs.visits(run.id)].count("c") == 1
        assert current_run(store, run).live == 1

    def test_a_join_without_arrivals_does_not_fire(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        for _ in range(4):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0), case=None), 2.0)
        assert [visit.step for visit in store.runs.visits(run.id)][-1] == END
        assert current_run(store, run).live == 0

    def test_concurrent_arrivals_fire_a_join_once(self, store: Store, second: Store) -> None:
        for _ in range(5):
            run = start_run(store, DIAMOND)
            store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
            claims = [claim_visit(store, run, 1.0) for _ in range(4)]

            def commit(index: int, claims: list[Claim] = claims) -> Visit | None:
                used = second if index % 2 else store
                return used.commit(succeed(used, claims[index]), 2.0, LEASE)

            following = [visit for visit in run_concurrently(4, commit) if visit is not None]
            assert [visit.step for visit in following] == ["c"]
            assert [visit.step for visit in store.runs.visits(run.id)].count("c") == 1
            assert current_run(store, run).live == 1

    def test_visits_of_a_cycle_are_numbered(self, store: Store) -> None:
        run = start_run(store, CYCLE)
        for _ in range(4):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 1.0)
        numbers = [(visit.step, visit.number) for visit in store.runs.visits(run.id)]
        assert numbers == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]

    # Retry, stop, end and resume

    def test_a_retry_is_due_at_its_time(self, store: Store) -> None:
        run = start_run(store)
        store.queue.commit(fail(store, claim_visit(store, run), retry_at=50.0), 1.0)
        (visit,) = store.runs.visits(run.id)
        assert (visit.status, visit.attempt, visit.claims, visit.due_at) == ("retrying", 2, 0, 50.0)
        assert visit.error is not None
        assert store.queue.next_due(run.id) == 50.0
        assert store.queue.claim(run.id, LEASE, 49.9) is None
        again = claim_visit(store, run, 50.0)
        assert (again.visit.attempt, again.visit.claims, again.visit.fence) == (2, 1, 2)
        assert again.visit.started_at == 50.0
        assert [event.type for event in store.runs.events(run.id)][-2:] == ["step.retrying", "step.started"]

    def test_the_end_of_the_last_branch_ends_the_run(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            assert current_run(store, run).live == 1
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        assert current_run(store, run).live == 0
        end = claim_visit(store, run)
        assert end.visit.step == END
        store.queue.finish(end, RunStatus.SUCCEEDED, {"x": [1]}, [], 9.0)
        finished = current_run(store, run)
        assert (finished.status, finished.result, finished.finished_at) == ("succeeded", {"x": [1]}, 9.0)
        assert store.runs.events(run.id)[-1].type == "workflow.completed"
        assert store.queue.next_due(run.id) is None
        with pytest.raises(FencedError):
            store.queue.finish(end, RunStatus.FAILED, None, [], 10.0)
        assert current_run(store, run) == finished

    def test_a_failure_parks_ready_visits(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        first, second = claim_visit(store, run, 1.0), claim_visit(store, run, 1.0)
        store.queue.commit(fail(store, first), 2.0)
        assert current_run(store, run).stop is RunStatus.FAILED
        expected = [
            ("a", "succeeded"),
            ("b1", "failed"),
            ("b2", "running"),
            ("b3", "parked"),
            ("b4", "parked"),
        ]
        assert visit_states(store, run) == expected
        assert store.queue.claim(run.id, LEASE, 3.0) is None
        store.queue.commit(succeed(store, second), 3.0)
        assert visit_states(store, run)[-1] == (END, "ready")
        finished = end_run(store, run, RunStatus.FAILED, 3.0)
        assert (finished.status, finished.error and finished.error["message"]) == ("failed", "no")

    def test_the_next_visit_of_a_stopping_run_is_parked(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        assert store.queue.commit(succeed(store, claim), 2.0, LEASE) is not None
        assert visit_states(store, run) == [("a", "succeeded"), ("b", "parked"), (END, "running")]

    def test_a_retry_in_a_stopping_run_is_parked(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(fail(store, claim, retry_at=9.0), 2.0)
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]

    def test_a_stop_parks_visits_and_ends_the_run(self, store: Store) -> None:
        run = start_run(store)
        stopped = store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        assert stopped.stop is RunStatus.CANCELLED
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 2.0).stop is RunStatus.CANCELLED
        assert visit_states(store, run) == [("a", "parked"), (END, "ready")]
        assert end_run(store, run, RunStatus.CANCELLED).status is RunStatus.CANCELLED
        assert store.runs.stop(run.id, RunStatus.CANCELLED, 3.0).status is RunStatus.CANCELLED
        assert [event.type for event in store.runs.events(run.id)][-1] == "workflow.cancelled"

    def test_the_first_reason_to_stop_is_kept(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(fail(store, claim), 2.0)
        assert current_run(store, run).stop is RunStatus.CANCELLED

    def test_a_stop_after_the_end_is_refused(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        finished = end_run(store, run, RunStatus.SUCCEEDED)
        with pytest.raises(RejectedError) as rejected:
            store.runs.stop(run.id, RunStatus.CANCELLED, 9.0)
        assert rejected.value.reason == "finished"
        assert current_run(store, run) == finished

    def test_a_resume_opens_failed_and_parked_visits(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 2.0)
        store.queue.commit(fail(store, claim_visit(store, run, 2.0)), 3.0)
        end_run(store, run, RunStatus.FAILED, 4.0)
        resumed = store.runs.resume(run.id, 10.0, deadline_at=None, values={"input": {"i": 2}})
        assert (resumed.status, resumed.stop, resumed.resumes, resumed.error) == ("queued", None, 1, None)
        assert (resumed.input, resumed.environment) == ({"i": 2}, {})
        expected = [
            ("a", "succeeded"),
            ("b1", "succeeded"),
            ("b2", "ready"),
            ("b3", "ready"),
            ("b4", "ready"),
        ]
        assert visit_states(store, run) == expected
        again = store.runs.visits(run.id)[2]
        assert (again.attempt, again.claims, again.error, again.failure) == (1, 0, None, None)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run, 10.0)), 10.0)
        assert [step for step, _ in visit_states(store, run)].count("c") == 1
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run, 10.0)), 10.0)
        assert end_run(store, run, RunStatus.SUCCEEDED, 11.0).status is RunStatus.SUCCEEDED
        assert "workflow.resumed" in [event.type for event in store.runs.events(run.id)]

    def test_a_resume_of_a_run_without_open_visits_ends_it(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        last = claim_visit(store, run)
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(succeed(store, last), 1.0)
        end_run(store, run, RunStatus.CANCELLED)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert end_run(store, run, RunStatus.SUCCEEDED, 10.0).status is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("paused_before", [False, True])
    def test_a_resume_makes_a_pending_retry_due_at_once(self, store: Store, *, paused_before: bool) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        if paused_before:
            later = Suspension(Progress(journal={"run": {"at": 1}}), due_at=1.0)
            store.queue.commit(suspend(claim.visit, later, 1.0), 1.0)
            claim = claim_visit(store, run, 1.0)
        store.queue.commit(fail(store, claim, retry_at=900.0), 2.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        again = claim_visit(store, run, 10.0).visit
        assert (again.step, again.attempt, again.progress) == ("a", 1, claim.visit.progress)

    def test_a_suspended_visit_stays_suspended_after_a_resume(self, store: Store) -> None:
        run = start_run(store)
        later = Suspension(Progress(journal={"run": {"at": 1}}), due_at=50.0)
        store.queue.commit(suspend(claim_visit(store, run).visit, later, 1.0), 1.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 3.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert store.queue.claim(run.id, LEASE, 49.0) is None
        assert claim_visit(store, run, 50.0).visit.progress == later.progress

    def test_a_run_that_has_not_ended_is_not_resumed(self, store: Store) -> None:
        run = start_run(store)
        before = run_contents(store, run)
        assert store.runs.resume(run.id, 1.0, deadline_at=None, values={}) == run
        assert run_contents(store, run) == before

    def test_a_run_that_succeeded_is_not_resumed(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        end_run(store, run, RunStatus.SUCCEEDED)
        before = run_contents(store, run)
        with pytest.raises(RejectedError) as rejected:
            store.runs.resume(run.id, 1.0, deadline_at=None, values={})
        assert rejected.value.reason == "not_resumable"
        assert run_contents(store, run) == before

    def test_a_worker_from_before_the_resume_is_fenced(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, 30.0)
        store.queue.commit(fail(store, held), 31.0)
        end_run(store, run, RunStatus.FAILED, 32.0)
        store.runs.resume(run.id, 40.0, deadline_at=None, values={})
        for zombie in (lost, held):
            with pytest.raises(FencedError):
                store.queue.commit(succeed(store, zombie), 41.0)
        again = claim_visit(store, run, 42.0)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, held), 43.0)
        store.queue.commit(succeed(store, again), 44.0)

    # Queries

    def test_runs_are_returned_in_pages(self, store: Store) -> None:
        runs = [start_run(store, now=float(index // 2)) for index in range(7)]
        newest_first = [
            run.id for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)
        ]
        run_ids: list[str] = []
        cursor = None
        while True:
            page, cursor = store.runs.find(RunFilter(limit=3, cursor=cursor))
            run_ids += [run.id for run in page]
            start_run(store, now=100.0)
            if cursor is None:
                break
        assert run_ids == newest_first
        for broken in ("", "x", "!!!", "bnVsbA==", "WzFd", cursor or "e30="):
            with pytest.raises(RejectedError) as rejected:
                store.runs.find(RunFilter(cursor=broken))
            assert rejected.value.reason == "invalid_cursor"

    def test_runs_are_filtered(self, store: Store) -> None:
        first = start_run(store, "name: x" + dedent(CHAIN), now=1.0, tags=["red", "blue"])
        second = start_run(store, "name: y" + dedent(CHAIN), now=2.0, tags=["blue"])
        store.runs.stop(first.id, RunStatus.CANCELLED, 3.0)
        end_run(store, first, RunStatus.CANCELLED, 3.0)

        def ids(**filters: Any) -> set[str]:
            return {run.id for run in store.runs.find(RunFilter(**filters))[0]}

        assert ids() == {first.id, second.id}
        assert ids(playbook="x") == {first.id}
        assert ids(tag="red") == {first.id}
        assert ids(tag="blue") == {first.id, second.id}
        assert ids(tag="re") == set()
        assert ids(since=2.0) == {second.id}
        assert ids(status=RunStatus.CANCELLED) == {first.id}
        assert ids(status=RunStatus.QUEUED) == {second.id}
        assert ids(status=RunStatus.QUEUED, playbook="x") == set()
        claim_visit(store, second, 3.0)
        assert ids(status=RunStatus.RUNNING) == {second.id}

    def test_runs_are_filtered_by_queue_and_parent(self, store: Store) -> None:
        root, other = start_run(store, now=1.0), start_run(store, now=2.0)
        parent = WaitKey(root.id, "visit", "wait")
        child = start_run(store, now=3.0, parent=parent, queue=root.queue, depth=1)
        detached = start_run(store, now=4.0, queue=root.queue, depth=1)

        def ids(**filters: Any) -> list[str]:
            return [run.id for run in store.runs.find(RunFilter(**filters))[0]]

        assert ids(queue=root.queue) == [detached.id, child.id, root.id]
        assert ids(queue=root.queue, since=3.5) == [detached.id]
        assert ids(parent=root.id) == [child.id]
        assert (ids(parent=other.id), ids(queue="")) == ([], [])

    def test_tenants_do_not_see_each_other(self, store: Store) -> None:
        mine, theirs = start_run(store, tenant="mine"), start_run(store, tenant="theirs")
        assert store.runs.get("theirs", mine.id) is None
        assert store.runs.get("mine", mine.id) == mine
        assert [run.id for run in store.runs.find(RunFilter("mine"))[0]] == [mine.id]
        assert [run.id for run in store.runs.find(RunFilter("theirs"))[0]] == [theirs.id]
        assert store.runs.find(RunFilter("nobody")) == ([], None)

    def test_the_trace_of_a_run_is_stored(self, store: Store, second: Store) -> None:
        trace = f"00-{'1' * 32}-{'2' * 16}-01"
        run, other = start_run(store, trace=trace), start_run(store)
        assert (current_run(second, run).trace, current_run(second, other).trace) == (trace, None)
        claim = claim_visit(store, run)
        assert claim.run.trace == trace

    def test_events_are_returned_in_pages(self, store: Store) -> None:
        run = start_run(store)
        for _ in range(3):
            store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
        complete = store.runs.events(run.id)
        assert len({event.id for event in complete}) == len(complete) > 6
        for limit in (1, 2, 5, 100):
            events: list[Any] = []
            while page := store.runs.events(run.id, events[-1].id if events else None, limit):
                assert len(page) <= limit
                events += page
            assert events == complete
        for broken in ("", "x", "1", "1-", "-1", "1-x", "²-1", "9" * 50 + "-1"):
            with pytest.raises(RejectedError) as rejected:
                store.runs.events(run.id, broken)
            assert rejected.value.reason == "invalid_cursor"

    def test_a_reader_misses_no_event(self, store: Store, second: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        claims = [claim_visit(store, run, 1.0) for _ in range(4)]
        finished = threading.Event()
        seen: list[Any] = []

        def read() -> None:
            last = False
            while not last:
                last = finished.is_set()
                seen.extend(second.runs.events(run.id, seen[-1].id if seen else None, 2))
            while page := second.runs.events(run.id, seen[-1].id, 2):
                seen.extend(page)

        reader = threading.Thread(target=read)
        reader.start()
        run_concurrently(4, lambda index: store.queue.commit(succeed(store, claims[index]), 2.0))
        finished.set()
        reader.join()
        assert seen == store.runs.events(run.id)

    def test_a_write_signals_a_change(self, store: Store) -> None:
        run = start_run(store)
        seen = store.changes.count
        waiter = threading.Thread(target=store.changes.wait, args=(seen, 60.0))
        waiter.start()
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        waiter.join()
        store.changes.wait(seen, 60.0)

    def test_due_visits_signal_work(self, store: Store) -> None:
        seen = store.work.count
        run = start_run(store)
        store.work.wait(seen, 60.0)
        claim = claim_visit(store, run)
        seen = store.work.count
        waiter = threading.Thread(target=store.work.wait, args=(seen, 60.0))
        waiter.start()
        store.queue.commit(succeed(store, claim), 1.0)
        waiter.join()

    def test_waiting_for_a_signal_times_out(self, store: Store) -> None:
        store.changes.wait(store.changes.count, 0.001)
        store.work.wait(store.work.count, 0.001)

    def test_two_connections_see_the_same(self, store: Store, second: Store) -> None:
        run = start_run(store)
        assert run_contents(second, run) == run_contents(store, run)
        second.queue.commit(succeed(second, claim_visit(second, run), saved={"n": 1}), 1.0)
        assert run_contents(second, run) == run_contents(store, run)

    def test_a_committed_visit_is_read_as_it_was(self, store: Store) -> None:
        run = start_run(store)
        commit = succeed(store, claim_visit(store, run), saved={"n": 1}, data="d")
        store.queue.commit(commit, 1.0)
        (stored,) = (visit for visit in store.runs.visits_with_outputs(run.id) if visit.saved)
        assert stored == replace(commit.visit)
