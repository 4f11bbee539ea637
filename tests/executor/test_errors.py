"""Errors that pass between processes."""

from __future__ import annotations

import pickle

from noetl.executor.errors import ActionError


def test_a_failure_of_an_action_stays_the_same_in_another_process() -> None:
    place = {"key": "set.x", "expression": "1 / n"}
    error = ActionError("Timeout", "too slow", retryable=False, status=504, details={"n": 1}).with_place(
        place
    )
    copied = pickle.loads(pickle.dumps(error))
    assert vars(copied) == vars(error)
    assert (str(copied), copied.place) == ("too slow", place)
