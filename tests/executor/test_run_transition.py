"""The transitions of a run, the rules of waits, and the limits: by hand for each branch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.errors import FencedError, NotJsonError, PayloadTooLargeError, RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.limits import REJECT_UNSTORABLE_OUTPUTS, PayloadLimits
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import Run, RunEnding, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_transition import (
    begin_run,
    check_same_request,
    decide_stop,
    finish_run,
    is_resumable,
    pause_run,
    resume_run,
    run_finished,
    run_paused,
    run_resumed,
    run_started,
    run_unpaused,
    shown_status,
    stop_run,
    unpause_run,
)
from noetl.executor.model.wait_transition import (
    check_same_answer,
    check_wait_open,
    unknown_token,
    wait_claim_lost,
)
from noetl.planner.plan import Header

QUEUED = Run(
    id="r1",
    tenant="t",
    playbook="p",
    version=None,
    plan_hash="h",
    status=RunStatus.QUEUED,
    origin="service",
    queue="service",
    input={"n": 1},
    environment={},
    variables={},
    tags=(),
    folder=None,
    created_at=5.0,
    live=1,
)
RUNNING = begin_run(QUEUED, 10.0)
HEADER = Header("play", "a")
VISIT = Visit("v1", "r1", "a", VisitStatus.RUNNING, 1, {})
FIRST, SECOND = error_record(VISIT, "First", "no"), error_record(VISIT, "Second", "no")
FINAL = [status for status in RunStatus if status.is_final]


class TestStart:
    def test_the_start_is_recorded_with_the_playbook(self) -> None:
        event = run_started(QUEUED)
        assert (event.type, event.at, event.payload) == ("workflow.started", 5.0, {"playbook": "p"})

    def test_a_run_that_continues_another_names_it(self) -> None:
        event = run_started(replace(QUEUED, resumed_from="r0"))
        assert event.payload == {"playbook": "p", "resumed_from": "r0"}

    def test_a_run_that_a_trigger_has_fired_names_the_firing(self) -> None:
        trigger = {"name": "nightly", "type": "schedule", "scheduled_at": "2026-01-31T00:00:00Z"}
        event = run_started(replace(QUEUED, trigger={**trigger, "workflow_id": None, "backfill": None}))
        assert event.payload == {"playbook": "p", "trigger": trigger}

    def test_the_first_claim_sets_the_start(self) -> None:
        assert replace(QUEUED, status=RunStatus.RUNNING, started_at=10.0) == RUNNING
        assert begin_run(RUNNING, 20.0) == RUNNING

    @pytest.mark.parametrize(
        ("status", "active", "waiting", "shown"),
        [
            (RunStatus.RUNNING, 2, 2, RunStatus.WAITING),
            (RunStatus.QUEUED, 1, 1, RunStatus.WAITING),
            (RunStatus.RUNNING, 2, 1, RunStatus.RUNNING),
            (RunStatus.RUNNING, 0, 0, RunStatus.RUNNING),
            (RunStatus.FAILED, 1, 1, RunStatus.FAILED),
        ],
    )
    @pytest.mark.parametrize("stop", [None, RunStatus.CANCELLED])
    def test_a_run_is_shown_as_waiting_while_all_of_it_waits(
        self, status: RunStatus, active: int, waiting: int, shown: RunStatus, stop: RunStatus | None
    ) -> None:
        assert shown_status(status, stop, active, waiting) is shown

    @pytest.mark.parametrize(("active", "waiting"), [(2, 2), (2, 1), (0, 0)])
    def test_a_run_is_shown_as_paused_until_it_ends(self, active: int, waiting: int) -> None:
        for status in (RunStatus.QUEUED, RunStatus.RUNNING):
            assert shown_status(status, RunStatus.PAUSED, active, waiting) is RunStatus.PAUSED
        assert shown_status(RunStatus.FAILED, RunStatus.PAUSED, active, waiting) is RunStatus.FAILED

    def test_an_idempotency_key_belongs_to_one_request(self) -> None:
        check_same_request("x", "x")
        with pytest.raises(RejectedError) as refusal:
            check_same_request("x", "y")
        assert refusal.value.reason == "idempotency_key_reused"


class TestFinish:
    def test_the_run_has_its_result_and_its_end(self) -> None:
        ended = finish_run(RUNNING, RunEnding(RunStatus.SUCCEEDED, {"x": 1}, []), 20.0)
        assert ended == replace(RUNNING, status=RunStatus.SUCCEEDED, result={"x": 1}, finished_at=20.0)

    def test_its_error_is_the_first(self) -> None:
        ended = finish_run(RUNNING, RunEnding(RunStatus.COMPLETED_WITH_ERRORS, None, [FIRST, SECOND]), 20.0)
        assert (ended.error, ended.errors) == (FIRST, (FIRST, SECOND))

    def test_the_error_that_stopped_it_is_kept(self) -> None:
        ended = finish_run(replace(RUNNING, error=SECOND), RunEnding(RunStatus.FAILED, None, [FIRST]), 20.0)
        assert ended.error == SECOND

    @pytest.mark.parametrize(
        ("status", "type"),
        [
            (RunStatus.SUCCEEDED, "workflow.completed"),
            (RunStatus.COMPLETED_WITH_ERRORS, "workflow.completed"),
            (RunStatus.FAILED, "workflow.failed"),
            (RunStatus.CANCELLED, "workflow.cancelled"),
            (RunStatus.TIMED_OUT, "workflow.timed_out"),
            (RunStatus.SKIPPED, "workflow.skipped"),
        ],
    )
    def test_the_event_is_named_after_the_status(self, status: RunStatus, type: str) -> None:
        event = run_finished(finish_run(RUNNING, RunEnding(status, None, []), 20.0))
        assert (event.type, event.at, event.duration_seconds) == (type, 20.0, 10.0)
        assert event.payload == {"status": status.value}

    @pytest.mark.parametrize("started_at", [None, 30.0])
    def test_no_duration_is_negative(self, started_at: float | None) -> None:
        ended = finish_run(
            replace(RUNNING, started_at=started_at), RunEnding(RunStatus.FAILED, None, []), 20.0
        )
        assert run_finished(ended).duration_seconds == 0.0


class TestStop:
    def test_a_run_stops_with_the_first_status(self) -> None:
        stopping = stop_run(RUNNING, RunStatus.CANCELLED)
        assert stopping == replace(RUNNING, stop=RunStatus.CANCELLED)
        assert stop_run(stopping, RunStatus.FAILED) == stopping

    @pytest.mark.parametrize("status", FINAL)
    def test_an_ended_run_is_stopped_only_with_its_own_status(self, status: RunStatus) -> None:
        ended = finish_run(RUNNING, RunEnding(status, None, []), 20.0)
        assert stop_run(ended, status) is ended
        for other in set(FINAL) - {status}:
            with pytest.raises(RejectedError) as refusal:
                stop_run(ended, other)
            assert (refusal.value.reason, str(refusal.value)) == (
                "finished", f"run r1 has already ended: {status.value}",
            )  # fmt: skip


class TestPause:
    def test_an_open_run_is_paused_once(self) -> None:
        for run in (QUEUED, RUNNING):
            paused = pause_run(run, is_ending=False)
            assert paused == replace(run, stop=RunStatus.PAUSED)
            assert (paused.is_paused, paused.ending) == (True, None)
            assert pause_run(paused, is_ending=False) is paused
            assert pause_run(paused, is_ending=True) is paused
            assert unpause_run(paused) == run
            assert unpause_run(run) is run

    def test_a_run_that_is_ending_is_not_paused(self) -> None:
        stopping = stop_run(RUNNING, RunStatus.CANCELLED)
        for run, is_ending in ((stopping, False), (RUNNING, True)):
            with pytest.raises(RejectedError) as refusal:
                pause_run(run, is_ending=is_ending)
            assert (refusal.value.reason, str(refusal.value)) == (
                "ending", "run r1 is already ending, so it cannot be paused; wait for its end",
            )  # fmt: skip
        assert unpause_run(stopping) is stopping

    @pytest.mark.parametrize("status", FINAL)
    def test_an_ended_run_is_neither_paused_nor_unpaused(self, status: RunStatus) -> None:
        ended = finish_run(pause_run(RUNNING, is_ending=False), RunEnding(status, None, []), 20.0)
        assert (ended.stop, ended.is_paused) == (None, False)
        with pytest.raises(RejectedError, match="has already ended"):
            pause_run(ended, is_ending=False)
        with pytest.raises(RejectedError, match="has already ended"):
            unpause_run(ended)

    def test_a_stop_replaces_a_pause(self) -> None:
        paused = pause_run(RUNNING, is_ending=False)
        assert stop_run(paused, RunStatus.CANCELLED) == replace(RUNNING, stop=RunStatus.CANCELLED)
        assert decide_stop(RunStatus.PAUSED, None) is RunStatus.PAUSED
        assert decide_stop(RunStatus.FAILED, RunStatus.CANCELLED) is RunStatus.FAILED

    def test_the_events_name_who_requested_them(self) -> None:
        assert run_paused(3.0, "ann") == Event("workflow.paused", 3.0, payload={"by": "ann"})
        assert run_unpaused(4.0, None) == Event("workflow.unpaused", 4.0, payload={})

    def test_a_paused_run_is_not_resumed(self) -> None:
        with pytest.raises(RejectedError) as refusal:
            is_resumable(pause_run(RUNNING, is_ending=False), HEADER)
        assert refusal.value.reason == "paused"


class TestResume:
    @pytest.mark.parametrize(
        ("status", "resumable"), [(status, status.is_final) for status in RunStatus if status != "succeeded"]
    )
    def test_only_an_ended_run_is_resumed(self, status: RunStatus, resumable: bool) -> None:
        assert is_resumable(replace(RUNNING, status=status), HEADER) is resumable

    def test_a_success_is_not_resumed(self) -> None:
        with pytest.raises(RejectedError) as refusal:
            is_resumable(replace(RUNNING, status=RunStatus.SUCCEEDED), HEADER)
        assert refusal.value.reason == "not_resumable"
        assert str(refusal.value) == "run r1 has succeeded; there is nothing to resume"

    def test_a_run_of_a_superseded_plan_is_not_resumed(self) -> None:
        superseded, failed = (
            replace(HEADER, sequential=True, format=1),
            replace(RUNNING, status=RunStatus.FAILED),
        )
        with pytest.raises(RejectedError, match="earlier version of NoETL") as refusal:
            is_resumable(failed, superseded)
        assert refusal.value.reason == "not_resumable"
        assert is_resumable(failed, replace(superseded, format=2))
        assert is_resumable(failed, replace(superseded, sequential=False))

    def test_the_run_starts_again_with_its_branches(self) -> None:
        failed = replace(
            finish_run(stop_run(RUNNING, RunStatus.FAILED), RunEnding(RunStatus.FAILED, None, [FIRST]), 20.0),
            live=1, failed_branches=2,
        )  # fmt: skip
        resumed = resume_run(failed, 99.0, {"input": {"n": 2}}, reopened_branches=2)
        assert resumed == replace(
            RUNNING, status=RunStatus.QUEUED, resumes=1, live=3, deadline_at=99.0, input={"n": 2}
        )
        event = run_resumed(resumed, 30.0)
        assert (event.type, event.at, event.payload) == ("workflow.resumed", 30.0, {"resumes": 1})

    @given(st.sampled_from(FINAL), st.integers(0, 3))
    def test_a_resumed_run_is_not_resumed_again(self, status: RunStatus, branches: int) -> None:
        ended = finish_run(RUNNING, RunEnding(status, None, []), 20.0)
        assert not is_resumable(resume_run(ended, None, {}, branches), HEADER)


class TestWaits:
    def test_an_open_wait_accepts_an_answer(self) -> None:
        check_wait_open(is_closed=False, is_answered=False, is_active=True)

    @pytest.mark.parametrize(
        "state",
        [
            {"is_closed": True, "is_answered": False, "is_active": True},
            {"is_closed": False, "is_answered": True, "is_active": True},
            {"is_closed": False, "is_answered": False, "is_active": False},
        ],
    )
    def test_another_wait_refuses_it(self, state: dict[str, bool]) -> None:
        with pytest.raises(RejectedError) as refusal:
            check_wait_open(**state)
        assert refusal.value.reason == "closed"

    def test_the_same_answer_again_changes_nothing(self) -> None:
        check_same_answer({"a": 1, "b": 2}, 5.0, {"b": 2, "a": 1})
        with pytest.raises(RejectedError) as refusal:
            check_same_answer(1, 5.0, True)
        assert refusal.value.reason == "answered_otherwise"

    def test_the_refusal_of_another_answer_has_the_beginning_of_the_first(self) -> None:
        with pytest.raises(RejectedError) as refusal:
            check_same_answer({"note": "\x1b" + "a" * 100, "b": 1}, 5.5, None)
        before, _, shown = refusal.value.message.partition(": ")
        assert before == "another answer arrived before, at 1970-01-01T00:00:05Z"
        assert shown.startswith('{"b":1,"note":"\\u001baaa')
        assert shown.endswith("a…")

    def test_errors_say_what_was_refused(self) -> None:
        assert unknown_token().reason == "unknown_token"
        assert isinstance(wait_claim_lost(), FencedError)


class TestPayloadLimits:
    LIMITS = PayloadLimits(payload_bytes=4, answer_bytes=3)

    def test_the_limit_itself_is_accepted(self) -> None:
        self.LIMITS.check_outputs(["12", None, "34"])
        self.LIMITS.check_result("12", "[]")
        assert self.LIMITS.encode_answer(123) == "123"

    def test_outputs_over_the_limit_are_refused(self) -> None:
        with pytest.raises(PayloadTooLargeError, match="the outputs of the step exceed 4 bytes of JSON"):
            self.LIMITS.check_outputs(["12", None, "345"])

    def test_a_result_over_the_limit_is_refused(self) -> None:
        with pytest.raises(PayloadTooLargeError, match="the result of the run exceeds 4 bytes of JSON"):
            self.LIMITS.check_result("123", "[]")

    def test_an_answer_over_the_limit_is_refused(self) -> None:
        with pytest.raises(RejectedError, match="the answer exceeds 3 bytes of JSON") as refusal:
            self.LIMITS.encode_answer(1234)
        assert refusal.value.reason == "too_large"

    @pytest.mark.parametrize("error", [TypeError("x"), ValueError("x"), RecursionError("x")])
    def test_outputs_that_are_no_json_are_refused(self, error: Exception) -> None:
        with (
            pytest.raises(NotJsonError, match="an output of the step cannot be written as JSON: x"),
            REJECT_UNSTORABLE_OUTPUTS,
        ):
            raise error
