"""The Lambda functions, called as Lambda does, with the messages of an SQS queue."""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noetl.executor import lambda_handler as handlers
from noetl.executor.clients import aws_retry
from noetl.executor.engine import delivery
from noetl.executor.errors import SettingError, StoreError
from noetl.executor.model.channels import Channel
from noetl.executor.model.gates import GateKey
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Claim, Lease, Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.patience import bounded_by_invocation
from noetl.executor.runtime import message_batch, message_return
from noetl.executor.runtime.function_settings import read_continue_fraction
from noetl.executor.runtime.message_batch import COMMIT_MARGIN_SECONDS
from noetl.executor.runtime.preload import check_processor
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.messages import MAX_BATCH, MessageQueue
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import TriggerMessage
from noetl.infra.dynamodb import upgrade
from noetl.planner.frozen import replace
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.operations import current_run, lose_workers, start_run
from tests.aws import Client
from tests.aws_faults import DENIED, THROTTLED, TIMEOUT, Fault, faulty_table
from tests.http_server import StubExchange, serve
from tests.tool_environments import ROOT

ONE = "name: one\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
CHAIN = (
    "name: chain\nsteps:\n"
    + "".join(
        f"- {{name: s{n}, run: [{{action: set, set: {{n: {n}}}}}], "
        f"rule: [{{case: default, run: [s{n + 1}]}}]}}\n"
        for n in range(4)
    )
    + "- {name: s4, run: [{action: set, set: {n: 4}}]}\n"
)


@dataclass
class FakeLambdaContext:
    seconds: float = 60.0
    aws_request_id: str = "request"
    function_name: str = "step"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@dataclass
class LambdaQueue:
    """An SQS queue whose messages the test passes to the function."""

    aws: Client
    url: str
    store: DynamoStore

    def records(self, most: int = 10) -> list[dict[str, Any]]:
        """Return the available messages in Lambda's form, and delete them from the queue."""
        found: list[dict[str, Any]] = []
        while len(found) < most:
            reply = {"MaxNumberOfMessages": min(most - len(found), 10), "WaitTimeSeconds": 0}
            messages = self.aws("sqs").receive_message(QueueUrl=self.url, **reply).get("Messages", ())
            if not messages:
                return found
            for message in messages:
                self.aws("sqs").delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                found.append(
                    {"messageId": message["MessageId"], "body": message["Body"], "eventSource": "aws:sqs"}
                )
        return found

    def drive(self, run: Run, context: FakeLambdaContext | None = None) -> RunStatus:
        """Pass messages to the function until the queue is empty. Return the status of the run."""
        while records := self.records():
            assert handlers.step({"Records": records}, context or FakeLambdaContext()) == {
                "batchItemFailures": []
            }
        return self.status(run)

    def delayed(self) -> int:
        """Return how many messages arrive later."""
        name = "ApproximateNumberOfMessagesDelayed"
        counts = self.aws("sqs").get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])
        return int(counts["Attributes"][name])

    def status(self, run: Run) -> RunStatus:
        found = self.store.runs.get(run.tenant, run.id)
        assert found is not None
        return found.status


@pytest.fixture
def queue(aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaQueue]:
    upgrade("noetl")
    url = str(aws("sqs").create_queue(QueueName="noetl")["QueueUrl"])
    monkeypatch.setenv("NOETL_QUEUE", url)
    monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
    monkeypatch.setenv("NOETL_ALLOW_NETWORKS", "127.0.0.0/8")
    message_batch.warm_state.cache_clear()
    store = open_store()
    assert isinstance(store, DynamoStore)
    yield LambdaQueue(aws, url, store)
    message_batch.warm_state.cache_clear()


def start(queue: LambdaQueue, text: str) -> Run:
    return start_run(queue.store, text, now=time.time(), origin="service")


def failures(answer: dict[str, Any]) -> list[str]:
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]


def test_one_invocation_executes_a_whole_run(
    queue: LambdaQueue, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = start(queue, CHAIN)
    answer = handlers.step({"Records": queue.records()}, FakeLambdaContext())
    assert answer == {"batchItemFailures": []}
    assert queue.status(run) is RunStatus.SUCCEEDED
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["Steps"], metrics["RunsEnded"], metrics["FunctionName"]) == (6, 1, "step")
    named = metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    assert {metric["Name"] for metric in named} == {"Steps", "RunsEnded", "Milliseconds"} < set(metrics)
    [line] = [line for line in map(json.loads, caplog.text.splitlines()) if "succeeded" in line["message"]]
    assert (line["workflow_id"], line["message"]) == (run.id, "run succeeded: chain")
    assert len(line["trace_id"]) == 32


