"""Waits of visits in DynamoDB: the tokens that may answer them, and the answers.

Problem: an answer may arrive while its visit is running, being suspended, suspended or parked.

Algorithm: both sides write before they read, as in Dekker's mutual exclusion (Dijkstra 1965). An answer
writes the wait and then makes the visit due; a suspension writes the visit and then reads the waits. So one
of them sees the other. The first answer is kept by a conditional write.

Cost: an answer reads the token, the wait, the visit and the head, and writes the wait and the visit.

Limits: an answer has at most MAX_ANSWER_BYTES of JSON, and without a bucket it must fit into an item.

The item of a wait stores `tokens` (list of hashes), `answer` (a blob), and the times `answered`, `heard`
(last heartbeat) and `closed`.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import FencedError, PayloadTooLargeError, RejectedError
from noetl.executor.model.run import VisitStatus, Wait, WaitKey
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import has_ended
from noetl.executor.stores.sql.rows import encode_json
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.planner.plan import canonical_json

MAX_ANSWER_BYTES = 1024 * 1024


class DynamoWaits(DynamoContext):
    """The part of the DynamoDB store that stores waits."""

    def open_wait(self, key: WaitKey, fence: int, token_hash: str) -> None:
        spread = self.spread(key.run_id)
        is_held: tuple[Condition, ...] = (("fence", "=", fence), ("status", "=", VisitStatus.RUNNING.value))
        token = {"run": key.run_id, "visit": key.visit_id, "wait": key.id}
        writes: list[Write] = [
            ConditionCheck(keys.visit(key.run_id, key.visit_id, spread), is_held),
            Put(keys.token(token_hash), token, (ABSENT,)),
            Update(keys.wait(key.run_id, key.visit_id, key.id, spread), append={"tokens": [token_hash]}),
        ]
        try:
            self.table.write(writes)
        except ConditionFailed:
            raise FencedError("the claim of the waiting step is lost") from None

    def wait(self, key: WaitKey) -> Wait:
        item = self.table.get(self._wait_key(key))
        return Wait(key.id) if item is None else self._wait_of(key, item)

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        return self._wait_of(key, self.table.update(Update(self._wait_key(key), keep={"closed": now})))

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        if len(encode_json(body)) > MAX_ANSWER_BYTES:
            raise RejectedError("too_large", f"the answer exceeds {MAX_ANSWER_BYTES:,} bytes of JSON")
        key, item = self._find_wait(token_hash)
        while "answered" not in item:
            self._check_open(key, item)
            packed = self.blobs.store(key.run_id, body) or encode_json(body).encode()
            when: tuple[Condition, ...] = (("answered", "absent", None), ("closed", "absent", None))
            try:
                self.table.update(Update(self._wait_key(key), {"answer": packed, "answered": now}, when=when))
            except PayloadTooLargeError as problem:
                raise RejectedError("too_large", f"the answer cannot be stored: {problem}") from None
            except ConditionFailed as refusal:
                item = refusal.items[0] or {}
                continue
            self.make_due(key.run_id, key.visit_id, now)
            self.changes.notify()
            return key
        # Compared as text, because 1 and true are equal to `==`.
        if canonical_json(self.blobs.load(item["answer"])) != canonical_json(body):
            raise RejectedError("answered_otherwise", "another answer arrived before")
        # The process that stored the answer may have died before it made the visit due.
        self.wake_if_answered(key.run_id, key.visit_id, now)
        return key

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        key, item = self._find_wait(token_hash)
        self._check_open(key, item)
        self.table.update(Update(self._wait_key(key), {"heard": now}))

    def make_due(self, run_id: str, visit_id: str, now: float) -> None:
        key = self.visit_key(run_id, visit_id)
        states = (VisitStatus.WAITING.value, VisitStatus.PARKED.value)
        try:
            item = self.table.update(Update(key, {"due": now}, when=(("status", "in", states),)))
        except ConditionFailed:
            return  # it is running, and reads its waits when it is suspended
        head = self.read_head(run_id)
        if item["status"] == VisitStatus.WAITING and not has_ended(head):
            self.send_messages(
                head["queue"], [DueMessage(run_id, visit_id, item["step"], now, self.spread(run_id))], now
            )

    def wake_if_answered(self, run_id: str, visit_id: str, now: float) -> bool:
        key = self.visit_key(run_id, visit_id)
        item = self.table.get(key)
        if item is None or item["status"] != VisitStatus.WAITING or item["due"] <= now:
            return False
        waits = [keys.wait(run_id, visit_id, id, self.spread(run_id)) for id in item.get("awaits", ())]
        if not any("answered" in wait for wait in self.table.get_many(waits).values()):
            return False
        when: tuple[Condition, ...] = (
            ("status", "=", VisitStatus.WAITING.value),
            ("fence", "=", item["fence"]),
            ("due", "=", item["due"]),
        )
        try:
            self.table.update(Update(key, {"due": now}, when=when))
        except ConditionFailed:
            return False
        self.send_messages(
            self.read_head(run_id)["queue"],
            [DueMessage(run_id, visit_id, item["step"], now, self.spread(run_id))],
            now,
        )
        return True

    def _find_wait(self, token_hash: str) -> tuple[WaitKey, Item]:
        """Return the wait that a token answers, and its item."""
        token = self.table.get(keys.token(token_hash))
        if token is None:
            raise RejectedError("unknown_token", "no step has ever waited for this answer")
        key = WaitKey(token["run"], token["visit"], token["wait"])
        return key, self.table.get(self._wait_key(key)) or {}

    def _check_open(self, key: WaitKey, item: Item) -> None:
        item_keys = [self.visit_key(key.run_id, key.visit_id), keys.head(key.run_id)]
        items = self.table.get_many(item_keys)
        is_active = all(item_key in items and "finished" not in items[item_key] for item_key in item_keys)
        if "closed" in item or "answered" in item or not is_active:
            raise RejectedError("closed", "the step does not wait for an answer any more")

    def _wait_key(self, key: WaitKey) -> keys.ItemKey:
        return keys.wait(key.run_id, key.visit_id, key.id, self.spread(key.run_id))

    def _wait_of(self, key: WaitKey, item: Item) -> Wait:
        return Wait(key.id, self.blobs.load(item.get("answer")), item.get("answered"), item.get("heard"))
