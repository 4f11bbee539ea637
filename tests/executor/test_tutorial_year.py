"""A year of the playbook of the tutorial about triggers and limits, with the clock of the test."""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.engine.webhook_firing import (
    WebhookRequest,
    check_sender,
    find_webhook,
    perform_request,
)
from noetl.executor.model.gates import own_gate
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import SERVICE_QUEUE, Lease, Run, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import FakeClock, compile_text

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "triggers-and-limits.md"
DAY = 86_400.0
BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
END = datetime(2027, 3, 1, tzinfo=UTC).timestamp()

FIRINGS = (
    "2026-03-29T01:00:00Z",  # There is no 02:30, and the offset is +02:00 from now on.
    "2026-04-29T00:30:00Z",
    "2026-05-29T00:30:00Z",
    "2026-06-29T00:30:00Z",
    "2026-07-29T00:30:00Z",
    "2026-08-29T00:30:00Z",
    "2026-09-29T00:30:00Z",
    "2026-10-29T01:30:00Z",
    "2026-11-29T01:30:00Z",
    "2026-12-29T01:30:00Z",
    "2027-01-29T01:30:00Z",
)
"""Day 29 of each month at 02:30 in Berlin. February has none in either year."""

ORDERS = [(BEGIN + 20 * DAY * period, 3 * period + number) for period in range(1, 19) for number in range(3)]
"""The times and numbers of orders. Three arrive at once, every 20 days."""

WORK_SECONDS = 5 * DAY
"""How long a report is built. So orders wait for each other, and for a monthly report."""

OF_RUNS = own_gate("default", "report", None, 0, None)
SECRET = "only-for-tests"


class ReportService:
    """A service that fires the triggers and executes the runs of the tutorial's playbook."""

    def __init__(self, store: SqliteStore) -> None:
        self.store, self.clock = store, FakeClock(BEGIN)
        text = re.search('```yaml title="report.yaml"\n(.*?)```', TUTORIAL.read_text(), re.DOTALL)
        assert text is not None
        plan = compile_text(text[1])
        store.plans.save(plan)
        playbook = RegisteredPlaybook("default", "report", "1", plan.hash, BEGIN)
        store.registry.register(playbook, triggers=plan.header.triggers)
        self.orders = list(ORDERS)
        self.due_answers: dict[WaitKey, float] = {}
        self.most_waiting = 0

    def perform_year(self) -> None:
        """Let a year pass, from one time at which something happens to the next."""
        while self.clock() < END:
            self.perform_now()
            trigger = self.store.triggers.get("default", "report", "monthly")
            assert trigger is not None
            assert trigger.due_at is not None
            order_times = [time for time, _ in self.orders[:1]]
            self.clock.now = min([trigger.due_at, *self.due_answers.values(), *order_times])

    def perform_now(self) -> None:
        """Fire what is due, give the answers that are due, and execute all visits that are due."""
        for trigger in self.store.triggers.due(self.clock(), 10):
            perform_due(self.store, trigger, self.clock())
        while self.orders and self.orders[0][0] <= self.clock():
            self.order(self.orders.pop(0)[1])
        for key, due_at in list(self.due_answers.items()):
            if due_at <= self.clock():
                self.store.waits.answer_wait(key, None, "done", self.clock())
                del self.due_answers[key]
        lease = Lease("one", 30.0)
        executor = VisitExecutor(self.store, lease, Capabilities(), self.clock)
        claim = self.store.queue.claim(SERVICE_QUEUE, lease, self.clock())
        while claim is not None:
            claim = executor.execute(claim) or self.store.queue.claim(SERVICE_QUEUE, lease, self.clock())
            gate = self.store.gates.gate(OF_RUNS)
            assert gate is None or gate.held <= 1
            self.most_waiting = max(self.most_waiting, 0 if gate is None else gate.waiting)
        for wait in self.store.waits.find_open("default")[0]:
            self.due_answers.setdefault(wait.key, self.clock() + WORK_SECONDS)

    def order(self, number: int) -> None:
        """Send a signed order."""
        firer = find_webhook(self.store, "default", "report/ordered", self.clock())
        assert firer is not None
        value = {"order": number}
        body = json.dumps(value).encode()
        signature = hmac.digest(SECRET.encode(), body, "sha256").hex()
        headers = {"x-hub-signature-256": f"sha256={signature}"}
        check_sender(firer, headers, body, {"NOETL_SECRET_ORDERS": SECRET})
        perform_request(firer, WebhookRequest("POST", headers, {}, body, value), self.clock)

    def runs(self) -> list[Run]:
        summaries, _ = self.store.runs.find(RunFilter("default", limit=1000))
        runs = [self.store.runs.get("default", summary.id) for summary in summaries]
        return [run for run in runs if run is not None]


def test_a_year_of_reports_by_a_clock_and_by_orders_one_at_a_time() -> None:
    with closing(SqliteStore(":memory:")) as store:
        service = ReportService(store)
        service.perform_year()
        firings, _ = store.triggers.firings("default", "report", "monthly")
        assert [(firing.outcome, firing.count) for firing in firings] == [("started", 1)] * len(FIRINGS)
        runs = service.runs()
        expected = [*FIRINGS, *(f"order {number}" for _, number in ORDERS)]
        assert Counter(run.result["built"] for run in runs) == Counter(expected)
        # What begins later begins after the end of what has begun before.
        spans = []
        for run in runs:
            begins = [event.at for event in store.runs.events(run.id) if event.type == "action.started"]
            assert run.finished_at is not None
            spans.append((begins[0], run.finished_at))
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(spans)))
        assert service.most_waiting == 3
        assert store.gates.gate(OF_RUNS) is None
