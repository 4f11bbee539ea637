"""Trials: which failures end a block of work, and which end its caller."""

from __future__ import annotations

import logging

import pytest

from noetl.executor.engine.trial import Trial
from noetl.executor.errors import RejectedError, StoreAwayError, StoreError, TriggerChangedError


@pytest.mark.parametrize(
    ("problem", "level"),
    [
        (RejectedError("quota_exceeded", "too many branches"), logging.WARNING),
        (StoreError("a plan is damaged"), logging.WARNING),
        (TriggerChangedError("it was changed"), logging.WARNING),
        (KeyError("wrong"), logging.ERROR),
    ],
)
def test_a_failure_is_logged_and_ends_the_block(
    problem: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Trial("trigger t of p") as trial:
        raise problem
    assert trial.problem is problem
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (level, level == logging.ERROR)
    assert record.getMessage().startswith("trigger t of p ")


@pytest.mark.parametrize("problem", [StoreAwayError("no answer"), KeyboardInterrupt()])
def test_an_absent_store_and_the_end_of_the_process_end_the_caller(problem: BaseException) -> None:
    with pytest.raises(type(problem)), Trial("trigger t of p"):
        raise problem


def test_work_without_a_failure_has_no_problem() -> None:
    with Trial("trigger t of p") as trial:
        pass
    assert trial.problem is None
