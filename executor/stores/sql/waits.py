"""Waits of visits in a SQL store: the tokens that may answer them, and the answers.

Problem: an answer may arrive before its visit is suspended, twice, or after the wait is closed.

Algorithm: the answer is stored in the row of the wait, in a transaction that has locked the run. The first
answer is kept. If the visit is suspended or parked, it becomes due. If it is running, its commit finds the
answer.

Cost: one transaction for each answer.

Limits: an answer has at most MAX_ANSWER_BYTES of JSON.
"""

from __future__ import annotations

import json
from typing import Any

from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.run import Wait, WaitKey
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.sql.database import Database, Writer
from noetl.executor.stores.sql.rows import Row, decode_json, encode_json
from noetl.planner.plan import canonical_json

MAX_ANSWER_BYTES = 1024 * 1024
_WAIT = "run_id = ? and visit_id = ? and id = ?"
_OPEN = "insert into waits (run_id, visit_id, id) values (?, ?, ?) on conflict do nothing"


class SqlWaits:
    """The part of a SQL store that stores waits."""

    database: Database
    changes: ChangeSignal

    def announce_due(self, count: int | None = None) -> None: ...

    def open_wait(self, key: WaitKey, fence: int, token_hash: str) -> None:
        with self.database.transaction() as db:
            self.database.lock_run(db, key.run_id)
            query = "select 1 from visits where run_id = ? and id = ? and fence = ? and status = 'running'"
            if db.execute(query, (key.run_id, key.visit_id, fence)).fetchone() is None:
                raise FencedError("the claim of the waiting step is lost")
            db.execute(_OPEN, _values(key))
            db.execute("insert into tokens values (?, ?, ?, ?)", (token_hash, *_values(key)))

    def wait(self, key: WaitKey) -> Wait:
        rows = self.database.fetch_all(f"select * from waits where {_WAIT}", *_values(key))
        return _wait_from_row(rows[0]) if rows else Wait(key.id)

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        with self.database.transaction() as db:
            self.database.lock_run(db, key.run_id)
            db.execute(_OPEN, _values(key))
            query = f"update waits set closed_at = coalesce(closed_at, ?) where {_WAIT} returning *"
            return _wait_from_row(db.execute(query, (now, *_values(key))).fetchone())

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        text = encode_json(body)
        if len(text) > MAX_ANSWER_BYTES:
            raise RejectedError("too_large", f"the answer exceeds {MAX_ANSWER_BYTES:,} bytes of JSON")
        with self.database.transaction() as db:
            key, row = self._locked_wait(db, token_hash)
            if row["answered_at"] is not None:
                # Compared as text, because 1 and true are equal to `==`.
                if canonical_json(json.loads(row["answer"])) == canonical_json(body):
                    return key
                raise RejectedError("answered_otherwise", "another answer arrived before")
            _check_open(db, key, row)
            give_answer(db, key, text, now)
        self.announce_due(1)
        self.changes.notify()
        return key

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        with self.database.transaction() as db:
            key, row = self._locked_wait(db, token_hash)
            _check_open(db, key, row)
            db.execute(f"update waits set heard_at = ? where {_WAIT}", (now, *_values(key)))

    def _locked_wait(self, db: Writer, token_hash: str) -> tuple[WaitKey, Row]:
        """Lock the run of the wait that a token answers, and return the key and the row of the wait."""
        token = db.execute("select * from tokens where hash = ?", (token_hash,)).fetchone()
        if token is None:
            raise RejectedError("unknown_token", "no step has ever waited for this answer")
        key = WaitKey(token["run_id"], token["visit_id"], token["wait_id"])
        self.database.lock_run(db, key.run_id)
        return key, db.execute(f"select * from waits where {_WAIT}", _values(key)).fetchone()


def give_answer(db: Writer, key: WaitKey, text: str, now: float) -> None:
    """Answer a wait with JSON. A suspended visit is due at once, a parked visit when its run resumes."""
    db.execute(
        "insert into waits (run_id, visit_id, id, answer, answered_at) values (?, ?, ?, ?, ?)"
        " on conflict (run_id, visit_id, id)"
        " do update set answer = excluded.answer, answered_at = excluded.answered_at",
        (*_values(key), text, now),
    )
    db.execute(
        "update visits set due_at = ? where run_id = ? and id = ? and status in ('waiting', 'parked')",
        (now, key.run_id, key.visit_id),
    )


def delete_answer(db: Writer, key: WaitKey) -> None:
    """Delete the answer of a wait."""
    db.execute(f"delete from waits where {_WAIT}", _values(key))


def is_any_answered(db: Writer, run_id: str, visit_id: str, ids: tuple[str, ...]) -> bool:
    """Return whether one of the waits of a visit has an answer."""
    query = "select id from waits where run_id = ? and visit_id = ? and answered_at is not null"
    awaited = frozenset(ids)
    return any(row["id"] in awaited for row in db.execute(query, (run_id, visit_id)))


def _check_open(db: Writer, key: WaitKey, row: Row) -> None:
    query = (
        "select 1 from visits join runs on runs.id = visits.run_id where visits.run_id = ? and visits.id = ?"
        " and visits.finished_at is null and runs.finished_at is null"
    )
    is_active = db.execute(query, (key.run_id, key.visit_id)).fetchone() is not None
    if row["closed_at"] is not None or row["answered_at"] is not None or not is_active:
        raise RejectedError("closed", "the step does not wait for an answer any more")


def _values(key: WaitKey) -> tuple[str, str, str]:
    return key.run_id, key.visit_id, key.id


def _wait_from_row(row: Row) -> Wait:
    return Wait(row["id"], decode_json(row["answer"]), row["answered_at"], row["heard_at"])
