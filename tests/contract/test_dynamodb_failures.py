"""Responses of AWS that no emulator gives, from the Stubber of botocore: conflicts, throttling, unprocessed
keys.
"""

from __future__ import annotations

import json
import random
import secrets
import string
from collections.abc import Iterator, Sequence
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from noetl.executor.clients import aws_retry
from noetl.executor.clients.aws_retry import MAX_TRIES, ConditionFailed
from noetl.executor.errors import (
    FencedError,
    PayloadLostError,
    PayloadTooLargeError,
    SettingError,
    StoreError,
)
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import blobs as buckets
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo import table as tables
from noetl.executor.stores.dynamo.attributes import decode_item, encode_item, encode_value
from noetl.executor.stores.dynamo.blobs import Blobs, from_bytes, to_bytes
from noetl.executor.stores.dynamo.expressions import ABSENT, ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.sqs import messages
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed
from tests.aws import Client, drop_permissions

FIRST_KEY, SECOND_KEY = keys.ItemKey("p", "one"), keys.ItemKey("p", "two")
CANCELLED = "TransactionCanceledException"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_retry, "FIRST_PAUSE_SECONDS", 0.0)


def stub_client(service: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> Stubber:
    client = boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
        endpoint_url="http://x.invalid",
    )
    monkeypatch.setattr(module, "store_client", lambda _: client)
    return Stubber(client)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    with stub_client("dynamodb", tables, monkeypatch) as stub:
        yield stub
        stub.assert_no_pending_responses()


def add_errors(
    stub: Stubber, call: str, code: str, times: int = 1, *, status: int = 400, **fields: Any
) -> None:
    """Let the next calls fail with this error code."""
    for _ in range(times):
        stub.add_client_error(call, code, "no", status, modeled_fields=fields or None)


def build_reasons(*codes: str | None) -> dict[str, Any]:
    return {"CancellationReasons": [{"Code": code or "None", "Message": code or ""} for code in codes]}


TWO_WRITES: Sequence[Write] = [Update(FIRST_KEY, {"a": 1}), Put(SECOND_KEY, {"b": 2})]


