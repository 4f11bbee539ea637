"""Requests to AWS, counted where botocore sends them, and their cost at list price."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noetl.executor.clients.aws import client
from noetl.executor.stores.dynamo.attributes import decode_item, size_of

PRICES: Mapping[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text("utf-8"))

_READS = frozenset({"BatchGetItem", "GetItem", "Query", "Scan", "TransactGetItems"})
_WRITES = frozenset({"BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"})
_READ_UNIT_BYTES = 4096


@dataclass(slots=True)
class AwsUsage:
    """Requests by service and operation, units of DynamoDB, and bytes of bodies sent and received."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    read_units: float = 0.0
    write_units: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0

    def count(self, service: str, *operations: str) -> int:
        """Return the number of requests to a service, of some operations or of all."""
        return sum(
            n
            for (s, operation), n in self.requests.items()
            if s == service and operation in (operations or (operation,))
        )

    @property
    def dollars(self) -> float:
        """Cost of the requests, without the functions that send them."""
        prices = PRICES["per_million"]
        millionths = (
            self.write_units * prices["dynamodb_write_units"]
            + self.read_units * prices["dynamodb_read_units"]
            + self.count("sqs") * prices["sqs_requests"]
            + self.count("s3", "PutObject") * prices["s3_puts"]
            + self.count("s3", "GetObject") * prices["s3_gets"]
        )
        return float(millionths / 1e6)


def lambda_dollars(seconds: float) -> float:
    """Return the cost of one invocation with this duration."""
    gigabytes = PRICES["lambda_memory_megabytes"] / 1024
    per_invocation = PRICES["per_million"]["lambda_requests"] / 1e6
    return float(per_invocation + seconds * gigabytes * PRICES["lambda_arm_gigabyte_second"])


class AwsMeter:
    """A counter of the requests that the clients of the store send, and that are answered.

    A slow emulator does not answer in time, and the client asks again. Such a request is not counted.
    """

    def __init__(self) -> None:
        self.usage = AwsUsage()
        self._lock = threading.Lock()

    def read(self) -> AwsUsage:
        """Return the usage since the last call, and reset the counter."""
        with self._lock:
            usage, self.usage = self.usage, AwsUsage()
        return usage

    @contextmanager
    def attached(self, *services: str) -> Iterator[AwsMeter]:
        """Count until the block ends."""
        # The clients of workers, and those of requests.
        patience: tuple[dict[str, bool], ...] = ({}, {"is_patient": False})
        clients = [
            client(service, without_retries=True, **options)
            for service in services or ("dynamodb", "sqs", "s3")
            for options in patience
        ]
        hooks = (
            ("provide-client-params.dynamodb", self._request_units),
            ("before-send", self._count_sent),
            ("after-call", self._count_response),
        )
        for aws_client in clients:
            for event, hook in hooks:
                aws_client.meta.events.register(event, hook)
        try:
            yield self
        finally:
            for aws_client in clients:
                for event, hook in hooks:
                    aws_client.meta.events.unregister(event, hook)

    def _request_units(self, params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any] | None:
        if model.name in _READS | _WRITES:
            return params | {"ReturnConsumedCapacity": "TOTAL"}
        return None

    def _count_sent(self, request: Any, **_: Any) -> None:
        with self._lock:
            self.usage.sent_bytes += (
                len(request.body or b"") if isinstance(request.body, (bytes, str, type(None))) else 0
            )

    def _count_response(self, http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        capacity = parsed.get("ConsumedCapacity")
        capacities = [capacity] if isinstance(capacity, dict) else capacity or ()
        units = sum(part["CapacityUnits"] for part in capacities)
        with self._lock:
            self.usage.requests[model.service_model.service_id.hyphenize(), model.name] += 1
            # The body of an object is read by the caller, and only once.
            has_body = "Body" in parsed
            self.usage.received_bytes += parsed["ContentLength"] if has_body else len(http_response.content)
            if model.name in _WRITES:
                self.usage.write_units += units
            elif model.name in _READS:
                self.usage.read_units += _units_of_query(units, parsed) if "Items" in parsed else units
                self.usage.read_units += 0 if units else _units_read(parsed)


def _units_of_query(units: float, answer: Mapping[str, Any]) -> float:
    """Return the units of a query, for an emulator that reports the least that a query costs.

    AWS counts one unit for each 4 KB of all items together, or half a unit.
    """
    size = sum(size_of(decode_item(item)) for item in answer["Items"])
    return units * max(1, -(-size // _READ_UNIT_BYTES)) if units <= 1 else units


def _units_read(answer: Mapping[str, Any]) -> float:
    """Return the units of a strongly consistent read, for an emulator that does not report them.

    AWS counts one unit for each 4 KB of each item.
    """
    items = [item for items in answer.get("Responses", {}).values() for item in items]
    return float(sum(max(1, -(-size_of(decode_item(item)) // _READ_UNIT_BYTES)) for item in items))