def test_a_setting_gives_each_step_an_invocation(queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_CONTINUE_PERCENT", "0")
    run = start(queue, CHAIN)
    invocations = 0
    while records := queue.records():
        assert failures(handlers.step({"Records": records}, FakeLambdaContext())) == []
        invocations += 1
    assert (invocations, queue.status(run)) == (6, RunStatus.SUCCEEDED)


def test_a_step_whose_payload_was_deleted_fails_in_its_first_invocation(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket, s3 = queue.url.split("/")[-2] + "-values", queue.aws("s3")
    s3.create_bucket(Bucket=bucket)
    monkeypatch.setenv("NOETL_BUCKET", bucket)
    text = (
        "name: long\nsteps: [{name: a, run: [{action: log, message: '{{ text }}'}]}]\ninput: {text: string}\n"
    )
    options: dict[str, Any] = {"input": {"text": random.Random(7).randbytes(9000).hex()}, "origin": "service"}
    run = start_run(open_store(), text, now=time.time(), **options)
    [stored] = s3.list_objects_v2(Bucket=bucket)["Contents"]
    s3.delete_object(Bucket=bucket, Key=stored["Key"])
    assert failures(handlers.step({"Records": queue.records()}, FakeLambdaContext())) == []
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["RunsFailed"], "StoreFailures" in metrics) == (1, False)
    assert [error["type"] for error in current_run(open_store(), run).errors] == ["PayloadLost"]
    with pytest.raises(StoreError, match="Set NOETL_BUCKET"):
        current_run(queue.store, run)


@pytest.mark.parametrize("text", ["-1", "91", "x", "0.5", "100", "²"])
def test_the_part_of_an_invocation_that_continues_is_checked(text: str) -> None:
    assert read_continue_fraction({"NOETL_CONTINUE_PERCENT": "90"}) == 0.9
    assert read_continue_fraction({"NOETL_CONTINUE_PERCENT": " "}) == 0.5
    with pytest.raises(SettingError, match=f"NOETL_CONTINUE_PERCENT is '{text}'"):
        read_continue_fraction({"NOETL_CONTINUE_PERCENT": text})


def test_failed_runs_are_counted(queue: LambdaQueue, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("{action: fail, type: No, message: not today}", "{action: set, set: {n: 1}}"):
        start(queue, f"name: one\nsteps: [{{name: a, run: [{action}]}}]\n")
    handlers.step({"Records": [*queue.records(), *queue.records()]}, FakeLambdaContext())
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["RunsEnded"], metrics["RunsFailed"]) == (2, 1)


def test_without_enough_time_a_step_is_left_to_another_invocation(queue: LambdaQueue) -> None:
    slow = "name: slow\nsteps: [{name: a, timeout: 30s, run: [{action: set, set: {n: 1}}]}]\n"
    run = start(queue, slow)
    [record] = queue.records()
    claimed = queue.store.queue.claim_message(record["body"], Lease("other", 60.0), time.time())
    assert not isinstance(claimed, MessageOutcome)
    queue.store.queue.release(claimed.visit, time.time(), counts=False)
    [record] = queue.records()
    invocation = message_batch.MessageBatch(
        message_batch.warm_state(),
        FakeLambdaContext(60.0),
        message_batch.InvocationMetrics("step"),
        give_up=False,
    )
    invocation._started -= 40.0  # 18 of the 58 seconds remain
    assert invocation.process_all([record]) == []
    [visit] = queue.store.runs.visits(run.id)
    assert (visit.claims, visit.finished_at) == (0, None)
    assert queue.drive(run) is RunStatus.SUCCEEDED


def test_a_step_times_out_before_its_invocation(queue: LambdaQueue) -> None:
    hanging = threading.Event()

    def hang(exchange: StubExchange) -> None:
        hanging.wait(30.0)

    with serve(hang) as server:
        run = start(
            queue,
            f'name: x\nsteps: [{{name: a, timeout: 1h, run: [{{action: http, url: "{server.url()}"}}]}}]\n',
        )
        before = time.monotonic()
        assert (
            queue.drive(run, FakeLambdaContext(message_batch.COMMIT_MARGIN_SECONDS + 1.5)) is RunStatus.FAILED
        )
        assert time.monotonic() - before < 20.0
        hanging.set()
    found = queue.store.runs.get("default", run.id)
    assert found is not None and [error["type"] for error in found.errors] == ["Timeout"]


def test_unknown_messages_do_not_block_others(queue: LambdaQueue, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [start(queue, ONE) for _ in range(3)]
    good = queue.records()
    bad = [
        {"messageId": f"bad {n}", "body": body}
        for n, body in enumerate(("", "{}", "[1]", '{"v": 99}', "\ud800", "x" * 300_000))
    ] + [{"messageId": "bad 6"}, {"messageId": "bad 7", "body": None}]
    answer = handlers.step(
        {"Records": [bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2]]}, FakeLambdaContext()
    )
    assert sorted(failures(answer)) == [f"bad {n}" for n in range(8)]
    assert [queue.status(run) for run in runs] == [RunStatus.SUCCEEDED] * 3
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["NotOurs"], metrics["Steps"]) == (8, 6)


