"""The contract of stores on Postgres with an SQS queue, and the messages about due visits."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import psycopg
import pytest

from noetl.executor.clients.aws import reset_clients
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import MessageError, SettingError, StoreError
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Claim, Lease, Run, RunStatus, VisitStatus
from noetl.executor.runtime.message_batch import warm_state
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.stores import open_store, resolve_url
from noetl.executor.stores.interface import MessageOutcome, SweepResult
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.infra.migrations import upgrade
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract import (
    PlanDeletionContract,
    QueueContract,
    RunsContract,
    SweepContract,
    WaitsContract,
)
from noetl.testing.store_contract.operations import (
    DIAMOND,
    LEASE,
    fail,
    lose_workers,
    run_concurrently,
    start_run,
    succeed,
)
from tests.aws import Client, drop_permissions
from tests.contract.sql_damage import SqlDamage
from tests.postgres import empty_database

LIMIT = 4096
CHILD_PLAYBOOK = """
name: child
steps: [{name: a, run: [{action: wait, seconds: 1}, {action: set, set: {n: 7}}]}]
output: {n: '{{ n }}'}
"""
EXAMPLES = {
    "diamond": (DIAMOND, "succeeded"),
    "sequential": ("    mode: sequential" + DIAMOND, "succeeded"),
    "wait": (
        "steps: [{name: a, run: [{action: wait, seconds: 1}, {action: set, set: {n: 1}}]}]",
        "succeeded",
    ),
    "retry": (
        "steps: [{name: a, retry: {attempts: 2, delay: 1s}, run: [{action: fail, message: no}]}]",
        "failed",
    ),
    "repeat": (
        (
            "steps: [{name: a, repeat: {until: '{{ n > 4 }}', every: 1s, max: 3},"
            " run: [{action: set, set: {n: '{{ (n | default(3)) + 1 }}'}}]}]"
        ),
        "succeeded",
    ),
    "batches": (
        "steps: [{name: a, loop: {items: '{{ range(9) }}', batch: 4}, run: [{action: log, message: x}]}]",
        "succeeded",
    ),
    "timeout": ("timeout: 2s\nsteps: [{name: a, run: [{action: wait, seconds: 600}]}]", "timed_out"),
    "finally": (
        (
            "finally: z\nsteps:\n- {name: a, run: [{action: fail, message: no}]}\n"
            "- {name: z, run: [{action: log, message: x}]}"
        ),
        "failed",
    ),
    "another run": (
        (
            "steps: [{name: a, run: [{action: workflow, playbook: child, as: found}]}]\n"
            "output: {n: '{{ found.n }}'}"
        ),
        "succeeded",
    ),
}
"""Playbooks, and the status in which their runs end."""


@pytest.fixture
def queue(aws: Client, reused_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    url = str(aws("sqs").create_queue(QueueName="noetl", Attributes={"VisibilityTimeout": "30"})["QueueUrl"])
    monkeypatch.setenv("NOETL_STORE", reused_postgres_dsn)
    monkeypatch.setenv("NOETL_QUEUE", url)
    return url


@pytest.fixture
def store(queue: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    opened = open_store()
    assert isinstance(opened, PostgresStore)
    yield opened
    opened.close()


class TestPostgresWithQueue(RunsContract, QueueContract, WaitsContract, SweepContract, PlanDeletionContract):
    limits = PayloadLimits(payload_bytes=LIMIT, answer_bytes=LIMIT)
    damage = SqlDamage()

    @pytest.fixture
    def store(self, queue: str) -> Iterator[PostgresStore]:
        opened = open_store()
        assert isinstance(opened, PostgresStore)
        opened.context.limits = PayloadLimits(LIMIT, LIMIT)
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: PostgresStore) -> Iterator[PostgresStore]:
        opened = open_store()
        assert isinstance(opened, PostgresStore)
        yield opened
        opened.close()


def test_a_lambda_function_opens_the_store(queue: str) -> None:
    opened = warm_state.__wrapped__().store
    try:
        assert opened.queue.message_queue is not None
        assert opened.queue.next_due("service") is None
    finally:
        opened.close()


def start_service_run(store: PostgresStore, text: str) -> Run:
    return start_run(store, text, now=time.time(), origin="service")


def receive_messages(aws: Client, queue: str, seconds: int = 5) -> list[str]:
    """Receive and delete the next messages, and return their bodies."""
    sqs = aws("sqs")
    options = {"WaitTimeSeconds": seconds, "MaxNumberOfMessages": 10}
    messages = sqs.receive_message(QueueUrl=queue, **options).get("Messages", ())
    for message in messages:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [message["Body"] for message in messages]


def process_messages(store: PostgresStore, aws: Client, queue: str, run: Run, *, chained: bool) -> Run:
    """Execute only the visits that messages announce, until the run has ended, and return the run."""
    executor = VisitExecutor(store, LEASE, service_capabilities({}), continues=lambda: chained)
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        for body in receive_messages(aws, queue, 1):
            delivered = store.queue.claim_message(body, LEASE, time.time())
            assert delivered is not MessageOutcome.HELD
            claim = delivered if isinstance(delivered, Claim) else None
            while claim is not None:
                claim = executor.execute(claim)
        current = store.runs.get(run.tenant, run.id)
        assert current is not None
        if current.status.is_final:
            return current
    raise AssertionError(f"no message was sent for {[(v.step, v.status) for v in store.runs.visits(run.id)]}")


@pytest.mark.parametrize("chained", [False, True], ids=["a message a step", "chained"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_messages_announce_all_due_visits(
    store: PostgresStore, aws: Client, queue: str, name: str, *, chained: bool
) -> None:
    text, status = EXAMPLES[name]
    child = compile_text(CHILD_PLAYBOOK)
    store.plans.save(child)
    store.registry.register(RegisteredPlaybook("default", "child", None, child.hash, 0.0))
    run = start_service_run(store, text)
    assert process_messages(store, aws, queue, run, chained=chained).status == status
    assert store.maintenance.check_consistency() == []


def test_an_answer_a_stop_and_a_resume_send_messages(store: PostgresStore, aws: Client, queue: str) -> None:
    run = start_service_run(store, "steps: [{name: a, run: [{action: wait, seconds: 600}]}]")
    (body,) = receive_messages(aws, queue)
    claim = store.queue.claim_message(body, LEASE, time.time())
    assert isinstance(claim, Claim)
    store.waits.open_wait(claim, "w", "token")
    VisitExecutor(store, LEASE, service_capabilities({})).execute(claim)
    assert receive_messages(aws, queue, 0) == []
    store.waits.answer("token", 1, time.time())
    (answered,) = receive_messages(aws, queue)
    assert DueMessage.decode(answered).visit_id == claim.visit.id
    store.runs.stop(run.id, RunStatus.CANCELLED, time.time())
    assert process_messages(store, aws, queue, run, chained=False).status is RunStatus.CANCELLED
    store.runs.resume(run.id, time.time(), deadline_at=None, values={})
    (resumed,) = receive_messages(aws, queue)
    assert DueMessage.decode(resumed).visit_id == claim.visit.id


def test_a_released_claim_sends_a_message(store: PostgresStore, aws: Client, queue: str) -> None:
    start_service_run(store, DIAMOND)
    (body,) = receive_messages(aws, queue)
    claim = store.queue.claim_message(body, LEASE, time.time())
    assert isinstance(claim, Claim)
    store.queue.release(claim.visit, time.time(), counts=False)
    (again,) = receive_messages(aws, queue)
    assert isinstance(store.queue.claim_message(again, LEASE, time.time()), Claim)


def test_no_messages_about_local_runs_and_claimed_visits(
    store: PostgresStore, aws: Client, queue: str
) -> None:
    local = start_run(store, DIAMOND, now=time.time())
    claim = store.queue.claim(local.id, LEASE, time.time())
    assert claim is not None
    store.queue.commit(succeed(store, claim), time.time())
    run = start_service_run(store, DIAMOND)
    (body,) = receive_messages(aws, queue)
    assert DueMessage.decode(body).run_id == run.id
    delivered = store.queue.claim_message(body, LEASE, time.time())
    assert isinstance(delivered, Claim)
    assert store.queue.commit(succeed(store, delivered), time.time(), LEASE).following is not None
    assert len(receive_messages(aws, queue)) == 3  # three of the four branches


def test_a_message_may_arrive_again_early_or_late(store: PostgresStore, aws: Client, queue: str) -> None:
    now = time.time()
    start_service_run(store, DIAMOND)
    (body,) = receive_messages(aws, queue)
    claim = store.queue.claim_message(body, Lease("one", 30.0), now + 1)
    assert isinstance(claim, Claim)
    assert store.queue.claim_message(body, LEASE, now + 2) is MessageOutcome.HELD
    taken_over = store.queue.claim_message(body, LEASE, now + 32)
    assert isinstance(taken_over, Claim)
    assert (taken_over.visit.fence, taken_over.visit.claims) == (2, 2)
    store.queue.commit(fail(store, taken_over, retry_at=now + 5000.0), now)
    assert store.queue.claim_message(body, LEASE, now + 40) is MessageOutcome.DONE
    names = ["ApproximateNumberOfMessagesDelayed"]
    counts = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    assert counts == {names[0]: "2"}
    again = store.queue.claim_message(body, LEASE, now + 5001)
    assert isinstance(again, Claim)
    store.queue.commit(succeed(store, again), now)
    assert store.queue.claim_message(body, LEASE, now + 9999) is MessageOutcome.DONE
    assert (
        store.queue.claim_message(DueMessage("no", "v", "a", 1.0).encode(), LEASE, now) is MessageOutcome.DONE
    )


@pytest.mark.parametrize("body", ["", "null", '{"v": 2, "run": "r"}', '{"v":1,"run":1,"visit":2}'])
def test_a_message_of_another_sender_is_refused(store: PostgresStore, body: str) -> None:
    with pytest.raises(MessageError):
        store.queue.claim_message(body, LEASE, 1.0)


def test_a_claim_that_gives_up_fails_the_visit(store: PostgresStore, aws: Client, queue: str) -> None:
    run = start_service_run(store, DIAMOND)
    (body,) = receive_messages(aws, queue)
    assert store.queue.claim_message(body, LEASE, time.time(), give_up=True) is MessageOutcome.DONE
    lose_workers(store, body)
    claim = store.queue.claim_message(body, LEASE, time.time(), give_up=True)
    assert isinstance(claim, Claim)
    VisitExecutor(store, LEASE, service_capabilities({}), continues=lambda: False).execute(claim)
    (visit, *_) = store.runs.visits(run.id)
    assert (visit.status, visit.error and visit.error["type"]) == ("failed", "WorkerLost")


def test_a_sweep_sends_lost_messages_again(store: PostgresStore, aws: Client, queue: str) -> None:
    now = time.time()
    run = start_service_run(store, DIAMOND)
    receive_messages(aws, queue)  # the message is lost
    assert store.maintenance.sweep(now + 1.0) == SweepResult(1, 0)
    assert store.maintenance.sweep(now + 1000.0) == SweepResult(1, 1)
    assert [DueMessage.decode(body).run_id for body in receive_messages(aws, queue)] == [run.id]
    claim = store.queue.claim("service", Lease("dies", 30.0), now + 1.0)
    assert claim is not None
    assert store.maintenance.sweep(now + 31.0 + GRACE_SECONDS) == SweepResult(1, 0)
    assert store.maintenance.sweep(now + 1000.0) == SweepResult(1, 1)


def test_a_queue_that_refuses_messages_loses_nothing(
    store: PostgresStore,
    aws: Client,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        drop_permissions(aws, patch)
        run = start_service_run(store, DIAMOND)
    reset_clients()
    assert "no message was sent about 1 due visits" in caplog.text
    assert "The queue of the store refused" in caplog.text
    assert store.runs.visits(run.id)[0].status is VisitStatus.READY
    assert store.maintenance.sweep(time.time() + 1000.0).repaired == 1
    assert process_messages(store, aws, queue, run, chained=True).status is RunStatus.SUCCEEDED


def test_a_process_has_few_connections(store: PostgresStore, reused_postgres_dsn: str) -> None:
    """Each concurrent invocation is a process, with at most four connections and none for notifications.

    The server may end those of an earlier test late.
    """
    run = start_service_run(store, DIAMOND)
    run_concurrently(20, lambda _: [store.runs.visits(run.id) for _ in range(50)])
    query = (
        "select query from pg_stat_activity where application_name = 'noetl' and datname = current_database()"
    )
    deadline = time.monotonic() + 10.0
    with psycopg.connect(reused_postgres_dsn, autocommit=True) as connection:
        queries = [row[0] for row in connection.execute(query).fetchall()]
        while len(queries) > 4 and time.monotonic() < deadline:
            time.sleep(0.1)
            queries = [row[0] for row in connection.execute(query).fetchall()]
    assert 1 <= len(queries) <= 4
    assert not any("listen" in query for query in queries)


class TestSecret:
    """A database whose address is in Secrets Manager."""

    def test_a_secret_with_a_uri(self, queue: str, aws: Client, reused_postgres_dsn: str) -> None:
        arn = aws("secretsmanager").create_secret(Name="noetl", SecretString=f"{reused_postgres_dsn}\n")[
            "ARN"
        ]
        assert resolve_url(arn) == reused_postgres_dsn
        store = open_store(arn)
        assert isinstance(store, PostgresStore)
        store.close()

    def test_the_secret_is_read_for_each_new_connection(
        self, queue: str, aws: Client, postgres_server: str, reused_postgres_dsn: str
    ) -> None:
        """The new address is that of another database, which makes the change visible."""
        arn = aws("secretsmanager").create_secret(Name="changing", SecretString=reused_postgres_dsn)["ARN"]
        store = open_store(arn)
        run = start_run(store, DIAMOND)
        with empty_database(postgres_server) as other:
            upgrade(other)
            aws("secretsmanager").put_secret_value(SecretId=arn, SecretString=other)
            assert store.runs.get(run.tenant, run.id) is not None
            with psycopg.connect(reused_postgres_dsn, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            deadline = time.monotonic() + 30.0
            while store.runs.get(run.tenant, run.id) is not None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            store.close()

    def test_a_secret_of_amazon_rds(self, aws: Client) -> None:
        secret = {
            "engine": "postgres",
            "host": "db.test",
            "port": 5433,
            "username": "a@b",
            "password": "p/w:d?",
            "dbname": "n",
        }
        arn = aws("secretsmanager").create_secret(Name="rds", SecretString=json.dumps(secret))["ARN"]
        assert resolve_url(arn) == "postgresql://a%40b:p%2Fw%3Ad%3F@db.test:5433/n"

    @pytest.mark.parametrize(
        "text", ["", "x", "{}", "[1]", "mysql://host/db", '{"username": "a", "password": "b"}']
    )
    def test_a_secret_without_an_address_is_refused(self, aws: Client, text: str) -> None:
        arn = aws("secretsmanager").create_secret(Name="other", SecretString=text or " ")["ARN"]
        with pytest.raises(SettingError, match=r"\(NOETL_STORE\) must be a Postgres URI"):
            open_store(arn)

    def test_an_unreadable_secret_is_reported(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(StoreError, match=r"The secret of the store \(NOETL_STORE\) cannot be read"):
            open_store("arn:aws:secretsmanager:us-east-1:000000000000:secret:no")
