"""The end of a run: `finally`, the status and the result (sections 1, 5 and 7 of the language reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.oracle.expressions import EvaluationFailure, render
from tests.oracle.outcome import AllowedOutcome
from tests.oracle.visit import ChoiceSequence, VisitPerformer


@dataclass
class EndedBranches:
    """A run whose branches have ended, with the names and steps as its end sees them."""

    saved: Mapping[str, Any]
    records: Mapping[str, Any]
    visits: Mapping[str, int]
    failures: Sequence[Mapping[str, Any]]
    is_aborted: bool
    order: Sequence[list[Any]] = ()


def end_run(performer: VisitPerformer, ended: EndedBranches, choices: ChoiceSequence) -> AllowedOutcome:
    """Perform `finally`, evaluate `output` and return the outcome of a run."""
    program = performer.program
    failures = ended.failures
    status = "failed" if ended.is_aborted else "completed_with_errors" if failures else "succeeded"
    errors = [[failure["type"], failure["step"]] for failure in failures]
    saved, records = dict(ended.saved), dict(ended.records)
    visits, order = dict(ended.visits), list(ended.order)
    if name := program.playbook.get("finally"):
        number = visits[name] = visits.get(name, 0) + 1
        if program.is_sequential:
            order.append([name, number])
        names = program.names(saved, records)
        names["run"] = {**program.run, "status": status, "error": failures[0] if failures else None}
        done = performer.perform(name, number, names, choices)
        saved |= done.saved
        records[name] = done.record
        if done.failure:  # it is reported, and a run that had succeeded is `failed`
            errors.append([done.failure["type"], name])
            status = "failed" if status == "succeeded" else status
    result = None
    if status != "failed":
        result, failed_entries = _result(program.playbook.get("output"), saved, program.names(saved, records))
        errors += failed_entries
        status = "completed_with_errors" if failed_entries else status
    return AllowedOutcome.from_values(status, result, errors, visits, order)


def _result(
    output: Mapping[str, Any] | None, saved: Mapping[str, Any], names: Mapping[str, Any]
) -> tuple[dict[str, Any], list[list[str]]]:
    """Return the result, and the errors of entries that cannot be rendered and are null: section 1."""
    if output is None:
        return dict(saved), []
    result: dict[str, Any] = {}
    errors = []
    for key, value in output.items():
        try:
            result[key] = render(value, names)
        except EvaluationFailure as failure:
            result[key] = None
            errors.append([failure.type, "output"])
    return result, errors
