"""Steps that a resume leaves out, with the results that are given for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Visit
from noetl.executor.model.visit_transition import reopen
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.diagnostics.diagnostic import did_you_mean


def find_skips(
    run_id: str,
    visits: Sequence[Visit],
    names: Sequence[str],
    results: Mapping[str, Any],
    requester: str | None,
) -> dict[str, Mapping[str, Any]]:
    """Return the visits that a resume leaves out, each with its result and who requests it.

    `visits` are those of the run, `names` the steps of its plan, and `results` those of steps.

    Raises:
        RejectedError: `unknown_step`; `not_skippable`, if no visit of a step has failed or is parked.
    """
    skips: dict[str, Mapping[str, Any]] = {}
    for step, result in results.items():
        if step not in names:
            hint = did_you_mean(step, names) or "`noetl runs show` lists the steps of the run"
            raise RejectedError("unknown_step", f"unknown step `{step}`; {hint}")
        stopped = [visit for visit in visits if visit.step == step and reopen(visit, 0.0) is not None]
        if not stopped:
            message = f"step `{step}` of run {run_id} has neither failed nor stopped before its end"
            raise RejectedError("not_skippable", f"{message}; only such steps can be skipped")
        entry = {"result": redact_for_storage(result), "by": requester}
        skips |= dict.fromkeys((visit.id for visit in stopped), entry)
    return skips
