"""Triggers of folders and queues: their declarations, and what their plans have."""

from __future__ import annotations

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Trigger, TriggerSource
from noetl.planner.polled_sources import BucketObjects, BusEvents, Folder, Queue
from noetl.testing.run_harness import compile_text

URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
STEPS = "steps: [{name: a, run: [{action: log, message: hello}]}]\n"


@pytest.mark.parametrize(
    ("declared", "source"),
    [
        ("type: folder, folder: ./in//new/", Folder("in/new", "*", 2.0)),
        ("type: folder, folder: ., glob: '**/*.csv', settle: 1m", Folder(".", "**/*.csv", 60.0)),
        (f"type: queue, sqs: '{URL}'", Queue(url=URL)),
        ("type: queue, table: shop.orders, max_receives: 3", Queue(None, "shop.orders", 3)),
        ("type: s3, bucket: orders", BucketObjects("orders")),
        ("type: s3, bucket: a.b-c, prefix: in/é", BucketObjects("a.b-c", "in/é")),
        ("type: event, source: com.example.shop", BusEvents("com.example.shop")),
        ("type: event, source: aws.ec2, detail_type: Order Paid", BusEvents("aws.ec2", ("Order Paid",))),
        ("type: event, source: s, detail_type: [A, B]", BusEvents("s", ("A", "B"))),
    ],
)
def test_a_plan_has_the_source(declared: str, source: TriggerSource) -> None:
    (trigger,) = compile_text(f"triggers: [{{name: t, {declared}}}]\n{STEPS}").header.triggers
    assert trigger.source == source
    assert trigger.source.timing == ()
    assert Trigger.from_json(trigger.to_json()) == trigger


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("type: folder, folder: /in", "NP813"),
        ("type: folder, folder: in, glob: ../*", "NP813"),
        ("type: folder", "NP011"),
        ("type: folder, folder: in, settle: 2h", "NP012"),
        ("type: folder, folder: in, if: '{{ trigger.body }}'", "NP815"),
        ("type: queue, sqs: orders", "NP813"),
        ("type: queue, table: Orders", "NP813"),
        ("type: queue", "NP011"),
        (f"type: queue, sqs: '{URL}', table: orders", "NP010"),
        (f"type: queue, sqs: '{URL}', max_receives: 3", "NP010"),
        ("type: queue, table: orders, max_receives: 0", "NP012"),
        ("type: queue, table: orders, key: '{{ trigger.path }}'", "NP815"),
        ("type: s3", "NP011"),
        ("type: s3, bucket: Orders", "NP813"),
        ("type: s3, bucket: '{{ trigger.bucket }}'", "NP813"),
        ("type: s3, bucket: orders, prefix: '{{ trigger.bucket }}'", "NP813"),
        (f"type: s3, bucket: orders, prefix: {'é' * 513}", "NP813"),
        ("type: s3, bucket: orders, glob: '*.csv'", "NP010"),
        ("type: s3, bucket: orders, if: '{{ trigger.detail }}'", "NP815"),
        ("type: event", "NP011"),
        ("type: event, source: 'a b'", "NP813"),
        ("type: event, source: s, detail_type: ''", "NP813"),
        ("type: event, source: s, detail_type: []", "NP012"),
        (f"type: event, source: s, detail_type: [{', '.join('abcdefghijklmnopqrstu')}]", "NP012"),
        ("type: event, source: s, detail_type: '{{ trigger.source }}'", "NP813"),
        ("type: event, source: s, key: '{{ trigger.body }}'", "NP815"),
    ],
)
def test_a_source_that_cannot_exist_is_reported(declared: str, code: str) -> None:
    text = f"name: p\ntriggers: [{{name: t, {declared}}}]\n{STEPS}"
    assert [found.code for found in compile_playbook(text, catalogue()).diagnostics] == [code]
