"""A stack that stores runs in Postgres: its resources, and the same runs as on DynamoDB."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.infra.migrations import upgrade
from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import DeployedStack, deploy
from tests.e2e.aws.test_runs import (
    test_a_failed_step_is_retried,
    test_a_loop_of_two_thousand_items_is_completed,
    test_a_playbook_runs_a_registered_playbook,
    test_a_run_is_cancelled,
    test_a_run_is_resumed_with_corrected_input,
    test_a_wait_needs_no_invocation,
    test_the_branches_of_a_fork_are_joined,
    test_the_duration_of_a_chain_is_reported,
    test_the_portable_example_succeeds,
    test_the_url_of_a_callback_is_enough_to_answer_it,
)
from tests.postgres import empty_database

__all__ = [
    "test_a_failed_step_is_retried",
    "test_a_loop_of_two_thousand_items_is_completed",
    "test_a_playbook_runs_a_registered_playbook",
    "test_a_run_is_cancelled",
    "test_a_run_is_resumed_with_corrected_input",
    "test_a_wait_needs_no_invocation",
    "test_the_branches_of_a_fork_are_joined",
    "test_the_duration_of_a_chain_is_reported",
    "test_the_portable_example_succeeds",
    "test_the_url_of_a_callback_is_enough_to_answer_it",
]


@pytest.fixture(scope="module")
def stack(account: str, built: Path, postgres_server: str) -> Iterator[DeployedStack]:
    """A deployed stack with a Postgres database, whose address is in a secret."""
    with empty_database(postgres_server) as dsn:
        upgrade(dsn)
        owner = DeployedStack(account, {}).client("secretsmanager")
        arn = owner.create_secret(Name=f"database-{secrets.token_hex(4)}", SecretString=dsn)["ARN"]
        yield deploy(
            account,
            built,
            DatabaseSecretArn=arn,
            MaximumConcurrency="20",
            AllowedNetworks="127.0.0.0/8",
        )


@pytest.fixture(scope="module")
def service(stack: DeployedStack) -> Iterator[DeployedService]:
    with stack.http(stack.create_key()) as http:
        yield DeployedService(http)


def test_neither_a_table_nor_a_bucket_is_created(stack: DeployedStack) -> None:
    assert stack.outputs["StoreUrl"].startswith("arn:aws:secretsmanager:")
    assert {"TableName", "BucketName"}.isdisjoint(stack.outputs)
    [found] = stack.client("cloudformation").describe_stacks(StackName=stack.name)["Stacks"]
    listed = stack.client("cloudformation").describe_stack_resources(StackName=found["StackName"])
    types = {resource["ResourceType"] for resource in listed["StackResources"]}
    assert types.isdisjoint({"AWS::DynamoDB::Table", "AWS::S3::Bucket"})
    assert "AWS::SQS::Queue" in types


def test_large_values_are_stored_in_the_database(service: DeployedService) -> None:
    work = "{action: set, set: {size: '{{ input.given | length }}'}}"
    text = f"input: {{given: string}}\nsteps: [{{name: a, run: [{work}]}}]"
    assert service.output(service.start(text, {"given": "x" * 600_000})) == {"size": 600_000}


def test_a_sweep_finds_visits_without_a_message(service: DeployedService, stack: DeployedStack) -> None:
    store = open_store(stack.outputs["StoreUrl"])
    services = create_services(store, catalogue(), clock=lambda: time.time() - 1000.0)
    playbook = InlinePlaybook("name: x\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n")
    id = services.runs.start(playbook, StartRequest()).id
    assert service.status(id)["status"] == "queued"
    assert stack.sweep()["sent_again"] == 1
    assert service.output(id) == {"n": 1}
    store.close()
