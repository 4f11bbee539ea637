"""What becomes of one action: what it is called with, and when it is called again."""

from __future__ import annotations

import pytest
from noetl.executor.engine.journal import Suspended
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
from noetl.executor.model.tracing import trace_id
from noetl.planner.plan import Retry

from tests.executor.probe import RUN, VISIT, Probe, act, failure, outcome, piece


def test_a_call_has_all_around_it(probe: Probe) -> None:
    outcome(act("x"), scope=Scope(RUN, VISIT))
    (call,) = probe.calls
    assert call.parameters == {"say": "x"}
    assert call.idempotency_key == Scope(RUN, VISIT).idempotency_key("run.0")
    assert call.labels == {"run": "r1", "step": "s", "visit": 1, "trace": trace_id(RUN)}
    assert 0 < call.remaining_seconds() <= 60


def test_a_bug_of_a_handler_is_a_failure(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    probe.answers = [KeyError("x")]
    assert failure(outcome(act())) == ("KeyError", "the handler of `probe` raised: 'x'")
    assert "the handler of `probe` raised" in caplog.text


def test_the_death_of_a_worker_is_none(probe: Probe) -> None:
    probe.answers = [SystemExit()]
    with pytest.raises(SystemExit):
        outcome(act())


def test_parameters_that_cannot_be_rendered(probe: Probe) -> None:
    found = outcome(act("{{ x }}"))
    assert failure(found) == ("UndefinedName", "`say`: `x` is undefined")
    assert found.error is not None
    assert not found.error["retryable"]
    assert probe.calls == []


def test_the_shorter_time_counts(probe: Probe) -> None:
    outcome(act(timeout_seconds=5), act(timeout_seconds=1000), act())
    left = [call.remaining_seconds() for call in probe.calls]
    assert left[0] <= 5
    assert 5 < left[1] <= 60
    assert 5 < left[2] <= 60


class TestRetries:
    def test_until_it_gets_better(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no"), ActionError("Custom", "no"), "yes"]
        waits: list[float] = []
        at_work = piece(waits=waits)
        found = perform(at_work, [act(retry=Retry(4, 1.0, 3.0, jitter=False))], Scope(RUN, VISIT), "run")
        assert (found.data, waits) == ("yes", [1.0, 3.0])
        assert len({call.idempotency_key for call in probe.calls}) == 1
        events = at_work.telling.rest(list)
        types = [event.type for event in events]
        assert types == ["action.started", "action.retrying"] * 2 + ["action.started", "action.completed"]
        assert events[1].payload["wait_seconds"] == 1.0

    def test_in_another_piece_where_this_one_has_no_time_for_the_wait(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no")]
        at_work = piece(seconds=1)
        at_work.expires += 60
        with pytest.raises(Suspended) as found:
            perform(at_work, [act(retry=Retry(2, 5.0, jitter=False))], Scope(RUN, VISIT), "run")
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
    def test_no_longer(self, probe: Probe, error: ActionError, retry: Retry) -> None:
        probe.answers = [error]
        assert failure(outcome(act(retry=retry))) == ("Custom", "no")
        assert len(probe.calls) == 1

    def test_a_condition_that_has_no_value(self, probe: Probe) -> None:
        probe.answers = [ActionError("Custom", "no")]
        found = outcome(act(retry=Retry(5, condition="{{ error.status >= 500 }}")))
        assert failure(found) == ("Custom", "no")
