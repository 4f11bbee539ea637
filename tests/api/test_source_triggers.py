"""Triggers of folders and queues in the service, in tables of commands, and in plans."""

from __future__ import annotations

import pytest

from noetl.api.cli.display.firing_table import find_firings, format_firings
from noetl.api.cli.display.trigger_table import format_details
from noetl.api.service.services import create_services
from noetl.api.service.triggers import FireRequest
from noetl.api.service.views import to_json
from noetl.executor.actions import catalogue
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.plan import Trigger
from noetl.testing.run_harness import compile_text

FOLDER = "type: folder, folder: orders/in/, glob: '*.csv', settle: 5s"
URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
TABLE = "type: queue, table: orders"
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
    run, _ = services.triggers.fire("load", "arrived", FireRequest())
    assert run.trigger is not None
    assert run.trigger["name"] == "arrived"


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        (FOLDER, "arrived: files *.csv of folder orders/in\n"),
        (QUEUE, f"arrived: messages of {URL}\n"),
        (TABLE, "arrived: messages of table orders\n"),
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