class TestPassingFailures:
    @pytest.mark.parametrize(
        "code",
        [
            "ProvisionedThroughputExceededException",
            "ThrottlingException",
            "RequestLimitExceeded",
            "InternalServerError",
            "TransactionConflictException",
        ],
    )
    @pytest.mark.parametrize("times", [1, MAX_TRIES - 1])
    def test_a_passing_failure_is_retried(self, stub: Stubber, code: str, times: int) -> None:
        add_errors(stub, "update_item", code, times)
        stub.add_response("update_item", {"Attributes": encode_item({"a": 1})})
        assert DynamoTable("t").update(Update(FIRST_KEY, {"a": 1})) == {"a": 1}

    def test_retries_are_limited(self, stub: Stubber) -> None:
        add_errors(stub, "update_item", "ThrottlingException", MAX_TRIES)
        with pytest.raises(StoreError, match=f"failed {MAX_TRIES} times: table t .NOETL_STORE.: no"):
            DynamoTable("t").update(Update(FIRST_KEY, {"a": 1}))

    @pytest.mark.parametrize(
        "codes", [("TransactionConflict", None), (None, "ThrottlingError"), ("TransactionConflict",) * 2]
    )
    def test_conflicting_transactions_are_retried(self, stub: Stubber, codes: tuple[str | None, ...]) -> None:
        add_errors(stub, "transact_write_items", CANCELLED, 3, **build_reasons(*codes))
        add_errors(stub, "transact_write_items", "TransactionInProgressException")
        stub.add_response("transact_write_items", {})
        DynamoTable("t").write(TWO_WRITES)

    def test_retries_of_a_transaction_use_one_token(
        self, stub: Stubber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests: list[str] = []
        table = DynamoTable("t")
        send = table.client.transact_write_items

        def record_and_send(**request: Any) -> Any:
            requests.append(request["ClientRequestToken"])
            return send(**request)

        monkeypatch.setattr(table.client, "transact_write_items", record_and_send)
        add_errors(stub, "transact_write_items", "InternalServerError", status=500)
        stub.add_response("transact_write_items", {})
        stub.add_response("transact_write_items", {})
        table.write(TWO_WRITES)
        table.write(TWO_WRITES)
        assert requests[0] == requests[1] != requests[2]

    def test_a_token_of_another_transaction_is_reported(self, stub: Stubber) -> None:
        add_errors(stub, "transact_write_items", "IdempotentParameterMismatchException")
        with pytest.raises(StoreError, match="IdempotentParameterMismatch"):
            DynamoTable("t").write(TWO_WRITES)


class TestRefusals:
    def test_a_failed_condition_returns_the_current_item(self, stub: Stubber) -> None:
        add_errors(stub, "update_item", "ConditionalCheckFailedException", Item=encode_item({"a": 7}))
        with pytest.raises(ConditionFailed) as refused:
            DynamoTable("t").update(Update(FIRST_KEY, {"a": 1}, when=(ABSENT,)))
        assert refused.value.items == [{"a": 7}]

    def test_the_failed_write_of_a_transaction_is_named(self, stub: Stubber) -> None:
        add_errors(
            stub,
            "transact_write_items",
            CANCELLED,
            **build_reasons("TransactionConflict", "ConditionalCheckFailed"),
        )
        with pytest.raises(ConditionFailed) as refused:
            DynamoTable("t").write(TWO_WRITES)
        assert refused.value.failed == [False, True]

    def test_a_retry_refused_by_its_own_write_counts_as_made(
        self, stub: Stubber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("secrets.token_hex", lambda _: "mine")
        add_errors(stub, "update_item", "InternalServerError", status=500)
        add_errors(
            stub,
            "update_item",
            "ConditionalCheckFailedException",
            Item=encode_item({"a": 1, "wrote": "mine"}),
        )
        assert DynamoTable("t").update(Update(FIRST_KEY, {"a": 1}, when=(ABSENT,)))["a"] == 1

    @pytest.mark.parametrize("first", ["InternalServerError", "ThrottlingException"])
    def test_a_retry_refused_by_another_write_is_refused(
        self, stub: Stubber, monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        monkeypatch.setattr("secrets.token_hex", lambda _: "mine")
        add_errors(stub, "update_item", first, status=500 if first == "InternalServerError" else 400)
        add_errors(
            stub,
            "update_item",
            "ConditionalCheckFailedException",
            Item=encode_item({"a": 1, "wrote": "theirs"}),
        )
        with pytest.raises(ConditionFailed):
            DynamoTable("t").update(Update(FIRST_KEY, {"a": 1}, when=(ABSENT,)))

    def test_an_item_that_dynamodb_refuses_as_too_large(self, stub: Stubber) -> None:
        message = "Item size to update has exceeded the maximum allowed size"
        stub.add_client_error("update_item", "ValidationException", message, 400)
        with pytest.raises(PayloadTooLargeError):
            DynamoTable("t").update(Update(FIRST_KEY, {"a": 1}))


class TestLimits:
    """Limits of DynamoDB, which are checked before a request is sent."""

    def test_the_size_of_an_item_is_limited(self, stub: Stubber) -> None:
        largest = tables.MAX_ITEM_BYTES - tables._MARGIN_BYTES
        stub.add_response("put_item", {})
        DynamoTable("t").write([Put(FIRST_KEY, {"a": b"x" * (largest - 1)})])
        with pytest.raises(PayloadTooLargeError, match="409,600 bytes"):
            DynamoTable("t").write([Put(FIRST_KEY, {"a": b"x" * largest})])

    def test_the_size_of_a_transaction_is_limited(self, stub: Stubber) -> None:
        def writes(count: int) -> list[Any]:
            return [Update(keys.ItemKey("p", str(number)), {"a": 1}) for number in range(count)]

        stub.add_response("transact_write_items", {})
        DynamoTable("t").write(writes(100))
        with pytest.raises(PayloadTooLargeError, match="100 items"):
            DynamoTable("t").write(writes(101))
        with pytest.raises(PayloadTooLargeError, match="4,194,304 bytes"):
            DynamoTable("t").write([Put(keys.ItemKey("p", str(n)), {"a": b"x" * 390_000}) for n in range(11)])


class TestWhatIsLeft:
    def test_unprocessed_keys_are_requested_again(self, stub: Stubber) -> None:
        first, second = ({"pk": {"S": "p"}, "sk": {"S": name}} for name in ("one", "two"))
        unprocessed = {"t": {"Keys": [second], "ConsistentRead": True}}
        stub.add_response("batch_get_item", {"Responses": {"t": [first]}, "UnprocessedKeys": unprocessed})
        stub.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": unprocessed})
        stub.add_response("batch_get_item", {"Responses": {"t": [second]}}, {"RequestItems": unprocessed})
        assert set(DynamoTable("t").get_many([FIRST_KEY, SECOND_KEY])) == {FIRST_KEY, SECOND_KEY}

    def test_keys_that_stay_unprocessed_are_reported(self, stub: Stubber) -> None:
        unprocessed = {"t": {"Keys": [encode_item(FIRST_KEY._asdict())], "ConsistentRead": True}}
        for _ in range(MAX_TRIES):
            stub.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": unprocessed})
        with pytest.raises(StoreError, match="overloaded"):
            DynamoTable("t").get_many([FIRST_KEY])

    def test_a_long_list_of_keys_takes_several_calls(self, stub: Stubber) -> None:
        for count in (100, 100, 50):
            stub.add_response("batch_get_item", {"Responses": {}}, {"RequestItems": {"t": ANY}})
            assert count
        assert DynamoTable("t").get_many([keys.ItemKey("p", str(number)) for number in range(250)]) == {}

    def test_unprocessed_deletions_are_requested_again(self, stub: Stubber) -> None:
        request = {"DeleteRequest": {"Key": encode_item(SECOND_KEY._asdict())}}
        stub.add_response("batch_write_item", {"UnprocessedItems": {"t": [request]}})
        stub.add_response("batch_write_item", {}, {"RequestItems": {"t": [request]}})
        DynamoTable("t").delete([FIRST_KEY, SECOND_KEY])

    def test_failed_messages_are_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with stub_client("sqs", messages, monkeypatch) as stub:
            failed = {"Id": "1", "SenderFault": False, "Code": "InternalError"}
            sent = {"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}
            stub.add_response("send_message_batch", {"Successful": [sent], "Failed": [failed]})
            stub.add_response("send_message_batch", {"Successful": [{**sent, "Id": "1"}], "Failed": []})
            MessageQueue("http://q").send(
                [DueMessage("r", str(number), "s", 0.0) for number in range(2)], 1.0
            )
            stub.assert_no_pending_responses()

    def test_messages_that_keep_failing_are_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = [{"Id": str(n), "SenderFault": False, "Code": "InternalError"} for n in range(2)]
        with stub_client("sqs", messages, monkeypatch) as stub:
            for _ in range(MAX_TRIES):
                stub.add_response("send_message_batch", {"Successful": [], "Failed": failed})
            with pytest.raises(StoreError, match="NOETL_QUEUE"):
                MessageQueue("http://q").send(
                    [DueMessage("r", str(number), "s", 0.0) for number in range(2)], 1.0
                )

    def test_messages_are_delayed_until_they_are_due(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with stub_client("sqs", messages, monkeypatch) as stub:
            for due, delay in ((1.0, None), (2.2, 2), (900.0, 899), (5000.0, 900)):
                requests = {"QueueUrl": "http://q", "MessageBody": ANY, "MessageGroupId": "acme"} | (
                    {} if delay is None else {"DelaySeconds": delay}
                )
                stub.add_response("send_message", {"MessageId": "m"}, requests)
                MessageQueue("http://q").send([DueMessage("r", "v", "s", due, tenant="acme")], 1.0)
            stub.assert_no_pending_responses()


class TestBlobs:
    @pytest.fixture
    def store(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> DynamoStore:
        upgrade("noetl")
        bucket = f"values-{secrets.token_hex(8)}"
        aws("s3").create_bucket(Bucket=bucket)
        monkeypatch.setenv("NOETL_BUCKET", bucket)
        store = open_store("dynamodb://noetl")
        assert isinstance(store, DynamoStore)
        return store

    def test_a_long_value_is_stored_in_the_bucket(
        self, store: DynamoStore, aws: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = start_run(store)
        # A value that compresses well would stay in its item.
        monkeypatch.setattr(buckets, "_pack", lambda text: text)
        text = "x" * (2 * buckets.INLINE_BYTES)
        store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": text}, data=text), 1.0)
        (stored_object,) = aws("s3").list_objects_v2(Bucket=store.context.blobs.bucket)["Contents"]
        assert stored_object["Key"].startswith(f"runs/{run.id}/")
        other_store = DynamoStore("noetl", bucket=store.context.blobs.bucket)
        (visit,) = other_store.runs.visits_with_outputs(run.id, [first_visit_id(other_store, run.id)])
        assert (visit.saved, visit.result) == ({"n": text}, text)
        assert (
            max(len(str(item)) for item in store.context.table.scan() if item["sk"].startswith("V#")) < 2_000
        )

    def test_a_changed_object_is_reported_as_damage(self, store: DynamoStore, aws: Client) -> None:
        stored = store.context.blobs.store("r", ["x" * 10] * 3)
        assert stored is not None
        key = "runs/r/" + "0" * 64
        aws("s3").put_object(Bucket=store.context.blobs.bucket, Key=key, Body=b"something else")
        with pytest.raises(PayloadLostError, match="does not match its hash"):
            store.context.blobs.load(b"@" + key.encode())

    def test_a_long_value_without_a_bucket_is_refused(self, aws: Client) -> None:
        upgrade("noetl")
        store = DynamoStore("noetl")
        run = start_run(store)
        claim = claim_visit(store, run)
        text = "".join(random.Random(1).choices(string.printable, k=1_000_000))
        with pytest.raises(PayloadTooLargeError):
            store.queue.commit(succeed(store, claim, saved={"n": text}), 1.0)
        store.queue.commit(succeed(store, claim), 1.0)

    def test_a_missing_bucket_is_reported(self, aws: Client) -> None:
        blobs = Blobs("nothing-here")
        with pytest.raises(StoreError, match=r"there is no bucket nothing-here .NOETL_BUCKET."):
            blobs.store("r", random.Random(1).choices(range(10**9), k=10_000))


def first_visit_id(store: DynamoStore, run_id: str) -> str:
    return store.runs.visits(run_id)[0].id


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "queue", "bucket", "named"),
        [
            ("dynamodb://", None, None, "NOETL_STORE"),
            ("dynamodb://a b", None, None, "NOETL_STORE"),
            ("dynamodb://noetl", "queue", None, "NOETL_QUEUE"),
            ("dynamodb://noetl", None, "A_B", "NOETL_BUCKET"),
        ],
    )
    def test_invalid_settings_are_refused(
        self, url: str, queue: str | None, bucket: str | None, named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("NOETL_QUEUE", queue), ("NOETL_BUCKET", bucket)):
            monkeypatch.setenv(name, value or "")
        with pytest.raises(SettingError, match=named):
            open_store(url)

    def test_a_missing_table_is_reported(self, aws: Client) -> None:
        with pytest.raises(StoreError, match=r"there is no table nothing .NOETL_STORE.* `noetl db upgrade`"):
            open_store("dynamodb://nothing")

    def test_denied_access_is_reported(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        upgrade("noetl")
        drop_permissions(aws, monkeypatch)
        with pytest.raises(StoreError, match=r"refused the call: .* The credentials"):
            open_store("dynamodb://noetl")

    def test_a_table_that_may_only_be_read_is_not_ready(
        self, aws: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upgrade("noetl")
        iam = aws("iam")
        open_store("dynamodb://noetl").maintenance.probe()
        drop_permissions(aws, monkeypatch)
        reads = {"Effect": "Allow", "Action": ["dynamodb:DescribeTable", "dynamodb:GetItem"], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [reads]})
        iam.put_user_policy(UserName="nobody", PolicyName="reads", PolicyDocument=document)
        with pytest.raises(StoreError, match=r"refused the call: .*PutItem"):
            open_store("dynamodb://noetl").maintenance.probe()

    def test_upgrade_refuses_a_table_with_other_keys(self, aws: Client) -> None:
        key = [{"AttributeName": "id", "KeyType": "HASH"}]
        attribute = [{"AttributeName": "id", "AttributeType": "S"}]
        aws("dynamodb").create_table(
            TableName="theirs", KeySchema=key, AttributeDefinitions=attribute, BillingMode="PAY_PER_REQUEST"
        )
        with pytest.raises(StoreError, match="does not have the keys of a noetl store"):
            upgrade("theirs")

    def test_upgrade_creates_the_table_once(self, aws: Client) -> None:
        assert upgrade("noetl") == ["table noetl", "time to live"]
        assert upgrade("noetl") == []


@pytest.mark.parametrize(
    "value", ["", "é\x00\U0001f600", 0, -5, 2**60, 1.5, 1e-7, True, False, b"", b"\x00z", [1, ["a", b"b"]]]
)
def test_attributes_are_decoded_as_they_were(value: Any) -> None:
    decoded = decode_item({"x": encode_value(value)})["x"]
    assert decoded == value
    assert type(decoded) is type(value) or isinstance(value, float)


def test_unsupported_attributes_are_refused() -> None:
    with pytest.raises(TypeError):
        encode_value({"a": 1})
    with pytest.raises(TypeError):
        DynamoTable("t").write([ConditionCheck(FIRST_KEY, (ABSENT,))])


@pytest.mark.parametrize(
    "value", [None, {}, [], "", 0, "\ud800", {"a": [1, None]}, "x" * 10_000, list(range(500))]
)
def test_packed_values_are_unpacked_as_they_were(value: Any) -> None:
    assert from_bytes(to_bytes(value)) == value


def test_another_process_cannot_commit_a_lost_claim(aws: Client) -> None:
    upgrade("noetl")
    store = DynamoStore("noetl")
    run = start_run(store)
    lost = claim_visit(store, run)
    claim_visit(store, run, now=30.0)
    with pytest.raises(FencedError):
        DynamoStore("noetl").queue.commit(succeed(store, lost), 31.0)
