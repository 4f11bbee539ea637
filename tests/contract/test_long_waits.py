"""Waits that are longer than a message can be delayed, and runs that only wait, on DynamoDB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from benchmarks.meter import AwsMeter
from noetl.executor.clients.aws_retry import store_client
from noetl.executor.errors import StoreError
from noetl.executor.model.run import NEVER, Claim, Commit, Run, RunEnding, RunStatus, VisitStatus
from noetl.executor.stores.dynamo import due_index, keys
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.sleeping_runs import is_asleep
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome, SweepResult
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.infra.dynamodb import definition, upgrade
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    failed_checks,
    open_wait,
    start_run,
    succeed,
    suspend_claim,
)
from tests.aws import Client

DAY = 86400.0
NOW = 1_000_000.0


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    upgrade("noetl")
    return DynamoStore("noetl", queue_url=str(aws("sqs").create_queue(QueueName="steps")["QueueUrl"]))


@contextmanager
def sent_messages() -> Iterator[list[tuple[DueMessage, int]]]:
    """Yield a list of the messages that the block sends, each with its delay in seconds."""
    sent: list[tuple[DueMessage, int]] = []

    def record(params: dict[str, Any], **_: Any) -> None:
        sent.extend(
            (DueMessage.decode(entry["MessageBody"]), entry.get("DelaySeconds", 0))
            for entry in params.get("Entries", [params])
        )

    events = store_client("sqs").meta.events
    calls = [f"provide-client-params.sqs.{call}" for call in ("SendMessage", "SendMessageBatch")]
    for call in calls:
        events.register(call, record)
    try:
        yield sent
    finally:
        for call in calls:
            events.unregister(call, record)


def start_service_run(store: DynamoStore, text: str = CHAIN, **options: Any) -> tuple[Run, Claim]:
    """Start a run of the service, and return it and the claim of its first visit."""
    with sent_messages() as sent:
        run = start_run(store, text, origin="service", queue="service", now=NOW, **options)
    message = next(message for message, _ in sent if not message.step.startswith("@"))
    return run, claim_message(store, message, NOW)


def claim_message(store: DynamoStore, message: DueMessage, now: float) -> Claim:
    claim = store.queue.claim_message(message.encode(), LEASE, now)
    assert isinstance(claim, Claim)
    return claim


def start_waiting(store: DynamoStore, seconds: float = DAY, text: str = CHAIN) -> tuple[Run, Claim]:
    """Start a run whose first visit waits for a time, and return it and the claim before the wait."""
    run, claim = start_service_run(store, text)
    store.queue.commit(suspend_claim(claim, due_at=NOW + seconds), NOW)
    return run, claim


def sleeps(store: DynamoStore, run: Run) -> bool:
    head = store.context.table.get(keys.head(run.id))
    assert head is not None
    return is_asleep(head)


def rows(store: DynamoStore) -> list[str]:
    """Return the sort keys of the items in the index `due`, except those of uses of plans."""
    found = [item["sk"] for item in store.context.table.scan() if "wakes" in item]
    return sorted(sort_key for sort_key in found if sort_key != "U")


def test_a_long_wait_is_sent_once_and_with_the_exact_delay(store: DynamoStore) -> None:
    with sent_messages() as sent:
        run, claim = start_waiting(store)
        sent.clear()
        assert store.maintenance.sweep(NOW + 2000.0) == SweepResult(0, 0)
        assert store.maintenance.sweep(NOW + DAY - 61.0) == SweepResult(0, 0)
        assert sent == []
        store.maintenance.sweep(NOW + DAY - 42.5)
        ((message, delay),) = sent
        assert (message.run_id, message.visit_id, message.due_at, delay) == (
            run.id,
            claim.visit.id,
            NOW + DAY,
            43,
        )
        # The next sweep comes before the message was claimed.
        assert store.maintenance.sweep(NOW + DAY + 17.0) == SweepResult(0, 0)
        assert len(sent) == 1
    assert sleeps(store, run)
    claimed = claim_message(store, message, NOW + DAY)
    assert claimed.visit.fence == claim.visit.fence + 1
    assert not sleeps(store, run)
    assert rows(store) == []


def test_a_lost_message_about_a_long_wait_is_sent_again(store: DynamoStore) -> None:
    start_waiting(store)
    store.maintenance.sweep(NOW + DAY - 30.0)
    with sent_messages() as sent:
        late = NOW + DAY + GRACE_SECONDS + 1.0
        assert store.maintenance.sweep(late) == SweepResult(0, 1)
        claim_message(store, sent[0][0], late)
        assert store.maintenance.sweep(late + 1.0).repaired == 0
        assert len(sent) == 1


def test_an_early_message_about_a_long_wait_is_not_sent_again(store: DynamoStore) -> None:
    run, claim = start_waiting(store)
    message = DueMessage(run.id, claim.visit.id, "a", NOW + DAY)
    with sent_messages() as sent:
        assert store.queue.claim_message(message.encode(), LEASE, NOW + 900.0) is MessageOutcome.DONE
        assert sent == []


def test_a_wait_of_an_earlier_version_is_sent_again_every_15_minutes(store: DynamoStore) -> None:
    run, claim = start_waiting(store)
    key = keys.visit(run.id, claim.visit.id, 1)
    store.context.table.update(Update(key, {"wakes": None}))
    message = DueMessage(run.id, claim.visit.id, "a", NOW + DAY)
    with sent_messages() as sent:
        assert store.queue.claim_message(message.encode(), LEASE, NOW + 900.0) is MessageOutcome.DONE
        assert [delay for _, delay in sent] == [900]


def test_a_short_wait_is_a_message_and_no_row(store: DynamoStore) -> None:
    with sent_messages() as sent:
        run, _ = start_waiting(store, seconds=800.0)
        assert [delay for _, delay in sent] == [0, 800]
    assert rows(store) == []
    assert not sleeps(store, run)


@pytest.mark.parametrize("text", ["a wait", "an answer", "branches"])
def test_runs_that_wait_cost_a_sweep_nothing(store: DynamoStore, text: str) -> None:
    store.maintenance.sweep(NOW)
    with AwsMeter().attached("dynamodb") as meter:
        store.maintenance.sweep(NOW + 1.0)
        idle = meter.read()
        runs = [_start_long_run(store, text) for _ in range(3)]
        meter.read()
        store.maintenance.sweep(NOW + 1000.0)
        first = meter.read()
        store.maintenance.sweep(NOW + 1060.0)
        second = meter.read()
    assert all(sleeps(store, run) for run in runs)
    assert second.requests == idle.requests
    assert second.read_units == idle.read_units
    # No sweep reads the visits.
    assert first.requests["dynamodb", "Query"] == idle.requests["dynamodb", "Query"]
    assert first.read_units <= idle.read_units + 4 * len(runs)


def _start_long_run(store: DynamoStore, text: str) -> Run:
    """Start a run that waits, and that has saved much."""
    playbook = DIAMOND if text == "branches" else CHAIN
    run, claim = start_service_run(store, playbook)
    with sent_messages() as sent:
        store.queue.commit(succeed(store, claim, saved={"text": "".join(map(chr, range(64, 9000)))}), NOW)
    for message, _ in sent:
        claim = claim_message(store, message, NOW)
        store.queue.commit(suspend_claim(claim, due_at=NEVER if text == "an answer" else NOW + DAY), NOW)
    return run


def test_a_run_with_a_branch_that_waits_shortly_stays_awake(store: DynamoStore) -> None:
    run, claim = start_service_run(store, DIAMOND)
    with sent_messages() as sent:
        store.queue.commit(succeed(store, claim), NOW)
    claims = [claim_message(store, message, NOW) for message, _ in sent]
    for claim in claims[:-1]:
        store.queue.commit(suspend_claim(claim, due_at=NOW + DAY), NOW)
    store.maintenance.sweep(NOW + 1.0)
    assert not sleeps(store, run)
    store.queue.commit(suspend_claim(claims[-1], due_at=NOW + 100.0), NOW)
    store.maintenance.sweep(NOW + 2.0)
    assert not sleeps(store, run)


def test_a_claim_during_the_sweep_keeps_its_run_awake(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _start_long_run(store, "an answer")
    (visit,) = (visit for visit in store.runs.visits(run.id) if visit.status is VisitStatus.WAITING)
    update, table = store.context.table.update, store.context.table

    def claim_before(write: Update) -> Any:
        """Claim the visit after the sweep has read the counters."""
        monkeypatch.setattr(table, "update", update)
        update(Update(keys.visit(run.id, visit.id, 1), {"due": NOW}))
        claim_message(store, DueMessage(run.id, visit.id, visit.step, NOW), NOW + 1.0)
        return update(write)

    monkeypatch.setattr(table, "update", claim_before)
    store.maintenance.sweep(NOW + 5.0)
    assert not sleeps(store, run)


def test_an_answer_wakes_a_run_that_sleeps(store: DynamoStore) -> None:
    run, claim = start_service_run(store)
    key = open_wait(store, claim)
    store.queue.commit(suspend_claim(claim, key.id), NOW)
    store.maintenance.sweep(NOW + 1.0)
    assert sleeps(store, run)
    with sent_messages() as sent:
        assert store.waits.answer("t", {"x": 1}, NOW + DAY) == key
    assert [(message.visit_id, delay) for message, delay in sent] == [(claim.visit.id, 0)]
    # The message is lost. The index has the visit.
    with sent_messages() as sent:
        store.maintenance.sweep(NOW + DAY + GRACE_SECONDS + 1.0)
    claim_message(store, sent[0][0], NOW + DAY + GRACE_SECONDS + 1.0)
    assert not sleeps(store, run)
    assert rows(store) == []


def test_a_stopped_run_leaves_the_index_and_returns_when_it_is_resumed(store: DynamoStore) -> None:
    run, claim = start_waiting(store)
    assert sleeps(store, run)
    with sent_messages() as sent:
        store.runs.stop(run.id, RunStatus.CANCELLED, NOW + 10.0)
        assert rows(store) == []
        assert not sleeps(store, run)
        end = claim_message(store, sent[-1][0], NOW + 11.0)
        store.queue.finish(end, RunEnding(RunStatus.CANCELLED, None, []), NOW + 11.0)
        sent.clear()
        store.runs.resume(run.id, NOW + 20.0, deadline_at=None, values={})
        assert sent == []
        assert rows(store) == [f"V#{claim.visit.id}"]
        store.maintenance.sweep(NOW + 30.0)
        assert sleeps(store, run)
        store.maintenance.sweep(NOW + DAY - 1.0)
    claim_message(store, sent[-1][0], NOW + DAY)


def test_a_distant_deadline_is_a_row_of_the_head(store: DynamoStore) -> None:
    text = "timeout: 7d\n" + dedent(CHAIN)
    with sent_messages() as sent:
        run, claim = start_service_run(store, text)
        store.queue.commit(suspend_claim(claim, due_at=NOW + 30 * DAY), NOW)
        assert [message.step for message, _ in sent] == ["a"]
        assert rows(store) == ["H", f"V#{claim.visit.id}"]
        assert sleeps(store, run)
        sent.clear()
        store.maintenance.sweep(NOW + 7 * DAY - 10.0)
        ((message, delay),) = sent
        assert (message.step, delay) == ("@deadline", 10)
        assert store.queue.claim_message(message.encode(), LEASE, NOW + DAY) is MessageOutcome.DONE
        late = NOW + 7 * DAY + GRACE_SECONDS + 1.0
        assert store.maintenance.sweep(late) == SweepResult(0, 1)
    deadline = claim_message(store, message, late)
    assert deadline.visit.step == "@deadline"
    store.queue.commit(succeed_pseudo(deadline), late)
    assert store.maintenance.sweep(late + GRACE_SECONDS).repaired == 0
    assert "H" not in rows(store)


def succeed_pseudo(claim: Claim) -> Commit:
    """Return the commit of the visit of a deadline."""
    visit = replace(claim.visit, status=VisitStatus.SUCCEEDED, finished_at=NOW)
    return Commit(visit)


def test_rows_that_no_visit_needs_are_removed(store: DynamoStore) -> None:
    ended, _ = start_waiting(store)
    parked, other = start_waiting(store)
    table = store.context.table
    table.update(Update(keys.head(ended.id), {"finished": NOW}))
    table.update(Update(keys.visit(parked.id, other.visit.id, 1), {"status": "parked"}))
    table.update(Update(keys.head(parked.id), {"wakes": keys.due_shard(parked.id), "due": NOW + DAY}))
    table.update(Update(keys.SENT_WAKEUPS, {"until": NOW + DAY}))
    with sent_messages() as sent:
        assert store.maintenance.sweep(NOW + DAY + GRACE_SECONDS + 1.0).repaired == 0
        assert sent == []
    assert rows(store) == []


def test_a_sweep_continues_where_the_last_one_ended(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_index, "MAX_WAKEUPS", 1)
    index = due_index.DueIndex(store.context)
    query = store.context.table.query_index
    monkeypatch.setattr(
        store.context.table, "query_index", lambda name, **request: query(name, Limit=2, **request)
    )
    for number in range(5):
        table, run_id = store.context.table, "r"
        table.update(Update(keys.visit(run_id, f"v{number}", 1), {"wakes": "p", "due": NOW + number // 2}))
    seen = index._list_shard("p", 0.0, NOW + 9.0)
    assert ([row.due_at - NOW for row in seen[0]], seen[1]) == ([0.0, 0.0], NOW)
    rest = index._list_shard("p", NOW, NOW + 9.0)
    assert [row.due_at - NOW for row in rest[0]] == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_a_table_without_the_index_is_named(aws: Client) -> None:
    parameters = definition()
    parameters["GlobalSecondaryIndexes"] = parameters["GlobalSecondaryIndexes"][:2]
    parameters["AttributeDefinitions"] = parameters["AttributeDefinitions"][:5]
    aws("dynamodb").create_table(TableName="noetl", **parameters)
    queue = str(aws("sqs").create_queue(QueueName="steps")["QueueUrl"])
    with pytest.raises(StoreError, match="has no index `due`: run `noetl db upgrade`"):
        DynamoStore("noetl", queue_url=queue).maintenance.sweep(NOW)
    (finding,) = DynamoStore("noetl").maintenance.check_consistency()
    assert (finding.check, finding.message.startswith("The table noetl has no index `due`")) == (
        "index",
        True,
    )
    assert "index due" in upgrade("noetl")
    assert DynamoStore("noetl", queue_url=queue).maintenance.sweep(NOW) == SweepResult(0, 0)


def test_a_paused_run_sleeps_and_costs_no_request(store: DynamoStore) -> None:
    """A step at work finishes first. The run wakes when it is unpaused."""
    run, claim = start_service_run(store)
    store.pauses.pause(run.id, NOW + 1.0)
    assert store.maintenance.sweep(NOW + 2.0) == SweepResult(1, 0)
    assert not sleeps(store, run)
    store.queue.commit(succeed(store, claim), NOW + 3.0)
    with sent_messages() as sent:
        # The first sweep parks the next step, and the second one finds the run at rest.
        assert store.maintenance.sweep(NOW + 300.0) == SweepResult(1, 0)
        assert store.maintenance.sweep(NOW + 360.0) == SweepResult(1, 0)
        assert sleeps(store, run)
        assert store.maintenance.sweep(NOW + 400.0) == SweepResult(0, 0)
        assert store.maintenance.sweep(NOW + DAY) == SweepResult(0, 0)
        assert sent == []
        store.pauses.unpause(run.id, NOW + DAY)
        ((message, _),) = sent
    assert not sleeps(store, run)
    assert claim_message(store, message, NOW + DAY).visit.step == "b"
    assert failed_checks(store) == []


def test_a_paused_run_that_sleeps_can_be_cancelled(store: DynamoStore) -> None:
    cancelled, claim = start_service_run(store)
    store.pauses.pause(cancelled.id, NOW + 1.0)
    store.queue.commit(succeed(store, claim), NOW + 3.0)
    for seconds in (300.0, 360.0):
        store.maintenance.sweep(NOW + seconds)
    assert sleeps(store, cancelled)
    with sent_messages() as sent:
        store.runs.stop(cancelled.id, RunStatus.CANCELLED, NOW + 400.0)
        ((message, _),) = sent
    assert not sleeps(store, cancelled)
    assert (message.step, message.run_id) == ("@end", cancelled.id)


def test_an_answer_leaves_a_paused_run_asleep_until_it_is_unpaused(store: DynamoStore) -> None:
    run, claim = start_service_run(store)
    key = open_wait(store, claim)
    store.queue.commit(suspend_claim(claim, key.id), NOW)
    store.pauses.pause(run.id, NOW + 1.0)
    store.maintenance.sweep(NOW + 300.0)
    assert sleeps(store, run)
    with sent_messages() as sent:
        store.waits.answer_wait(key, None, "yes", NOW + 400.0)
        assert sent == []
        store.pauses.unpause(run.id, NOW + 500.0)
        assert [message.visit_id for message, _ in sent] == [claim.visit.id]
    assert not sleeps(store, run)
