from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from noetl.executor.clients import aws as ours
from noetl.executor.errors import ActionError
from tests.action_calls import perform_action
from tests.aws import REGION, Client, drop_permissions


class AwsQueue:
    """A queue in the account of the test, and its messages."""

    def __init__(self, aws: Client, name: str) -> None:
        self._sqs = aws("sqs")
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        self.url: str = self._sqs.create_queue(QueueName=name, Attributes=fifo)["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        self.arn: str = found["Attributes"]["QueueArn"]

    def admit(self, service: str) -> None:
        """Allow a service of AWS to send to the queue."""
        statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sqs:SendMessage"}
        policy = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": self.arn}]}
        self._sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": json.dumps(policy)})

    def messages(self, wait_seconds: int = 5) -> list[dict[str, Any]]:
        found = self._sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_seconds,
            MessageAttributeNames=["All"],
            AttributeNames=["All"],
        )
        return list(found.get("Messages", ()))


@pytest.fixture
def queue(moto_aws: Client) -> AwsQueue:
    return AwsQueue(moto_aws, "orders")


@pytest.mark.parametrize(
    ("body", "sent"), [("grüße", "grüße"), ({"ü": [1]}, '{"ü":[1]}'), ([1, None], "[1,null]"), (5, "5")]
)
def test_text_is_sent_unchanged_and_other_values_as_json(queue: AwsQueue, body: Any, sent: str) -> None:
    id = perform_action("message", to=queue.url, body=body)
    (message,) = queue.messages()
    assert (message["MessageId"], message["Body"]) == (id, sent)


def test_a_queue_is_found_by_its_arn_and_by_its_urls(queue: AwsQueue) -> None:
    account = queue.arn.split(":")[4]
    targets = [queue.arn, queue.url, f"https://sqs.{REGION}.amazonaws.com/{account}/orders"]
    sent = [perform_action("message", to=target, body="x") for target in targets]
    assert {message["MessageId"] for message in queue.messages()} == set(sent)


def test_attributes_are_sent_with_their_types(queue: AwsQueue) -> None:
    perform_action(
        "message", to=queue.url, body="x", attributes={"a": "text", "b": 1.5, "c": True, "d": [1], "e": None}
    )
    (message,) = queue.messages()
    found = {
        name: (value["DataType"], value["StringValue"])
        for name, value in message["MessageAttributes"].items()
    }
    assert found == {
        "a": ("String", "text"),
        "b": ("Number", "1.5"),
        "c": ("String", "true"),
        "d": ("String", "[1]"),
    }


def test_a_fifo_queue_discards_a_message_with_the_same_key(moto_aws: Client) -> None:
    fifo = AwsQueue(moto_aws, "orders.fifo")
    for key in ("one", "one", "two"):
        perform_action("message", to=fifo.url, body=key, key=key, group="{{ g }}", names={"g": "eu"})
    perform_action("message", to=fifo.arn, body="three", key="three")
    messages = fifo.messages()
    assert sorted(message["Body"] for message in messages) == ["one", "three", "two"]
    assert {message["Attributes"]["MessageGroupId"] for message in messages} == {"eu", "run-1"}


def test_a_message_is_published_to_a_topic(moto_aws: Client, queue: AwsQueue) -> None:
    sns = moto_aws("sns")
    topic = sns.create_topic(Name="news")["TopicArn"]
    queue.admit("sns.amazonaws.com")
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn)
    id = perform_action("message", to=topic, body={"a": 1}, attributes={"kind": "b"})
    (message,) = queue.messages()
    note = json.loads(message["Body"])
    assert (note["MessageId"], json.loads(note["Message"])) == (id, {"a": 1})
    assert note["MessageAttributes"]["kind"]["Value"] == "b"


def test_an_event_is_put_on_a_bus(moto_aws: Client, queue: AwsQueue) -> None:
    events = moto_aws("events")
    bus = events.create_event_bus(Name="shop")["EventBusArn"]
    queue.admit("events.amazonaws.com")
    events.put_rule(Name="all", EventBusName="shop", EventPattern='{"source": ["shop.orders"]}')
    events.put_targets(Rule="all", EventBusName="shop", Targets=[{"Id": "queue", "Arn": queue.arn}])
    attributes = {"source": "shop.orders", "detail_type": "Placed"}
    id = perform_action("message", to=bus, body={"id": 7}, attributes=attributes)
    (message,) = queue.messages()
    event = json.loads(message["Body"])
    assert (event["source"], event["detail-type"], event["detail"]) == ("shop.orders", "Placed", {"id": 7})
    assert event["id"] == id


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"to": "orders"}, "use the URL of a queue, or the ARN"),
        ({"to": "arn:aws:s3:::bucket"}, "use the URL of a queue"),
        ({"to": "http://169.254.169.254/latest"}, "use the URL of a queue"),
        (
            {"to": f"arn:aws:events:{REGION}:123456789012:event-bus/x", "body": "text"},
            "`body` must be an object",
        ),
        (
            {
                "to": f"arn:aws:events:{REGION}:123456789012:event-bus/x",
                "body": {},
                "attributes": {"sauce": "x"},
            },
            "unknown attribute `sauce`",
        ),
        ({"to": f"arn:aws:sns:{REGION}:123456789012:news", "group": "a"}, "end with `.fifo`"),
    ],
)
def test_invalid_messages_are_refused(moto_aws: Client, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ActionError, match=message) as caught:
        perform_action("message", **{"body": "x", **parameters})
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


@pytest.mark.parametrize("service", ["sqs", "sns"])
def test_a_missing_queue_or_topic_is_an_error(moto_aws: Client, queue: AwsQueue, service: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action(
            "message", to=queue.arn.replace(":sqs:", f":{service}:").replace("orders", "none"), body="x"
        )
    assert (caught.value.type, caught.value.retryable) == ("NotFound", False)


def test_a_missing_permission_is_an_error(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = AwsQueue(aws, "orders")
    drop_permissions(aws, monkeypatch)
    with pytest.raises(ActionError) as caught:
        perform_action("message", to=queue.url, body="x")
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)


def test_the_queue_of_runs_is_forbidden(queue: AwsQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_QUEUE", queue.url)
    for target in (queue.url, queue.arn):
        with pytest.raises(ActionError, match="NOETL_QUEUE") as caught:
            perform_action("message", to=target, body="x")
        assert caught.value.type == "AccessDenied"
    assert queue.messages(wait_seconds=0) == []


@pytest.mark.parametrize(
    ("code", "type_", "retryable"),
    [
        ("ThrottlingException", "Throttled", True),
        ("InternalFailure", "AWSError", True),
        ("NoAccess", "AWSError", False),
    ],
)
def test_an_event_that_a_bus_refuses_is_an_error(
    moto_aws: Client, code: str, type_: str, retryable: bool
) -> None:
    answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code, "ErrorMessage": "not now"}]}
    with (
        Stubber(ours.client("events", REGION)) as events,
        pytest.raises(ActionError, match="not now") as caught,
    ):
        events.add_response("put_events", answer, {"Entries": ANY})
        perform_action("message", to=f"arn:aws:events:{REGION}:123456789012:event-bus/x", body={})
    assert (caught.value.type, caught.value.retryable) == (type_, retryable)