LARGE = "1" + "0" * 400
"""A whole number that no `float` can be."""

VISIT = '"run":"r","visit":"v","step":"s"'


@pytest.mark.parametrize(
    "members",
    [
        f'{VISIT},"due":{LARGE}',
        f'{VISIT},"due":1e999',
        f'{VISIT},"due":NaN',
        f'{VISIT},"due":1,"spread":1e999',
        f'{VISIT},"due":1,"cause":0',
        f'{VISIT},"due":1,"reads":[1]',
        '"run":"\\ud800","visit":"v","step":"s","due":1',
        '"run":"\ud800","visit":"v","step":"s","due":1',
        f'"run":"{"r" * 3000}","visit":"v","step":"s","due":1',
        f'"run":"r","visit":"{"v" * 3000}","step":"s","due":1',
        f'"tenant":"default","playbook":"p","trigger":"t","due":{LARGE}',
        f'"tenant":"default","playbook":"p","trigger":"{"t" * 3000}","due":1',
        '"tenant":"default","outbox":"o","due":NaN',
        f'"tenant":"{"t" * 3000}","outbox":"o","due":1',
    ],
)
def test_a_message_with_an_impossible_value_does_not_block_others(
    queue: LambdaQueue, members: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(queue, ONE)
    bad = {"messageId": "bad", "body": f'{{"v":1,{members}}}'}
    assert failures(handlers.step({"Records": [bad, *queue.records()]}, FakeLambdaContext())) == ["bad"]
    assert queue.status(run) is RunStatus.SUCCEEDED
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert metrics["NotOurs"] == 1
    assert failures(handlers.dead_letter({"Records": [bad]}, FakeLambdaContext())) == ["bad"]


@pytest.mark.parametrize("version", ["", '"v":null,', '"v":2,', '"v":"1",', '"v":[1],'])
def test_a_message_of_another_format_is_left(queue: LambdaQueue, version: str) -> None:
    run = start(queue, ONE)
    [record] = queue.records()
    record["body"] = record["body"].replace('"v":1,', version)
    assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == [record["messageId"]]
    assert queue.status(run) is RunStatus.QUEUED


@pytest.mark.parametrize("position", range(4))
def test_a_message_whose_visit_fails_to_execute_is_delivered_again(
    queue: LambdaQueue, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [start(queue, ONE) for _ in range(4)]
    records = queue.records()
    store = message_batch.warm_state().store
    claim_message = store.queue.claim_message

    def claim(body: str, *rest: Any, **more: Any) -> Any:
        if body == records[position]["body"]:
            raise (StoreError("The store is away."), RuntimeError("a bug"))[position % 2]
        return claim_message(body, *rest, **more)

    monkeypatch.setattr(store.queue, "claim_message", claim)
    # If the store is away, another message replaces this one.
    failed = [records[position]["messageId"]] if position % 2 else []
    assert failures(handlers.step({"Records": records}, FakeLambdaContext())) == failed
    assert [queue.status(run) for run in runs].count(RunStatus.SUCCEEDED) == 3
    assert queue.delayed() == 1 - position % 2


def test_a_held_message_that_cannot_be_replaced_is_delivered_again(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(queue, ONE)
    [record] = queue.records()
    queue.store.queue.claim_message(record["body"], Lease("other", 60.0), time.time())
    message_batch.warm_state()
    monkeypatch.setenv("NOETL_QUEUE", "")
    assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == [record["messageId"]]


def test_a_repeated_message_changes_nothing(queue: LambdaQueue) -> None:
    run = start(queue, CHAIN)
    records = queue.records()
    for _ in range(3):
        assert failures(handlers.step({"Records": records * 10}, FakeLambdaContext())) == []
    queue.drive(run)
    visits = queue.store.runs.visits(run.id)
    assert [(visit.step, visit.claims) for visit in visits if not visit.step.startswith("@")] == [
        (f"s{n}", 1) for n in range(5)
    ]
    assert queue.status(run) is RunStatus.SUCCEEDED


def test_a_message_that_was_received_before_is_processed_alone(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [start(queue, ONE) for _ in range(4)]
    records = queue.records()
    for record in records[:2]:
        record["attributes"] = {"ApproximateReceiveCount": "2"}
    concurrent: list[int] = []
    run_concurrently = message_batch._run_concurrently

    def record_and_run(process: Any, batch: Any) -> Any:
        concurrent.append(len(batch))
        return run_concurrently(process, batch)

    monkeypatch.setattr(message_batch, "_run_concurrently", record_and_run)
    assert failures(handlers.step({"Records": records}, FakeLambdaContext())) == []
    assert concurrent == [2]
    assert [queue.status(run) for run in runs] == [RunStatus.SUCCEEDED] * 4


@pytest.mark.parametrize("function", [handlers.step, handlers.dead_letter])
def test_a_message_whose_visit_another_invocation_holds_is_no_failure(
    queue: LambdaQueue, function: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(queue, ONE)
    [record] = queue.records()
    claimed = queue.store.queue.claim_message(record["body"], Lease("other", 60.0), time.time())
    assert isinstance(claimed, Claim)
    assert failures(function({"Records": [record]}, FakeLambdaContext())) == []
    assert (queue.delayed(), queue.status(run)) == (1, RunStatus.RUNNING)
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert metrics["Held"] == 1


def test_a_dead_letter_fails_its_visit_and_ends_the_run(
    queue: LambdaQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(queue, ONE)
    [record] = queue.records()
    lose_workers(queue.store, record["body"])
    answer = handlers.dead_letter({"Records": [record]}, FakeLambdaContext(function_name="dead"))
    assert failures(answer) == []
    found = queue.store.runs.get("default", run.id)
    assert found is not None
    assert (found.status, [error["type"] for error in found.errors]) == (RunStatus.FAILED, ["WorkerLost"])
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["GivenUp"], metrics["RunsFailed"], metrics["FunctionName"]) == (1, 1, "dead")


def test_a_dead_letter_whose_visit_lost_no_worker_is_sent_again(queue: LambdaQueue) -> None:
    """The store was away for five receives, so no worker could claim the visit."""
    run = start(queue, ONE)
    assert failures(handlers.dead_letter({"Records": queue.records()}, FakeLambdaContext())) == []
    assert queue.status(run) is RunStatus.QUEUED
    assert queue.delayed() == 1


def refuse_after(sent: int) -> Fault:
    """Return a fault of a table that refuses all requests but the first."""
    count = itertools.count()
    return lambda _: DENIED if next(count) >= sent else None


class TestOutage:
    """A table that is sick while a function works."""

    SECONDS = 5.2  # of an invocation: requests are tried again for 0.2 of them

    @pytest.fixture(autouse=True)
    def _soon(self, queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(message_return, "RETURN_SECONDS", 0)
        message_batch.warm_state()

    def step(self, queue: LambdaQueue, fault: Fault) -> int:
        """Pass the messages to the function while the table is sick. Return the number of requests."""
        with faulty_table(fault) as operations:
            context = FakeLambdaContext(self.SECONDS, aws_request_id=f"request {time.monotonic_ns()}")
            assert failures(handlers.step({"Records": queue.records()}, context)) == []
        return len(operations)

    @pytest.mark.parametrize("code", [DENIED, THROTTLED, TIMEOUT])
    def test_an_outage_never_fails_a_run(self, queue: LambdaQueue, code: str) -> None:
        run = start(queue, ONE)
        for _ in range(6):
            self.step(queue, lambda _: code)
        assert queue.drive(run) is RunStatus.SUCCEEDED
        [visit] = [visit for visit in queue.store.runs.visits(run.id) if visit.step == "a"]
        assert visit.claims == 1

    @pytest.mark.parametrize("sent", [2, 3, 5, 7])
    def test_a_claim_that_could_not_be_released_is_not_counted(self, queue: LambdaQueue, sent: int) -> None:
        """The table refuses all requests but the first ones of each invocation."""
        run = start(queue, CHAIN)
        for _ in range(6):
            self.step(queue, refuse_after(sent))
        assert queue.drive(run) is RunStatus.SUCCEEDED
        assert {visit.claims for visit in queue.store.runs.visits(run.id)} == {1}

    def test_messages_are_soon_delivered_again_if_the_store_cannot_be_opened(
        self, queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(message_return, "RETURN_SECONDS", 1)
        message_batch.warm_state.cache_clear()
        run = start(queue, ONE)
        sqs = queue.aws("sqs")
        [message] = sqs.receive_message(QueueUrl=queue.url, VisibilityTimeout=720)["Messages"]
        record = {"messageId": "m", "body": message["Body"], "receiptHandle": message["ReceiptHandle"]}
        with faulty_table(lambda _: DENIED):
            assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == ["m"]
        [again] = sqs.receive_message(QueueUrl=queue.url, WaitTimeSeconds=10)["Messages"]
        assert failures(handlers.step({"Records": [{"body": again["Body"]}]}, FakeLambdaContext())) == []
        assert queue.status(run) is RunStatus.SUCCEEDED

    def test_without_the_queue_a_message_is_delivered_again(
        self, queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = start(queue, ONE)
        [record] = queue.records()
        with monkeypatch.context() as patch, faulty_table(lambda _: DENIED):
            patch.setenv("NOETL_QUEUE", f"{queue.url}-unknown")
            assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == [
                record["messageId"]
            ]
        assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == []
        assert queue.drive(run) is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("sent", [2, 4])
    def test_the_claim_of_a_step_with_at_most_once_counts(self, queue: LambdaQueue, sent: int) -> None:
        """A claim is released only if the step has not started."""
        run = start(queue, ONE.replace("name: a,", "name: a, delivery: at_most_once,"))
        self.step(queue, refuse_after(sent))
        [visit] = queue.store.runs.visits(run.id)
        [record] = queue.records()
        assert (visit.claims, "released" in json.loads(record["body"])) == (1, sent == 2)

    def test_a_request_is_tried_while_there_is_time(self, queue: LambdaQueue) -> None:
        run = start(queue, ONE)
        refused = iter(range(5 * aws_retry.MAX_TRIES))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aws_retry, "MAX_PAUSE_SECONDS", 0.001)
            patch.setattr(self, "SECONDS", 60.0)
            self.step(queue, lambda _: None if next(refused, None) is None else THROTTLED)
        assert queue.status(run) is RunStatus.SUCCEEDED


def test_unknown_messages_stay_in_the_dead_letter_queue(queue: LambdaQueue) -> None:
    assert failures(
        handlers.dead_letter({"Records": [{"messageId": "m", "body": "x"}]}, FakeLambdaContext())
    ) == ["m"]


def test_a_sweep_reports_what_it_repaired(queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(queue, ONE)
    queue.records()  # and they are lost
    swept = {"runs": 1, "sent_again": 0, "triggers": 0, "limits": 0}
    assert handlers.sweep({}, FakeLambdaContext()) == swept
    later = queue.store.clock() + 1000
    with monkeypatch.context() as changed:
        changed.setattr(DynamoStore, "clock", property(lambda _: lambda: later))
        assert handlers.sweep({}, FakeLambdaContext()) == swept | {"sent_again": 1}
    assert queue.records() != []
    assert queue.status(run) is not RunStatus.SUCCEEDED


@pytest.mark.parametrize("part", ["triggers", "gates"])
def test_a_sweep_repairs_runs_although_triggers_or_limits_fail(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    start(queue, ONE)
    queue.records()  # and they are lost
    later = queue.store.clock() + 1000

    def fail(*_: Any) -> None:
        raise StoreError("an item is damaged")

    monkeypatch.setattr(DynamoStore, "clock", property(lambda _: lambda: later))
    names = {"triggers": "due", "gates": "stalled"}
    monkeypatch.setattr(type(getattr(queue.store, part)), names[part], fail)
    granted: list[int] = []

    def find_stalled(_gates: Any, limit: int) -> list[GateKey]:
        granted.append(limit)
        return []

    if part == "triggers":
        monkeypatch.setattr(type(queue.store.gates), "stalled", find_stalled)
    with pytest.raises(StoreError, match="an item is damaged"):
        handlers.sweep({}, FakeLambdaContext())
    assert queue.records() != []
    assert bool(granted) is (part == "triggers")


TICK = "{name: tick, type: schedule, every: 40s}"


def register_trigger(queue: LambdaQueue, triggers: str = TICK) -> LiveTrigger:
    """Register a playbook that starts every 40 seconds, and return its first trigger."""
    plan = compile_text(f"""
    triggers: [{triggers}]
    steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
    """)
    queue.store.plans.save(plan)
    playbook = RegisteredPlaybook("default", "play", None, plan.hash, queue.store.clock())
    queue.store.registry.register(playbook, triggers=plan.header.triggers)
    trigger = queue.store.triggers.get("default", "play", plan.header.triggers[0].name)
    assert trigger is not None
    return trigger


def message_about(trigger: LiveTrigger) -> dict[str, Any]:
    assert trigger.due_at is not None
    message = TriggerMessage(trigger.tenant, trigger.playbook, trigger.name, trigger.due_at)
    return {"messageId": "m", "body": message.encode(), "eventSource": "aws:sqs"}


def test_a_sweep_sends_messages_about_triggers(queue: LambdaQueue) -> None:
    register_trigger(queue)
    assert handlers.sweep({}, FakeLambdaContext())["triggers"] == 1
    assert queue.delayed() == 1


def test_a_sweep_that_dies_between_two_messages_leaves_the_rest_to_the_next(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{number}" for number in range(MAX_BATCH + 2)]
    triggers = ", ".join(f"{{name: {name}, type: schedule, every: 40s}}" for name in names)
    due_at = register_trigger(queue, triggers).due_at
    assert due_at is not None
    monkeypatch.setattr(DynamoStore, "clock", property(lambda _: lambda: due_at))
    send_batch, batches = MessageQueue._send_batch, itertools.count()

    def die_at_the_second(self: MessageQueue, entries: Any) -> None:
        if next(batches) == 1:
            raise _KilledError
        send_batch(self, entries)

    with monkeypatch.context() as patch:
        patch.setattr(MessageQueue, "_send_batch", die_at_the_second)
        with pytest.raises(_KilledError):
            handlers.sweep({}, FakeLambdaContext())
    first = queue.records(100)
    assert len(first) == MAX_BATCH
    for record in first:
        assert handlers.step({"Records": [record]}, FakeLambdaContext()) == {"batchItemFailures": []}
    queue.records(100)  # Those about the new runs.
    # The triggers that have fired are due again in 40 seconds, and their messages come then.
    assert handlers.sweep({}, FakeLambdaContext())["triggers"] == len(names)
    for record in [record for record in queue.records(100) if "trigger" in json.loads(record["body"])]:
        assert handlers.step({"Records": [record]}, FakeLambdaContext()) == {"batchItemFailures": []}
    runs = queue.store.runs.find(RunFilter("default", limit=100))[0]
    assert sorted(run.trigger["name"] for run in runs if run.trigger is not None) == sorted(names)


class _KilledError(BaseException):
    """The end of a process at this place."""


def test_a_message_about_a_trigger_starts_a_run(queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = register_trigger(queue)
    assert trigger.due_at is not None
    due_at = trigger.due_at
    monkeypatch.setattr(DynamoStore, "clock", property(lambda _: lambda: due_at))
    record = message_about(trigger)
    assert handlers.step({"Records": [record]}, FakeLambdaContext()) == {"batchItemFailures": []}
    [started] = queue.store.runs.find(RunFilter("default"))[0]
    # The message about the next firing has a delay, and that about the run has none.
    assert queue.delayed() == 1
    [first] = queue.records()
    assert json.loads(first["body"])["run"] == started.id
    # A copy of the message starts nothing.
    assert handlers.step({"Records": [record]}, FakeLambdaContext()) == {"batchItemFailures": []}
    assert len(queue.store.runs.find(RunFilter("default"))[0]) == 1
    assert queue.delayed() == 1


def test_a_message_about_a_trigger_comes_again_after_a_failure(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = message_about(register_trigger(queue))

    def fail(*_: object) -> None:
        raise StoreError("The table is away.")

    monkeypatch.setattr(message_batch.warm_state().store.triggers, "get", fail)
    assert failures(handlers.step({"Records": [record]}, FakeLambdaContext())) == ["m"]
    # One that was received too often is dropped, since the next sweep sends another.
    assert failures(handlers.dead_letter({"Records": [record]}, FakeLambdaContext())) == []


@pytest.mark.parametrize("subject", ["a trigger", "the outbox"])
def test_a_worker_deletes_messages_about_what_its_loops_perform(queue: LambdaQueue, subject: str) -> None:
    body = OutboxMessage("default", "n1", 0.0).encode()
    if subject == "a trigger":
        body = message_about(replace(register_trigger(queue), due_at=0.0))["body"]
    queue.aws("sqs").send_message(QueueUrl=queue.url, MessageBody=body)
    lease, store = Lease("worker", 30.0), queue.store
    assert store.queue.claim("service", lease, store.clock()) is None  # It has received the message.
    assert store.queue.claim("service", lease, store.clock()) is None
    attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = queue.aws("sqs").get_queue_attributes(QueueUrl=queue.url, AttributeNames=attributes)
    assert [counts["Attributes"][name] for name in attributes] == ["0", "0"]


def add_notification(queue: LambdaQueue, name: str, target: str) -> dict[str, Any]:
    """Add a due notification to a channel of its own, and return the message about it."""
    now = queue.store.clock()
    assert queue.store.channels.put(Channel("default", name, "webhook", target, now), None)
    record: dict[str, Any] = {
        "channel": name,
        "run_id": "r1",
        "playbook": "play",
        "version": "1",
        "status": "failed",
    }
    record |= {"event": "failed", "attempts": 0, "waits_for": []}
    entry = OutboxEntry(name, "default", OutboxKind.NOTIFICATION, now - 1, now - 1, record)
    assert queue.store.outbox.add(entry)
    body = OutboxMessage("default", name, now - 1).encode()
    return {"messageId": name, "body": body, "eventSource": "aws:sqs"}


def test_a_notification_without_enough_time_is_left_to_another_invocation(queue: LambdaQueue) -> None:
    """An attempt that is cut short would count as a failure, and delay its channel."""

    def answer_slowly(exchange: StubExchange) -> None:
        time.sleep(2.0)
        exchange.reply(204)

    with serve(answer_slowly) as server:
        message = add_notification(queue, "ops", server.url())
        seconds = COMMIT_MARGIN_SECONDS + message_batch.RETURN_MARGIN_SECONDS + 1.2
        assert failures(handlers.step({"Records": [message]}, FakeLambdaContext(seconds))) == []
        assert server.requests == []
        entry, channel = queue.store.outbox.get("default", "ops"), queue.store.channels.get("default", "ops")
        assert entry is not None and entry.due_at is not None and channel is not None
        assert (entry.record["attempts"], entry.record.get("problem"), channel.retry_at) == (0, None, None)
        # The message about the next attempt is new, so no receive of this one counts.
        assert queue.delayed() == 1
        time.sleep(max(entry.due_at - queue.store.clock(), 0.0))
        message["body"] = OutboxMessage("default", "ops", entry.due_at).encode()
        assert failures(handlers.step({"Records": [message]}, FakeLambdaContext())) == []
        assert len(server.requests) == 1
    assert queue.store.outbox.get("default", "ops") is None


@pytest.mark.parametrize("is_away", [True, False])
def test_the_return_of_a_message_has_the_time_that_is_kept_for_it(
    queue: LambdaQueue, is_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = add_notification(queue, "ops", "http://127.0.0.1:1")
    bounds: list[float] = []

    def shorten(_self: Any, _records: Any) -> None:
        bounds.append(bounded_by_invocation(60.0))

    def fail(*_: object) -> None:
        raise StoreError("The table is away.")

    monkeypatch.setattr(message_return.MessageReturn, "shorten", shorten)
    kept = message_batch.RETURN_MARGIN_SECONDS
    seconds = COMMIT_MARGIN_SECONDS + kept
    if is_away:
        monkeypatch.setattr(message_batch.warm_state().store.outbox, "get", fail)
        seconds += message_batch.MIN_FIRING_SECONDS + 1.0
    assert failures(handlers.step({"Records": [message]}, FakeLambdaContext(seconds))) == ["ops"]
    assert [bound > kept - 1.0 for bound in bounds] == [True]


def test_a_silent_receiver_of_a_notification_does_not_outlast_an_invocation(
    queue: LambdaQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MIN_SEND_SECONDS", 1.0)
    released = threading.Event()

    def hang(_exchange: StubExchange) -> None:
        released.wait(30)

    with serve(hang) as server:
        try:
            # Both are performed alone, as they were received before.
            records = [
                {
                    **add_notification(queue, name, server.url()),
                    "attributes": {"ApproximateReceiveCount": "2"},
                }
                for name in ("first", "second")
            ]
            begun_at, context = time.monotonic(), FakeLambdaContext(seconds=8.0)
            failed = failures(handlers.step({"Records": records}, context))
            assert time.monotonic() - begun_at < context.seconds - COMMIT_MARGIN_SECONDS
        finally:
            released.set()
    first = queue.store.outbox.get("default", "first")
    assert first is not None
    assert re.fullmatch(r"`127.0.0.1:\d+` did not answer within [1-3](\.\d)? s", first.record["problem"])
    # Nothing was left of the time for the other one.
    second = queue.store.outbox.get("default", "second")
    assert second is not None
    assert (failed, second.record["attempts"]) == (["second"], 0)


@pytest.mark.parametrize(
    "event", [{}, {"Records": None}, {"Records": "x"}, {"Records": [1]}, [], "x", None, 7]
)
def test_an_event_that_is_no_batch_is_an_error(queue: LambdaQueue, event: Any) -> None:
    with pytest.raises(TypeError, match="not a batch of SQS messages"):
        handlers.step(event, FakeLambdaContext())


def test_an_empty_batch_has_no_failures(queue: LambdaQueue) -> None:
    assert handlers.step({"Records": []}, FakeLambdaContext()) == {"batchItemFailures": []}


@pytest.mark.parametrize("url", ["", "sqlite:///x.db", "carrier://pigeon"])
def test_a_store_without_a_queue_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOETL_STORE", url)
    message_batch.warm_state.cache_clear()
    with pytest.raises(SettingError, match="NOETL_STORE") as refused:
        handlers.step({"Records": [{"messageId": "m", "body": "{}"}]}, FakeLambdaContext())
    # An open store would be reported here, not in a later test.
    del refused
    gc.collect()


class TestPreload:
    """Modules that are loaded before the first message, in a new process."""

    CODE = """
import gc, sys
import noetl.executor.lambda_handler
from noetl.executor.clients import aws
print(
    "noetl.executor.engine.invocation" in sys.modules,
    "noetl.executor.stores.dynamo.store" in sys.modules,
    "noetl.executor.stores.postgres.store" in sys.modules,
)
print(aws.client.cache_info().currsize, gc.isenabled())
"""

    @pytest.mark.parametrize("built_for", [None, os.uname().machine])
    def test_a_package_for_this_processor_is_accepted(self, tmp_path: Path, built_for: str | None) -> None:
        file = tmp_path / "processor.txt"
        if built_for is not None:
            file.write_text(built_for)
        check_processor(file)

    def test_a_package_for_another_processor_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "processor.txt"
        file.write_text("mips")
        with pytest.raises(RuntimeError, match="is built for mips, and the function runs on"):
            check_processor(file)

    @pytest.mark.parametrize(
        ("settings", "output"),
        [
            ({}, ["False False False", "0 True"]),
            ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, ["True True False", "0 True"]),
            ({"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_REGION": "us-east-1"}, ["True True False", "1 True"]),
            (
                {
                    "AWS_LAMBDA_FUNCTION_NAME": "f",
                    "AWS_REGION": "us-east-1",
                    "NOETL_STORE": "dynamodb://table",
                },
                ["True True False", "2 True"],
            ),
            (
                {
                    "AWS_LAMBDA_FUNCTION_NAME": "f",
                    "AWS_REGION": "us-east-1",
                    "NOETL_STORE": "arn:aws:secretsmanager:eu-west-1:1:secret:a",
                },
                ["True False True", "2 True"],
            ),
        ],
        ids=["elsewhere", "without a region", "without a store", "DynamoDB", "Postgres"],
    )
    def test_the_modules_of_the_store_are_preloaded(
        self, settings: dict[str, str], output: list[str]
    ) -> None:
        environ = {
            "PATH": os.environ["PATH"],
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        done = subprocess.run(
            [sys.executable, "-c", self.CODE],
            env=environ | settings,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines() == output


def test_a_message_of_a_damaged_run_is_done_and_the_run_continues_later(
    queue: LambdaQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """The function that meets it sets it aside, and the other messages of its batch are processed."""
    table = queue.store.context.table
    damaged, sound = start(queue, CHAIN), start(queue, CHAIN)
    table.write([Update(keys.head(damaged.id), {"plan": "lost"})])
    assert queue.drive(sound) is RunStatus.SUCCEEDED
    head = table.get(keys.head(damaged.id))
    assert head is not None
    assert "has no plan lost" in head["damage"]
    assert [r.levelname for r in caplog.records if damaged.id in r.getMessage()] == ["ERROR"]
    assert queue.store.maintenance.sweep(time.time() + 3600.0).repaired == 0
    assert queue.records() == []
    table.write([Update(keys.head(damaged.id), {"plan": damaged.plan_hash})])
    # The claim of the function that has met the damage must end before.
    now = time.time() + 60.0
    for visit in queue.store.runs.visits(damaged.id):
        table.write([Update(keys.visit(damaged.id, visit.id, 1), {"due": time.time()})])
    assert queue.store.maintenance.put_back(now) == [damaged.id]
    assert queue.drive(damaged) is RunStatus.SUCCEEDED


def test_a_run_whose_head_cannot_be_decoded_is_set_aside(queue: LambdaQueue) -> None:
    damaged, sound = start(queue, CHAIN), start(queue, CHAIN)
    queue.store.context.table.write([Update(keys.head(damaged.id), {"given": b"\x01broken"})])
    assert queue.drive(sound) is RunStatus.SUCCEEDED
    overview = queue.store.runs.overview("default", damaged.id)
    assert overview is not None
    assert overview.damage == f"Data of run {damaged.id} cannot be read: JSONDecodeError."
