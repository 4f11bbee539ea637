"""Waits of visits in DynamoDB: the tokens that may answer them, and the answers.

Problem: an answer may arrive while its visit is running, being suspended, suspended or parked.

Algorithm: both sides write before they read, as in Dekker's mutual exclusion (Dijkstra 1965). An answer
writes the wait and then makes the visit due; a suspension writes the visit and then reads the waits. So one
of them sees the other. The first answer is kept by a conditional write. If the visit is suspended already,
one transaction writes both.

Cost: an answer reads the token, the wait, the visit and the head, and writes the wait and the visit.

Limits: an answer has at most `PayloadLimits.answer_bytes`, and without a bucket it must fit into an item.

The item of a wait stores `tokens` (list of hashes), `answer` (a blob), and the times `answered`, `heard`
(last heartbeat) and `closed`. `wakes` and `due` are its place in the list of open waits (`open_waits.py`).
`step` and `number` are those of its visit. The item of a token stores `fields` (a blob), the declared fields
of an answer.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import PayloadLostError, PayloadTooLargeError, RejectedError
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.open_waits import MAX_LISTED_JOURNALS
from noetl.executor.model.run import Claim, ListedWait, TokenWait, Wait, WaitKey
from noetl.executor.model.visit_states import WAKEABLE
from noetl.executor.model.wait_transition import (
    AnswerDeclaration,
    check_same_answer,
    check_wait_open,
    complete_answer,
    unknown_token,
    wait_claim_lost,
    wait_closed,
)
from noetl.executor.stores.cursors import read_wait_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.open_waits import WaitSearch, find_open_waits, listing_attributes
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of, tenant_of
from noetl.executor.stores.dynamo.visit_items import is_held
from noetl.executor.stores.dynamo.wakeups import Wakeups


class DynamoWaits:
    """The waits of a DynamoDB store."""

    def __init__(self, context: DynamoContext, wakeups: Wakeups, limits: PayloadLimits) -> None:
        self._context = context
        self._wakeups = wakeups
        self._limits = limits

    def open_wait(
        self,
        claim: Claim,
        wait_id: str,
        token_hash: str,
        declared: AnswerDeclaration | None = None,
        rank: float = 0.0,
    ) -> None:
        """Register a token that answers a wait of a claimed visit, in addition to its earlier tokens."""
        visit = claim.visit
        key = WaitKey(visit.run_id, visit.id, wait_id)
        spread = self._context.heads.spread(key.run_id)
        token: Item = {"run": key.run_id, "visit": key.visit_id, "wait": key.id}
        if declared is not None:
            token["fields"] = self._context.blobs.store(key.run_id, declared)
        writes: list[Write] = [
            ConditionCheck(keys.visit(key.run_id, key.visit_id, spread), is_held(visit.fence)),
            Put(keys.token(token_hash), token, (ABSENT,)),
            Update(
                keys.wait(key.run_id, key.visit_id, key.id, spread),
                listing_attributes(claim, rank),
                append={"tokens": [token_hash]},
            ),
        ]
        try:
            self._context.table.write(writes)
        except ConditionFailed:
            raise wait_claim_lost() from None

    def find_open(
        self,
        tenant: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        journal_bytes: int = MAX_LISTED_JOURNALS,
    ) -> tuple[list[ListedWait], str | None]:
        """Return a page of the waits of a tenant that an answer ends now, and the cursor of the next page."""
        after = None if cursor is None else read_wait_cursor(cursor)
        return find_open_waits(self._context, WaitSearch(tenant, limit, journal_bytes), after)

    def wait(self, key: WaitKey) -> Wait:
        """Return the state of a wait; a wait that was never opened has no answer."""
        item = self._context.table.get(self._wait_key(key))
        return Wait(key.id) if item is None else self._wait_of(key, item)

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        """Refuse answers to a wait from now on, and return the wait with its answer, if any."""
        return self._wait_of(
            key,
            self._context.table.update(Update(self._wait_key(key), {"wakes": None}, keep={"closed": now})),
        )

    def has_token(self, token_hash: str) -> bool:
        """Return whether the token was given out."""
        return self._context.table.get(keys.token(token_hash)) is not None

    def find_wait(self, token_hash: str) -> TokenWait | None:
        """Return the wait that a token answers, or None if the token is unknown or its run was deleted.

        Raises:
            RejectedError: `payload_lost`.
        """
        token = self._context.table.get(keys.token(token_hash))
        head = None if token is None else self._context.table.get(keys.head(token["run"]))
        if token is None or head is None:
            return None
        key = WaitKey(token["run"], token["visit"], token["wait"])
        item_key = keys.wait(key.run_id, key.visit_id, key.id, spread_of(head))
        item = self._context.table.get(item_key) or {}
        declared = self._load(token.get("fields"), "the declaration of the answer's fields")
        return TokenWait(key, tenant_of(head), declared, item.get("answered"), "closed" in item)

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        """Answer a wait and return its key: its visit is due at once.

        Raises:
            RejectedError: as in `interface.py`, and `payload_lost`.
        """
        self._limits.encode_answer(body)
        key, item, token = self._find_wait(token_hash)
        declared = self._load(token.get("fields"), "the declaration of the answer's fields")
        self._answer(key, item, declared, body, now)
        return key

    def answer_wait(self, key: WaitKey, declared: AnswerDeclaration | None, body: Any, now: float) -> None:
        """Answer a wait without a token, as `answer` does."""
        self._limits.encode_answer(body)
        item = self._context.table.get(self._wait_key(key))
        if item is None:
            raise wait_closed()
        self._answer(key, item, declared, body, now)

    def _answer(
        self, key: WaitKey, item: Item, declared: AnswerDeclaration | None, body: Any, now: float
    ) -> None:
        while "answered" not in item:
            head, visit = self._check_open(key, item)
            answer = complete_answer(declared, body)
            text = self._limits.encode_answer(answer)
            packed = self._context.blobs.store(key.run_id, answer) or text.encode()
            when: tuple[Condition, ...] = (("answered", "absent", None), ("closed", "absent", None))
            update = Update(
                self._wait_key(key), {"answer": packed, "answered": now, "wakes": None}, when=when
            )
            try:
                self._write_answer(update, head, visit, now)
            except PayloadTooLargeError as problem:
                raise RejectedError("too_large", f"the answer cannot be stored: {problem}") from None
            except ConditionFailed as refusal:
                item = refusal.items[0] or {}
                continue
            self._context.changes.notify()
            return
        # The process that stored the answer may have died before it made the visit due.
        self._wakeups.wake_if_answered(key.run_id, key.visit_id, now)
        earlier = self._load(item["answer"], "the earlier answer, with which this one is compared,")
        check_same_answer(earlier, item["answered"], body, declared)

    def _load(self, stored: bytes | None, noun: str) -> Any:
        """Return a value that an answer needs.

        Raises:
            RejectedError: `payload_lost`.
        """
        try:
            return self._context.blobs.load(stored)
        except PayloadLostError as problem:
            raise RejectedError("payload_lost", f"{noun} is lost: {problem}") from problem

    def _write_answer(self, update: Update, head: Item, visit: Item, now: float) -> None:
        """Write an answer, and make its visit due.

        Raises:
            ConditionFailed: the wait accepts no answer any more.
        """
        if visit["status"] in WAKEABLE:
            try:
                self._context.table.write([update, self._wakeups.due_update(head, visit, now)])
            except ConditionFailed as refusal:
                if refusal.failed[0]:
                    raise
            else:
                self._wakeups.announce_due(head, visit, now)
                return
        # The visit is running, or has changed since it was read.
        self._context.table.update(update)
        self._wakeups.make_due(run_id_of(head), visit["sk"][2:], now)

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        """Record that the external worker behind a wait is alive."""
        key, item, _ = self._find_wait(token_hash)
        self._check_open(key, item)
        self._context.table.update(Update(self._wait_key(key), {"heard": now}))

    def _find_wait(self, token_hash: str) -> tuple[WaitKey, Item, Item]:
        """Return the wait that a token answers, its item, and that of the token."""
        token = self._context.table.get(keys.token(token_hash))
        if token is None:
            raise unknown_token()
        key = WaitKey(token["run"], token["visit"], token["wait"])
        return key, self._context.table.get(self._wait_key(key)) or {}, token

    def _check_open(self, key: WaitKey, item: Item) -> tuple[Item, Item]:
        """Check that a wait accepts an answer, and that its visit and its run have not ended.

        Return the head of the run, and the item of the visit.
        """
        item_keys = [self._context.heads.visit_key(key.run_id, key.visit_id), keys.head(key.run_id)]
        items = self._context.table.get_many(item_keys)
        is_active = all(item_key in items and "finished" not in items[item_key] for item_key in item_keys)
        check_wait_open(is_closed="closed" in item, is_answered="answered" in item, is_active=is_active)
        visit, head = (items[item_key] for item_key in item_keys)
        return head, visit

    def _wait_key(self, key: WaitKey) -> keys.ItemKey:
        return keys.wait(key.run_id, key.visit_id, key.id, self._context.heads.spread(key.run_id))

    def _wait_of(self, key: WaitKey, item: Item) -> Wait:
        return Wait(
            key.id, self._context.blobs.load(item.get("answer")), item.get("answered"), item.get("heard")
        )
