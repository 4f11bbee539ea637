"""Webhooks, backfills and notifications next to plain starts: `python -m benchmarks.starts [--rounds N]`.

Each round performs one of each, so all of them have the same load of the machine: a start of a registered
playbook, a signed request to a webhook, a backfill of PARTITIONS partitions, and a notification. That is what
it adds to the end of its run, and its delivery to a receiver on this machine. Nothing executes the runs. The
figures are medians. HTTP before the service is not part of them.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.limits import open_postgres, open_sqlite
from noetl.api.service.compiler import PlaybookReference
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.channels.sender import Sender
from noetl.executor.engine.backfill import perform_backfill
from noetl.executor.engine.backfill_start import BackfillRequest
from noetl.executor.engine.delivery import Courier
from noetl.executor.engine.webhook_firing import WebhookRequest
from noetl.executor.model.channels import Channel
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.outbox import claim_end, entry, finish
from tests.http_server import serve

STEPS = "steps: [{name: a, run: [{action: log, message: hello}]}]\n"
AUTH = "{scheme: github, secret: '{{ secrets.HOOK }}'}"
PLAYBOOKS = (
    f"name: plain\n{STEPS}",
    f"name: hooked\ntriggers: [{{name: w, type: webhook, path: w, auth: {AUTH}}}]\n{STEPS}",
    f"name: nightly\ntriggers: [{{name: n, type: schedule, every: 1d}}]\n{STEPS}",
)
SECRET = "a secret of the benchmark"
ENVIRON = {"NOETL_SECRET_HOOK": SECRET}
PARTITIONS = 20

KINDS = {
    "plain": "a plain start",
    "webhook": "a webhook",
    "partition": "a partition of a backfill",
    "notification": "a notification",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    for name, opened in (("SQLite", open_sqlite), ("Postgres", open_postgres)):
        with opened() as store:
            measure(name, store, options.rounds)


def measure(name: str, store: Store, rounds: int) -> None:
    """Print how long each takes, and how many times as long as a plain start."""
    services = create_services(store, catalogue())
    for text in PLAYBOOKS:
        services.playbooks.register(text)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with serve(lambda exchange: exchange.reply(204)) as server:
        store.channels.put(Channel(DEFAULT_TENANT, "ops", "webhook", server.url(), 1.0), None)
        for number in range(rounds + 1):
            taken = {
                "plain": seconds_of(lambda: services.runs.start(PlaybookReference("plain"), StartRequest())),
                "webhook": request_webhook(services, number),
                "partition": backfill(services, number) / PARTITIONS,
                "notification": notify(store, number),
            }
            if number:  # The first round fills caches.
                for kind, seconds in taken.items():
                    times[kind].append(seconds)
    plain = statistics.median(times["plain"])
    for kind, title in KINDS.items():
        middle = statistics.median(times[kind])
        print(f"{name}: {title} takes {1e3 * middle:.2f} ms, {middle / plain:.2f} times as long")


def request_webhook(services: TenantServices, number: int) -> float:
    """Return how long the service takes for a request to the webhook."""
    body = json.dumps({"number": number}).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": signature}

    def send() -> None:
        firer = services.webhooks.find("w")
        services.webhooks.check_sender(firer, headers, body, ENVIRON)
        request = WebhookRequest("POST", headers, {}, body, json.loads(body))
        assert services.webhooks.deliver(firer, request).run_id is not None

    return seconds_of(send)


def backfill(services: TenantServices, number: int) -> float:
    """Return how long a backfill takes until all its runs have started."""
    store = services.store
    values = [f"{number} {partition}" for partition in range(PARTITIONS)]

    def start() -> None:
        request = BackfillRequest(partitions=values, limit=PARTITIONS)
        started, _ = services.backfills.start("nightly", "n", request)
        while True:
            read = store.outbox.get(DEFAULT_TENANT, started.id)
            assert read is not None
            if read.record["counts"]["started"] == PARTITIONS:
                return
            assert perform_backfill(store, read, store.clock())

    return seconds_of(start)


def notify(store: Store, number: int) -> float:
    """Return how much longer the end of a run takes with a notification, and how long its delivery takes."""
    plain, notified = claim_end(store), claim_end(store)
    record: dict[str, Any] = {
        "channel": "ops",
        "event": "cancelled",
        "run_id": notified.run.id,
        "playbook": notified.run.playbook,
        "version": None,
        "status": "cancelled",
        "attempts": 0,
        "waits_for": [],
    }
    notification = entry(f"n{number}", record=record)
    end = seconds_of(lambda: finish(store, plain))
    added = seconds_of(lambda: finish(store, notified, notification)) - end
    courier = Courier(store, Sender(("127.0.0.0/8",)))
    return added + seconds_of(lambda: courier.deliver(notification, store.clock()))


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
