"""Waits of visits in a SQL store: the tokens that may answer them, and the answers.

Problem: an answer may arrive before its visit is suspended, twice, or after the wait is closed.

Algorithm: the answer is stored in the row of the wait, in a transaction that has locked the run. The first
answer is kept. If the visit is suspended or parked, it becomes due. If it is running, its commit finds the
answer.

The list of open waits is a partial index. The wait of a token has the tenant of its run while it is in the
list. The end of the run takes it out, and a resume puts it in again.

Cost: one transaction for each answer. A page of the list takes two queries. The first reads places, and the
lengths of journals; the second reads the visits that the page may hold.

Limits: those of `PayloadLimits`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from noetl.executor.model.open_waits import MAX_LISTED_JOURNALS, count_listed
from noetl.executor.model.run import Claim, ListedWait, TokenWait, Wait, WaitKey
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.wait_transition import (
    AnswerDeclaration,
    check_same_answer,
    check_wait_open,
    complete_answer,
    unknown_token,
    wait_claim_lost,
    wait_closed,
)
from noetl.executor.stores.cursors import read_wait_cursor, write_wait_cursor
from noetl.executor.stores.damage import decode_readable
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row, decode_json, visit_from_row

_PLACE = ("rank", "run_id", "visit_id", "id")
"""The columns of the place of a wait in the list."""


class SqlWaits:
    """The waits of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def open_wait(
        self,
        claim: Claim,
        wait_id: str,
        token_hash: str,
        declared: AnswerDeclaration | None = None,
        rank: float = 0.0,
    ) -> None:
        visit, fields = claim.visit, None if declared is None else encode_json(declared)
        key = WaitKey(visit.run_id, visit.id, wait_id)
        with self._context.database.transaction() as db:
            db.lock_run(key.run_id)
            held = db.execute("waits.is_held", run_id=key.run_id, visit_id=key.visit_id, fence=visit.fence)
            if held.fetchone() is None:
                raise wait_claim_lost()
            db.execute("waits.open_listed", tenant=claim.run.tenant, rank=rank, **asdict(key))
            db.execute("waits.add_token", token_hash=token_hash, fields=fields, **asdict(key))

    def find_open(
        self,
        tenant: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        journal_bytes: int = MAX_LISTED_JOURNALS,
    ) -> tuple[list[ListedWait], str | None]:
        after = {} if cursor is None else dict(zip(_PLACE, read_wait_cursor(cursor), strict=True))
        fetch_all = self._context.database.fetch_all
        places = fetch_all("waits.find_places", tenant=tenant, limit=limit + 1, **after)
        count = count_listed((place["journal"] for place in places[:limit]), journal_bytes)
        if not count:
            return [], None
        first = {name: places[0][name] for name in _PLACE}
        rows = fetch_all("waits.find_open", tenant=tenant, limit=count, **first)
        waits = [wait for _, wait in decode_readable(rows, _listed_from_row, lambda row: str(row["run_id"]))]
        if len(places) <= count or len(rows) < count:  # others were answered since the places were read
            return waits, None
        last = rows[-1]
        return waits, write_wait_cursor(last["rank"], WaitKey(last["run_id"], last["id"], last["wait_id"]))

    def wait(self, key: WaitKey) -> Wait:
        rows = self._context.database.fetch_all("waits.get", **asdict(key))
        return _wait_from_row(rows[0]) if rows else Wait(key.id)

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        with self._context.database.transaction() as db:
            db.lock_run(key.run_id)
            db.execute("waits.open", **asdict(key))
            return _wait_from_row(db.execute("waits.close", now=now, **asdict(key)).fetchone())

    def has_token(self, token_hash: str) -> bool:
        return bool(self._context.database.fetch_all("waits.get_token", token_hash=token_hash))

    def find_wait(self, token_hash: str) -> TokenWait | None:
        rows = self._context.database.fetch_all("waits.find_by_token", token_hash=token_hash)
        if not rows:
            return None
        (row,) = rows
        key = WaitKey(row["run_id"], row["visit_id"], row["wait_id"])
        is_closed = row["closed_at"] is not None
        return TokenWait(key, row["tenant"], decode_json(row["fields"]), row["answered_at"], is_closed)

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        self._context.limits.encode_answer(body)
        with self._context.database.transaction() as db:
            key, row, declared = _lock_wait(db, token_hash)
            is_first = self._answer(db, row, declared, body, now)
        if is_first:
            self._announce()
        return key

    def answer_wait(self, key: WaitKey, declared: AnswerDeclaration | None, body: Any, now: float) -> None:
        self._context.limits.encode_answer(body)
        with self._context.database.transaction() as db:
            db.lock_run(key.run_id)
            row = db.execute("waits.get", **asdict(key)).fetchone()
            if row is None:
                raise wait_closed()
            is_first = self._answer(db, row, declared, body, now)
        if is_first:
            self._announce()

    def _answer(
        self, db: Writer, row: Row, declared: AnswerDeclaration | None, body: Any, now: float
    ) -> bool:
        """Give the answer to the wait of a row, whose run is locked. Return False if it has it already."""
        key = WaitKey(row["run_id"], row["visit_id"], row["id"])
        if row["answered_at"] is not None:
            check_same_answer(json.loads(row["answer"]), row["answered_at"], body, declared)
            return False
        _check_open(db, key, row)
        text = self._context.limits.encode_answer(complete_answer(declared, body))
        give_answer(db, key, text, now)
        return True

    def _announce(self) -> None:
        self._context.announce_due(1)
        self._context.changes.notify()

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        with self._context.database.transaction() as db:
            key, row, _ = _lock_wait(db, token_hash)
            _check_open(db, key, row)
            db.execute("waits.record_heartbeat", now=now, **asdict(key))


