"""Random operations of gates in the store in memory and on DynamoDB: both do the same, and stay sound."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.memory.store import MemoryStore
from noetl.infra.dynamodb import upgrade
from tests.aws import Client
from tests.contract.test_gate_operations import GateMachine

TABLES = itertools.count()


class DynamoMachine(GateMachine):
    """The same operations in memory and on DynamoDB, in a table of their own."""

    def __init__(self) -> None:
        name = f"noetl{next(TABLES)}"
        upgrade(name)
        super().__init__(MemoryStore(), DynamoStore(name))

    def check_consistency(self) -> None:
        """Check nothing: a check takes as long as some operations."""

    def teardown(self) -> None:
        if self.stores:
            super().check_consistency()
        super().teardown()


def test_dynamodb_agrees_about_random_operations(aws: Client) -> None:
    # A step takes some requests, so a failure is not made smaller.
    machine_settings = settings(
        max_examples=4,
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate],
    )
    run_state_machine_as_test(DynamoMachine, settings=machine_settings)
