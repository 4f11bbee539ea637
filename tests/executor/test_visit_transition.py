"""The transitions of one visit: by hand for each branch, and as properties of all visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from noetl.executor.errors import FencedError
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import (
    DEADLINE,
    END,
    NEVER,
    Branch,
    FailureState,
    Lease,
    Progress,
    Visit,
    VisitStatus,
)
from noetl.executor.model.special_visits import (
    FINALLY_CLOCK,
    deadline_visit,
    end_visit,
    finally_visit,
    finally_visit_id,
    is_branch_visit,
)
from noetl.executor.model.visit_states import (
    ACTIVE,
    COMBINED,
    FINISHED,
    PARKABLE,
    TRANSITIONS,
    WAKEABLE,
    IllegalTransitionError,
    VisitTrigger,
    next_status,
)
from noetl.executor.model.visit_transition import (
    MAX_CLAIMS,
    claim,
    claim_lost,
    discards_batch_results,
    end_lease,
    enter_step,
    finish_end,
    is_due,
    is_held,
    is_waiting,
    park,
    release,
    renew,
    reopen,
    revoke_claim,
    start_events,
    unpark,
    wake,
)

NOW = 100.0
LEASE = Lease("w2", 30.0)
BRANCH = Branch("v1", "a", clock=3, names={"n": (1, "v0")})
READY = enter_step(BRANCH, "r1", due_at=90.0)
RUNNING = claim(READY, Lease("w1", 5.0), 91.0)
PROGRESS = Progress(journal={"run": {"at": 0}})
SUSPENDED = replace(RUNNING, status=VisitStatus.WAITING, claims=0, due_at=200.0, progress=PROGRESS)
PARKED = park(SUSPENDED)
ERROR = error_record(RUNNING, "Failed", "no")

times = st.floats(0, 1000)
errors = st.sampled_from([None, ERROR])


@st.composite
def visits(draw: st.DrawFn, *statuses: VisitStatus) -> Visit:
    """Draw visits as stores hold them: an ended visit has an end, a failed one a failure."""
    status = draw(st.sampled_from(statuses or tuple(VisitStatus)))
    started_at = draw(st.none() | times)
    return Visit(
        "v1",
        "r1",
        draw(st.sampled_from(["a", END])),
        status,
        clock=draw(st.integers(0, 9)),
        names={},
        attempt=draw(st.integers(1, 3)),
        claims=draw(st.integers(0, MAX_CLAIMS + 1)),
        fence=draw(st.integers(0, 9)),
        worker=draw(st.sampled_from([None, "w1"])),
        due_at=draw(times | st.just(NEVER)),
        started_at=started_at,
        segment_started_at=started_at,
        finished_at=draw(times) if status in FINISHED else None,
        error=ERROR if status is VisitStatus.FAILED else draw(errors),
        failure=draw(st.sampled_from(FailureState)) if status is VisitStatus.FAILED else None,
        progress=draw(st.sampled_from([None, Progress(), PROGRESS])),
    )


class TestTable:
    def test_every_status_has_a_row(self) -> None:
        assert set(TRANSITIONS) == {None, *VisitStatus}

    def test_every_trigger_is_used(self) -> None:
        assert {trigger for row in TRANSITIONS.values() for trigger in row} == set(VisitTrigger)

    def test_every_status_is_reachable(self) -> None:
        assert {status for row in TRANSITIONS.values() for status in row.values()} == set(VisitStatus)

    def test_the_groups_of_statuses_are_those_with_a_transition(self) -> None:
        def statuses_with(trigger: VisitTrigger) -> set[VisitStatus | None]:
            return {status for status, row in TRANSITIONS.items() if trigger in row}

        assert statuses_with(VisitTrigger.CLAIM) == set(ACTIVE)
        assert statuses_with(VisitTrigger.PARK) == set(PARKABLE)
        assert statuses_with(VisitTrigger.WAKE) == set(WAKEABLE)
        assert {*ACTIVE, VisitStatus.PARKED, *FINISHED} == set(VisitStatus)

    def test_a_success_is_final(self) -> None:
        assert TRANSITIONS[VisitStatus.SUCCEEDED] == {}

    @pytest.mark.parametrize(("first", "second"), COMBINED)
    def test_combined_transitions_follow_each_other(self, first: VisitTrigger, second: VisitTrigger) -> None:
        statuses = {row[first] for row in TRANSITIONS.values() if first in row}
        assert all(second in TRANSITIONS[status] for status in statuses)

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (None, "a visit that does not exist has no transition `run stops or is paused`"),
            (VisitStatus.FAILED, "a failed visit has no transition `run stops or is paused`"),
        ],
    )
    def test_another_transition_is_refused(self, status: VisitStatus | None, message: str) -> None:
        with pytest.raises(IllegalTransitionError) as refusal:
            next_status(status, VisitTrigger.PARK)
        assert str(refusal.value) == message


class TestEnterStep:
    def test_a_branch_makes_a_ready_visit(self) -> None:
        assert Visit("v1", "r1", "a", VisitStatus.READY, 3, {"n": (1, "v0")}, due_at=90.0) == READY

    def test_in_a_stopping_run_it_is_parked(self) -> None:
        visit = enter_step(BRANCH, "r1", 90.0, number=2, is_stopping=True)
        assert visit == replace(READY, status=VisitStatus.PARKED, number=2)


class TestClaim:
    def test_a_claim_takes_the_visit_for_the_length_of_the_lease(self) -> None:
        assert claim(READY, LEASE, NOW) == replace(
            READY,
            status=VisitStatus.RUNNING,
            claims=1,
            fence=1,
            worker="w2",
            due_at=130.0,
            started_at=NOW,
            segment_started_at=NOW,
        )

    def test_a_second_claim_keeps_the_start_of_the_attempt(self) -> None:
        again = claim(RUNNING, LEASE, NOW)
        assert (again.started_at, again.segment_started_at) == (91.0, 91.0)
        assert (again.claims, again.fence, again.worker) == (2, 2, "w2")

    def test_a_claim_after_a_suspension_starts_a_segment_of_the_same_attempt(self) -> None:
        suspended = replace(SUSPENDED, segment_started_at=None)
        again = claim(suspended, LEASE, NOW)
        assert (again.started_at, again.segment_started_at) == (91.0, NOW)

    def test_an_attempt_that_started_at_zero_is_not_started_again(self) -> None:
        again = claim(replace(RUNNING, started_at=0.0, segment_started_at=0.0), LEASE, NOW)
        assert (again.started_at, again.segment_started_at) == (0.0, 0.0)

    @given(visits(*ACTIVE))
    def test_every_claim_raises_the_fence_by_one(self, visit: Visit) -> None:
        claimed = claim(visit, LEASE, NOW)
        assert claimed.fence == visit.fence + 1
        assert is_held(claimed, claimed.fence)
        assert not is_held(claimed, visit.fence)
        assert not is_due(claimed, NOW)
        assert is_due(claimed, NOW + LEASE.seconds)

    @pytest.mark.parametrize(
        ("visit", "expected"),
        [
            (READY, False),
            (RUNNING, False),
            (SUSPENDED, True),
            (replace(READY, status=VisitStatus.RETRYING), True),
        ],
    )
    def test_a_visit_waits_for_a_time_or_an_answer(self, visit: Visit, expected: bool) -> None:
        assert is_waiting(visit) is expected

    @given(visits())
    def test_only_an_active_visit_is_due(self, visit: Visit) -> None:
        assert is_due(visit, NOW) == (visit.status in ACTIVE and visit.due_at <= NOW)

    def test_the_first_claim_of_an_attempt_is_recorded(self) -> None:
        (event,) = start_events(READY, RUNNING)
        assert (event.type, event.at, event.step, event.visit, event.attempt) == (
            "step.started", 91.0, "a", 1, 1,
        )  # fmt: skip
        assert event.payload == {"worker": "w1"}

    def test_a_later_claim_of_the_attempt_is_not(self) -> None:
        assert start_events(RUNNING, claim(RUNNING, LEASE, NOW)) == ()

    def test_claims_of_pseudo_steps_are_not(self) -> None:
        end = end_visit("r1", 0, NOW)
        assert start_events(end, claim(end, LEASE, NOW)) == ()


class TestLease:
    def test_a_renewal_moves_only_the_end_of_the_lease(self) -> None:
        assert renew(RUNNING, 150.0) == replace(RUNNING, due_at=150.0)

    def test_a_dead_worker_loses_its_lease(self) -> None:
        assert end_lease(RUNNING, NOW) == replace(RUNNING, due_at=NOW)

    @pytest.mark.parametrize(("counts", "claims"), [(True, 1), (False, 0)])
    def test_a_release_makes_the_visit_due_and_refuses_later_writes(self, counts: bool, claims: int) -> None:
        released = release(RUNNING, NOW, counts=counts)
        assert released == replace(RUNNING, due_at=NOW, fence=2, claims=claims, worker=None)
        assert not is_held(released, RUNNING.fence)

    def test_only_the_newest_claim_of_a_running_visit_is_held(self) -> None:
        assert is_held(RUNNING, 1)
        assert not is_held(RUNNING, 0)
        assert not is_held(SUSPENDED, 1)

    def test_a_lost_claim_names_its_step(self) -> None:
        error = claim_lost(RUNNING)
        assert isinstance(error, FencedError)
        assert str(error) == "the claim of step `a` is lost"


class TestPark:
    def test_a_ready_visit_keeps_the_time_when_it_is_due(self) -> None:
        assert park(READY) == replace(READY, status=VisitStatus.PARKED)

    def test_a_suspended_visit_keeps_the_time_that_it_waits_for(self) -> None:
        assert park(SUSPENDED) == replace(SUSPENDED, status=VisitStatus.PARKED)

    @pytest.mark.parametrize("status", [VisitStatus.RUNNING, VisitStatus.PARKED, *FINISHED])
    def test_other_visits_are_not_parked(self, status: VisitStatus) -> None:
        with pytest.raises(IllegalTransitionError):
            park(replace(READY, status=status))


class TestRevokeClaim:
    @pytest.mark.parametrize(("before", "due_at"), [(READY, NOW), (replace(SUSPENDED, due_at=95.0), 95.0)])
    def test_a_claim_in_a_stopping_run_is_undone(self, before: Visit, due_at: float) -> None:
        claimed = claim(before, LEASE, NOW)
        revoked = revoke_claim(before, claimed, NOW)
        assert revoked == replace(before, status=VisitStatus.PARKED, due_at=due_at, fence=before.fence + 1)
        assert not is_held(revoked, claimed.fence)


class TestWake:
    @pytest.mark.parametrize("visit", [SUSPENDED, PARKED])
    def test_a_visit_that_waits_is_due(self, visit: Visit) -> None:
        assert wake(visit, NOW) == replace(visit, due_at=NOW)

    @given(visits())
    def test_other_visits_are_unchanged(self, visit: Visit) -> None:
        assume(visit.status not in WAKEABLE)
        assert wake(visit, NOW) is visit


class TestReopen:
    @pytest.mark.parametrize(
        "visit",
        [
            park(READY),
            replace(PARKED, due_at=NOW),
            replace(PARKED, progress=None),
            replace(PARKED, error=ERROR),
            replace(RUNNING, status=VisitStatus.FAILED, finished_at=99.0, failure=FailureState.OPEN),
            replace(RUNNING, status=VisitStatus.FAILED, finished_at=99.0, failure=FailureState.ENDED),
        ],
    )
    def test_work_that_does_not_wait_is_due_at_once(self, visit: Visit) -> None:
        reopened = reopen(visit, NOW)
        assert reopened == replace(
            visit,
            status=VisitStatus.READY,
            attempt=1,
            claims=0,
            due_at=NOW,
            started_at=None,
            segment_started_at=None,
            finished_at=None,
            case=None,
            error=None,
            failure=None,
        )

    def test_suspended_work_goes_on_waiting(self) -> None:
        reopened = reopen(PARKED, NOW)
        assert reopened is not None
        assert (reopened.status, reopened.due_at) == (VisitStatus.WAITING, 200.0)

    @given(visits())
    def test_only_parked_visits_and_unhandled_failures_continue(self, visit: Visit) -> None:
        reopened = reopen(visit, NOW)
        continues = visit.status is VisitStatus.PARKED or visit.failure in (
            FailureState.OPEN,
            FailureState.ENDED,
        )
        assert (reopened is not None) == continues

    @given(visits())
    def test_a_second_resume_changes_nothing(self, visit: Visit) -> None:
        reopened = reopen(visit, NOW)
        assume(reopened is not None)
        assert reopened is not None
        assert reopen(reopened, NOW + 1) is None

    @given(visits())
    def test_what_was_done_is_kept(self, visit: Visit) -> None:
        reopened = reopen(visit, NOW)
        assume(reopened is not None)
        assert reopened is not None
        assert (reopened.saved, reopened.progress, reopened.fence) == (
            visit.saved, visit.progress, visit.fence,
        )  # fmt: skip

    def test_the_sweep_makes_a_lost_parked_visit_ready(self) -> None:
        assert unpark(PARKED, NOW) == replace(PARKED, status=VisitStatus.READY, due_at=NOW)


class TestEnd:
    def test_the_visit_of_the_end_succeeds(self) -> None:
        end = claim(end_visit("r1", 0, NOW), LEASE, NOW)
        assert finish_end(end, 101.0) == replace(end, status=VisitStatus.SUCCEEDED, finished_at=101.0)

    @given(visits(*FINISHED))
    def test_an_ended_visit_never_changes(self, visit: Visit) -> None:
        assert not is_due(visit, NEVER)
        assert not is_held(visit, visit.fence)
        assert wake(visit, NOW) is visit
        changes: list[Callable[[], object]] = [
            lambda: claim(visit, LEASE, NOW),
            lambda: renew(visit, NOW),
            lambda: release(visit, NOW, counts=True),
            lambda: end_lease(visit, NOW),
            lambda: park(visit),
            lambda: unpark(visit, NOW),
            lambda: finish_end(visit, NOW),
        ]
        for change in changes:
            with pytest.raises(IllegalTransitionError):
                change()


class TestBatchResults:
    @pytest.mark.parametrize(
        ("visit", "discarded"),
        [
            (RUNNING, False),
            (SUSPENDED, False),
            (replace(SUSPENDED, progress=Progress(round=1)), True),
            (replace(SUSPENDED, status=VisitStatus.SUCCEEDED, finished_at=NOW), True),
            (
                replace(SUSPENDED, status=VisitStatus.FAILED, finished_at=NOW, failure=FailureState.HANDLED),
                True,
            ),
            (
                replace(SUSPENDED, status=VisitStatus.FAILED, finished_at=NOW, failure=FailureState.OPEN),
                False,
            ),
        ],
    )
    def test_they_are_discarded_when_nothing_continues_with_them(self, visit: Visit, discarded: bool) -> None:
        assert discards_batch_results(visit) is discarded


class TestSpecialVisits:
    def test_they_are_ready_and_differ_for_each_resume(self) -> None:
        for resumes in (0, 1):
            special = (
                end_visit("r1", resumes, NOW),
                finally_visit("r1", "f", resumes, NOW),
                deadline_visit("r1", resumes, NOW),
            )
            assert {visit.status for visit in special} == {VisitStatus.READY}
            assert [visit.step for visit in special] == [END, "f", DEADLINE]
        assert len({finally_visit_id(0), finally_visit_id(1)}) == 2
        assert len({end_visit("r1", resumes, NOW).id for resumes in (0, 1)}) == 2
        assert len({deadline_visit("r1", resumes, NOW).id for resumes in (0, 1)}) == 2
        assert finally_visit("r1", "f", 0, NOW).clock == FINALLY_CLOCK

    @pytest.mark.parametrize(
        ("visit", "expected"),
        [
            (READY, True),
            (end_visit("r1", 0, NOW), False),
            (deadline_visit("r1", 0, NOW), False),
            (finally_visit("r1", "f", 0, NOW), False),
        ],
    )
    def test_no_branch_has_made_them(self, visit: Visit, expected: bool) -> None:
        assert is_branch_visit(visit, "f") is expected