def unlist_waits(db: Writer, run_id: str) -> None:
    """Take the waits of a run that ends out of the list of open waits."""
    db.execute("waits.unlist", run_id=run_id)


def list_waits(db: Writer, run_id: str) -> None:
    """Put the waits of a run that is resumed into the list of open waits again."""
    db.execute("waits.list_again", run_id=run_id)


def give_answer(db: Writer, key: WaitKey, text: str, now: float) -> None:
    """Answer a wait with JSON. A suspended visit is due at once, a parked visit when its run resumes."""
    db.execute("waits.answer", answer=text, now=now, **asdict(key))
    db.execute("waits.make_due", run_id=key.run_id, visit_id=key.visit_id, now=now)


def delete_answer(db: Writer, key: WaitKey) -> None:
    """Delete the answer of a wait."""
    db.execute("waits.delete", **asdict(key))


def is_any_answered(db: Writer, run_id: str, visit_id: str, ids: tuple[str, ...]) -> bool:
    """Return whether one of the waits of a visit has an answer."""
    awaited = frozenset(ids)
    answered = db.execute("waits.find_answered", run_id=run_id, visit_id=visit_id)
    return any(row["id"] in awaited for row in answered)


def _lock_wait(db: Writer, token_hash: str) -> tuple[WaitKey, Row, AnswerDeclaration | None]:
    """Lock the run of the wait that a token answers.

    Return the key and the row of the wait, and the declared fields of the answer.
    """
    token = db.execute("waits.get_token", token_hash=token_hash).fetchone()
    if token is None:
        raise unknown_token()
    key = WaitKey(token["run_id"], token["visit_id"], token["wait_id"])
    db.lock_run(key.run_id)
    row = db.execute("waits.get", **asdict(key)).fetchone()
    if row is None:
        raise unknown_token()  # its run was deleted since the token was read
    return key, row, decode_json(token["fields"])


def _check_open(db: Writer, key: WaitKey, row: Row) -> None:
    active = db.execute("waits.is_active", run_id=key.run_id, visit_id=key.visit_id)
    check_wait_open(
        is_closed=row["closed_at"] is not None,
        is_answered=row["answered_at"] is not None,
        is_active=active.fetchone() is not None,
    )


def _listed_from_row(row: Row) -> ListedWait:
    visit = visit_from_row(row)
    key = WaitKey(visit.run_id, visit.id, row["wait_id"])
    return ListedWait(key, row["rank"], visit, row["playbook"], row["plan_hash"])


def _wait_from_row(row: Row) -> Wait:
    return Wait(row["id"], decode_json(row["answer"]), row["answered_at"], row["heard_at"])
