"""Triggers of folders and queues in the service, in tables of commands, and in plans."""

from __future__ import annotations

import pytest

from noetl.api.cli.display.firing_table import find_firings, format_firings
from noetl.api.cli.display.trigger_table import format_details
from noetl.api.service.services import create_services
from noetl.api.service.triggers import FireRequest
from noetl.api.service.views import to_json
from noetl.executor.actions import catalogue
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.plan import Trigger
from noetl.testing.run_harness import compile_text

FOLDER = "type: folder, folder: orders/in/, glob: '*.csv', settle: 5s"
URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
TABLE = "type: queue, table: orders"
BUCKET = "type: s3, bucket: orders, prefix: in/"
EVENT = "type: event, source: com.example.shop, detail_type: [Paid, Sent]"
QUEUE = f"type: queue, sqs: '{URL}', key: '{{{{ trigger.id }}}}'"


@pytest.mark.parametrize(
    ("declared", "definition", "summary", "lines"),
    [
        (
            FOLDER,
            {"folder": "orders/in", "glob": "*.csv", "settle_seconds": 5.0},
            "folder orders/in, *.csv",
            ("folder   orders/in\n", "files    *.csv\n", "settle   5 s\n"),
        ),
        (
            QUEUE,
            {"sqs": URL, "table": None, "max_receives": None},
            f"queue {URL}",
            (f"queue    {URL}\n",),
        ),
        (
            TABLE,
            {"sqs": None, "table": "orders", "max_receives": 5},
            "queue table orders",
            ("table    orders\n", "receives at most 5\n"),
        ),
        (
            BUCKET,
            {"bucket": "orders", "prefix": "in/"},
            "bucket orders, in/*",
            ("bucket   orders\n", "prefix   in/\n"),
        ),
        (
            EVENT,
            {"source": "com.example.shop", "detail_types": ["Paid", "Sent"]},
            "events com.example.shop, Paid, Sent",
            ("source   com.example.shop\n", "types    Paid, Sent\n"),
        ),
    ],
)
def test_a_source_is_shown_paused_and_fired_by_hand(
    declared: str, definition: dict[str, object], summary: str, lines: tuple[str, ...]
) -> None:
    services = create_services(MemoryStore(), catalogue())
    text = f"""
    name: load
    triggers: [{{name: arrived, {declared}}}]
    steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
    """
    services.playbooks.register(compile_text(text))
    (entry,) = services.triggers.find().items
    assert entry.summary == summary
    assert entry.schedule is None
    details = services.triggers.get("load", "arrived")
    document = to_json(details)
    assert document["definition"] == definition
    shown = format_details(document, 0.0)
    assert all(line in shown for line in lines), shown
    assert services.triggers.pause("load", "arrived").paused
    assert not services.triggers.resume("load", "arrived").paused
    run, _ = services.triggers.fire("load", "arrived", FireRequest(data={}))
    assert run.trigger is not None
    assert run.trigger["name"] == "arrived"


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        (FOLDER, "arrived: files *.csv of folder orders/in\n"),
        (QUEUE, f"arrived: messages of {URL}\n"),
        (TABLE, "arrived: messages of table orders\n"),
        (BUCKET, "arrived: objects in/* of bucket orders\n"),
        (EVENT, "arrived: events of com.example.shop: Paid, Sent\n"),
        ("type: event, source: shop", "arrived: events of shop: every type\n"),
    ],
)
def test_a_plan_names_its_sources(declared: str, line: str) -> None:
    plan = compile_text(f"""
    name: load
    triggers: [{{name: arrived, {declared}}}]
    steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
    """)
    (trigger,) = plan.header.triggers
    assert Trigger.from_json(trigger.to_json()) == trigger
    assert format_firings(find_firings(plan.header.triggers, 0.0, 3)) == line


def test_a_registration_warns_of_sources_that_the_service_may_not_read() -> None:
    sources = read_allowed_sources({"NOETL_TRIGGER_SOURCES": "folder:orders;acme/table:orders"})
    services = create_services(MemoryStore(), catalogue(), sources=sources)
    text = """
    name: load
    triggers: [{{name: arrived, {}}}]
    steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
    """
    allowed, is_new = services.playbooks.register(text.format(FOLDER))
    assert (allowed.diagnostics, is_new) == (None, True)
    refused, is_new = services.playbooks.register(text.format(TABLE))
    assert is_new
    (warning,) = refused.diagnostics or ()
    assert (warning.code, warning.severity, warning.line) == ("NP820", "warning", 3)
    assert warning.message == "trigger `arrived` does not fire: this service may not read `table:orders`"
    assert [entry.name for entry in services.triggers.find().items] == ["arrived"]
    other, _ = services.for_tenant("acme").playbooks.register(text.format(TABLE))
    assert other.diagnostics is None
    forced, _ = services.playbooks.register(text.format(EVENT), is_forced=True)
    assert [warning.code for warning in forced.diagnostics or ()] == ["NP820"]
