"""Runs that objects, events and messages start through the deployed rules, queues and function."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.aws.conftest import BUCKET, DEAD_QUEUE, TRIGGER_QUEUE
from tests.e2e.aws.service import DeployedService, wait_for
from tests.e2e.aws.stack import DeployedStack

AWAITING = f"""
name: awaiting
triggers:
- {{name: written, type: s3, bucket: {BUCKET}, prefix: in/, input: {{seen: "{{{{ trigger }}}}"}}}}
- {{name: paid, type: event, source: com.example.shop, detail_type: Paid,
   input: {{seen: "{{{{ trigger }}}}"}}}}
- name: ordered
  type: queue
  sqs: https://sqs.us-east-1.amazonaws.com/000000000000/{TRIGGER_QUEUE}
  if: "{{{{ trigger.body.id }}}}"
  input: {{seen: "{{{{ trigger.body }}}}"}}
- {{name: unread, type: s3, bucket: another}}
input: {{seen: {{type: object, default: {{}}}}}}
steps: [{{name: a, run: [{{action: set, set: {{got: "{{{{ input.seen }}}}"}}}}]}}]
"""


def output_of_firing(service: DeployedService, trigger: str) -> Any:
    """Wait for the only firing of a trigger, and return the output of its run."""
    [firing] = wait_for(lambda: service.firings(f"awaiting/{trigger}"))
    assert firing["outcome"] == "started", firing
    return service.output(firing["workflow_id"])["got"]


def test_an_object_an_event_and_a_message_each_start_a_run(
    service: DeployedService, stack: DeployedStack
) -> None:
    warnings = service.register(AWAITING)["diagnostics"]
    assert [(finding["code"], finding["line"]) for finding in warnings] == [("NP820", 12)]
    s3 = stack.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    s3.put_object(Bucket=BUCKET, Key="out/b.csv", Body=b"no")
    s3.put_object(Bucket=BUCKET, Key="in/a b.csv", Body=b"1,2")
    for type_name in ("Lost", "Paid"):
        entry = {"Source": "com.example.shop", "DetailType": type_name, "Detail": json.dumps({"id": 7})}
        stack.client("events").put_events(Entries=[entry])
    url = stack.client("sqs").get_queue_url(QueueName=TRIGGER_QUEUE)["QueueUrl"]
    stack.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps({"id": 8}))
    seen = output_of_firing(service, "written")
    assert (seen["bucket"], seen["object"], seen["size"]) == (BUCKET, "in/a b.csv", 3)
    seen = output_of_firing(service, "paid")
    assert seen == {"source": "com.example.shop", "detail_type": "Paid", "detail": {"id": 7}}
    assert output_of_firing(service, "ordered") == {"id": 8}
    wait_for(lambda: stack.count_messages("EventQueueUrl") == 0)
    assert stack.count_messages("EventDeadLetterQueueUrl") == 0
    assert "(com.example.shop, Lost) fits no trigger" in stack.read_log("trigger")


def test_a_message_that_cannot_fire_is_in_the_dead_letter_queue(
    service: DeployedService, stack: DeployedStack
) -> None:
    service.register(AWAITING)
    sqs = stack.client("sqs")
    url = sqs.get_queue_url(QueueName=TRIGGER_QUEUE)["QueueUrl"]
    [mapping] = [
        mapping
        for mapping in stack.client("lambda").list_event_source_mappings(
            FunctionName=stack.outputs["TriggerFunctionName"]
        )["EventSourceMappings"]
        if mapping["EventSourceArn"].endswith(f":{TRIGGER_QUEUE}")
    ]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    for queue in (url, stack.outputs["EventQueueUrl"]):
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "1"})
    before = len(service.firings("awaiting/ordered"))
    # Its condition cannot be evaluated.
    sqs.send_message(QueueUrl=url, MessageBody="no JSON")
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"id": 9}))
    sqs.send_message(QueueUrl=stack.outputs["EventQueueUrl"], MessageBody="no event")
    wait_for(lambda: len(service.firings("awaiting/ordered")) == before + 2)
    dead = sqs.get_queue_url(QueueName=DEAD_QUEUE)["QueueUrl"]

    def read_dead() -> list[str]:
        found = sqs.receive_message(QueueUrl=dead, VisibilityTimeout=0).get("Messages", ())
        return [message["Body"] for message in found]

    assert wait_for(read_dead) == ["no JSON"]
    wait_for(lambda: stack.count_messages("EventDeadLetterQueueUrl") == 1)
    assert "is no event of EventBridge" in stack.read_log("trigger")
    outcomes = sorted(firing["outcome"] for firing in service.firings("awaiting/ordered"))[:2]
    assert outcomes == ["rejected", "started"]
