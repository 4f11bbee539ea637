"""The contract of `WorkQueue`."""

from __future__ import annotations

import json
import random
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.event_buffer import MAX_BATCH_CHARACTERS, MAX_BATCH_EVENTS, EventBuffer
from noetl.executor.engine.quotas import check_branch_quota
from noetl.executor.errors import FencedError, PayloadTooLargeError, SettingError
from noetl.executor.model import visit_transition
from noetl.executor.model.events import Event
from noetl.executor.model.outcome import Suspension
from noetl.executor.model.run import (
    END,
    BatchResult,
    Claim,
    Lease,
    Progress,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import suspend
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    CYCLE,
    DIAMOND,
    LATE_END,
    LEASE,
    action_events,
    claim_visit,
    current_run,
    end_run,
    fail,
    run_concurrently,
    run_contents,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
    with_failed_items,
    without_id,
)


class QueueContract(ContractFixtures):
    """Tests of claims and commits."""

    # Claims

    def test_the_visit_that_is_due_longest_is_claimed_first(self, store: Store) -> None:
        runs = [start_run(store, now=now, origin="service") for now in (3.0, 1.0, 2.0)]
        assert store.queue.claim("service", LEASE, 0.5) is None
        assert store.queue.next_due("service") == 1.0
        order = [store.queue.claim("service", LEASE, 9.0) for _ in runs]
        assert [claim and claim.run.id for claim in order] == [runs[1].id, runs[2].id, runs[0].id]
        assert store.queue.claim("service", LEASE, 9.0) is None

    def test_claims_take_the_tenants_in_turn(self, store: Store) -> None:
        busy = [start_run(store, now=now, tenant="a", origin="service") for now in range(6)]
        quiet = [start_run(store, now=9.0, tenant=name, origin="service") for name in ("b", "c")]
        claims = [store.queue.claim("service", LEASE, 9.0) for _ in range(8)]
        order = [claim.run.id for claim in claims if claim is not None]
        assert {run.id for run in quiet} <= set(order[:3])
        assert [id for id in order if id in {run.id for run in busy}] == [run.id for run in busy]
        assert store.queue.claim("service", LEASE, 9.0) is None

    def test_new_runs_and_due_timers_share_the_turns(self, store: Store) -> None:
        for _ in range(8):
            start_run(store, now=0.0, origin="service")
        for _ in range(8):
            claim = store.queue.claim("service", LEASE, 1.0)
            assert claim is not None
            store.queue.commit(suspend_claim(claim, due_at=5.0), 1.0)
        new = [start_run(store, now=now, origin="service").id for now in (6.0, 7.0)]
        claims = [store.queue.claim("service", LEASE, 9.0) for _ in range(10)]
        order = [claim.run.id for claim in claims if claim is not None]
        assert [order.index(id) // 2 for id in new] == [0, 1]
        assert len(set(order)) == 10

    def test_a_tenant_without_due_visits_has_no_turn(self, store: Store) -> None:
        for tenant in ("a", "c"):
            start_run(store, now=5.0, tenant=tenant, origin="service")
        run = start_run(store, now=1.0, tenant="b", origin="service")
        claim = store.queue.claim("service", LEASE, 2.0)
        assert claim is not None
        assert claim.run.id == run.id
        assert store.queue.claim("service", LEASE, 2.0) is None

    def test_a_claim_passes_tenants_over(self, store: Store) -> None:
        runs = [start_run(store, now=now, tenant=t, origin="service") for now, t in ((0.0, "a"), (1.0, "b"))]
        claim = store.queue.claim("service", LEASE, 2.0, {"a"})
        assert claim is not None
        assert claim.run.id == runs[1].id
        assert store.queue.claim("service", LEASE, 2.0, {"a", "b"}) is None
        claim = store.queue.claim("service", LEASE, 2.0)
        assert claim is not None
        assert claim.run.id == runs[0].id

    def test_active_visits_of_a_tenant_are_counted_or_their_limit_is_refused(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not store.queue.counts_active:
            check_branch_quota(store, "a", "service")
            monkeypatch.setenv("NOETL_MAX_BRANCHES", "9")
            with pytest.raises(
                SettingError, match="NOETL_MAX_BRANCHES is set, but this store does not count"
            ):
                check_branch_quota(store, "a", "service")
            return
        runs = [start_run(store, tenant=tenant, origin="service") for tenant in ("a", "a", "b")]
        start_run(store, tenant="a")
        counts = [store.queue.count_active("service", tenant, 9) for tenant in ("a", "b", "c")]
        assert counts == [2, 1, 0]
        assert store.queue.count_active("service", "a", 1) == 1
        store.runs.stop(runs[2].id, RunStatus.CANCELLED, 1.0)
        claim = store.queue.claim("service", LEASE, 2.0, {"a"})
        assert claim is not None
        store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
        assert store.queue.count_active("service", "b", 9) == 0

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
        assert store.queue.renew(claim.visit, 60.0)
        assert store.queue.claim(run.id, LEASE, 45.0) is None
        assert claim_visit(store, run, 60.0).visit.fence == 2

    def test_a_lost_claim_is_not_renewed(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, now=30.0)
        assert not store.queue.renew(lost.visit, 1000.0)
        store.queue.commit(succeed(store, held), 31.0)
        assert not store.queue.renew(held.visit, 1000.0)
        assert claim_visit(store, run, 31.0).visit.step == "b"

    # Events of renewals

    def test_a_renewal_writes_events(self, store: Store, second: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        before = store.runs.events(run.id)
        for written, numbers in enumerate(([0], [1])):
            assert store.queue.renew(claim.visit, 60.0, action_events(claim, *numbers), written)
        assert store.queue.renew(claim.visit, 60.0, (), 2)
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
        store.queue.renew(lost.visit, 20.0, action_events(lost, 0))
        took_over = claim_visit(store, run, now=30.0)
        before = run_contents(store, run)
        assert not store.queue.renew(lost.visit, 1000.0, action_events(lost, 1), 1)
        assert run_contents(store, run) == before
        assert store.queue.renew(took_over.visit, 60.0, action_events(took_over, 0))
        assert [without_id(event) for event in store.runs.events(run.id)][-2:] == [
            *action_events(lost, 0),
            *action_events(took_over, 0),
        ]
        store.queue.commit(succeed(store, took_over), 31.0)
        before = run_contents(store, run)
        assert not store.queue.renew(took_over.visit, 1000.0, action_events(took_over, 1), 1)
        assert run_contents(store, run) == before

    def test_events_of_renewals_and_suspensions_are_in_order(self, store: Store, second: Store) -> None:
        # A reader that reads after each write gets the same events as a reader at the end.
        run = start_run(store)
        seen: list[Event] = []

        def read_events() -> None:
            seen.extend(second.runs.events(run.id, seen[-1].id if seen else None))

        for segment in range(3):
            claim = claim_visit(store, run, 100.0 * segment)
            read_events()
            for written in range(2):
                store.queue.renew(
                    claim.visit,
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
        store.queue.renew(claim.visit, 960.0, action_events(claim, 30))
        read_events()
        store.queue.commit(succeed(store, claim), 901.0)
        read_events()
        assert seen == store.runs.events(run.id)
        numbers = [event.payload["number"] for event in seen if event.type == "action.x"]
        assert numbers == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30]

    def test_events_of_renewals_before_a_retry_and_a_resume(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.queue.renew(claim.visit, 60.0, action_events(claim, 0))
        store.queue.commit(fail(store, claim, retry_at=50.0), 1.0)
        claim = claim_visit(store, run, 50.0)
        store.queue.renew(claim.visit, 110.0, action_events(claim, 1))
        store.queue.commit(fail(store, claim), 51.0)
        end_run(store, run, RunStatus.FAILED, 52.0)
        seen = store.runs.events(run.id)
        store.runs.resume(run.id, 60.0, deadline_at=None, values={})
        claim = claim_visit(store, run, 61.0)
        store.queue.renew(claim.visit, 130.0, action_events(claim, 2))
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
                assert used.queue.renew(claims[index].visit, 60.0, events, written)
            used.queue.commit(succeed(used, claims[index]), 2.0)

        run_concurrently(4, renew_and_commit)
        for claim in claims:
            types = [
                event.type.partition(".")[2]
                for event in store.runs.events(run.id)
                if event.step == claim.visit.step
            ]
            assert types == ["started", "x", "x", "x", "transition", "completed"]

    def test_the_largest_batch_of_events_is_written(self, store: Store) -> None:
        # The text compresses badly, and JSON in ASCII is twelve times as long.
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
        buffer.flush_batch(lambda events, written: store.queue.renew(claim.visit, 60.0, events, written))
        numbers = [event.payload["number"] for event in store.runs.events(run.id) if event.type == "action.x"]
        assert numbers == list(range(MAX_BATCH_EVENTS))

    def test_events_of_a_renewal_signal_a_change(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        seen = store.changes.count
        waiter = threading.Thread(target=store.changes.wait, args=(seen, 60.0))
        waiter.start()
        store.queue.renew(claim.visit, 60.0, action_events(claim, 0))
        waiter.join()
        assert store.changes.count > seen

    def test_only_the_end_of_an_awaited_child_run_signals_work(self, store: Store) -> None:
        parent, key = start_waiting_run(store)
        signals = []
        for id, awaits in (("detached", None), ("awaited", key)):
            child = start_child(store, parent, awaits, id)
            store.runs.stop(child.id, RunStatus.CANCELLED, 1.0)
            claim = claim_visit(store, parent, 1.0)
            seen = store.work.count
            store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
            signals.append(store.work.count > seen)
        assert signals == [False, True]

    # Commits

    def test_a_commit_creates_the_next_visit(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        assert store.queue.commit(succeed(store, claim, saved={"n": 1}, data=[2]), 7.0).following is None
        first, second = store.runs.visits(run.id)
        assert (first.status, first.case, first.finished_at) == ("succeeded", 0, 1.0)
        assert (second.step, second.status, second.due_at, second.clock) == ("b", "ready", 7.0, 2)
        assert second.names == {"n": (1, first.id)}
        (saved,) = (visit for visit in store.runs.visits_with_outputs(run.id) if visit.saved)
        assert (saved.id, saved.saved, saved.result) == (first.id, {"n": 1}, [2])
        assert store.runs.visits_with_outputs(run.id, [second.id])[0].saved == {}
        types = ["workflow.started", "step.started", "step.transition", "step.completed"]
        assert [event.type for event in store.runs.events(run.id)] == types

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND])
    def test_failed_items_of_a_loop_are_kept(self, store: Store, text: str) -> None:
        """Commit them with one branch, with a fork, and with the arrival at a join."""
        failures = [{"index": 2, "item": {"é": [None]}, "error": {"type": "Failed", "message": "no"}}]
        run = start_run(store, text)
        while (claim := store.queue.claim(run.id, LEASE, 0.0)) is not None and claim.visit.step != END:
            store.queue.commit(with_failed_items(succeed(store, claim), failures), 0.0)
        visits = store.runs.visits_with_outputs(run.id)
        assert len(visits) > 2
        assert {json.dumps(list(visit.failures)) for visit in visits} == {json.dumps(failures)}
        (last,) = store.runs.visits_with_outputs(run.id, [visits[-1].id])
        assert list(last.failures) == failures
        assert not any(visit.failures for visit in store.runs.visits(run.id))
        text = json.dumps(failures, separators=(",", ":"))
        for start, length in ((0, 1000), (0, 1), (1, len(text) - 2), (5, 7), (len(text), 10), (1000, 10)):
            part = store.visits.failures_text(run.id, visits[-1].id, start, length)
            assert part == text[start : start + length]
        assert store.visits.failures_text(run.id, "unknown", 0, 10) == ""
        assert store.visits.failures_text(start_run(store).id, visits[-1].id, 0, 10) == ""

    def test_a_commit_may_claim_the_next_visit(self, store: Store) -> None:
        run = start_run(store)
        visit = store.queue.commit(succeed(store, claim_visit(store, run)), 7.0, Lease("one", 30.0)).following
        assert visit is not None
        assert (visit.step, visit.status, visit.claims, visit.fence) == ("b", "running", 1, 1)
        assert (visit.worker, visit.started_at, visit.due_at) == ("one", 7.0, 37.0)
        assert visit == store.runs.visits(run.id)[1]
        assert store.queue.claim(run.id, LEASE, 36.0) is None
        assert [event.type for event in store.runs.events(run.id)][-1] == "step.started"
        assert claim_visit(store, run, 37.0).visit.fence == 2

    def test_a_commit_claims_only_the_first_branch_of_a_fork(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        visit = store.queue.commit(succeed(store, claim_visit(store, run)), 1.0, LEASE).following
        assert visit is not None
        assert visit.step == "b1"
        assert [claim_visit(store, run, 1.0).visit.step for _ in range(3)] == ["b2", "b3", "b4"]
        assert store.queue.claim(run.id, LEASE, 1.0) is None

    def test_a_claim_within_a_commit_is_like_any_other(self, store: Store) -> None:
        """Claim another branch in the commit of an arrival, which a store may decide in its own language."""
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        arrival = succeed(store, claim_visit(store, run, 1.0))
        before = {visit.id: visit for visit in store.runs.visits(run.id)}
        after = store.queue.commit(arrival, 2.0, LEASE).following
        if after is not None:  # a store need not claim another branch
            assert after == visit_transition.claim(before[after.id], LEASE, 2.0)
            assert after in store.runs.visits(run.id)

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
        text = "x" * (self.limits.payload_bytes - len('{"n":""}') + extra)
        store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": text}), 1.0)
        assert store.runs.visits_with_outputs(run.id)[0].saved == {"n": text}

    @pytest.mark.parametrize("part", ["saved", "data", "failures"])
    def test_outputs_beyond_the_limit_write_nothing(self, store: Store, part: str) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        before = run_contents(store, run)
        value: Any = {"n": "x" * (self.limits.payload_bytes - len('{"n":""}') + 1)}
        if part == "failures":
            commit = with_failed_items(succeed(store, claim), [value])
        else:
            commit = succeed(store, claim, **{part: value})
        with pytest.raises(PayloadTooLargeError):
            store.queue.commit(commit, 1.0)
        assert run_contents(store, run) == before
        store.queue.commit(succeed(store, claim), 2.0)
        assert store.runs.visits(run.id)[0].status is VisitStatus.SUCCEEDED

    @pytest.mark.parametrize("part", ["saved", "data", "failures"])
    def test_outputs_far_beyond_the_limit_are_not_written_as_json(self, store: Store, part: str) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        value: Any = {"n": ["\x01" * 1_000_000 + "é"] * 80}
        if part == "failures":
            commit = with_failed_items(succeed(store, claim), [value])
        else:
            commit = succeed(store, claim, **{part: value})
        tracemalloc.start()
        try:
            with pytest.raises(PayloadTooLargeError):
                store.queue.commit(commit, 1.0)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()

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

    def test_a_join_comes_after_a_branch_that_did_not_arrive(self, store: Store) -> None:
        run = start_run(store, LATE_END)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        arrived, leaving = claim_visit(store, run, 1.0), claim_visit(store, run, 1.0)
        store.queue.commit(succeed(store, arrived), 2.0)
        store.queue.commit(succeed(store, leaving), 3.0)
        assert [visit.step for visit in store.runs.visits(run.id)].count("meet") == 0
        store.queue.commit(succeed(store, claim_visit(store, run, 3.0), case=None), 4.0)
        clocks = {visit.step: visit.clock for visit in store.runs.visits(run.id)}
        assert clocks == {"a": 1, "short": 2, "long": 2, "last": 3, "meet": 4}

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
                return used.queue.commit(succeed(used, claims[index]), 2.0, LEASE).following

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

    # Progress of suspended work

    def test_loop_parts_are_kept_until_the_visit_is_finished(self, store: Store) -> None:
        run = start_run(store)
        batches = [
            BatchResult("run", 0, [[1], {"a": None}]),
            BatchResult("run.0", 0, ["x"]),
            BatchResult("run", 2, [3]),
        ]
        for part in batches:
            later = Suspension(Progress(journal={"run": {"next": 2}}), 1.0, batch_results=(part,))
            store.queue.commit(suspend(claim_visit(store, run, 1.0).visit, later, 1.0), 1.0)
        claim = claim_visit(store, run, 1.0)
        parts = {
            loop: store.runs.batch_results(run.id, claim.visit.id, loop) for loop in ("run", "run.0", "run.1")
        }
        assert parts == {"run": [[[1], {"a": None}], [3]], "run.0": [["x"]], "run.1": []}
        store.queue.commit(fail(store, claim), 2.0)
        assert store.runs.batch_results(run.id, claim.visit.id, "run") == [[[1], {"a": None}], [3]]
        end_run(store, run, RunStatus.FAILED, 3.0)
        store.runs.resume(run.id, 4.0, deadline_at=None, values={})
        store.queue.commit(succeed(store, claim_visit(store, run, 4.0)), 5.0)
        assert [store.runs.batch_results(run.id, claim.visit.id, loop) for loop in ("run", "run.0")] == [
            [],
            [],
        ]

    @pytest.mark.parametrize(("counts", "claims"), [(True, 2), (False, 1)])
    def test_a_released_claim_is_due_at_once(self, store: Store, counts: bool, claims: int) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        for _ in range(2):
            store.queue.release(claim.visit, 2.0, counts=counts)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, claim), 3.0)
        again = claim_visit(store, run, 2.0).visit
        assert (again.id, again.claims) == (claim.visit.id, claims)
