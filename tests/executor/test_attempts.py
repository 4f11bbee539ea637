"""The attempts of one action: the call of its handler, and its retries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.attempts import MAX_ERROR_MESSAGE, MAX_ERROR_TYPE, read_saved_names
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
from noetl.executor.model.outcome import WorkSuspension
from noetl.executor.model.tracing import trace_id
from noetl.planner.plan import Retry
from tests.executor.fake_handler import (
    RUN,
    VISIT,
    FakeHandler,
    failure_of,
    fake_action,
    outcome_of,
    work_context,
)


def test_a_call_has_parameters_key_labels_and_deadline(probe: FakeHandler) -> None:
    outcome_of(fake_action("x"), scope=Scope(RUN, VISIT))
    (call,) = probe.calls
    assert call.parameters == {"say": "x"}
    assert call.idempotency_key == Scope(RUN, VISIT).idempotency_key("run.0")
    assert call.labels == {
        "run": "r1",
        "step": "s",
        "visit": 1,
        "trace_id": trace_id(RUN),
        "trace_flags": "01",
    }
    assert 0 < call.remaining_seconds() <= 60


def test_an_unexpected_exception_of_a_handler_is_a_failure(
    probe: FakeHandler, caplog: pytest.LogCaptureFixture
) -> None:
    probe.answers = [KeyError("x")]
    assert failure_of(outcome_of(fake_action())) == ("KeyError", "the handler of `probe` raised: 'x'")
    assert "the handler of `probe` raised" in caplog.text


@pytest.mark.parametrize("is_of_parameter", [True, False])
def test_a_text_that_utf_8_cannot_hold_is_a_wrong_parameter(
    probe: FakeHandler, is_of_parameter: bool
) -> None:
    probe.answers = [UnicodeEncodeError("utf-8", "a\ud800" if is_of_parameter else "é", 0, 1, "reason")]
    type, message = failure_of(outcome_of(fake_action()))
    assert (type == "ParameterError") is is_of_parameter
    assert message.startswith("a text has half of a surrogate pair") is is_of_parameter


@pytest.mark.parametrize(
    "error", [ActionError("T" * 5_000_000, "m" * 5_000_000, retryable=False), ValueError("m" * 5_000_000)]
)
def test_an_error_has_the_beginning_of_a_long_message(probe: FakeHandler, error: Exception) -> None:
    """The status of a run, its events and the log have it. A loop may fail for each of its items."""
    probe.answers = [error]
    type, message = failure_of(outcome_of(fake_action()))
    assert len(type) <= MAX_ERROR_TYPE + 1
    assert len(message) <= MAX_ERROR_MESSAGE + 1
    assert message.endswith("m…")


def test_details_of_an_error_have_no_large_entries(probe: FakeHandler) -> None:
    details = {"workflow_id": "r2", "result": {"rows": ["x" * 1_000_000]}, "error": {"message": "no"}}
    probe.answers = [ActionError("WorkflowFailed", "no", retryable=False, details=details)]
    error = outcome_of(fake_action()).error
    assert error is not None
    assert error["details"] == {"workflow_id": "r2", "result": None, "error": {"message": "no"}}
    many = {f"n{number}": "x" * 30_000 for number in range(1_000)}
    for wrong in (["x" * 1_000_000], {"x" * 1_000_000: 1}, {"a": {"x" * 1_000_000: 1}}, many):
        probe.answers = [ActionError("WorkflowFailed", "no", retryable=False, details=wrong)]
        error = outcome_of(fake_action()).error
        assert error is not None
        assert error["details"] in (None, {"a": None})


def test_details_of_an_error_are_measured_as_they_are_stored(probe: FakeHandler) -> None:
    probe.answers = [ActionError("Failed", "no", retryable=False, details={"a": "\x01" * 200_000, "b": 1})]
    error = outcome_of(fake_action()).error
    assert error is not None
    assert error["details"] == {"a": None, "b": 1}


def test_a_system_exit_is_not_caught(probe: FakeHandler) -> None:
    probe.answers = [SystemExit()]
    with pytest.raises(SystemExit):
        outcome_of(fake_action())


def test_a_parameter_that_cannot_be_rendered_fails_the_action(probe: FakeHandler) -> None:
    found = outcome_of(fake_action("{{ x }}"))
    assert failure_of(found) == ("UndefinedName", "`say`: `x` is undefined")
    assert found.error is not None
    assert not found.error["retryable"]
    assert probe.calls == []


def test_an_action_type_that_is_not_enabled_fails(probe: FakeHandler) -> None:
    context = work_context()
    context = replace(context, capabilities=replace(context.capabilities, actions=("log",)))
    found = outcome_of(fake_action(), context=context)
    assert failure_of(found) == (
        "ActionDisabled",
        "action type `probe` is not allowed here: NOETL_ALLOW_ACTIONS does not name it",
    )
    assert probe.calls == []


@pytest.mark.parametrize("data", [None, [], {}, {"y": 1}])
def test_a_result_without_a_declared_name_is_a_bug_of_the_handler(data: Any) -> None:
    assert read_saved_names(("y", "x"), {"x": 1, "y": 2, "z": 3}) == {"x": 1, "y": 2}
    with pytest.raises(TypeError, match="its result must have a value for `x`"):
        read_saved_names(("x",), data)


def test_the_earlier_deadline_applies(probe: FakeHandler) -> None:
    outcome_of(fake_action(timeout_seconds=5), fake_action(timeout_seconds=1000), fake_action())
    left = [call.remaining_seconds() for call in probe.calls]
    assert left[0] <= 5
    assert 5 < left[1] <= 60
    assert 5 < left[2] <= 60


class TestActionRetries:
    def test_an_action_is_retried_until_it_succeeds(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no"), ActionError("Custom", "no"), "yes"]
        waits: list[float] = []
        context = work_context(waits=waits)
        found = outcome_of(fake_action(retry=Retry(4, 0.25, 3.0, jitter=False)), context=context)
        assert (found.data, waits) == ("yes", [0.25, 0.75])
        assert len({call.idempotency_key for call in probe.calls}) == 1
        events = context.events.flush_all(list)
        types = [event.type for event in events]
        assert types == ["action.started", "action.retrying"] * 2 + ["action.started", "action.completed"]
        assert events[1].payload["wait_seconds"] == 0.25

    def test_an_error_may_ask_for_a_longer_delay(self, probe: FakeHandler) -> None:
        busy = ActionError("HTTPStatus", "busy", details={"retry_after_seconds": 0.5})
        probe.answers = [busy, busy, "yes"]
        waits: list[float] = []
        context = work_context(waits=waits)
        retry = Retry(4, 0.1, 1.0, max_delay_seconds=0.4, jitter=False)
        assert outcome_of(fake_action(retry=retry), context=context).data == "yes"
        assert waits == [0.4, 0.4]

    @pytest.mark.parametrize(("delay", "attempts"), [(9.9, 1), (1.1, 1), (0.3, 4)])
    def test_delays_that_are_long_together_suspend_the_work(
        self, probe: FakeHandler, delay: float, attempts: int
    ) -> None:
        probe.answers = [ActionError("Custom", "no")] * 1000
        waits: list[float] = []
        action = fake_action(retry=Retry(1000, delay, 1.0, jitter=False))
        found = perform(work_context(seconds=3600, waits=waits), [action], Scope(RUN, VISIT), "run")
        assert isinstance(found, WorkSuspension)
        assert (len(probe.calls), sum(waits) <= 1.0) == (attempts, True)

    def test_a_retry_past_the_segment_deadline_suspends_the_work(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no")]
        context = work_context(seconds=1, more_seconds=60)
        action = fake_action(retry=Retry(2, 5.0, jitter=False))
        found = perform(context, [action], Scope(RUN, VISIT), "run")
        assert isinstance(found, WorkSuspension)
        assert (found.due_at, found.retried) == (10.0, ("probe",))

    @pytest.mark.parametrize(
        ("error", "retry"),
        [
            (ActionError("Custom", "no"), Retry(1)),
            (ActionError("Custom", "no", retryable=False), Retry(5)),
            (ActionError("Custom", "no"), Retry(5, 1000.0)),
            (ActionError("Custom", "no", status=400), Retry(5, condition="{{ error.status >= 500 }}")),
        ],
        ids=["used up", "cannot get better", "out of time", "unconditional"],
    )
    def test_an_action_is_not_retried(self, probe: FakeHandler, error: ActionError, retry: Retry) -> None:
        probe.answers = [error]
        assert failure_of(outcome_of(fake_action(retry=retry))) == ("Custom", "no")
        assert len(probe.calls) == 1

    def test_a_condition_without_a_value_counts_as_false(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = outcome_of(fake_action(retry=Retry(5, condition="{{ error.status >= 500 }}")))
        assert failure_of(found) == ("Custom", "no")
