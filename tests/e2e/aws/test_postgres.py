"""The same stack with its runs in Postgres: what is deployed then, and runs as they are elsewhere."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from noetl.api.service.runs import Service as Runs
from noetl.executor.actions import catalogue
from noetl.executor.stores import open_store
from noetl.infra.migrations import upgrade

from tests.e2e.aws.service import Service
from tests.e2e.aws.stack import Stack, deploy
from tests.e2e.aws.test_runs import (
    test_a_callback_is_answered_by_whoever_has_its_address,
    test_a_fork_whose_branches_come_together,
    test_a_loop_of_two_thousand_items,
    test_a_registered_playbook_is_run_by_another,
    test_a_run_is_cancelled,
    test_a_run_is_resumed_with_corrected_input,
    test_a_step_is_tried_again,
    test_a_wait_holds_nothing,
    test_how_long_a_chain_takes,
    test_the_portable_example,
)
from tests.postgres import empty_database, postgres_server

__all__ = [
    "postgres_server",
    "test_a_callback_is_answered_by_whoever_has_its_address",
    "test_a_fork_whose_branches_come_together",
    "test_a_loop_of_two_thousand_items",
    "test_a_registered_playbook_is_run_by_another",
    "test_a_run_is_cancelled",
    "test_a_run_is_resumed_with_corrected_input",
    "test_a_step_is_tried_again",
    "test_a_wait_holds_nothing",
    "test_how_long_a_chain_takes",
    "test_the_portable_example",
]


@pytest.fixture(scope="module")
def stack(account: str, built: Path, postgres_server: str) -> Iterator[Stack]:
    """The template of this repository, deployed beside a database whose address is in a secret."""
    with empty_database(postgres_server) as dsn:
        upgrade(dsn)
        owner = Stack(account, {}).client("secretsmanager")
        arn = owner.create_secret(Name=f"database-{secrets.token_hex(4)}", SecretString=dsn)["ARN"]
        yield deploy(account, built, DatabaseSecretArn=arn, AllowedNetworks="127.0.0.0/8")


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[Service]:
    with stack.http(stack.key()) as http:
        yield Service(http)


def test_neither_a_table_nor_a_bucket_is_created(stack: Stack) -> None:
    assert stack.outputs["StoreUrl"].startswith("arn:aws:secretsmanager:")
    assert {"TableName", "BucketName"}.isdisjoint(stack.outputs)
    [found] = stack.client("cloudformation").describe_stacks(StackName=stack.name)["Stacks"]
    listed = stack.client("cloudformation").describe_stack_resources(StackName=found["StackName"])
    types = {resource["ResourceType"] for resource in listed["StackResources"]}
    assert types.isdisjoint({"AWS::DynamoDB::Table", "AWS::S3::Bucket"})
    assert "AWS::SQS::Queue" in types


def test_large_values_are_stored_in_the_database(service: Service) -> None:
    text = "input: {given: string}\nsteps: [{name: a, run: [{action: set, set: {size: '{{ input.given | length }}'}}]}]"
    assert service.output(service.start(text, {"given": "x" * 600_000})) == {"size": 600_000}


def test_a_sweep_finds_visits_without_a_message(service: Service, stack: Stack) -> None:
    store = open_store(stack.outputs["StoreUrl"])
    ours = Runs(store, catalogue(), clock=lambda: time.time() - 1000.0)
    id = ours.start("name: x\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n", input={}).id
    assert service.status(id)["status"] == "queued"
    answer = stack.client("lambda").invoke(FunctionName=stack.outputs["SweepFunctionName"], Payload=b"{}")
    assert json.loads(answer["Payload"].read())["sent_again"] == 1
    assert service.output(id) == {"n": 1}
    store.close()
