"""Waits of visits in the store in memory: the tokens that may answer them, and the answers.

The author of a store decides how an answer is stored once. It may arrive twice, before its visit is
suspended, or while the wait is closed. An answer and the due time of its visit are one write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from noetl.executor.model.open_waits import (
    MAX_LISTED_JOURNALS,
    count_listed,
    may_be_listed,
    measure_journal,
)
from noetl.executor.model.run import Claim, ListedWait, TokenWait, Wait, WaitKey
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import wake
from noetl.executor.model.wait_transition import (
    AnswerDeclaration,
    check_same_answer,
    check_wait_open,
    complete_answer,
    unknown_token,
    wait_claim_lost,
    wait_closed,
)
from noetl.executor.stores.cursors import WaitPlace, read_wait_cursor, write_wait_cursor
from noetl.executor.stores.memory.state import MemoryState, RunRecord, WaitToken
from noetl.planner.frozen import replace


class MemoryWaits:
    """The waits of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def open_wait(
        self,
        claim: Claim,
        wait_id: str,
        token_hash: str,
        declared: AnswerDeclaration | None = None,
        rank: float = 0.0,
    ) -> None:
        key = WaitKey(claim.visit.run_id, claim.visit.id, wait_id)
        with self._state.lock:
            held = self._state.find_held(key.run_id, key.visit_id, claim.visit.fence)
            if held is None:
                raise wait_claim_lost()
            held[0].waits.setdefault(key, Wait(key.id))
            held[0].wait_ranks[key] = rank
            self._state.tokens[token_hash] = WaitToken(key, declared)

    def find_open(
        self,
        tenant: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        journal_bytes: int = MAX_LISTED_JOURNALS,
    ) -> tuple[list[ListedWait], str | None]:
        after = None if cursor is None else read_wait_cursor(cursor)
        with self._state.lock:
            records = [record for record in self._state.runs.values() if record.run.tenant == tenant]
            waits = [wait for record in records for wait in _open_waits(record)]
        ordered = sorted(waits, key=_place_of)
        rest = [wait for wait in ordered if after is None or _place_of(wait) > after]
        count = count_listed((measure_journal(wait.visit) for wait in rest[:limit]), journal_bytes)
        page = rest[:count]
        return page, write_wait_cursor(page[-1].rank, page[-1].key) if len(rest) > count else None

    def wait(self, key: WaitKey) -> Wait:
        with self._state.lock:
            return self._state.record(key.run_id).waits.get(key, Wait(key.id))

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        with self._state.lock:
            record = self._state.record(key.run_id)
            record.closed_waits.add(key)
            return record.waits.setdefault(key, Wait(key.id))

    def has_token(self, token_hash: str) -> bool:
        return token_hash in self._state.tokens

    def find_wait(self, token_hash: str) -> TokenWait | None:
        with self._state.lock:
            token = self._state.tokens.get(token_hash)
            record = None if token is None else self._state.runs.get(token.key.run_id)
            if token is None or record is None:
                return None
            wait, is_closed = self.wait(token.key), token.key in record.closed_waits
            return TokenWait(token.key, record.run.tenant, token.declared, wait.answered_at, is_closed)

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        self._state.limits.encode_answer(body)
        with self._state.change_runs(due=1):
            key, declared = self._find_token(token_hash)
            self._answer(key, declared, body, now)
            return key

    def answer_wait(self, key: WaitKey, declared: AnswerDeclaration | None, body: Any, now: float) -> None:
        self._state.limits.encode_answer(body)
        with self._state.change_runs(due=1):
            record = self._state.runs.get(key.run_id)
            if record is None or key not in record.waits:
                raise wait_closed()
            self._answer(key, declared, body, now)

    def _answer(self, key: WaitKey, declared: AnswerDeclaration | None, body: Any, now: float) -> None:
        wait = self.wait(key)
        if wait.answered_at is not None:
            check_same_answer(wait.answer, wait.answered_at, body, declared)
            return
        self._check_open(key, wait)
        text = self._state.limits.encode_answer(complete_answer(declared, body))
        give_answer(self._state, key, json.loads(text), now)

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        with self._state.lock:
            key, _ = self._find_token(token_hash)
            wait = self.wait(key)
            self._check_open(key, wait)
            self._state.record(key.run_id).waits[key] = replace(wait, last_heartbeat_at=now)

    def _find_token(self, token_hash: str) -> WaitToken:
        if token_hash not in self._state.tokens:
            raise unknown_token()
        return self._state.tokens[token_hash]

    def _check_open(self, key: WaitKey, wait: Wait) -> None:
        record = self._state.record(key.run_id)
        visit = record.visits.get(key.visit_id)
        check_wait_open(
            is_closed=key in record.closed_waits,
            is_answered=wait.answered_at is not None,
            is_active=visit is not None and visit.status not in FINISHED and record.run.finished_at is None,
        )


def _open_waits(record: RunRecord) -> Iterator[ListedWait]:
    """Yield the waits of a run that an answer ends now. A store needs an index of them by rank."""
    run = record.run
    for key, rank in record.wait_ranks.items():
        visit = record.visits.get(key.visit_id)
        is_open = key not in record.closed_waits and record.waits[key].answered_at is None
        if is_open and visit is not None and may_be_listed(run, visit):
            yield ListedWait(
                key, rank, replace(visit, saved={}, result=None, failures=()), run.playbook, run.plan_hash
            )


def _place_of(wait: ListedWait) -> WaitPlace:
    return wait.rank, wait.key.run_id, wait.key.visit_id, wait.key.id


def give_answer(state: MemoryState, key: WaitKey, answer: Any, now: float) -> None:
    """Answer a wait. Its visit is due at once, or when its run resumes."""
    record = state.runs.get(key.run_id)
    if record is not None:
        wait = record.waits.get(key, Wait(key.id))
        record.waits[key] = replace(wait, answer=answer, answered_at=now)
        record.put(*(wake(visit, now) for id, visit in record.visits.items() if id == key.visit_id))


def delete_answer(state: MemoryState, key: WaitKey) -> None:
    """Delete the answer of a wait: the child run that has given it is resumed, and will answer again."""
    record = state.runs.get(key.run_id)
    if record is not None:
        record.waits.pop(key, None)
        record.closed_waits.discard(key)
