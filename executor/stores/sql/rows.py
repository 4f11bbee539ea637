"""Conversion between records and rows of a SQL store. Structured values are JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from noetl.executor.model.events import Event
from noetl.executor.model.json_values import find_saved_result, take_saved_result
from noetl.executor.model.large_json import read_large_json
from noetl.executor.model.registry import ApiKey, PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.run import FailureState, Progress, Run, RunStatus, Visit, VisitStatus, WaitKey
from noetl.executor.model.run_summary import ResultText, RunSummary, VisitSummary
from noetl.executor.model.stored_json import encode_json, encode_payload
from noetl.executor.stores.cursors import write_event_id
from noetl.executor.stores.damage import UNREADABLE, unreadable_run

if TYPE_CHECKING:
    import sqlite3

Row: TypeAlias = "Mapping[str, Any] | sqlite3.Row"


def encode_json_or_null(value: Any) -> str | None:
    """Return the JSON of a value, or None (NULL) for None and for {}."""
    return None if value is None or value == {} else encode_payload(value)


def decode_json(text: str | None) -> Any:
    """Return the value of a JSON text, or None for NULL."""
    return None if text is None else read_large_json(text)


def encode_run_data(run: Run) -> dict[str, str]:
    """Return the input, environment and variables of a run as JSON. They may be large."""
    return {
        "input": encode_payload(dict(run.input)),
        "environment": encode_payload(dict(run.environment)),
        "variables": encode_payload(dict(run.variables)),
    }


def encode_result(result: Any, saved: Mapping[str, Any]) -> str | None:
    """Return the text of the column `result`. A value that is also in `saved` is stored once.

    `=` stands for all of `saved`, and `=NAME` for one saved value. Other results are JSON, which never begins
    with `=`.

    >>> rows = [1]
    >>> encode_result(rows, {"n": rows}), encode_result(2, {}), encode_result(None, {})
    ('=n', '2', None)
    """
    if result is None:
        return None
    name = find_saved_result(result, saved)
    return encode_payload(result) if name is None else f"={name}"


def decode_result(text: str | None, saved: Mapping[str, Any]) -> Any:
    """Return the result that `encode_result` was given."""
    if text is None or not text.startswith("="):
        return decode_json(text)
    return take_saved_result(text[1:], saved)


def run_from_row(row: Row) -> Run:
    """Return the run of a row of `runs`.

    Raises:
        DamagedRunError: the row cannot be decoded.
    """
    try:
        return _decode_run(row)
    except UNREADABLE as error:
        raise unreadable_run(row["id"], error) from error


def _decode_run(row: Row) -> Run:
    return Run(
        id=row["id"],
        tenant=row["tenant"],
        playbook=row["playbook"],
        version=row["version"],
        plan_hash=row["plan_hash"],
        status=RunStatus(row["status"]),
        origin=row["origin"],
        queue=row["queue"],
        input=read_large_json(row["input"]),
        environment=read_large_json(row["environment"]),
        variables=read_large_json(row["variables"]),
        tags=tuple(json.loads(row["tags"])),
        folder=row["folder"],
        source=row["source"],
        parent=parent_from_row(row),
        depth=row["depth"],
        root=row["root"],
        resumed_from=row["resumed_from"],
        trace=row["trace"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        deadline_at=row["deadline_at"],
        live=row["live"],
        failed_branches=row["failed_branches"],
        stop=None if row["stop"] is None else RunStatus(row["stop"]),
        resumes=row["resumes"],
        result=decode_json(row["result"]),
        error=decode_json(row["error"]),
        errors=tuple(json.loads(row["errors"])),
        trigger=decode_json(row["trigger"]),
        starts=row["starts"],
    )


def summary_from_row(row: Row) -> RunSummary:
    """Return the summary of the run of a row with `{summary_columns}`."""
    return RunSummary(
        id=row["id"],
        tenant=row["tenant"],
        playbook=row["playbook"],
        version=row["version"],
        plan_hash=row["plan_hash"],
        status=RunStatus(row["shown"]),
        origin=row["origin"],
        queue=row["queue"],
        tags=tuple(json.loads(row["tags"])),
        folder=row["folder"],
        parent=parent_from_row(row),
        resumed_from=row["resumed_from"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        stop=None if row["stop"] is None else RunStatus(row["stop"]),
        resumes=row["resumes"],
        trigger=decode_json(row["trigger"]),
        starts=row["starts"],
    )


def result_text_from_row(run_id: str, row: Row) -> ResultText:
    """Return the result of the run of a row, as its text."""
    text = "null" if row["result"] is None else row["result"]
    return ResultText(run_id, RunStatus(row["shown"]), text, tuple(json.loads(row["errors"])))


def parent_from_row(row: Row) -> WaitKey | None:
    """Return the wait of the parent run that this run answers, or None."""
    return (
        None
        if row["parent_run"] is None
        else WaitKey(row["parent_run"], row["parent_visit"], row["parent_wait"])
    )


def key_from_row(row: Row) -> ApiKey:
    return ApiKey(
        id=row["id"],
        hash=row["hash"],
        tenant=row["tenant"],
        name=row["name"],
        scopes=tuple(json.loads(row["scopes"])),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )


def playbook_from_row(row: Row) -> RegisteredPlaybook:
    return RegisteredPlaybook(
        tenant=row["tenant"],
        name=row["name"],
        version=row["version"],
        plan_hash=row["plan_hash"],
        registered_at=row["created_at"],
        registered_by=row["registered_by"],
    )


def alias_from_row(row: Row) -> PlaybookAlias:
    return PlaybookAlias(
        tenant=row["tenant"],
        playbook=row["playbook"],
        name=row["alias"],
        version=row["version"],
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )


def visit_from_row(row: Row) -> Visit:
    """Return the visit of a row. The columns `saved`, `result` and `failures` may be missing.

    Raises:
        DamagedRunError: the row cannot be decoded.
    """
    try:
        return _decode_visit(row)
    except UNREADABLE as error:
        raise unreadable_run(row["run_id"], error) from error


def _decode_visit(row: Row) -> Visit:
    columns = row.keys()
    names = {name: (clock, id) for name, (clock, id) in json.loads(row["names"]).items()}
    saved = (decode_json(row["saved"]) or {}) if "saved" in columns else {}
    return Visit(
        id=row["id"],
        run_id=row["run_id"],
        step=row["step"],
        status=VisitStatus(row["status"]),
        clock=row["clock"],
        names=names,
        number=row["number"],
        attempt=row["attempt"],
        claims=row["claims"],
        fence=row["fence"],
        worker=row["worker"],
        due_at=row["due_at"],
        started_at=row["started_at"],
        segment_started_at=row["piece_at"],
        finished_at=row["finished_at"],
        saved=saved,
        result=decode_result(row["result"], saved) if "result" in columns else None,
        failures=tuple(decode_json(row["failures"]) or ()) if "failures" in columns else (),
        case=row["case"],
        error=decode_json(row["error"]),
        failure=None if row["failure"] is None else FailureState(row["failure"]),
        progress=_progress_from_row(row),
    )


def visit_summary_from_row(row: Row) -> VisitSummary:
    """Return the summary of a visit from the columns of `runs.latest_visits`."""
    return VisitSummary(
        id=row["id"],
        status=VisitStatus(row["status"]),
        number=row["number"],
        attempt=row["attempt"],
        due_at=row["due_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        case=row["case"],
        error=decode_json(row["error"]),
        progress=_progress_from_row(row),
    )


def _progress_from_row(row: Row) -> Progress | None:
    return None if row["progress"] is None else Progress(**json.loads(row["progress"]))


def claim_values(visit: Visit) -> dict[str, Any]:
    """Return the values of `{set_claim}`, and the key of the visit."""
    return {
        "run_id": visit.run_id,
        "visit_id": visit.id,
        "status": visit.status,
        "claims": visit.claims,
        "fence": visit.fence,
        "worker": visit.worker,
        "due_at": visit.due_at,
        "started_at": visit.started_at,
        "segment_started_at": visit.segment_started_at,
    }


def visit_values(visit: Visit) -> dict[str, Any]:
    """Return the values of `{new_visit_columns}` that a visit has when a branch enters its step."""
    values = claim_values(visit)
    values["step"] = visit.step
    values["clock"] = visit.clock
    values["names"] = encode_json(visit.names)
    values["number"] = visit.number
    return values


def encode_events(events: Iterable[Event]) -> str:
    return encode_json(
        [[e.type, e.at, e.step, e.visit, e.attempt, e.duration_seconds, dict(e.payload)] for e in events]
    )


def decode_events(run_id: str, seq: int, text: str) -> list[Event]:
    """Return the events of one row of `history`. Their ids are in the order of the history."""
    return [
        decode_event(encoded, write_event_id(run_id, (seq, index)))
        for index, encoded in enumerate(json.loads(text))
    ]


def decode_event(encoded: Sequence[Any], id: str) -> Event:
    """Return the event of an element of the column `events`."""
    type, time, step, visit, attempt, duration, payload = encoded
    return Event(type, time, step, visit, attempt, duration, payload, id)
