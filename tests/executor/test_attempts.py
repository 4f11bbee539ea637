"""What becomes of one action: what it is called with, and when it is called again."""

from __future__ import annotations

import pytest
from noetl.executor.engine.journal import WorkSuspended
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
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


def test_a_call_has_all_around_it(probe: FakeHandler) -> None:
    outcome_of(fake_action("x"), scope=Scope(RUN, VISIT))
    (call,) = probe.calls
    assert call.parameters == {"say": "x"}
    assert call.idempotency_key == Scope(RUN, VISIT).idempotency_key("run.0")
    assert call.labels == {"run": "r1", "step": "s", "visit": 1, "trace": trace_id(RUN)}
    assert 0 < call.remaining_seconds() <= 60


def test_a_bug_of_a_handler_is_a_failure(probe: FakeHandler, caplog: pytest.LogCaptureFixture) -> None:
    probe.answers = [KeyError("x")]
    assert failure_of(outcome_of(fake_action())) == ("KeyError", "the handler of `probe` raised: 'x'")
    assert "the handler of `probe` raised" in caplog.text


def test_the_death_of_a_worker_is_none(probe: FakeHandler) -> None:
    probe.answers = [SystemExit()]
    with pytest.raises(SystemExit):
        outcome_of(fake_action())


def test_parameters_that_cannot_be_rendered(probe: FakeHandler) -> None:
    found = outcome_of(fake_action("{{ x }}"))
    assert failure_of(found) == ("UndefinedName", "`say`: `x` is undefined")
    assert found.error is not None
    assert not found.error["retryable"]
    assert probe.calls == []


def test_the_shorter_time_counts(probe: FakeHandler) -> None:
    outcome_of(fake_action(timeout_seconds=5), fake_action(timeout_seconds=1000), fake_action())
    left = [call.remaining_seconds() for call in probe.calls]
    assert left[0] <= 5
    assert 5 < left[1] <= 60
    assert 5 < left[2] <= 60


class TestRetries:
    def test_until_it_gets_better(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no"), ActionError("Custom", "no"), "yes"]
        waits: list[float] = []
        at_work = work_context(waits=waits)
        found = perform(
            at_work, [fake_action(retry=Retry(4, 1.0, 3.0, jitter=False))], Scope(RUN, VISIT), "run"
        )
        assert (found.data, waits) == ("yes", [1.0, 3.0])
        assert len({call.idempotency_key for call in probe.calls}) == 1
        events = at_work.events.flush_all(list)
        types = [event.type for event in events]
        assert types == ["action.started", "action.retrying"] * 2 + ["action.started", "action.completed"]
        assert events[1].payload["wait_seconds"] == 1.0

    def test_in_another_piece_where_this_one_has_no_time_for_the_wait(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no")]
        at_work = work_context(seconds=1)
        at_work.attempt_deadline += 60
        with pytest.raises(WorkSuspended) as found:
            perform(at_work, [fake_action(retry=Retry(2, 5.0, jitter=False))], Scope(RUN, VISIT), "run")
        assert (found.value.due_at, found.value.retried) == (10.0, ("probe",))

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
    def test_no_longer(self, probe: FakeHandler, error: ActionError, retry: Retry) -> None:
        probe.answers = [error]
        assert failure_of(outcome_of(fake_action(retry=retry))) == ("Custom", "no")
        assert len(probe.calls) == 1

    def test_a_condition_that_has_no_value(self, probe: FakeHandler) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = outcome_of(fake_action(retry=Retry(5, condition="{{ error.status >= 500 }}")))
        assert failure_of(found) == ("Custom", "no")
