"""The contract of `WaitStore`: answers to tokens, and child runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.run import (
    NEVER,
    Progress,
    RunEnding,
    RunStatus,
    TokenWait,
    VisitStatus,
    Wait,
    WaitKey,
)
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    DIAMOND,
    LEASE,
    claim_visit,
    current_run,
    end_run,
    fail,
    open_wait,
    refusal_of_answer,
    refusal_of_heartbeat,
    run_concurrently,
    run_contents,
    start_child,
    start_run,
    start_waiting_run,
    succeed,
    suspend_claim,
    visit_states,
    wait_key,
)


class WaitsContract(ContractFixtures):
    """Tests of waits."""

    # Answers

    def test_an_unopened_wait_has_no_answer(self, store: Store) -> None:
        assert store.waits.wait(wait_key(claim_visit(store, start_run(store)))) == Wait("w")

    def test_an_answer_makes_the_visit_due(self, store: Store, second: Store) -> None:
        run, key = start_waiting_run(store)
        assert (store.queue.next_due(run.id), store.waits.wait(key)) == (NEVER, Wait("w"))
        store.waits.answer("t", {"yes": True}, 5.0)
        assert store.queue.next_due(run.id) == 5.0
        assert second.waits.wait(key) == store.waits.wait(key) == Wait("w", {"yes": True}, answered_at=5.0)
        visit = claim_visit(store, run, 5.0).visit
        assert (visit.id, visit.progress) == (key.visit_id, Progress(journal={"run": {"at": 0}}))

    def test_a_token_is_known_from_the_opening_of_its_wait(self, store: Store, second: Store) -> None:
        assert not store.waits.has_token("t")
        start_waiting_run(store)
        assert store.waits.has_token("t")
        assert second.waits.has_token("t")
        assert not store.waits.has_token("u")

    def test_a_token_leads_to_its_wait(self, store: Store, second: Store) -> None:
        run, key = start_waiting_run(store, declared=self.DECLARED)
        expected = TokenWait(key, run.tenant, self.DECLARED, answered_at=None, is_closed=False)
        assert (store.waits.find_wait("u"), store.waits.find_wait("t")) == (None, expected)
        store.waits.answer("t", {"approved": True}, 5.0)
        assert second.waits.find_wait("t") == replace(expected, answered_at=5.0)

    def test_a_token_leads_to_a_wait_that_is_closed(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.waits.close_wait(key, 4.0)
        assert store.waits.find_wait("t") == TokenWait(key, run.tenant, None, None, is_closed=True)

    @pytest.mark.parametrize(
        "body", [None, False, 0, "", [], {}, {"a": None}, 1.5, 2**70, "\ud800", "é\x00", [[{}]]]
    )
    def test_answers_are_read_as_they_were(self, store: Store, body: Any) -> None:
        _, key = start_waiting_run(store)
        store.waits.answer("t", body, 5.0)
        wait = store.waits.wait(key)
        assert (wait.answer, wait.answered_at) == (body, 5.0)
        assert type(wait.answer) is type(body)
        store.waits.answer("t", body, 6.0)

    def test_the_same_answer_again_changes_nothing(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        assert store.waits.answer("t", {"a": 1, "b": [2]}, 5.0) == key
        before = (store.waits.wait(key), run_contents(store, run), store.queue.next_due(run.id))
        assert store.waits.answer("t", {"b": [2], "a": 1}, 6.0) == key
        assert (store.waits.wait(key), run_contents(store, run), store.queue.next_due(run.id)) == before

    @pytest.mark.parametrize(
        ("body", "other"), [(1, 2), (1, True), (0, False), (None, False), ("1", 1), ([], {})]
    )
    def test_another_answer_is_refused(self, store: Store, body: Any, other: Any) -> None:
        _, key = start_waiting_run(store)
        store.waits.answer("t", body, 5.0)
        assert refusal_of_answer(store, other) == "answered_otherwise"
        with pytest.raises(RejectedError, match=re.escape("before, at 1970-01-01T00:00:05Z: ")) as refusal:
            store.waits.answer("t", other, 9.0)
        assert refusal.value.message.endswith(f": {json.dumps(body)}")
        assert repr(store.waits.wait(key).answer) == repr(body)

    DECLARED: ClassVar[dict[str, dict[str, Any]]] = {
        "approved": {"type": "boolean"},
        "note": {"type": "string", "default": "é", "enum": ["é", "other"], "description": "Why."},
    }

    def test_defaults_of_declared_fields_are_filled_in(self, store: Store) -> None:
        _, key = start_waiting_run(store, declared=self.DECLARED)
        assert store.waits.answer("t", {"approved": True}, 5.0) == key
        assert store.waits.wait(key) == Wait("w", {"approved": True, "note": "é"}, answered_at=5.0)
        for body in ({"approved": True}, {"note": "é", "approved": True}):
            assert store.waits.answer("t", body, 6.0) == key
        for other in ({"approved": False}, {"approved": True, "note": "other"}, {}, None, {"x": 1}):
            assert refusal_of_answer(store, other) == "answered_otherwise"

    @pytest.mark.parametrize(
        "body",
        [
            None,
            True,
            [],
            {},
            {"approved": 1},
            {"approved": True, "note": "third"},
            {"approved": True, "n": 1},
        ],
    )
    def test_an_answer_without_the_declared_fields_leaves_the_wait_open(
        self, store: Store, body: Any
    ) -> None:
        run, key = start_waiting_run(store, declared=self.DECLARED)
        before = run_contents(store, run)
        assert refusal_of_answer(store, body) == "invalid_answer"
        assert (store.waits.wait(key), run_contents(store, run)) == (Wait("w"), before)
        assert store.waits.answer("t", {"approved": False}, 9.0) == key

    def test_an_answer_before_the_suspension_is_checked_too(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        key = open_wait(store, claim, declared=self.DECLARED)
        assert refusal_of_answer(store, {"approved": "yes"}) == "invalid_answer"
        store.waits.answer("t", {"approved": True}, 5.0)
        store.queue.commit(suspend_claim(claim, key.id), 6.0)
        assert claim_visit(store, run, 6.0).visit.id == key.visit_id

    def test_a_closed_wait_takes_no_answer_whatever_it_has(self, store: Store) -> None:
        _, key = start_waiting_run(store, declared=self.DECLARED)
        store.waits.close_wait(key, 5.0)
        assert refusal_of_answer(store, {}) == refusal_of_answer(store, {"approved": True}) == "closed"

    def test_one_of_concurrent_answers_is_kept(self, store: Store, second: Store) -> None:
        _, key = start_waiting_run(store)

        def answer(index: int) -> bool:
            try:
                (second if index % 2 else store).waits.answer("t", index, 5.0)
            except RejectedError:
                return False
            return True

        taken = run_concurrently(6, answer)
        assert sum(taken) == 1
        assert store.waits.wait(key).answer == taken.index(True)

    def test_a_wait_is_answered_without_its_token(self, store: Store, second: Store) -> None:
        """Apply the rules of an answer with a token."""
        declared = {"ok": {"type": "boolean"}, "note": {"type": "string", "default": "none"}}
        _, key = start_waiting_run(store, declared=declared)
        with pytest.raises(RejectedError) as rejected:
            store.waits.answer_wait(key, declared, {"ok": 1}, 5.0)
        assert rejected.value.reason == "invalid_answer"
        store.waits.answer_wait(key, declared, {"ok": True}, 5.0)
        assert second.waits.wait(key).answer == {"ok": True, "note": "none"}
        assert store.queue.next_due(key.run_id) == 5.0
        store.waits.answer_wait(key, declared, {"ok": True}, 6.0)
        store.waits.answer("t", {"ok": True}, 6.0)
        assert refusal_of_answer(store, {"ok": False}) == "answered_otherwise"
        with pytest.raises(RejectedError) as rejected:
            store.waits.answer_wait(key, declared, {"ok": False}, 7.0)
        assert rejected.value.reason == "answered_otherwise"

    def test_only_an_open_wait_is_answered_without_its_token(self, store: Store) -> None:
        _, key = start_waiting_run(store)
        for unknown in (replace(key, id="other"), replace(key, visit_id="other")):
            with pytest.raises(RejectedError) as rejected:
                store.waits.answer_wait(unknown, None, 1, 5.0)
            assert rejected.value.reason == "closed"
        store.waits.close_wait(key, 4.0)
        with pytest.raises(RejectedError) as rejected:
            store.waits.answer_wait(key, None, 1, 5.0)
        assert rejected.value.reason == "closed"
        assert store.waits.wait(key).answered_at is None

    def test_an_unknown_token_is_refused(self, store: Store) -> None:
        start_waiting_run(store)
        assert (
            refusal_of_answer(store, token="other")
            == refusal_of_heartbeat(store, token="other")
            == "unknown_token"
        )

    @pytest.mark.parametrize("extra", [0, 1])
    def test_the_size_of_an_answer_is_limited(self, store: Store, extra: int) -> None:
        run, key = start_waiting_run(store)
        text = "x" * (self.limits.answer_bytes - 2 + extra)
        if not extra:
            store.waits.answer("t", text, 5.0)
            assert store.waits.wait(key).answer == text
            return
        before = run_contents(store, run)
        assert refusal_of_answer(store, text) == "too_large"
        assert (store.waits.wait(key), run_contents(store, run)) == (Wait("w"), before)
        store.waits.answer("t", "x", 5.0)

    def test_every_token_of_a_wait_answers_it(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        key = open_wait(store, claim, "first")
        open_wait(store, claim, "second")
        store.queue.commit(suspend_claim(claim, "w"), 1.0)
        store.waits.answer("first", 1, 5.0)
        store.waits.answer("second", 1, 6.0)
        assert refusal_of_answer(store, 2, "second") == "answered_otherwise"
        assert store.waits.wait(key).answered_at == 5.0

    def test_waits_of_one_visit_are_answered_separately(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        first, second = open_wait(store, claim, "t1", "one"), open_wait(store, claim, "t2", "two")
        store.queue.commit(suspend_claim(claim, "one", "two"), 1.0)
        store.waits.answer("t2", 2, 5.0)
        assert (store.waits.wait(first), store.waits.wait(second).answer) == (Wait("one"), 2)
        store.waits.answer("t1", 1, 6.0)
        assert store.waits.wait(first).answer == 1

    # Answers that arrive while the visit is running

    def test_a_suspension_after_the_answer_is_due_at_once(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        open_wait(store, claim)
        store.waits.answer("t", 1, 2.0)
        assert store.waits.wait(wait_key(claim)).answer == 1
        assert store.queue.claim(run.id, LEASE, 3.0) is None
        store.queue.commit(suspend_claim(claim, "w"), 4.0)
        assert store.queue.next_due(run.id) == 4.0
        assert claim_visit(store, run, 4.0).visit.id == claim.visit.id

    def test_an_answer_to_another_wait_does_not_end_a_suspension(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        open_wait(store, claim)
        open_wait(store, claim, "other", "x")
        store.waits.answer("other", 1, 2.0)
        store.queue.commit(suspend_claim(claim, "w", due_at=50.0), 4.0)
        assert store.queue.next_due(run.id) == 50.0

    def test_an_answer_to_a_wait_of_another_visit_does_not_end_a_suspension(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        first, second = claim_visit(store, run, 1.0), claim_visit(store, run, 1.0)
        open_wait(store, first, "t1")
        open_wait(store, second, "t2")
        store.waits.answer("t1", 1, 2.0)
        store.queue.commit(suspend_claim(second, "w", due_at=50.0), 4.0)
        store.queue.commit(suspend_claim(first, "w"), 4.0)
        due = [(visit.id, visit.due_at) for visit in store.runs.visits(run.id) if visit.status == "waiting"]
        assert due == [(first.visit.id, 4.0), (second.visit.id, 50.0)]

    def test_only_the_holder_of_the_claim_opens_a_wait(self, store: Store) -> None:
        run = start_run(store)
        lost = claim_visit(store, run)
        held = claim_visit(store, run, now=30.0)
        with pytest.raises(FencedError):
            open_wait(store, lost)
        assert refusal_of_answer(store) == "unknown_token"
        open_wait(store, held, "mine")
        store.queue.commit(suspend_claim(held, "w"), 31.0)
        with pytest.raises(FencedError):
            open_wait(store, held)
        assert refusal_of_answer(store) == "unknown_token"

    # Heartbeats

    def test_the_last_heartbeat_is_kept(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.waits.record_heartbeat("t", 5.0)
        store.waits.record_heartbeat("t", 6.0)
        assert store.waits.wait(key) == Wait("w", last_heartbeat_at=6.0)
        assert store.queue.next_due(run.id) == NEVER
        store.waits.answer("t", 1, 7.0)
        assert refusal_of_heartbeat(store) == "closed"
        assert store.waits.wait(key) == Wait("w", 1, 7.0, 6.0)

    # Closed waits

    def test_a_closed_wait_refuses_answers(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        for now in (5.0, 6.0):
            assert store.waits.close_wait(key, now) == Wait("w")
        assert refusal_of_answer(store) == refusal_of_heartbeat(store) == "closed"
        assert (store.waits.wait(key), store.queue.next_due(run.id)) == (Wait("w"), NEVER)

    def test_a_wait_may_be_closed_after_its_answer(self, store: Store) -> None:
        _, key = start_waiting_run(store)
        store.waits.answer("t", 7, 5.0)
        assert store.waits.close_wait(key, 6.0) == Wait("w", 7, 5.0)
        store.waits.answer("t", 7, 8.0)
        assert refusal_of_answer(store, 8) == "answered_otherwise"

    def test_a_wait_may_be_closed_before_it_is_opened(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        assert store.waits.close_wait(wait_key(claim), 5.0) == Wait("w")
        open_wait(store, claim)
        assert refusal_of_answer(store) == "closed"

    def test_a_finished_visit_refuses_answers(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        open_wait(store, claim)
        store.queue.commit(succeed(store, claim), 2.0)
        assert refusal_of_answer(store) == refusal_of_heartbeat(store) == "closed"

    def test_a_resumed_run_accepts_answers_again(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        assert refusal_of_answer(store) == refusal_of_heartbeat(store) == "closed"
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert store.queue.next_due(run.id) == NEVER
        store.waits.answer("t", 1, 11.0)
        assert claim_visit(store, run, 11.0).visit.id == key.visit_id

    def test_an_answer_to_a_stopping_run_is_kept_for_its_resume(self, store: Store) -> None:
        run, key = start_waiting_run(store)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        store.waits.answer("t", 1, 2.5)
        assert visit_states(store, run)[0] == ("a", "parked")
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.runs.resume(run.id, 10.0, deadline_at=None, values={})
        assert claim_visit(store, run, 10.0).visit.id == key.visit_id
        assert store.waits.wait(key).answer == 1

    # Change signals

    def test_an_answer_signals_work_and_changes(self, store: Store) -> None:
        start_waiting_run(store)
        work, changes = store.work.count, store.changes.count
        store.waits.answer("t", 1, 5.0)
        store.work.wait(work, 60.0)
        store.changes.wait(changes, 60.0)

    # Child runs

    def test_the_source_and_the_parent_of_a_run_are_stored(self, store: Store) -> None:
        parent, key = start_waiting_run(store)
        plain = start_child(store, parent, None, "b")
        run, first = new_run(
            store.plans.header(plain.plan_hash), plain.plan_hash, StartRequest(source="/a b.yaml"), now=1.0
        )
        linked = store.runs.create(replace(run, resumed_from=parent.id), first)
        answering = start_child(store, parent, key, "c", source="x.yaml")
        for run in (plain, linked, answering):
            assert current_run(store, run) == run
        assert (answering.parent, answering.depth, plain.parent, linked.resumed_from) == (
            key,
            1,
            None,
            parent.id,
        )

    def test_a_child_run_is_started_once(self, store: Store) -> None:
        parent, key = start_waiting_run(store)
        first = start_child(store, parent, key, "c")
        before = run_contents(store, first)
        assert start_child(store, parent, key, "c", now=5.0) == first
        assert run_contents(store, first) == before
        assert len(store.runs.find(RunFilter())[0]) == 2

    @pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.SUCCEEDED])
    def test_the_end_of_a_child_run_answers_its_wait(self, store: Store, status: RunStatus) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        store.queue.commit(suspend_claim(claim, "w"), 1.0)
        other = start_child(store, run, wait_key(claim), "c")
        if status is RunStatus.FAILED:
            store.queue.commit(fail(store, claim_visit(store, run, 2.0)), 2.0)
        else:
            for _ in range(3):
                store.queue.commit(succeed(store, claim_visit(store, run, 2.0)), 2.0)
        assert (store.waits.wait(wait_key(claim)), store.queue.next_due(run.id)) == (Wait("w"), 2.0)
        end = claim_visit(store, run, 2.0)
        assert end.run.id == other.id
        store.queue.finish(end, RunEnding(status, None, []), 3.0)
        assert store.waits.wait(wait_key(claim)) == Wait("w", answered_at=3.0)
        assert claim_visit(store, run, 3.0).visit.id == claim.visit.id

    def test_a_child_run_may_end_before_its_parent_waits(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        other = start_child(store, run, wait_key(claim), "c")
        store.runs.stop(other.id, RunStatus.CANCELLED, 2.0)
        store.queue.finish(claim_visit(store, run, 2.0), RunEnding(RunStatus.CANCELLED, None, []), 3.0)
        store.queue.commit(suspend_claim(claim, "w"), 4.0)
        assert claim_visit(store, run, 4.0).visit.id == claim.visit.id

    def test_the_parent_waits_again_for_a_resumed_child(self, store: Store) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        other = start_child(store, run, wait_key(claim), "c")
        store.runs.stop(other.id, RunStatus.CANCELLED, 2.0)
        store.queue.finish(claim_visit(store, run, 2.0), RunEnding(RunStatus.CANCELLED, None, []), 3.0)
        store.runs.resume(other.id, 4.0, deadline_at=None, values={})
        assert store.waits.wait(wait_key(claim)) == Wait("w")
        store.queue.commit(suspend_claim(claim, "w"), 5.0)
        assert claim_visit(store, run, 6.0).run.id == other.id
        assert store.queue.claim(run.id, LEASE, 6.0) is None

    @pytest.mark.parametrize("how", ["stop", "failure"])
    def test_a_stop_cancels_child_runs(self, store: Store, how: str) -> None:
        run = start_run(store)
        claim = claim_visit(store, run)
        awaited = start_child(store, run, wait_key(claim), "c")
        detached = start_child(store, run, None, "d")
        grandchild = start_child(store, awaited, WaitKey("c", store.runs.visits("c")[0].id, "w"), "e")
        stopped_child = start_child(store, run, wait_key(claim, "x"), "f")
        store.runs.stop(stopped_child.id, RunStatus.FAILED, 1.0)
        if how == "stop":
            store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        else:
            store.queue.commit(fail(store, claim), 2.0)
        stops = [
            current_run(store, child_run).stop for child_run in (awaited, grandchild, detached, stopped_child)
        ]
        assert stops == ["cancelled", "cancelled", None, "failed"]
        assert visit_states(store, awaited)[0] == ("a", VisitStatus.PARKED)
        assert store.runs.cancelled_runs(
            [run.id, awaited.id, grandchild.id, detached.id, stopped_child.id]
        ) == {
            *([run.id] if how == "stop" else []),
            awaited.id,
            grandchild.id,
        }
        assert store.runs.cancelled_runs([]) == set()
